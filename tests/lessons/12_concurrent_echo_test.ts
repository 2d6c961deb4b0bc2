import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/12_concurrent_echo.ts";
import { ReadGate } from "../../lib/read_gate.ts";
import { exchange, reset } from "../peers.ts";
import {
  descendants,
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  openFilesLimit,
  replaced,
  run,
  type StartOptions,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "12_concurrent_echo.ts";
const hostname = "127.0.0.1";

/** Starts the lesson's server on a free port. */
const startServer = (args?: string[], options?: StartOptions) =>
  startServerOf(LESSON, args, options);

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
    /^(\d+) clients, (\d+) messages, (\d+) lost, (\d+) corrupted\n\d+ messages\/s, half of the echoes within [\d.-]+ ms, 99 % within [\d.-]+ ms\n(.+): (\d+) clients without an echo, Jain's index ([\d.]+)\n\(the index is 1 if .+\)\nclient done!!$/m,
  );
  assert(match, stdout);
  const [clients, messages, lost, corrupted] = match!.slice(1, 5).map(Number);
  const [when, starved, index] = match!.slice(5);
  return {
    counts: { clients, messages, lost, corrupted },
    fairness: { when, starved: Number(starved), index: Number(index) },
  };
}

Deno.test("12 demo: a silent client, a second one, a thousand, and the end", {
  ignore: await openFilesLimit() < 1100,
}, async () => {
  const args = ["--clients=1000", "--messages=20", "--size=100"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(
    stdout,
    /^listening on \S+\na client is connected, and says nothing\na second client has its echo after \d+\.\d+ ms\n\(in lesson 01 it waits .+\)\n\n1000 clients, /,
  );
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
  // The silent one is left: it does not finish, and is closed.
  assert(
    stdout.endsWith(
      "\nclient done!!\nwaiting for clients to finish: 1, 200 ms at most\n" +
        "served 1002 connections, 2000064 bytes\nserver closed\n",
    ),
    stdout,
  );
});

Deno.test("12 demo: three thousand clients", {
  ignore: await openFilesLimit() < 3100,
}, async () => {
  const args = ["--clients=3000", "--messages=2"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  const { lost, corrupted } = summary(stdout).counts;
  assertEquals([lost, corrupted], [0, 0]);
});

Deno.test("12 server on a terminal: Ctrl+C, and a new line for what follows", {
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
    /\r\n(\^C)?\r\n12_\S+ close listener\r\n[^]*server closed/,
  );
});

Deno.test("12 demo by time, without the gate and with Nagle's algorithm", async () => {
  const { code, stdout } = await run(LESSON, [
    "--clients=20",
    "--duration=300",
    "--messages=1",
    "--buffer-size=1000",
    "--no-gate",
    "--nagle",
  ]);
  assertEquals(code, 0);
  const { counts, fairness } = summary(stdout);
  assert(counts.messages > 20, stdout);
  assertEquals([counts.lost, counts.corrupted], [0, 0]);
  assertEquals(fairness.when, "after 300 ms");
});

Deno.test("12 client on a terminal draws progress, and over no other line", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { code, stdout } = await run(LESSON, [], { wrapper: onTerminal });
  assertEquals(code, 0);
  assertMatch(stdout, /^listening on \S+\r\na client is connected/);
  const [bar, end] = ["messages [", "\x1b[K"].map((it) =>
    stdout.lastIndexOf(it)
  );
  assert(stdout.indexOf("messages [") > stdout.indexOf("in lesson 01"), stdout);
  assert(bar < end && end < stdout.indexOf("100 clients,"), stdout);
});

Deno.test("12 client exits 1 for what is lost or not what was sent", async () => {
  using silent = Deno.listen({ hostname, port: 0 });
  using wrong = Deno.listen({ hostname, port: 0 });
  const serving = (async () => {
    using conn = await wrong.accept();
    const buffer = new Uint8Array(64);
    await conn.read(buffer);
    await conn.write(buffer.reverse());
    await conn.read(buffer);
  })();
  const load = (port: number, ...args: string[]) =>
    run(LESSON, ["client", `--port=${port}`, ...args]);
  const [refused, swallowed, reversed] = await Promise.all([
    load(1, "--clients=3", "--messages=2"),
    load(silent.addr.port, "--clients=2", "--messages=3", "--timeout=300"),
    load(wrong.addr.port, "--clients=1", "--messages=1"),
  ]);
  await serving;

  assertEquals([refused.code, refused.stderr], [
    1,
    "12_concurrent_echo: connect 127.0.0.1:1: " +
    "ECONNREFUSED (Connection refused)\n",
  ]);
  assertEquals(summary(refused.stdout), {
    counts: { clients: 3, messages: 6, lost: 6, corrupted: 0 },
    fairness: { when: "at the end", starved: 3, index: 0 },
  });
  assertEquals([swallowed.code, swallowed.stderr], [
    1,
    "12_concurrent_echo: No echo for 300 ms\n",
  ]);
  assertEquals(summary(swallowed.stdout).counts.lost, 6);
  assertEquals([reversed.code, reversed.stderr], [
    1,
    "12_concurrent_echo: An echo is not what was sent\n",
  ]);
  const { lost, corrupted } = summary(reversed.stdout).counts;
  assertEquals([lost, corrupted], [0, 1]);
});

