import { assert, assertEquals, assertMatch } from "@std/assert";
import { ask } from "../../lessons/11_deadlines.ts";
import {
  canMount,
  descendants,
  hasIpv6,
  isRunning,
  LessonProcess,
  run,
  type StartOptions,
  startServer,
  until,
  withHosts,
} from "../testing.ts";

const LESSON = "11_deadlines.ts";
const LOOPBACK = "127.0.0.1";
const BIND = { hostname: LOOPBACK, port: 0, transport: "udp" } as const;
const LONG = 30_000;

/** The rows of the table with this head. */
function table(stdout: string, head: RegExp): string[][] {
  const lines = stdout.split("\n");
  const start = lines.findIndex((line) => head.test(line));
  const end = lines.indexOf("", start);
  return lines.slice(start + 1, end).map((row) => row.trim().split(/ {2,}/));
}

/** How many lines of the text match. */
const count = (text: string, line: RegExp) =>
  text.split("\n").filter((it) => line.test(it)).length;

Deno.test("11 demo: each request is carried out and answered once", async () => {
  const args = ["--seed=11", "--requests=9", "--loss=40", "--mermaid"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^Requests through a relay, seed 11: /m);
  const [lost, passed, doubled] = stdout
    .match(/^lost (\d+) and passed (\d+), (\d+) of them twice\.$/m)!
    .slice(1).map(Number);
  assert(lost > 0 && doubled > 0, stdout);
  const rows = table(stdout, /^request +sent/);
  assertEquals(rows.length, 9);
  rows.forEach(([id, , , answer], i) => {
    assertEquals([id, answer], [`${i + 1}`, `request ${i + 1} #${i + 1}`]);
  });

  // The picture: what the relay lost ends at it, and the rest arrives.
  const picture = stdout.slice(stdout.indexOf("sequenceDiagram"));
  // When the relay is closed, the server may still answer what came twice.
  const unseen = count(picture, /^ {2}(client-x|server-x)/) - lost;
  assert(unseen >= 0 && unseen <= 2, picture);
  assertEquals(count(picture, /^ {2}(client->>|server->>)/), passed);
  for (const [id, sent] of rows.map(([id, sent]) => [id, Number(sent)])) {
    const of = `.*request ${id}\\b`;
    const through = count(picture, new RegExp(`^  client->>server:${of}`));
    const stopped = count(picture, new RegExp(`^  client-xserver:${of}`));
    assertEquals(through + stopped, sent);
    const came = count(
      picture,
      new RegExp(`over server: \\d+ ms: recvfrom relay${of}`),
    );
    assert(through >= 1 && through <= came && came <= 2 * through, picture);
    const answers = count(picture, new RegExp(`^  server(->>|-x)client:${of}`));
    assert(answers === came || answers === came - 1, picture);
    const back = count(picture, new RegExp(`^  server->>client:${of}`));
    const got = count(
      picture,
      new RegExp(`over client: \\d+ ms: recvfrom relay${of}`),
    );
    assert(back >= 1 && got <= 2 * back, picture);
  }
});

Deno.test("11 demo gives up waits and requests, and says so", async () => {
  const args = ["--loss=100", "--requests=2", "--tries=3", "--timeout=5"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [1, ""]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);

  const waits = table(stdout, /^waiting for/);
  assertEquals(waits.map(([, result]) => result), [
    "TimedOut",
    "TimedOut",
    "BadResource",
    "end of stream",
    "TimedOut",
    "3 bytes",
    "end of stream",
  ]);
  // A timer may be late, and never early.
  for (const i of [0, 1, 4]) assert(Number(waits[i][2]) >= 99, `${waits[i]}`);

  assertEquals(
    table(stdout, /^request +sent/).map(([id, sent, , answer]) =>
      [id, sent, answer].join(" ")
    ),
    ["1 3 TimedOut: none in time", "2 3 TimedOut: none in time"],
  );
  assert(stdout.includes("for request 1, all of them in vain:\n"), stdout);
  const diagram = stdout.slice(stdout.search(/^ +ms client +\|/m));
  assertEquals(count(diagram, /^ *\d+ sendto relay .* \|-+x +\|$/), 6);
  assertEquals(count(diagram, /-+>|<-+|\| recvfrom/), 0);
});

