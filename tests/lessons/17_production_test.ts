import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/17_production.ts";
import { ReadGate } from "../../lib/read_gate.ts";
import { exchange, reset } from "../peers.ts";
import {
  descendants,
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  openFilesLimit,
  returnedCalls,
  run,
  type StartOptions,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "17_production.ts";
const hostname = "127.0.0.1";

/** Starts the lesson's server on a free port. */
const startServer = (args?: string[], options?: StartOptions) =>
  startServerOf(LESSON, args, options);

/** Runs the lesson's client against `port`. */
const runClient = (port: number, args: string[], options?: StartOptions) =>
  run(LESSON, ["client", `--port=${port}`, ...args], options);

/** Whether a connection is served: what is sent comes back. */
async function isServed(conn: Deno.TcpConn): Promise<boolean> {
  await conn.write(new TextEncoder().encode("ping"));
  return await conn.read(new Uint8Array(4)) === 4;
}

/** Waits, where time is what the test is about. */
const pause = (milliseconds: number) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Connects, and writes until `stop`, which closes the connection. */
async function flood(port: number) {
  const conn = await Deno.connect({ hostname, port });
  const flooding = { conn, sent: 0, stop };
  const data = new Uint8Array(1 << 20);
  const writing = (async () => {
    for (;;) flooding.sent += await conn.write(data);
  })().catch(() => {});
  async function stop() {
    conn.close();
    await writing;
  }
  return flooding;
}

/** The numbers of the client's summary. */
function summary(stdout: string) {
  const match = stdout.match(
    /^(\d+) clients?, (\d+) messages?, (\d+) lost, (\d+) corrupted\n[\d,]+ messages\/s, half of the echoes within [\d.-]+ ms, 99 % within [\d.-]+ ms\n(.+): (\d+) clients? without an echo, Jain's index ([\d.]+)\n\((?:the index is 1 if|but nobody had more) .+\)\n(?:client done!!\n)?$/m,
  );
  assert(match, stdout);
  const [clients, messages, lost, corrupted] = match!.slice(1, 5).map(Number);
  const [when, starved, index] = match!.slice(5);
  return {
    counts: { clients, messages, lost, corrupted },
    fairness: { when, starved: Number(starved), index: Number(index) },
  };
}

Deno.test("17 demo: each need with it, and without it", {
  ignore: await openFilesLimit() < 2200,
}, async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [head, ...rows] = stdout.trimEnd().split("\n")
    .map((row) => row.split(/ {2,}/));
  assertEquals(head, ["need", "with it", "without"]);
  assertEquals(rows.map(([need]) => need[0]), [..."234589"]);
  const [descriptors, limit, end, nagle, fairness, silence] = rows
    .map(([_, ...cells]) => cells);
  assertEquals(descriptors[0], "40 served");
  assertMatch(descriptors[1], /^[0-3]?\d served, EMFILE$/);
  assertEquals(limit, ["3 served at once", "5 served at once"]);
  assertEquals(end[0], "echoed");
  // Which of them is up to when the last message comes.
  assertMatch(end[1], /^(end of stream|ECONNRESET|EPIPE)$/);
  const [fast, slow] = nagle.map((it) =>
    Number(it.match(/^([\d,]+) messages\/s$/)![1].replaceAll(",", ""))
  );
  assert(fast > slow, stdout);
  const [alike, starved] = fairness.map((it) =>
    Number(it.match(/^(\d+) had no turn$/)![1])
  );
  assert(alike < starved, stdout);
  assertMatch(silence[0], /^closed after \d+ ms$/);
  assertMatch(silence[1], /^open after \d+ ms$/);
});