Deno.test("12 client and demo end on a signal", async () => {
  using silent = Deno.listen({ hostname, port: 0 });
  const port = silent.addr.port;
  await using client = new LessonProcess(LESSON, ["client", `--port=${port}`]);
  await using demo = new LessonProcess(LESSON, ["--messages=1000000"]);
  using _conn = await silent.accept();
  client.kill("SIGTERM");
  const ended = await client.result();
  assertEquals([ended.code, ended.stdout, ended.stderr], [
    143,
    "client done!!\n",
    "",
  ]);

  const demoPort = await demo.port();
  await demo.stdoutHas("in lesson 01");
  demo.kill("SIGINT");
  const { code, stdout, stderr } = await demo.result();
  assertEquals([code, stderr], [130, ""]);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
  assert(!stdout.includes(" lost,"), stdout);
  assert(await isFree(demoPort));
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
  Deno.test(`12 server ${args.join(" ")}: TCP_NODELAY, and how much is read`, {
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

Deno.test("12 server: no client touches another, and a stalled one costs little", async () => {
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

Deno.test("12 server --idle-timeout ends the silent, not the talking", async () => {
  const { process, port } = await startServer(["--idle-timeout=600"]);
  await using _ = process;
  using talking = await Deno.connect({ hostname, port });
  using silent = await Deno.connect({ hostname, port });
  assert(await isServed(silent));
  let isOver = false;
  const ended = silent.read(new Uint8Array(1)).then((count) => {
    isOver = true;
    return count;
  });
  const start = performance.now();
  while (!isOver) {
    assert(await isServed(talking));
    await pause(5);
  }
  assertEquals(await ended, null);
  assert(performance.now() - start > 590);
  assert(await isServed(talking));
  // The trace names the client.
  const { port: silentPort } = silent.localAddr;
  await process.stderrHas(`closeSilent close 127.0.0.1:${silentPort}\n`);
});

Deno.test("12 server leaves a client alone that takes its echo in pieces", async () => {
  // How large a kernel's pieces are depends on its settings: here it is one byte.
  let written = 0;
  let isClosed = false;
  const isGone = Promise.withResolvers<void>();
  const conn = {
    setNoDelay: () => {},
    read: () => Promise.resolve(written === 0 ? 20 : null),
    async write() {
      await pause(30);
      if (isClosed) throw new Deno.errors.BadResource();
      written++;
      return 1;
    },
    [Symbol.dispose]() {
      isClosed = true;
      isGone.resolve();
    },
  };
  const conns = [Promise.resolve(conn), new Promise(() => {})];
  using _ = replaced(Deno, "listen", () => ({
    addr: { hostname, port: 1 },
    accept: () => conns.shift(),
    [Symbol.dispose]() {},
  }));
  const print = () => {};
  server({ idleTimeout: 200, onListen: print, print, report: print });
  await isGone.promise;
  assertEquals(written, 20);
});

Deno.test("12 server --idle-timeout hears what came while it was stopped", async () => {
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

Deno.test("12 server --max-connections lets the others wait, and ends all the same", async () => {
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
  const trace = await process.stderrHas(/ write .*"last"\n/);
  assertEquals(trace.match(/server accept/g)?.length, 2);
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

Deno.test("12 server survives that there are no descriptors left", async () => {
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

Deno.test("12 server lets clients finish on SIGINT, and says that it waits", async () => {
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
    "served 1 connections, 8 bytes\nserver closed\n",
  ]);
  assertMatch(stderr, /:echo read 4 bytes "ping"\n/);
});

Deno.test("12 server closes on SIGTERM who does not finish, whoever reads its output", async () => {
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
    const port = Number((await process.stderrHas(listens)).match(listens)![1]);
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
  Deno.test(`12 server() can be called from other code${how}`, async () => {
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

Deno.test("12 server goes on when the host has no descriptors left", async () => {
  // ENFILE: Deno has no code for it, and a test cannot bring a host to it.
  const stop = new AbortController();
  let asked = 0;
  using _ = replaced(Deno, "listen", () => ({
    addr: { hostname, port: 1 },
    accept() {
      if (++asked === 2) stop.abort();
      const text = "Too many open files in system (os error 23)";
      return Promise.reject(new Error(text));
    },
    [Symbol.dispose]() {},
  }));
  const { signal } = stop;
  await server({ signal, onListen: () => {}, print: () => {} });
  assertEquals(asked, 2);
});
