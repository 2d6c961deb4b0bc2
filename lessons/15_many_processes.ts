/**
 * @title Many processes: one port, and every core
 * @difficulty advanced
 * @tags tcp, server, processes, SO_REUSEPORT, EADDRINUSE, ECONNRESET
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/15_many_processes.ts
 * @run deno run --allow-net --unstable-net lessons/15_many_processes.ts server
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/15_many_processes.ts supervisor
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_REUSEPORT
 * @see 12_concurrent_echo.ts
 * @see README.md, "15 Many processes"
 *
 * One process of Deno uses one core. Here several processes listen on the same
 * port, and the kernel distributes the connections among them. Each must say
 * `reusePort`, because otherwise the port is in use (EADDRINUSE).
 *
 * `server()` is one such process. It answers each line with the number of its
 * process, so one sees which process it is. `supervisor()` starts several, and
 * starts another one when one was killed, but not when one was told to end. The
 * demo connects 40 times to two processes, and kills one of them. The clients
 * of the other one do not notice, because a connection stays with its process.
 * For this reason the load is not balanced either: the kernel chooses a process
 * by a hash of the addresses, and does not look which one is free.
 *
 * @module
 */

import { announce } from "../lib/address.ts";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { encode } from "../lib/encode.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { writeFull } from "../lib/full_io.ts";
import { forkServer, spawnDeno } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { textLines } from "../lib/harness/text_lines.ts";
import { LineTooLongError, readLines } from "../lib/lines.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

/** Serves the clients that the kernel gives to this process. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  onListen = announce,
} = {}) {
  needReusePort();
  using listener = Deno.listen({ hostname, port, reusePort: true });
  onListen(listener.addr);

  while (true) {
    try {
      answer(await listener.accept()); // Not waited for: lesson 12.
    } catch (error) {
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Elsewhere than on Linux, Deno ignores `reusePort`, and says nothing. */
function needReusePort(): void {
  needUnstableNet("reusePort");
  if (Deno.build.os === "linux") return;
  throw new Deno.errors.NotSupported(
    `This needs Linux: reusePort does nothing on ${Deno.build.os}`,
  );
}

/** Answers each line with the number of the process that has read it. */
async function answer(conn: Deno.TcpConn) {
  const prefix = encode(`${Deno.pid}: `);
  try {
    using _ = conn;
    for await (const line of readLines(conn)) {
      // The bytes of the line are sent as they came: they need not be text.
      const reply = new Uint8Array(prefix.length + line.length);
      reply.set(prefix);
      reply.set(line, prefix.length);
      await writeFull(conn, reply);
    }
  } catch (error) {
    // A reset, or a line without an end, ends that client, and not the server.
    const isTooLong = error instanceof LineTooLongError;
    if (!isTooLong && !isConnectionLost(error)) throw error;
  }
}

/** Starts two processes, connects many clients, and kills one process. */
export async function demo(
  { hostname, port, connections, print, relay, signal }:
    & Values<typeof common.demo>
    & { connections: number }
    & Io,
) {
  needReusePort();
  let isDone = false;
  const start = { url: import.meta.url, relay, signal };
  const first = { ...start, args: { host: hostname, port } };
  let inner: Promise<number> | undefined;
  const outer = forkServer(first, async (port, stop) => {
    const second = { ...start, args: { host: hostname, port } };
    inner = forkServer(second, async (_, stopSecond) => {
      const listen = () => Deno.listen({ hostname, port }).close();
      await print(`without reusePort: ${await outcomeOf(listen)}\n`);
      await print(`${await watchKill({ hostname, port }, connections)}\n`);
      isDone = true;
      stopSecond();
    });
    await inner;
    stop();
  });
  // On a signal the outer one is over first, and its process has ended.
  await outer.finally(() => inner?.catch(() => {}));
  return isDone ? 0 : 1; // The end of the killed one is not a failure.
}

/** Connects, kills the process of the first client, and connects again. */
async function watchKill(address: Deno.ConnectOptions, connections: number) {
  const connectAll = () =>
    Promise.all(Array.from({ length: connections }, () => connect(address)));
  const clients = await connectAll();
  const kill = await stopProcess(clients[0]!.process);
  for (const { ask } of clients) await ask("still there?");
  await kill(); // And has not read what its clients have asked.
  const outcomes = await Promise.all(
    clients.map(({ answer }) => outcomeOf(answer)),
  );
  const later = await connectAll();
  const all = [...clients, ...later];
  for (const { conn } of all) conn.close();

  const processes = new Set(all.map(({ process }) => process));
  const rows = Array.from(processes, (mine) => {
    const theirs = outcomes.filter((_, i) => clients[i]!.process === mine);
    const words = theirs.map((it) => it === mine ? "answered" : it);
    const news = later.filter(({ process }) => process === mine);
    return [mine, theirs.length, [...new Set(words)].join(", "), news.length];
  });
  const head = ["process", "connections", "when one is killed", "new ones"];
  return formatTable(head, rows);
}

