import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  descendants,
  isFree,
  isRunning,
  LessonProcess,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "15_many_processes.ts";
const LOOPBACK = "127.0.0.1";

/** Starts the lesson's server on a free port. */
const startServer = (...args: string[]) =>
  startServerOf(LESSON, ["--quiet", ...args]);

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

Deno.test("15 demo: the kernel deals out, and one process crashes", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [first, second] = stdout.split("\n");
  assertMatch(first, /^listening on 127\.0\.0\.1:\d+$/);
  assertEquals(second, first);
  assertMatch(stdout, /^without reusePort: EADDRINUSE$/m);
  const all = stdout.slice(stdout.indexOf("\nprocess ")).split("\n").slice(2, 4)
    .map((row) => row.split(/ {2,}/));
  const [crashed, other] = all;
  assertEquals(crashed.slice(2), ["ECONNRESET", "0"]);
  assertEquals(other.slice(2), ["answered", "40"]);
  assert(crashed[0] !== other[0]);
  assertEquals(Number(crashed[1]) + Number(other[1]), 40);
  for (const [pid] of all) assert(!isRunning(Number(pid)));
});

Deno.test("15 server starts one again that was killed, and nobody else notices", async () => {
  const { process, port } = await startServer();
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

Deno.test("15 server starts one again that was killed before it listened", async () => {
  const args = ["server", "--host=127.0.0.1", "--port=0", "--quiet"];
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

Deno.test("15 server leaves no process behind when it is killed", async () => {
  const { process } = await startServer();
  await using _ = process;
  const pids = descendants(process.pid);
  assert(pids.length >= 2);
  process.kill("SIGKILL");
  await process.result();
  await until(() => !pids.some(isRunning));
});

Deno.test("15 server shares its port with one like it, and with nobody else", async () => {
  const first = await startServer("--processes=1");
  await using _first = first.process;
  const { port } = first;
  const second = await startServer("--processes=1", `--port=${port}`);
  await using _second = second.process;
  const clients = await connectToAll(port, 2);
  assertEquals(
    new Set(clients.map(({ pid }) => pid)),
    new Set([first.process.pid, second.process.pid]),
  );
  for (const { conn } of clients) conn.close();

  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const taken = listener.addr.port;
  const args = ["server", "--host=127.0.0.1", `--port=${taken}`, "--quiet"];
  const [busy, unstable] = await Promise.all([
    run(LESSON, args),
    run(LESSON, args, { flags: ["--allow-net", "--allow-run=deno"] }),
  ]);
  assertEquals([busy.code, busy.stdout], [1, ""]);
  const inUse = "EADDRINUSE (Address already in use)";
  assertEquals(
    busy.stderr,
    `15_many_processes: listen 127.0.0.1:${taken}: ${inUse}\n`,
  );
  assertEquals([unstable.code, unstable.stdout], [1, ""]);
  assertMatch(unstable.stderr, /^15_many_processes: .*--unstable-net flag\n$/);
});

Deno.test("15 server ends when all its processes were told to", async () => {
  const { process } = await startServer();
  await using _ = process;
  for (const pid of descendants(process.pid)) Deno.kill(pid, "SIGTERM");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listening on \S+\nserver closed\n$/);
});

Deno.test("15 server shows what its processes do", async () => {
  const { process, port } = await startServerOf(LESSON, []);
  await using _ = process;
  const { conn } = await connect(port);
  conn.close();
  await process.stderrHas(/\):answer read 6 bytes "hello\\n"\n/);
  await process.stderrHas(/\):answer read: end of stream\n/);
});