Deno.test("11 demo shows waits that double, and which address is whose", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  // With the usual seed it is request 1, unless the machine is very busy.
  const [, id] = stdout
    .match(/^The waits for request (\d+), until its answer came \(A\):$/m)!;
  const [, sent, ms] = table(stdout, /^request +sent/)[Number(id) - 1]!;
  assert(Number(sent) >= 3, stdout);

  const tries = table(stdout, /^ms +0 /);
  assertEquals(
    tries.map(([label]) => label),
    Array.from(tries, (_, i) => `try ${i + 1}`),
  );
  assertEquals(tries.length, Number(sent));
  const waits = tries.map((row) => Number(row.at(-1)!.match(/(\d+) ms$/)![1]));
  // A timer may be late, and never early.
  for (const [i, wait] of waits.slice(0, -1).entries()) {
    assert(wait >= 30 * 2 ** i - 1, `${waits}`);
  }
  const sum = waits.reduce((a, b) => a + b);
  assert(
    Math.abs(sum - Number(ms.replace(",", ""))) <= waits.length,
    `${waits}, ${ms}`,
  );

  // The diagram: whose each address is, and when each row was.
  const addresses = stdout.match(
    /^client (\S+) <-> relay (\S+)\nrelay (\S+) <-> server (\S+)\n +ms client /m,
  )!.slice(1);
  assertEquals(new Set(addresses).size, 4);
  const [, listening] = stdout.match(/^listening on (\S+)$/m)!;
  assertEquals(addresses[3], listening);
  const rows = stdout.slice(stdout.search(/^ +ms client +\|/m)).trimEnd()
    .split("\n").slice(1);
  assert(rows.some((row) => row.includes(` bind ${addresses[0]} `)), stdout);
  const times = rows.map((row) => row.slice(0, 6).trim())
    .filter((time) => time !== "").map(Number);
  assertEquals(times[0], 0);
  assertEquals(times, times.toSorted((a, b) => a - b));
  // Between two tries of the first request is the wait that the timeline has.
  const sends = rows.flatMap((row, i) =>
    /^ *\d+ sendto relay/.test(row) && rows[i + 1]!.includes(`"request ${id}"`)
      ? [parseInt(row)]
      : []
  );
  assertEquals(sends.length, waits.length);
  for (const [i, wait] of waits.slice(0, -1).entries()) {
    assert(sends[i + 1]! - sends[i]! >= wait - 2, `${sends}, ${waits}`);
  }
});

Deno.test("11 server carries a request out once, as long as it remembers", async () => {
  await using process = new LessonProcess(LESSON, [
    "server",
    "--host=127.0.0.1",
    "--port=0",
    "--memory=2",
    "--remember=1500",
  ]);
  const port = await process.port();
  const to = { ...BIND, port };
  const socket = Deno.listenDatagram(BIND);
  const send = (text: string) =>
    socket.send(new TextEncoder().encode(text), to);
  const receive = async () =>
    new TextDecoder().decode((await socket.receive())[0]);

  await send("\0\0\0\x01a");
  assertEquals(await receive(), "\0\0\0\x01a #1");
  await send("\0\0\0\x01a");
  assertEquals(await receive(), "\0\0\0\x01a #1");
  await send("\0\0\0"); // No request, and the next one is too long for one.
  await send("\0\0\0\x01" + "a".repeat(1021));
  await send("\0\0\0\x02");
  assertEquals(await receive(), "\0\0\0\x02 #2");
  // Its memory is full: it must not forget the first one for a third.
  await send("\0\0\0\x03");
  await send("\0\0\0\x01a");
  assertEquals(await receive(), "\0\0\0\x01a #1");
  // When the time is over, it does.
  const third = receive();
  let isThere = false;
  third.then(() => isThere = true);
  await until(async () => {
    await send("\0\0\0\x03");
    return isThere;
  });
  assertEquals(await third, "\0\0\0\x03 #3");
  socket.close();

  process.kill("SIGTERM");
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
});

