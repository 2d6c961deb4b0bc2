import { assert, assertEquals, assertMatch } from "@std/assert";
import { jainsIndex, server } from "../lessons/12_concurrent_echo.ts";
import { exchange, reset } from "./peers.ts";
import {
  descendants,
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  run,
  type StartOptions,
} from "./testing.ts";

const LESSON = "12_concurrent_echo.ts";
const LOOPBACK = "127.0.0.1";
const encode = (text: string) => new TextEncoder().encode(text);

async function startServer(args: string[] = [], options: StartOptions = {}) {
  const all = ["server", "--host=127.0.0.1", "--port=0", ...args];
  const process = new LessonProcess(LESSON, all, options);
  return { process, port: await process.port() };
}

/** Whether a connection is served: what is sent comes back. */
async function isServed(conn: Deno.TcpConn): Promise<boolean> {
  await conn.write(encode("ping"));
  const buffer = new Uint8Array(4);
  return await conn.read(buffer) === 4;
}

/** The numbers of the client's summary. */
function summary(stdout: string) {
  const match = stdout.match(
    /^(\d+) clients, (\d+) messages, (\d+) lost, (\d+) corrupted\n\d+ messages\/s, p50 [\d.-]+ ms, p99 [\d.-]+ ms\n.+: Jain's index [\d.]+, \d+ clients without an echo\nclient done!!$/m,
  );
  assert(match, stdout);
  const [clients, messages, lost, corrupted] = match!.slice(1).map(Number);
  return { clients, messages, lost, corrupted };
}

