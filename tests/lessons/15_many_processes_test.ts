import { assert, assertEquals, assertMatch } from "@std/assert";
import { exchange, readAll, writeAll } from "../peers.ts";
import {
  descendants,
  fakeProgram,
  isFree,
  isRunning,
  LessonProcess,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "15_many_processes.ts";
const LOOPBACK = "127.0.0.1";
const LISTEN = [`--host=${LOOPBACK}`, "--port=0"];

/** Starts one process of the lesson's, on a free port. */
const startServer = (...args: string[]) =>
  startServerOf(LESSON, ["--quiet", ...args]);

/** Starts the supervisor of two, on a free port. */
async function startSupervisor(...args: string[]) {
  const process = new LessonProcess(LESSON, ["supervisor", ...LISTEN, ...args]);
  return { process, port: await process.port() };
}

/** A client, and the number of the process that answers it. */
async function connect(port: number) {
  const conn = await Deno.connect({ hostname: LOOPBACK, port });
  const ask = async () => {
    await conn.write(new TextEncoder().encode("hello\n"));
    const buffer = new Uint8Array(100);
    const count = await conn.read(buffer);
    if (count === null) return null;
    const reply = new TextDecoder().decode(buffer.subarray(0, count));
    assertMatch(reply, /^\d+: hello\n$/);
    return parseInt(reply);
  };
  return { conn, ask, pid: await ask() };
}

/** Clients of all processes there are, as many as are wanted. */
async function connectToAll(port: number, processes: number) {
  const clients: Awaited<ReturnType<typeof connect>>[] = [];
  const pids = () => new Set(clients.map(({ pid }) => pid));
  while (pids().size < processes) clients.push(await connect(port));
  return clients;
}

/** Runs the demo, and looks whether it shows what it should. */
async function checkDemo(env: Record<string, string> = {}) {
  const { code, stdout, stderr } = await run(LESSON, [], { env });
  assertEquals([code, stderr], [0, ""]);
  const [first, second] = stdout.split("\n");
  assertMatch(first, /^listening on 127\.0\.0\.1:\d+$/);
  assertEquals(second, first);
  assertMatch(stdout, /^without reusePort: EADDRINUSE$/m);
  const all = stdout.slice(stdout.indexOf("\nprocess ")).split("\n").slice(2, 4)
    .map((row) => row.split(/ {2,}/));
  const [killed, other] = all;
  assertEquals(killed.slice(2), ["ECONNRESET", "0"]);
  assertEquals(other.slice(2), ["answered", "40"]);
  assert(killed[0] !== other[0]);
  assertEquals(Number(killed[1]) + Number(other[1]), 40);
  for (const [pid] of all) await until(() => !isRunning(Number(pid)));
}

Deno.test("15 demo: the kernel deals out, and one process is killed", async () => {
  await checkDemo();
});

Deno.test("15 demo kills the server itself where deno is a launcher", async () => {
  // `sh` itself would say that it was killed.
  const script = 'exec 3<&0; deno "$@" <&3 & exec 2>/dev/null; wait $!';
  await using launcher = await fakeProgram("deno", script);
  await checkDemo(launcher.env);
});

Deno.test("15 demo gives up where nobody listens any more", async () => {
  await using fake = await fakeProgram(
    "deno",
    "echo listening on 127.0.0.1:1; cat > /dev/null",
  );
  const { code, stderr } = await run(LESSON, [], { env: fake.env });
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^15_many_processes: connect: ECONNREFUSED \(.+\): does a server listen there\?\n$/,
  );
});

Deno.test("15 server answers each line with its own bytes", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  const lines = new Uint8Array([0x63, 0x61, 0x66, 0xe9, 10, 10, 0, 0xff]);
  await writeAll(conn, lines);
  await conn.closeWrite();
  const answers = new TextDecoder("latin1").decode(await readAll(conn));
  const { pid } = process;
  assertEquals(answers, `${pid}: caf\xe9\n${pid}: \n${pid}: \0\xff`);
});