Deno.test("11 ask() takes no answer for another request's", async () => {
  const [server, stranger, socket] = [BIND, BIND, BIND]
    .map((it) => Deno.listenDatagram(it));
  const address = server.addr as Deno.NetAddr;
  const once = { tries: 1, timeout: LONG };
  const counted = async (...args: Parameters<typeof ask>) => {
    const { answer, waits } = await ask(...args);
    return { answer, waits: waits.length };
  };
  assertEquals(
    await counted(socket, address, "one", { id: 1, tries: 2, timeout: 5 }),
    { answer: null, waits: 2 },
  );
  const serving = (async () => {
    const [[request]] = [await server.receive(), await server.receive()];
    assertEquals(request, new Uint8Array([0, 0, 0, 1, 0x6f, 0x6e, 0x65]));
    const [, client] = await server.receive();
    const reply = (bytes: number[]) =>
      server.send(new Uint8Array(bytes), client);
    await reply([0, 0, 0]); // Too short.
    await stranger.send(new Uint8Array([0, 0, 0, 2, 0x21]), client);
    await reply([0, 0, 0, 1, 0x78]); // Late.
    await reply([0, 0, 0, 2, 0x79]);
    await reply([0, 0, 0, 2, 0x79]); // Twice.
    await server.receive();
    await reply([0, 0, 0, 3, 0x7a]);
    // By default nobody can guess the id.
    const [data] = await server.receive();
    await reply([0, 0, 0, 4, 0x21]);
    await reply([...data, 0x21]);
  })();
  const answers: unknown[] = [];
  for (const id of [2, 3, undefined]) {
    answers.push(await counted(socket, address, "?", { id, ...once }));
  }
  assertEquals(answers, [
    { answer: "y", waits: 1 },
    { answer: "z", waits: 1 },
    { answer: "?!", waits: 1 },
  ]);
  await serving;
  for (const it of [server, stranger, socket]) it.close();
});

Deno.test("11 ask() gives up in time although other answers come", async () => {
  const [server, socket] = [BIND, BIND].map((it) => Deno.listenDatagram(it));
  const noise = setInterval(() => {
    for (let i = 0; i < 5; i++) server.send(new Uint8Array(9), socket.addr);
  }, 1);
  const options = { id: 1, timeout: 50, tries: 2 };
  const start = performance.now();
  const asked = await ask(socket, server.addr as Deno.NetAddr, "?", options);
  clearInterval(noise);
  assertEquals([asked.answer, asked.waits.length], [null, 2]);
  // The second wait is twice as long; more than that would be no deadline.
  const [first, second] = asked.waits;
  assert(first! >= 49 && second! >= 99, `${asked.waits}`);
  const time = performance.now() - start;
  assert(time >= 149 && time < 2000, `${time} ms`);
  for (const it of [server, socket]) it.close();
});

Deno.test("11 demo ends on a signal, and leaves no process behind", async () => {
  await using process = new LessonProcess(LESSON, [
    "--loss=100",
    "--timeout=60000",
    "--quiet",
  ]);
  await process.port();
  const children = descendants(process.pid);
  assert(children.length > 0);
  process.kill("SIGTERM");
  const { code, stderr } = await process.result();
  assertEquals([code, stderr], [143, ""]);
  for (const pid of children) await until(() => !isRunning(pid));
});

/** The demo by the name of a host. */
async function askByName(options: StartOptions = {}) {
  // Nothing is lost: only a wrong address would leave it without an answer.
  const args = ["--host=localhost", "--quiet", "--requests=2", "--loss=0"];
  const patient = ["--timeout=5000", "--tries=2"];
  const demo = await run(LESSON, ["demo", ...args, ...patient], options);
  assertEquals([demo.code, demo.stderr], [0, ""]);
  assertEquals(
    table(demo.stdout, /^request +sent/).map(([id, , , answer]) =>
      `${id} ${answer}`
    ),
    ["1 request 1 #1", "2 request 2 #2"],
  );
}

Deno.test("11 demo asks a server by its name", async () => {
  await askByName();
});

Deno.test("11 demo asks a server by a name that is ::1 first", {
  ignore: !hasIpv6() || !await canMount(),
}, async () => {
  await using hosts = await withHosts("::1 localhost\n127.0.0.1 localhost\n");
  await askByName(hosts);
});

Deno.test("11 server tells requests by their bytes, which need not be text", async () => {
  const { process, port } = await startServer(LESSON, ["--quiet"]);
  await using _ = process;
  const socket = Deno.listenDatagram(BIND);
  const id = [0, 0, 0, 7];
  // As text the first two are one: U+FFFD. A BOM is left out of it.
  const requests = [[0xff], [0xfe], [0xef, 0xbb, 0xbf, 0x61], [0x61], []];
  for (const [i, bytes] of requests.entries()) {
    const request = new Uint8Array([...id, ...bytes]);
    const number = new TextEncoder().encode(` #${i + 1}`);
    for (let twice = 0; twice < 2; twice++) {
      await socket.send(request, { ...BIND, port });
      const [answer] = await socket.receive();
      assertEquals(answer, new Uint8Array([...request, ...number]));
    }
  }
  socket.close();
});