Deno.test("12 demo: a thousand clients, and every byte comes back", async () => {
  const args = ["--clients=1000", "--messages=10", "--size=100"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(summary(stdout), {
    clients: 1000,
    messages: 10_000,
    lost: 0,
    corrupted: 0,
  });
  assertMatch(
    stdout,
    /^served 1000 connections, 1000000 bytes\nserver closed$/m,
  );
});

/** `ulimit -n` of what is started here. */
async function openFilesLimit(): Promise<number> {
  const command = new Deno.Command("sh", { args: ["-c", "ulimit -n"] });
  const text = new TextDecoder().decode((await command.output()).stdout);
  return text.startsWith("unlimited") ? Infinity : Number(text);
}

Deno.test("12 demo: ten thousand clients", {
  ignore: await openFilesLimit() < 10_100,
}, async () => {
  const args = ["--clients=10000", "--messages=2"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  const { lost, corrupted } = summary(stdout);
  assertEquals([lost, corrupted], [0, 0]);
});

/** What the client's last line says of its clients. */
function fairness(stdout: string) {
  const match = stdout.match(
    /^(.+): Jain's index ([\d.]+), (\d+) clients without an echo$/m,
  );
  assert(match, stdout);
  const [, when, index, starved] = match!;
  return { when, index: Number(index), starved: Number(starved) };
}

Deno.test("12 demo: of a thousand busy clients, none is left out", async () => {
  const { code, stdout } = await run(LESSON, [
    "--clients=1000",
    "--messages=20",
    "--backlog=1024", // So no connect has to be sent again, a second later.
  ]);
  assertEquals(code, 0);
  const { when, index, starved } = fairness(stdout);
  // Not who is fast: when one has got all of its 20, the others have got many.
  assertEquals([when, starved], ["when the first one was done", 0]);
  assert(index > 0.8, stdout);
});

Deno.test("12 server and client do without the gate, if they are told to", async () => {
  const args = ["--clients=300", "--messages=5", "--no-gate"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  assertEquals(summary(stdout).messages, 1500);
});

Deno.test("12 client --duration goes on for so long, and loses nothing", async () => {
  const args = ["--clients=20", "--duration=1000", "--messages=1"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  const { messages, lost, corrupted } = summary(stdout);
  assert(messages > 20, stdout);
  assertEquals([lost, corrupted], [0, 0]);
  const { when } = fairness(stdout);
  assertEquals(when, "after 1000 ms");
});

Deno.test("12 client --duration ends though an echo does not come", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const all = ["client", `--port=${listener.addr.port}`, "--clients=2"];
  await using client = new LessonProcess(LESSON, [...all, "--duration=100"]);
  using _first = await listener.accept();
  using _second = await listener.accept();
  const { code, stdout, stderr } = await client.result();
  assertEquals([code, stderr], [
    1,
    "12_concurrent_echo: no echo for 5000 ms after the end\n",
  ]);
  const { messages, lost } = summary(stdout);
  assertEquals([messages, lost, fairness(stdout).starved], [2, 2, 2]);
});

Deno.test("12 client says who has had nothing", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const all = ["client", `--port=${listener.addr.port}`, "--clients=4"];
  await using client = new LessonProcess(LESSON, [
    ...all,
    "--messages=3",
    "--size=5",
  ]);
  // It echoes two of four, and only then ends the others.
  const conns: Deno.TcpConn[] = [];
  for (let i = 0; i < 4; i++) conns.push(await listener.accept());
  const buffer = new Uint8Array(5);
  for (const conn of conns.slice(0, 2)) {
    for (let i = 0; i < 3; i++) {
      assertEquals(await conn.read(buffer), 5);
      await conn.write(buffer);
    }
    assertEquals(await conn.read(buffer), null); // It is done.
  }
  for (const conn of conns) conn.close();
  const { code, stdout } = await client.result();
  assertEquals(code, 1);
  assertEquals(summary(stdout).lost, 6);
  // The first one was done before the second one had anything.
  assertEquals(fairness(stdout), {
    when: "when the first one was done",
    index: 0.25,
    starved: 3,
  });
});

Deno.test("12 jainsIndex() is 1 for all the same, 1/n for one with all", () => {
  assertEquals(jainsIndex([5, 5, 5, 5]), 1);
  assertEquals(jainsIndex([0, 0, 7, 0]), 0.25);
  assertEquals(jainsIndex([1, 3]), 0.8);
  assertEquals(jainsIndex([0, 0]), 0);
});

/** Runs a server under strace while `use` does, and returns its calls. */
async function traced(
  calls: string,
  args: string[],
  use: (port: number, process: LessonProcess) => Promise<void>,
): Promise<string> {
  const file = await Deno.makeTempFile();
  try {
    const { process, port } = await startServer(args, {
      wrapper: (command) =>
        ["strace", "-f", "-o", file, "-e", `trace=${calls}`].concat(command),
    });
    await using _ = process;
    await use(port, process);
    for (const pid of descendants(process.pid)) Deno.kill(pid, "SIGTERM");
    await process.result();
    return await Deno.readTextFile(file);
  } finally {
    await Deno.remove(file);
  }
}

for (const nagle of [false, true]) {
  const does = nagle ? "leaves Nagle's algorithm on" : "turns it off";
  Deno.test(`12 server${nagle ? " --nagle" : ""} ${does}`, {
    ignore: !await hasProgram("strace"),
  }, async () => {
    const args = nagle ? ["--nagle"] : [];
    const calls = await traced("setsockopt", args, async (port) => {
      using conn = await Deno.connect({ hostname: LOOPBACK, port });
      assert(await isServed(conn));
    });
    assertEquals(/TCP_NODELAY, \[1\]/.test(calls), !nagle, calls);
  });
}

Deno.test(
  "12 server's buffer grows when it is filled, or has the size it is told",
  {
    ignore: !await hasProgram("strace"),
  },
  async () => {
    const sizes = async (size: number) => {
      const args = [`--buffer-size=${size}`];
      const calls = await traced("recvfrom", args, async (port) => {
        const sent = "x".repeat(500_000);
        assertEquals(await exchange(port, sent), sent);
      });
      const all = calls.matchAll(
        // What was sent, and nothing that Deno reads for itself.
        /recvfrom\(\d+, "x+"(?:\.\.\.)?, (\d+), 0, /g,
      );
      return new Set([...all].map(([, size]) => Number(size)));
    };
    assertEquals(await sizes(1000), new Set([1000]));
    // How far it grows is up to the kernel: how much there is at a time.
    const steps = [1536, 6144, 24576, 98304, 393216];
    const grown = [...await sizes(0)];
    for (const size of grown) assert(steps.includes(size), grown.join());
    assert(Math.max(...grown) > steps[0], grown.join());
  },
);

Deno.test("12 demo with large messages", async () => {
  const args = ["--clients=4", "--messages=3", "--size=3000000"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  assertEquals(summary(stdout).lost, 0);
});

Deno.test("12 server: no client touches another", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using silent = await Deno.connect({ hostname: LOOPBACK, port });
  using deaf = await Deno.connect({ hostname: LOOPBACK, port });
  // It sends until nothing more is taken, and reads nothing.
  const blocked = (async () => {
    for (;;) await deaf.write(new Uint8Array(1 << 20));
  })().catch(() => {});
  await reset(port);
  await reset(port, new Uint8Array(100_000));
  assertEquals(await exchange(port, "still there?"), "still there?");
  assert(await isServed(silent));
  deaf.close();
  await blocked;
});

Deno.test("12 client counts what is lost and what is corrupted", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const serving = (async () => {
    for (let i = 0; i < 2; i++) {
      using conn = await listener.accept();
      const buffer = new Uint8Array(8);
      for (let n = 0; n < 3; n++) {
        const count = await conn.read(buffer);
        if (count === null) break;
        if (i === 0 && n === 1) buffer[3] ^= 1;
        await conn.write(buffer.subarray(0, count));
      }
    }
  })();
  const args = ["--clients=2", "--messages=4", "--size=8"];
  const all = ["client", `--port=${listener.addr.port}`, ...args];
  const { code, stdout, stderr } = await run(LESSON, all);
  await serving;
  assertEquals(code, 1);
  assertEquals(summary(stdout), {
    clients: 2,
    messages: 8,
    lost: 2,
    corrupted: 1,
  });
  assertMatch(stderr, /^12_concurrent_echo: (read|write) failed!: .*\n$/);
});

Deno.test("12 client without a server loses everything, and says why", async () => {
  const { code, stdout, stderr } = await run(LESSON, [
    "client",
    "--port=1",
    "--clients=3",
    "--messages=2",
  ]);
  assertEquals(code, 1);
  assertMatch(
    stdout,
    /^3 clients, 6 messages, 6 lost, 0 corrupted\n0 messages\/s, p50 - ms, p99 - ms\nat the end: Jain's index 0.000, 3 clients without an echo\n/,
  );
  assert(stdout.endsWith("\nclient done!!\n"), stdout);
  assertEquals(
    stderr,
    "12_concurrent_echo: connect 127.0.0.1:1: " +
      "ECONNREFUSED (Connection refused)\n",
  );
});

Deno.test("12 server --idle-timeout ends the silent, not the talking", async () => {
  const { process, port } = await startServer(["--idle-timeout=300"]);
  await using _ = process;
  using talking = await Deno.connect({ hostname: LOOPBACK, port });
  using silent = await Deno.connect({ hostname: LOOPBACK, port });
  let isOver = false;
  const ended = silent.read(new Uint8Array(1)).then((count) => {
    isOver = true;
    return count;
  });
  while (!isOver) {
    assert(await isServed(talking));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assertEquals(await ended, null);
  assert(await isServed(talking));
});

Deno.test("12 server --idle-timeout leaves a slow reader alone", async () => {
  const { process, port } = await startServer(["--idle-timeout=1000"]);
  await using _ = process;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  let isOpen = true;
  const sending = (async () => {
    while (isOpen) await conn.write(new Uint8Array(1 << 20));
  })().catch(() => {});
  // It takes 3 s for what the buffers hold, and is never silent for one.
  const buffer = new Uint8Array(400_000);
  for (let i = 0; i < 60; i++) {
    assert(await conn.read(buffer) !== null, `closed after ${i} reads`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  isOpen = false;
  conn.close();
  process.kill("SIGKILL"); // Deno 2.8 ends a waiting write only with its peer.
  await sending;
});

Deno.test("12 server --max-connections ends on a signal while it is full", async () => {
  const { process, port } = await startServer([
    "--max-connections=1",
    "--drain-timeout=50",
  ]);
  await using _ = process;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  assert(await isServed(conn));
  process.kill("SIGTERM");
  assertEquals((await process.result()).code, 0);
});

Deno.test("12 client exits 1 when all comes back, but not as it was", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const serving = (async () => {
    using conn = await listener.accept();
    let last = new Uint8Array(8);
    for (let i = 0; i < 3; i++) {
      const buffer = new Uint8Array(8);
      await conn.read(buffer);
      await conn.write(last); // The message before: of the same length.
      last = buffer;
    }
  })();
  const args = ["--clients=1", "--messages=3", "--size=8"];
  const all = ["client", `--port=${listener.addr.port}`, ...args];
  const { code, stdout } = await run(LESSON, all);
  await serving;
  assertEquals(code, 1);
  const { lost, corrupted } = summary(stdout);
  assertEquals([lost, corrupted], [0, 3]);
});

Deno.test("12 server --max-connections lets the others wait", async () => {
  const { process, port } = await startServer(["--max-connections=2"]);
  await using _ = process;
  const first = await Deno.connect({ hostname: LOOPBACK, port });
  using second = await Deno.connect({ hostname: LOOPBACK, port });
  assert(await isServed(first) && await isServed(second));
  using third = await Deno.connect({ hostname: LOOPBACK, port });
  const waiting = isServed(third);
  // The server has had every chance: it serves the others in between.
  for (let i = 0; i < 20; i++) assert(await isServed(second));
  const trace = await process.stderrHas("accept");
  assertEquals(trace.match(/server accept/g)?.length, 2);
  first.close();
  assert(await waiting);
});

Deno.test("12 server survives that there are no descriptors left", async () => {
  const { process, port } = await startServer([], {
    wrapper: (
      command,
    ) => ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", ...command],
  });
  await using _ = process;
  const conns: Deno.TcpConn[] = [];
  for (let i = 0; i < 40; i++) {
    conns.push(await Deno.connect({ hostname: LOOPBACK, port }));
  }
  await process.stderrHas("accept waits: EMFILE (Too many open files)");
  assert(await isServed(conns[0]));
  const stat = () => {
    const fields = Deno.readTextFileSync(`/proc/${process.pid}/stat`).split(
      " ",
    );
    return Number(fields[13]) + Number(fields[14]); // Ticks of 10 ms.
  };
  // It does not spin: in half a second, far less than half a second of work.
  const before = stat();
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert(stat() - before < 25, `${stat() - before} ticks`);
  // Each one that leaves makes room for one that waits.
  while (conns.length > 0) {
    const conn = conns.shift()!;
    assert(await isServed(conn));
    conn.close();
  }
  process.kill("SIGTERM");
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertMatch(stdout, /^served 40 connections, \d+ bytes\nserver closed$/m);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`12 server lets clients finish on ${signal}`, async () => {
    const { process, port } = await startServer(["--drain-timeout=60000"]);
    await using _ = process;
    using conn = await Deno.connect({ hostname: LOOPBACK, port });
    assert(await isServed(conn));
    process.kill(signal);
    process.kill(signal);
    await process.stderrHas("close listener");
    assert(await isFree(port));
    assert(await isServed(conn));
    await conn.closeWrite();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assertEquals(
      stdout,
      `listening on 127.0.0.1:${port}\n` +
        "served 1 connections, 8 bytes\nserver closed\n",
    );
  });
}

Deno.test("12 server closes those that do not finish in time", async () => {
  const { process, port } = await startServer(["--drain-timeout=50"]);
  await using _ = process;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  assert(await isServed(conn));
  process.kill("SIGINT");
  assertEquals(await conn.read(new Uint8Array(1)), null);
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
});

Deno.test("12 server: 50 readers that stall cost one buffer each", async () => {
  const { process, port } = await startServer(["--quiet"]);
  await using _ = process;
  const conns: Deno.TcpConn[] = [];
  let sent = 0;
  const writing: Promise<void>[] = [];
  for (let i = 0; i < 50; i++) {
    const conn = await Deno.connect({ hostname: LOOPBACK, port });
    conns.push(conn);
    writing.push(
      (async () => {
        for (;;) sent += await conn.write(new Uint8Array(1 << 20));
      })().catch(() => {}),
    );
  }
  let before = -1;
  while (before !== sent) {
    before = sent;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const status = Deno.readTextFileSync(`/proc/${process.pid}/status`);
  const resident = Number(status.match(/VmRSS:\s+(\d+) kB/)![1]);
  // 50 buffers of 256 KiB are 13 MB; without backpressure it were hundreds.
  assert(resident < 200_000, `${resident} kB`);
  assertEquals(await exchange(port, "and the others?"), "and the others?");
  for (const conn of conns) conn.close();
  process.kill("SIGKILL"); // As above.
  await Promise.all(writing);
});

Deno.test("12 client draws progress on a terminal", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer(["--quiet"]);
  await using _ = process;
  await using client = new LessonProcess(
    LESSON,
    ["client", `--port=${port}`, "--clients=10", "--messages=50"],
    { wrapper: onTerminal },
  );
  const { code, stdout } = await client.result();
  assertEquals(code, 0);
  assert(stdout.includes("messages ["), "no bar");
  assert(stdout.lastIndexOf("\x1b[K") < stdout.indexOf("10 clients,"), stdout);
});

Deno.test("12 client and demo end on a signal", async () => {
  using silent = Deno.listen({ hostname: LOOPBACK, port: 0 });
  await using client = new LessonProcess(LESSON, [
    "client",
    `--port=${silent.addr.port}`,
    "--clients=5",
  ]);
  const conns: Deno.TcpConn[] = [];
  for (let i = 0; i < 5; i++) conns.push(await silent.accept());
  client.kill("SIGTERM");
  const ended = await client.result();
  assertEquals([ended.code, ended.stdout, ended.stderr], [
    143,
    "client done!!\n",
    "",
  ]);
  for (const conn of conns) conn.close();

  await using demo = new LessonProcess(LESSON, [
    "--messages=1000000",
    "--clients=2",
  ]);
  const port = await demo.port();
  demo.kill("SIGINT");
  const { code, stderr } = await demo.result();
  assertEquals([code, stderr], [130, ""]);
  assert(await isFree(port));
});

Deno.test("12 refuses numbers that are none", async () => {
  for (
    const args of [
      ["client", "--clients=0"],
      ["client", "--messages=0"],
      ["client", "--size=0"],
      ["client", "--size=1.5"],
      ["server", "--idle-timeout=-1"],
      ["server", "--drain-timeout=x"],
      ["server", "--clients=1"],
      ["server", "--buffer-size=-1"],
      ["server", "--duration=5"],
      ["client", "--duration=1s"],
      ["client", "--nagle"],
      ["client", "--backlog=1"],
    ]
  ) assertEquals((await run(LESSON, args)).code, 2, args.join(" "));
});

Deno.test("12 server() can be called from other code", async () => {
  const stop = new AbortController();
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const closed = server({
    hostname: LOOPBACK,
    port: 0,
    idleTimeout: 60_000, // Its timer must not outlive the connection.
    signal: stop.signal,
    onListen: ready.resolve,
  });
  const { port } = await ready.promise;
  assertEquals(await exchange(port, "hello"), "hello");
  stop.abort();
  assertEquals(await closed, { connections: 1, bytes: 5 });
});
