import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  connectWithDeadline,
  readWithDeadline,
  Requester,
  writeFullWithDeadline,
} from "../lessons/11_deadlines.ts";
import { LessonProcess, run } from "./testing.ts";

const LESSON = "11_deadlines.ts";
const LOOPBACK = "127.0.0.1";
const LONG = 30_000;

/** The rows of the table with this head. */
function table(stdout: string, head: RegExp): string[][] {
  const lines = stdout.split("\n");
  const start = lines.findIndex((line) => head.test(line));
  const end = lines.indexOf("", start);
  return lines.slice(start + 1, end).map((row) => row.trim().split(/ {2,}/));
}

Deno.test("11 demo gives each wait up, and says TimedOut", async () => {
  const { code, stdout, stderr } = await run(LESSON, ["--seed=7"]);
  assertEquals([code, stderr], [0, ""]);
  const rows = table(stdout, /^waiting for/);
  assertEquals(rows.map(([, result]) => result), [
    "TimedOut",
    "TimedOut",
    "BadResource",
    "end of stream",
    "TimedOut",
    "3 bytes",
    "end of stream",
  ]);
  // A timer may be late, and never early.
  for (const i of [0, 1, 4]) assert(Number(rows[i][2]) >= 199, `${rows[i]}`);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("11 demo: each request is carried out once, and answered once", async () => {
  const args = ["--seed=11", "--requests=20", "--loss=30", "--quiet"];
  const { code, stdout, stderr } = await run(LESSON, [...args, "--timeout=20"]);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^Requests through a relay, seed 11: /m);
  const [, lost, doubled] = stdout.match(
    /^lost (\d+) .* (\d+) of them twice/m,
  )!;
  assert(Number(lost) > 0 && Number(doubled) > 0, stdout);
  const rows = table(stdout, /^request +sent/);
  assertEquals(rows.length, 20);
  rows.forEach(([id, , , answer], i) => {
    assertEquals([id, answer], [`${i + 1}`, `request ${i + 1} #${i + 1}`]);
  });
  assert(rows.some(([, sent]) => Number(sent) > 1), "nothing was sent again");
});

Deno.test("11 demo: a request without an answer is a clear failure", async () => {
  const args = ["--loss=100", "--requests=2", "--tries=3", "--timeout=5"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [1, ""]);
  assertEquals(
    table(stdout, /^request +sent/).map(([id, sent, , answer]) =>
      [id, sent, answer].join(" ")
    ),
    ["1 3 TimedOut: none in time", "2 3 TimedOut: none in time"],
  );
  assertMatch(
    stdout,
    /no answer 1 in 5 ms[^]*no answer 1 in 10 ms[^]*in 20 ms/,
  );
});

Deno.test("11 server answers a request that comes twice, and counts it once", async () => {
  await using process = new LessonProcess(LESSON, [
    "server",
    "--host=127.0.0.1",
    "--port=0",
  ]);
  const port = await process.port();
  const socket = Deno.listenDatagram({
    hostname: LOOPBACK,
    port: 0,
    transport: "udp",
  });
  const ask = async (text: string) => {
    const data = new TextEncoder().encode(text);
    const to = { hostname: LOOPBACK, port, transport: "udp" as const };
    await socket.send(data, to);
    const [answer] = await socket.receive();
    return new TextDecoder().decode(answer);
  };
  assertEquals(await ask("\0\0\0\x01a"), "\0\0\0\x01a #1");
  assertEquals(await ask("\0\0\0\x01a"), "\0\0\0\x01a #1");
  assertEquals(await ask("\0\0\0\x02"), "\0\0\0\x02 #2");
  const to = { hostname: LOOPBACK, port, transport: "udp" as const };
  await socket.send(new Uint8Array(3), to); // No request: it is not answered.
  assertEquals(await ask("\0\0\0\x03"), "\0\0\0\x03 #3");
  socket.close();
  process.kill("SIGTERM");
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
});

Deno.test("11 Requester takes no answer for another request's", async () => {
  const bind = { hostname: LOOPBACK, port: 0, transport: "udp" } as const;
  const server = Deno.listenDatagram(bind);
  const socket = Deno.listenDatagram(bind);
  const address = server.addr as Deno.NetAddr;
  const firstId = 1;
  const requester = new Requester(socket, address, {
    timeout: 20,
    tries: 2,
    firstId,
  });
  assertEquals(await requester.request("one"), { text: null, tries: 2 });

  const stranger = Deno.listenDatagram(bind);
  const patient = new Requester(socket, address, {
    timeout: LONG,
    tries: 1,
    firstId,
  });
  const serving = (async () => {
    for (let i = 0; i < 2; i++) await server.receive(); // "one", twice.
    const [, client] = await server.receive();
    const reply = (bytes: number[]) =>
      server.send(new Uint8Array(bytes), client);
    await reply([0, 0, 0]); // Too short.
    await stranger.send(new Uint8Array([0, 0, 0, 1, 0x21]), client);
    await reply([0, 0, 0, 9, 0x78]);
    await reply([0, 0, 0, 1, 0x79]);
    await reply([0, 0, 0, 1, 0x79]); // Twice.
    await server.receive();
    await reply([0, 0, 0, 2, 0x7a]);
  })();
  // The receive() of the first requester still waits, and takes one datagram.
  assertEquals(await patient.request("two"), { text: "y", tries: 1 });
  assertEquals(await patient.request("three"), { text: "z", tries: 1 });
  await serving;
  server.close();
  stranger.close();
  socket.close();
});

Deno.test("11 Requester gives up in time although strangers send", async () => {
  const bind = { hostname: LOOPBACK, port: 0, transport: "udp" } as const;
  const server = Deno.listenDatagram(bind);
  const stranger = Deno.listenDatagram(bind);
  const socket = Deno.listenDatagram(bind);
  const requester = new Requester(socket, server.addr as Deno.NetAddr, {
    timeout: 100,
    tries: 1,
  });
  const noise = setInterval(
    () => stranger.send(new Uint8Array(9), socket.addr),
    10,
  );
  assertEquals((await requester.request("one")).text, null);
  clearInterval(noise);
  for (const it of [server, stranger, socket]) it.close();
});

Deno.test("11 deadlines close what they gave up, though it is closed already", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  using conn = await Deno.connect({ port: listener.addr.port });
  using peer = await listener.accept();
  const waiting = [
    readWithDeadline(conn, new Uint8Array(1), 20),
    writeFullWithDeadline(conn, new Uint8Array(1 << 26), 20),
  ].map((it) => it.then(() => "in time", (error) => error.name));
  const names = await Promise.all(waiting);
  assertEquals(names[0], "TimedOut");
  assert(["TimedOut", "Interrupted"].includes(names[1]), names[1]);
  // The peer sees an end, after what had been accepted.
  const buffer = new Uint8Array(1 << 20);
  while (await peer.read(buffer).catch(() => null) !== null);
});