Deno.test("17 serves a thousand clients alike", {
  ignore: await openFilesLimit() < 1100,
}, async () => {
  const { process, port } = await startServer(["--quiet"]);
  await using _ = process;
  const args = ["--clients=1000", "--messages=20", "--size=100"];
  const { code, stdout, stderr } = await runClient(port, args);
  assertEquals([code, stderr], [0, ""]);
  const { counts, fairness } = summary(stdout);
  assertEquals(counts, {
    clients: 1000,
    messages: 20_000,
    lost: 0,
    corrupted: 0,
  });
  // Not who is fast: when one has got all of its 20, the others have got many.
  assertEquals(fairness.when, "when the first one was done");
  // But if the kernel's queue is too short for a thousand, the others come later.
  const queue = Deno.readTextFileSync("/proc/sys/net/core/somaxconn");
  if (Number(queue) >= 1024) assertEquals(fairness.starved, 0);
  assert(fairness.index > 0.8, stdout);
  process.kill("SIGTERM");
  const result = await process.result();
  assert(
    result.stdout.endsWith(
      "\nserved 1000 connections, 2000000 bytes\nserver closed\n",
    ),
    result.stdout,
  );
});

Deno.test("17 server on a terminal ends in good order on Ctrl+C", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["server", "--port=0"], {
    wrapper: onTerminal,
  });
  await process.stdoutHas("listening on ");
  await process.type("\x03");
  const { code, stdout } = await process.result();
  assertEquals(code, 0, stdout);
  assertMatch(
    stdout,
    / #1 close listener(?: after .+)?\r\n[^]*served 0 connections, 0 bytes\r\nserver closed\r\n$/,
  );
});

Deno.test("17 client by time, without the gate and with Nagle's algorithm", async () => {
  const { process, port } = await startServer([
    "--quiet",
    "--buffer-size=1000",
    "--no-gate",
    "--nagle",
  ]);
  await using _ = process;
  const { code, stdout } = await runClient(port, [
    "--clients=20",
    "--duration=300",
    "--messages=1",
    "--no-gate",
  ]);
  assertEquals(code, 0);
  const { counts, fairness } = summary(stdout);
  assert(counts.messages > 20, stdout);
  assertEquals([counts.lost, counts.corrupted], [0, 0]);
  assertEquals(fairness.when, "after 300 ms");
});

Deno.test("17 client on a terminal draws progress, and over no other line", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer(["--quiet"]);
  await using _ = process;
  const { code, stdout } = await runClient(port, [], { wrapper: onTerminal });
  assertEquals(code, 0);
  const [bar, end] = ["messages [", "\x1b[K"].map((it) =>
    stdout.lastIndexOf(it)
  );
  assert(stdout.startsWith("\r\x1b[Kmessages ["), stdout);
  assert(bar < end && end < stdout.indexOf("100 clients,"), stdout);
});

Deno.test("17 client exits 1 for what is lost or not what was sent", async () => {
  using silent = Deno.listen({ hostname, port: 0 });
  using wrong = Deno.listen({ hostname, port: 0 });
  const serving = (async () => {
    using conn = await wrong.accept();
    const buffer = new Uint8Array(64);
    await conn.read(buffer);
    await conn.write(buffer.reverse());
    await conn.read(buffer);
  })();
  const load = (port: number, ...args: string[]) => runClient(port, args);
  const [refused, swallowed, reversed] = await Promise.all([
    load(1, "--clients=3", "--messages=2"),
    load(silent.addr.port, "--clients=2", "--messages=3", "--timeout=300"),
    load(wrong.addr.port, "--clients=1", "--messages=1"),
  ]);
  await serving;

  assertEquals([refused.code, refused.stderr], [
    1,
    "17_production: connect 127.0.0.1:1: " +
    "ECONNREFUSED (Connection refused): does a server listen there?\n",
  ]);
  assertEquals(summary(refused.stdout), {
    counts: { clients: 3, messages: 6, lost: 6, corrupted: 0 },
    fairness: { when: "at the end", starved: 3, index: 0 },
  });
  assertEquals([swallowed.code, swallowed.stderr], [
    1,
    "17_production: No echo for 300 ms\n",
  ]);
  assertEquals(summary(swallowed.stdout).counts.lost, 6);
  assertEquals([reversed.code, reversed.stderr], [
    1,
    "17_production: An echo is not what was sent\n",
  ]);
  const { lost, corrupted } = summary(reversed.stdout).counts;
  assertEquals([lost, corrupted], [0, 1]);
});

