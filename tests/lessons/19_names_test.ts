import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  canMount,
  canUnshare,
  hasIpv6,
  inNetwork,
  run,
  tableBehind,
  withHosts,
} from "../testing.ts";

const LESSON = "19_names.ts";

/** What `getent` says of a name: the resolver of libc, without Deno. */
async function getent(name: string): Promise<string[]> {
  const args = ["-c", `getent ahosts ${name}`];
  const { stdout } = await new Deno.Command("sh", { args }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return lines.filter((line) => line.includes(" STREAM"))
    .map((line) => line.split(/\s+/)[0]);
}

/** Where a client arrives while a server listens, asked without the lesson. */
async function reach(own: string, target: string): Promise<string> {
  try {
    using listener = Deno.listen({ hostname: own, port: 0 });
    const { port } = listener.addr;
    using conn = await Deno.connect({ hostname: target, port });
    return conn.remoteAddr.hostname;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

Deno.test("19 answers each question as the resolver and the kernel do", async (t) => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  await t.step("names, and where they meet", () => checkNames(stdout));
  await t.step("own addresses", () => checkOwnAddresses(stdout));
  await t.step("EADDRNOTAVAIL, and the ports", () => checkNoAddress(stdout));
  await t.step("connecting again", () => checkReconnect(stdout));
});

/** What it says of `localhost`, and of a name that does not exist. */
async function checkNames(stdout: string) {
  const [[name, addresses, taken]] = tableBehind(
    stdout,
    "Which addresses does",
  );
  assertEquals(name, "localhost");
  const all = await getent("localhost");
  // musl's getent lists nothing like this.
  if (all.length > 0) assertEquals(addresses.split(" "), all);
  using listener = Deno.listen({ hostname: "localhost", port: 0 });
  assertEquals(taken, listener.addr.hostname);

  const nowhere = tableBehind(stdout, "A name that does not exist");
  assertEquals(nowhere.map(([call]) => call), [
    "lookup of node:dns",
    "Deno.connect",
    "Deno.listen",
  ]);
  // Where there is no network, that is what the resolver says.
  assertMatch(nowhere[0][1], /^(ENOTFOUND|EAI_AGAIN)$/);
  assertEquals(nowhere.slice(1).map(([, code]) => code), ["none", "none"]);

  const met = tableBehind(stdout, "A server's address, a client's");
  const servers = ["localhost", "127.0.0.1", "::1", "0.0.0.0", "::"];
  assertEquals(met.map(([own]) => own), servers);
  for (const [own, ...cells] of met) {
    for (const [i, target] of ["localhost", "127.0.0.1", "::1"].entries()) {
      let reached;
      // At another address somebody else's server may have the same port.
      for (let tries = 0; tries < 3 && reached !== cells[i]; tries++) {
        reached = await reach(own, target);
      }
      assertEquals(cells[i], reached, `${own} ${target}`);
    }
  }
  assertEquals(tableBehind(stdout, "these too, and means this host"), [
    ["0.0.0.0", await reach("0.0.0.0", "0.0.0.0")],
    ["::", await reach("::", "::")],
  ]);
}

/** This host's addresses, and the one that the kernel sends from. */
async function checkOwnAddresses(stdout: string) {
  const own = tableBehind(stdout, "What is my own address?");
  const addresses = own.map(([address]) => address);
  for (const { address, name, scopeid } of Deno.networkInterfaces()) {
    const row = scopeid ? `${address}%${name}` : address;
    assert(addresses.includes(row), row);
  }
  assert(own.every(([, listening]) => listening === "works"), stdout);

  const [[, near], [foreign, far]] = tableBehind(stdout, "So it depends");
  assertEquals(near, "127.0.0.1");
  // What `ip route get` says, where there is one.
  const { stdout: route } = await new Deno.Command("sh", {
    args: ["-c", `ip -4 route get ${foreign}`],
  }).output();
  const source = new TextDecoder().decode(route).match(/ src (\S+)/)?.[1];
  if (source) assertEquals(far, source);
  else assertMatch(far, /^(ENETUNREACH|[\d.]+)$/);
}

/** A client without an address, and how many ports there are. */
function checkNoAddress(stdout: string) {
  const rows = tableBehind(stdout, "When does a client have no address?");
  assertEquals(rows.map(([, answer]) => answer.replace(/\d+$/, "PORT")), [
    "EADDRNOTAVAIL",
    "from 127.0.0.1:PORT",
    "EADDRNOTAVAIL",
    "from 127.0.0.1:PORT",
  ]);
  assertEquals(rows[1][1], rows[3][1]);
  const range = Deno.readTextFileSync("/proc/sys/net/ipv4/ip_local_port_range");
  const [first, last] = range.trim().split(/\s+/).map(Number);
  assertMatch(stdout, RegExp(`^${first} to ${last}, so `, "m"));
  const count = (last - first + 1).toLocaleString("en-US");
  assert(stdout.includes(`so ${count} connections`), stdout);
}

Deno.test("19 says truly that a port is in use towards one server only", {
  ignore: !await canUnshare(),
}, async () => {
  const [command, ...args] = inNetwork(
    "echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range",
  )([
    Deno.execPath(),
    "eval",
    `const hostname = "127.0.0.1";
    for (const port of [9000, 9001]) {
      Deno.listen({ hostname, port });
      const conns = [];
      try {
        while (true) conns.push(await Deno.connect({ hostname, port }));
      } catch (error) {
        console.log(conns.length, error.code);
      }
    }
    Deno.exit();`,
  ]);
  const { stdout } = await new Deno.Command(command, { args }).output();
  const said = new TextDecoder().decode(stdout);
  assertEquals(said, "4 EADDRNOTAVAIL\n".repeat(2));
});

/** It connects again when that may help, and only then. */
function checkReconnect(stdout: string) {
  const again = tableBehind(stdout, "A server goes away and comes back");
  assertEquals(again.map(([, attempt]) => attempt), [
    "has its greeting",
    "Unexpected end of stream: read 0 of 1 bytes",
    "ECONNREFUSED (Connection refused)",
    "ECONNREFUSED (Connection refused)",
    "has its greeting",
    "Unexpected end of stream: read 0 of 1 bytes",
    "has its greeting",
  ]);
  for (const [i, longest] of [[1, 50], [2, 100], [3, 200], [5, 50]]) {
    const [at, , wait] = again[i].map(Number);
    assert(wait >= longest / 2 && wait <= longest, `${again[i]}`);
    assert(Number(again[i + 1][0]) >= at + wait - 2, stdout);
  }

  const helps = tableBehind(stdout, "Does it help to try again?");
  const byName = new Map(helps.map(([what, ...cells]) => [what, cells]));
  for (const what of ["nobody listens", "it closes at once"]) {
    const [attempts, ms] = byName.get(what)!.map(Number);
    assertEquals(attempts, 5);
    // Half of 20, 40, 80 and 160.
    assert(ms >= 150 - 4, stdout);
  }
  const [attempts, , end] = byName.get("no such name")!;
  assertEquals(attempts, /^(Temporary|Try again)/.test(end) ? "5" : "1", end);
  assertEquals(byName.get("not a port")![0], "1");
  const [tried, , ended] = byName.get("its signal ends it")!;
  assert(Number(tried) < 5, stdout);
  assertEquals(ended, "TimedOut");

  const [same, chance] = tableBehind(stdout, "50 clients lose").map((row) =>
    row.slice(1).map(Number)
  );
  assertEquals([same[0], chance[0]], [100, 100]);
  assert(same[1] >= 2 * chance[1], stdout);
}

/** Runs the lesson where `localhost` and others are what `text` says. */
async function withNames(text: string, args: string[] = []) {
  await using hosts = await withHosts(text);
  const { code, stdout, stderr } = await run(LESSON, args, hosts);
  assertEquals([code, stderr], [0, ""]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  return stdout;
}

Deno.test("19 tries both addresses of a name in turn, and meets them or not", {
  ignore: !hasIpv6() || !await canMount(),
}, async () => {
  const text = "127.0.0.1 localhost\n::1 localhost\n";
  const stdout = await withNames(text);
  const [[, addresses, taken]] = tableBehind(stdout, "Which addresses does");
  const [first, second] = addresses.split(" ");
  assertEquals([first, second].toSorted(), ["127.0.0.1", "::1"]);
  assertEquals(taken, first);

  const rows = tableBehind(stdout, "localhost reach?");
  assertEquals(rows.map((row) => row.toSpliced(2, 1)), [
    [`${first} ${second}`, first, first],
    [second, second, "ECONNREFUSED"],
    ["none of them", "ECONNREFUSED", "ECONNREFUSED"],
    [`${second}, ${first} is silent`, second, "TimedOut"],
  ]);
  // The next one is tried after 250 ms, or at once after a refusal.
  assert(Number(rows[3][2]) >= 245, `${rows[3]}`);

  const met = tableBehind(stdout, "A server's address, a client's");
  assertEquals(met.slice(0, 3), [
    [
      "localhost",
      first,
      ...["127.0.0.1", "::1"].map((it) =>
        it === first ? first : "ECONNREFUSED"
      ),
    ],
    ["127.0.0.1", "127.0.0.1", "127.0.0.1", "ECONNREFUSED"],
    ["::1", "::1", "ECONNREFUSED", "::1"],
  ]);
});

Deno.test("19 --name asks for another name", {
  ignore: !hasIpv6() || !await canMount(),
}, async () => {
  const text = "127.0.0.1 localhost\n127.0.0.3 two.test\n::1 six.test\n";
  const two = await withNames(text, ["--name", "two.test"]);
  assertEquals(tableBehind(two, "Which addresses does"), [
    ["two.test", "127.0.0.3", "127.0.0.3"],
  ]);
  assertEquals(tableBehind(two, "A server's address, a client's")[0], [
    ...["two.test", "127.0.0.3", "ECONNREFUSED", "ECONNREFUSED"],
  ]);
  const six = await withNames(text, ["--name=six.test"]);
  assertEquals(tableBehind(six, "Which addresses does")[0][1], "::1");
  assertEquals(tableBehind(six, "A server's address, a client's")[0], [
    ...["six.test", "::1", "ECONNREFUSED", "::1"],
  ]);
});

Deno.test("19 --name of a name that does not exist", async () => {
  const { code, stderr } = await run(LESSON, ["--name", "nothing.invalid"]);
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^19_names: (ENOTFOUND|EAI_AGAIN) \(getaddrinfo \S+ nothing\.invalid\): is the name right.*\n$/,
  );
});

Deno.test("19 says so where IPv6 is off", {
  ignore: !await canUnshare(),
}, async () => {
  const wrapper = inNetwork(
    "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
  );
  const { code, stdout, stderr } = await run(LESSON, [], { wrapper });
  assertEquals([code, stderr], [0, ""]);
  const met = tableBehind(stdout, "A server's address, a client's");
  for (const row of met) assertEquals(row[3], "EADDRNOTAVAIL");
  const own = tableBehind(stdout, "What is my own address?");
  assertEquals(own, [["127.0.0.0/8", "works"], ["127.0.0.1", "works"]]);
  assertEquals(tableBehind(stdout, "So it depends"), [
    ["127.0.0.1", "127.0.0.1"],
    ["203.0.113.1", "ENETUNREACH"],
  ]);
});