Deno.test("11 demo --seed loses the same datagrams again", async () => {
  const once = async () => {
    // No retry depends on the time here: there are none.
    const args = ["--seed=3", "--loss=40", "--tries=1", "--requests=8"];
    const { stdout } = await run(LESSON, [
      ...args,
      "--quiet",
      "--timeout=2000",
    ]);
    return stdout.match(/^lost .*$/m)![0];
  };
  assertEquals(await once(), await once());
});

Deno.test("11 withDeadline: what is in time is as without it", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const address = { hostname: LOOPBACK, port: listener.addr.port };
  using conn = await connectWithDeadline(address, LONG);
  using peer = await listener.accept();
  assertEquals(
    await writeFullWithDeadline(conn, new Uint8Array([1, 2]), LONG),
    2,
  );
  assertEquals(await readWithDeadline(peer, new Uint8Array(9), LONG), 2);
  await conn.closeWrite();
  assertEquals(await readWithDeadline(peer, new Uint8Array(9), LONG), null);
  listener.close();
  await assertRejects(
    () => connectWithDeadline(address, LONG),
    Deno.errors.ConnectionRefused,
  );
});

Deno.test("11 demo ends on a signal, and leaves no process behind", async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    await using process = new LessonProcess(LESSON, [
      "--loss=100",
      "--timeout=60000",
      "--quiet",
    ]);
    await process.port();
    process.kill(signal);
    const { code, stderr } = await process.result();
    assertEquals([code, stderr], [signal === "SIGINT" ? 130 : 143, ""]);
  }
});

Deno.test("11 names the flag that is missing", async () => {
  for (const mode of ["demo", "server"]) {
    const all = ["--allow-net", "--allow-run=deno", "--unstable-net"];
    for (const missing of all) {
      if (mode === "server" && missing.startsWith("--allow-run")) continue;
      const flags = all.filter((flag) => flag !== missing);
      const { code, stderr } = await run(LESSON, [mode], { flags });
      assertEquals(code, 1);
      assertMatch(stderr, /^11_deadlines: .*\n$/);
      assert(stderr.includes(missing.split("=")[0]), stderr);
    }
  }
});