Deno.test("17 client ends on a signal", async () => {
  using silent = Deno.listen({ hostname, port: 0 });
  const port = silent.addr.port;
  await using client = new LessonProcess(LESSON, ["client", `--port=${port}`]);
  using _conn = await silent.accept();
  client.kill("SIGTERM");
  const { code, stdout, stderr } = await client.result();
  assertEquals([code, stdout, stderr], [143, "client done!!\n", ""]);
});

Deno.test("17 demo ends on a signal", async () => {
  await using demo = new LessonProcess(LESSON, []);
  // With npm's deno there is a launcher, which has no sockets.
  const descriptors = () =>
    [demo.pid, ...descendants(demo.pid)].flatMap((pid) => [
      ...Deno.readDirSync(`/proc/${pid}/fd`),
    ]);
  await until(() => descriptors().length > 200); // It measures something.
  demo.kill("SIGINT");
  const { code, stdout, stderr } = await demo.result();
  assertEquals([code, stdout, stderr], [130, "", ""]);
});

/** Runs a server under strace while `use` does, and returns its calls. */
async function traced(
  args: string[],
  use: (port: number) => Promise<void>,
): Promise<string> {
  const file = await Deno.makeTempFile();
  try {
    const { process, port } = await startServer(["--quiet", ...args], {
      wrapper: (command) =>
        ["strace", "-f", "-o", file, "-e", "trace=setsockopt,recvfrom"]
          .concat(command),
    });
    await using _ = process;
    await use(port);
    for (const pid of descendants(process.pid)) Deno.kill(pid, "SIGTERM");
    await process.result();
    return await Deno.readTextFile(file);
  } finally {
    await Deno.remove(file);
  }
}