/** A client, and the process that serves it. */
async function connect(address: Deno.ConnectOptions) {
  while (true) {
    let conn: Deno.TcpConn | undefined;
    try {
      conn = await Deno.connect(address);
      const { ask, answer } = talkOn(conn);
      await ask("who is there?");
      const process = await answer();
      if (process !== null) return { conn, ask, answer, process };
    } catch (error) {
      // Where nobody listens, another try would fail as well.
      const isRefused = error instanceof Deno.errors.ConnectionRefused;
      if (isRefused || !isConnectionLost(error)) throw error;
    }
    // Its process was ending: it has closed its connections, and its listener
    // not yet. So try again.
    conn?.close();
  }
}

/** Questions on a connection, and which process has answered. */
function talkOn(conn: Deno.TcpConn) {
  const answers = readLines(conn);
  return {
    ask: (text: string) => writeFull(conn, encode(`${text}\n`)),
    async answer() {
      const { value } = await answers.next();
      return value ? new TextDecoder().decode(value).split(":")[0]! : null;
    },
  };
}

/**
 * Stops a process, so that it reads nothing any more, and returns a function that
 * kills it. Another process sends the signals, because `Deno.kill` itself is
 * allowed only to those that may run any program. It also kills if this process
 * ends meanwhile.
 */
async function stopProcess(pid: string) {
  const program = `
    Deno.addSignalListener("SIGINT", () => {}); // Ctrl+C must not end it first.
    const kill = (signal) => {
      try {
        Deno.kill(${pid}, signal);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error; // Gone already.
      }
    };
    kill("SIGSTOP");
    console.log("stopped");
    await Deno.stdin.read(new Uint8Array(1)); // Until it is closed.
    kill("SIGKILL");`;
  const url = `data:text/javascript,${encodeURIComponent(program)}`;
  const killer = spawnDeno(["--allow-run", url]);
  const { done } = await textLines(killer.stdout).next();
  if (done) throw new Error(`kill ${pid} failed!`);
  return async () => {
    await killer.stdin.close();
    await killer.status;
  };
}

/** How long to wait before another start, in milliseconds. */
const PAUSE = 100;
/** How often a process may be killed before it has ever listened. */
const MOST_KILLED = 10;

/** Keeps several processes running that all listen on the same port. */
export async function supervisor(
  { hostname, port, processes, onListen, print, signal }:
    & Values<typeof common.server>
    & { processes: number }
    & Io,
) {
  needReusePort();
  // This listener only holds the port (which the kernel may have chosen) until
  // the processes listen on it. It accepts nobody, so it must not stay open:
  // the kernel would give connections to it too.
  using holder = Deno.listen({ hostname, port, reusePort: true });
  const { addr } = holder;
  const args = { host: hostname, port: addr.port };
  const command = { url: import.meta.url, args, relay: () => {}, signal };
  let listening = 0;

  /** Starts a process, and another one when it has ended. */
  const keepOne = async () => {
    let isCounted = false;
    let killed = 0;
    while (true) {
      let isReady = false;
      const status = await forkServer(command, () => {
        isReady = true;
        if (isCounted) return;
        isCounted = true;
        if (++listening < processes) return;
        holder.close();
        onListen(addr);
      });
      if (isReady && status === 0) return; // It was told to end.
      if (listening === processes) {
        print(`a process has ended with ${status}, another one is started`);
      } else {
        // One that was killed starts again. One that could not listen has said
        // why.
        const isKilled = status >= 128 && ++killed < MOST_KILLED;
        if (!isReady && !isKilled) throw new Error("a process does not listen");
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  };
  // All of them end before this does, also where one has failed.
  const all = Array.from({ length: processes }, keepOne);
  await Promise.all(all).finally(() => Promise.allSettled(all));
}

if (import.meta.main) {
  const connections = { default: 40, min: 1, max: 1000, help: "how many" };
  const processes = { default: 2, min: 1, max: 64, help: "how many" };

  await runLesson(import.meta.url, {
    demo: {
      help: "two processes, many clients, and one process is killed",
      options: { ...common.demo, connections },
      show: "table",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "one process that shares the port, and answers each line",
      options: common.server,
      show: "trace",
      run: server,
    },
    supervisor: {
      help: "starts servers on one port, and again when one was killed",
      options: { ...common.server, processes },
      show: "trace",
      endsOnSignal: true,
      run: supervisor,
    },
  });
}