Deno.test("15 server ends a client whose line is too long, and no other", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  const other = await connect(port);
  const longest = `${"x".repeat(64 * 1024 - 1)}\n`;
  assertEquals(await exchange(port, longest), `${process.pid}: ${longest}`);
  using endless = await Deno.connect({ hostname: LOOPBACK, port });
  const zeros = new Uint8Array(1024 * 1024);
  const writing = (async () => {
    while (true) await endless.write(zeros);
  })();
  // Its process ends the connection, and has not read all of it.
  const ended = await writing.catch((error) => error.code);
  assert(["ECONNRESET", "EPIPE"].includes(ended), ended);
  assertEquals(await other.ask(), process.pid);
  other.conn.close();
});

Deno.test("15 supervisor starts one again that was killed, and nobody else notices", async () => {
  const { process, port } = await startSupervisor("--quiet");
  await using _ = process;
  const clients = await connectToAll(port, 2);
  const [{ pid: killed }] = clients;
  Deno.kill(killed!, "SIGKILL");
  await process.stdoutHas(
    /^a process has ended with 137, another one is started$/m,
  );
  for (const { pid, ask, conn } of clients) {
    if (pid === killed) assertEquals(await ask().catch(() => null), null);
    else assertEquals(await ask(), pid);
    conn.close();
  }
  const again = await connectToAll(port, 2);
  const pids = new Set(again.map(({ pid }) => pid!));
  assert(!pids.has(killed!));
  for (const { conn } of again) conn.close();

  process.kill("SIGTERM");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /\nserver closed\n$/);
  assert(await isFree(port));
  for (const pid of pids) assert(!isRunning(pid));
});

Deno.test("15 supervisor starts one again that was killed before it listened", async () => {
  const args = ["supervisor", ...LISTEN, "--quiet"];
  await using process = new LessonProcess(LESSON, args);
  let first: number | undefined;
  await until(() => (first = descendants(process.pid)[0]) !== undefined);
  Deno.kill(first!, "SIGKILL");
  const port = await process.port();
  // Nobody else is there: each connection has a process that answers.
  const clients = await Promise.all(
    Array.from({ length: 20 }, () => connect(port)),
  );
  assertEquals(new Set(clients.map(({ pid }) => pid)).size, 2);
  for (const { conn } of clients) conn.close();
});

Deno.test("15 supervisor leaves no process behind when it is killed", async () => {
  const { process } = await startSupervisor("--quiet");
  await using _ = process;
  const pids = descendants(process.pid);
  assert(pids.length >= 2);
  process.kill("SIGKILL");
  await process.result();
  await until(() => !pids.some(isRunning));
});

Deno.test("15 server shares its port with one like it, and with nobody else", async () => {
  const first = await startServer();
  await using _first = first.process;
  const { port } = first;
  const second = await startServer(`--port=${port}`);
  await using _second = second.process;
  const clients = await connectToAll(port, 2);
  assertEquals(
    new Set(clients.map(({ pid }) => pid)),
    new Set([first.process.pid, second.process.pid]),
  );
  for (const { conn } of clients) conn.close();

  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const taken = listener.addr.port;
  const inUse = "EADDRINUSE (Address already in use): " +
    `ss -tlnp 'sport = :${taken}' says who has it`;
  for (const mode of ["server", "supervisor"]) {
    const args = [mode, `--host=${LOOPBACK}`, `--port=${taken}`, "--quiet"];
    const flags = ["--allow-net", "--allow-run=deno"];
    const [busy, unstable] = await Promise.all([
      run(LESSON, args),
      run(LESSON, args, { flags }),
    ]);
    assertEquals([busy.code, busy.stdout], [1, ""]);
    assertEquals(
      busy.stderr,
      `15_many_processes: listen 127.0.0.1:${taken}: ${inUse}\n`,
    );
    assertEquals([unstable.code, unstable.stdout], [1, ""]);
    assertMatch(
      unstable.stderr,
      /^15_many_processes: .*--unstable-net flag\n$/,
    );
  }
});

Deno.test("15 supervisor ends when all its processes were told to", async () => {
  const { process } = await startSupervisor("--quiet");
  await using _ = process;
  for (const pid of descendants(process.pid)) Deno.kill(pid, "SIGTERM");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listening on \S+\nserver closed\n$/);
});

Deno.test("15 supervisor shows what its processes do", async () => {
  const { process, port } = await startSupervisor();
  await using _ = process;
  const { conn } = await connect(port);
  conn.close();
  // Each process has numbers of its own, and the first one is its listener's.
  await process.traceHas('):answer #2 read 6 bytes "hello\\n"\n');
  await process.traceHas("):answer #2 read: end of stream\n");
});