for (const isDefault of [true, false]) {
  const args = isDefault ? [] : ["--nagle", "--buffer-size=1000"];
  Deno.test(`17 server ${args.join(" ")}: TCP_NODELAY, and how much is read`, {
    ignore: !await hasProgram("strace"),
  }, async () => {
    const calls = await traced(args, async (port) => {
      const sent = "x".repeat(500_000);
      assertEquals(await exchange(port, sent), sent);
    });
    assertEquals(/TCP_NODELAY, \[1\]/.test(calls), isDefault, calls);
    // What was sent, and nothing that Deno reads for itself.
    const reads = calls.matchAll(
      /recvfrom\(\d+, "x+"(?:\.\.\.)?, (\d+), 0, /g,
    );
    const sizes = [...new Set([...reads].map(([, size]) => Number(size)))];
    if (!isDefault) return assertEquals(sizes, [1000]);
    // How far it grows is up to the kernel: how much there is at a time.
    const steps = [1536, 6144, 24576, 98304, 393216];
    for (const size of sizes) assert(steps.includes(size), sizes.join());
    assert(Math.max(...sizes) > steps[0], sizes.join());
  });
}

Deno.test("17 server: no client touches another, and a stalled one costs little", async () => {
  const { process, port } = await startServer(["--quiet"]);
  await using _ = process;
  using silent = await Deno.connect({ hostname, port });
  // They send until nothing more is taken, and read nothing.
  const deaf = await Promise.all(Array.from({ length: 50 }, () => flood(port)));
  await reset(port);
  await reset(port, new Uint8Array(100_000));
  assertEquals(await exchange(port, "still there?"), "still there?");
  assert(await isServed(silent));

  let sent = -1;
  const total = () => deaf.reduce((sum, { sent }) => sum + sent, 0);
  while (sent !== total()) {
    sent = total();
    await pause(200);
  }
  const status = Deno.readTextFileSync(`/proc/${process.pid}/status`);
  const resident = Number(status.match(/VmRSS:\s+(\d+) kB/)![1]);
  // 50 buffers of 384 KiB are 19 MB; without backpressure it were hundreds.
  assert(resident < 200_000, `${resident} kB`);

  const large = { clients: 4, messages: 3, size: 3_000_000 };
  const words: Uint8Array[] = [];
  const output = {
    write(p: Uint8Array) {
      words.push(p.slice());
      return Promise.resolve(p.length);
    },
  };
  await client({ hostname, port, ...large, output });
  const text = await new Blob(words as Uint8Array<ArrayBuffer>[]).text();
  assertEquals(summary(text).counts, {
    clients: 4,
    messages: 12,
    lost: 0,
    corrupted: 0,
  });
  process.kill("SIGKILL"); // Deno 2.8 ends a waiting write only with its peer.
  for (const { stop } of deaf) await stop();
});

Deno.test("17 server --idle-timeout ends the silent, not the talking", async () => {
  const { process, port } = await startServer(["--idle-timeout=600"]);
  await using _ = process;
  using talking = await Deno.connect({ hostname, port });
  using silent = await Deno.connect({ hostname, port });
  const start = performance.now(); // Not later than the server's.
  assert(await isServed(silent));
  let isOver = false;
  const ended = silent.read(new Uint8Array(1)).then((count) => {
    isOver = true;
    return count;
  });
  while (!isOver) {
    assert(await isServed(talking));
    await pause(5);
  }
  assertEquals(await ended, null);
  assert(performance.now() - start >= 599);
  assert(await isServed(talking));
  // The trace says which one it is.
  const silentAddress = `${hostname}:${silent.localAddr.port}`;
  await process.traceHas(
    `:server #3 accept ${silentAddress} at ${hostname}:${port}\n`,
  );
  const trace = await process.traceHas(" #3 close\n");
  assert(!trace.includes(" #2 close\n"), trace);
});

Deno.test("17 server --idle-timeout hears what came while it was stopped", async () => {
  const { process, port } = await startServer(["--idle-timeout=800"]);
  await using _ = process;
  const conns = await Promise.all(
    Array.from({ length: 30 }, () => Deno.connect({ hostname, port })),
  );
  for (const conn of conns) assert(await isServed(conn));
  process.kill("SIGSTOP");
  const answers = conns.map(isServed);
  await pause(1000);
  process.kill("SIGCONT");
  const isAlive = await Promise.all(answers);
  assertEquals(isAlive.filter((it) => it).length, 30);
  for (const conn of conns) conn.close();
});

Deno.test("17 server --max-connections lets the others wait, and ends all the same", async () => {
  const { process, port } = await startServer([
    "--max-connections=2",
    "--drain-timeout=700",
  ]);
  await using _ = process;
  const first = await Deno.connect({ hostname, port });
  using second = await Deno.connect({ hostname, port });
  assert(await isServed(first) && await isServed(second));
  using third = await Deno.connect({ hostname, port });
  const waiting = isServed(third);
  // The server has had every chance: it serves the others in between.
  for (let i = 0; i < 20; i++) assert(await isServed(second));
  await second.write(new TextEncoder().encode("last"));
  const trace = await process.traceHas(' #3 write 4 of 4 bytes "last"\n');
  assertEquals(trace.match(/server #\d+ accept/g)?.length, 2);
  first.close();
  assert(await waiting);
  process.kill("SIGTERM"); // While it is full.
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  // However long it has waited, it says how it went.
  const lines = stdout.split("\n").slice(1);
  assertEquals(lines[0], "waiting for clients to finish: 2, 700 ms at most");
  assertMatch(lines.slice(1).join("\n"), /^served 3 .*\nserver closed\n$/);
});

Deno.test("17 server survives that there are no descriptors left", async () => {
  const limit = 40;
  const { process, port } = await startServer(["--quiet"], {
    wrapper: (command) =>
      ["sh", "-c", `ulimit -n ${limit}; exec "$@"`, "sh"].concat(command),
  });
  await using _ = process;
  const conns = await Promise.all(
    Array.from({ length: limit }, () => Deno.connect({ hostname, port })),
  );
  const descriptors = () => [...Deno.readDirSync(`/proc/${process.pid}/fd`)];
  await until(() => descriptors().some(({ name }) => name === `${limit - 1}`));
  assert(await isServed(conns[0]));
  const ticks = () => {
    const stat = Deno.readTextFileSync(`/proc/${process.pid}/stat`).split(" ");
    return Number(stat[13]) + Number(stat[14]); // Of 10 ms.
  };
  // It does not spin: in half a second, far less than half a second of work.
  const before = ticks();
  await pause(500);
  assert(ticks() - before < 25, `${ticks() - before} ticks`);
  // Each one that leaves makes room for one that waits.
  for (const conn of conns) {
    assert(await isServed(conn));
    conn.close();
  }
  process.kill("SIGTERM");
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertMatch(stdout, /^served 40 connections, \d+ bytes\nserver closed$/m);
});

Deno.test("17 server lets clients finish on SIGINT, and says that it waits", async () => {
  const { process, port } = await startServer(["--drain-timeout=60000"]);
  await using _ = process;
  using conn = await Deno.connect({ hostname, port });
  assert(await isServed(conn));
  process.kill("SIGINT");
  process.kill("SIGINT");
  const waiting = "waiting for clients to finish: 1, 60000 ms at most\n";
  await process.stdoutHas(waiting);
  assert(await isFree(port));
  assert(await isServed(conn));
  await conn.closeWrite();
  assertEquals(await conn.read(new Uint8Array(1)), null);
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stdout], [
    0,
    `listening on 127.0.0.1:${port}\n${waiting}` +
    "served 1 connection, 8 bytes\nserver closed\n",
  ]);
  assertMatch(returnedCalls(stderr), /:echo #2 read 4 bytes "ping"\n/);
});

Deno.test("17 server closes on SIGTERM who does not finish, whoever reads its output", async () => {
  // Its standard output is a pipe that is full, and that nobody reads.
  const full = await Deno.makeTempDir();
  const script = 'mkfifo "$0/pipe"; exec 3<>"$0/pipe"; ' +
    'dd if=/dev/zero bs=65536 count=1 >&3 2>/dev/null; exec "$@" >&3';
  const args = ["server", `--host=${hostname}`, "--port=0"];
  try {
    await using process = new LessonProcess(
      LESSON,
      [...args, "--drain-timeout=50"],
      { wrapper: (command) => ["sh", "-c", script, full, ...command] },
    );
    const listens = / listen 127\.0\.0\.1:(\d+)\n/;
    const port = Number((await process.traceHas(listens)).match(listens)![1]);
    using conn = await Deno.connect({ hostname, port });
    assert(await isServed(conn));
    process.kill("SIGTERM");
    assertEquals(await conn.read(new Uint8Array(1)), null);
    assertEquals((await process.result()).code, 0);
  } finally {
    await Deno.remove(full, { recursive: true });
  }
});

for (const noGate of [false, true]) {
  const how = noGate ? ", and leaves out the gate" : "";
  Deno.test(`17 server() can be called from other code${how}`, async () => {
    const { pass } = ReadGate.prototype;
    let passed = 0;
    ReadGate.prototype.pass = function (who) {
      passed++;
      return pass.call(this, who);
    };
    const stop = new AbortController();
    const ready = Promise.withResolvers<Deno.NetAddr>();
    const printed: string[] = [];
    const closed = server({
      hostname,
      port: 0,
      idleTimeout: 60_000, // Its timer must not outlive the connection.
      drainTimeout: 20,
      noGate,
      signal: stop.signal,
      onListen: ready.resolve,
      print: (line) => printed.push(line),
    });
    const { port } = await ready.promise;
    assertEquals(await exchange(port, "hello"), "hello");
    assertEquals(passed, noGate ? 0 : 1);
    using conn = await Deno.connect({ hostname, port });
    assert(await isServed(conn));
    stop.abort();
    await closed;
    assertEquals(printed, [
      "waiting for clients to finish: 1, 20 ms at most",
      "served 2 connections, 9 bytes",
    ]);
    assertEquals(await conn.read(new Uint8Array(1)), null);
    ReadGate.prototype.pass = pass;
  });
}
