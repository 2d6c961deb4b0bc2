/**
 * @title Many processes: one port, and every core
 * @difficulty advanced
 * @tags tcp, server, processes, SO_REUSEPORT, EADDRINUSE, ECONNRESET
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/15_many_processes.ts
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/15_many_processes.ts server
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_REUSEPORT
 * @resource {https://lwn.net/Articles/542629/} The SO_REUSEPORT socket option: why it was made
 * @see 09_time_wait.ts
 * @see 12_concurrent_echo.ts
 * @see 16_epoll.ts
 *
 * One process of Deno uses one core. Here several processes listen on the same
 * port, and the kernel distributes the connections among them. A server answers
 * each line with the number of its process. This number shows which process it
 * is. The demo connects 40 times to two processes. Then one of them crashes.
 *
 * What to look at:
 * - `serve()` is the server: `reusePort: true`, and a loop of `accept`. All
 *   processes that listen on the port must say `reusePort`. For any other
 *   process the port is in use (EADDRINUSE).
 * - `server()` starts the processes. It serves clients itself only if there is
 *   to be one process. When a process was killed or has crashed, `server()`
 *   starts another one. A process that was told to end (exit code 0) is not
 *   started again.
 * - The crash. A client whose bytes were not read yet gets ECONNRESET. The
 *   clients of the other process do not notice. New clients all go to the other
 *   process, as soon as the listener of the crashed one is closed too. A client
 *   that connects just before that is reset, and tries again.
 * - The kernel does not balance the load. A connection never moves: it stays
 *   with its process, even when that process has too much to do and the others
 *   have nothing. The kernel chooses a process by a hash of the addresses. It
 *   does not look which one is free. With many connections, each process gets
 *   about the same number.
 * - Memory is not shared either. What one process knows, the others do not.
 *
 * | here | Linux system calls (`strace -f`) |
 * |---|---|
 * | `Deno.listen` with `reusePort` | `socket`, `setsockopt(SO_REUSEPORT)`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `forkServer` | `clone3` (or `clone`), `execve` |
 * | the crash | `exit_group`; the kernel closes all that is open |
 *
 * Try it:
 * - `deno task many_processes server --quiet`, and in some more terminals
 *   `nc 127.0.0.1 9527`: type a line. Two of them may have the same process. In
 *   that case open more. Type `crash` in one. After half a second all
 *   connections of that process have ended (nc may say so only after the next
 *   Enter), the others go on, and the server has started another process.
 * - `deno task many_processes server --processes 1` in two terminals: neither
 *   needs the other. End one by Ctrl+C.
 * - `deno task tcp_echo server` while one of them runs: EADDRINUSE.
 *
 * Beyond the tutorial. Its SO_REUSEADDR is another option: it is about a port
 * whose last user is gone (lesson 09), and not about a port in use. On Linux
 * only processes of the same user share a port. Otherwise one user could take
 * some of the connections of another user.
 *
 * What is still missing: when a process ends, the clients that it has not
 * accepted yet are reset too. A server that must not lose them when it starts
 * again gives its listener to its successor, or has another program in front of
 * it, or a kernel that passes them on (`net.ipv4.tcp_migrate_req`). What lesson
 * 12 does for many clients is missing too: here a process without descriptors
 * ends, and all its clients with it. And each process costs as much memory as a
 * whole Deno, some 40 MB. Lesson 16 gets more out of a single process.
 *
 * @module
 */

import { isConnectionLost } from "../lib/connection_lost.ts";
import { announce, outcomeOf } from "../lib/describe.ts";
import { writeFull } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { readLines } from "../lib/lines.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** How long to wait after a crash before another start, in milliseconds. */
const PAUSE = 100;
/** How often a process may be killed before it has ever listened. */
const MOST_KILLED = 10;

/** Serves the clients that the kernel gives to this process. */
export async function serve({
  hostname = "0.0.0.0",
  port = 9527,
  onListen = announce,
} = {}): Promise<never> {
  needUnstableNet("reusePort");
  using listener = Deno.listen({ hostname, port, reusePort: true });
  onListen(listener.addr);
  for (;;) {
    try {
      answer(await listener.accept()); // Not waited for: lesson 12.
    } catch (error) {
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Answers each line with the number of the process that has read it. */
async function answer(conn: Deno.TcpConn): Promise<void> {
  try {
    using _ = conn;
    for await (const line of readLines(conn)) {
      const text = decode(line);
      await writeFull(conn, encode(`${Deno.pid}: ${text}`));
      if (text === "crash\n") crash();
    }
  } catch (error) {
    if (!isConnectionLost(error)) throw error;
  }
}

/** Reads nothing for a while, so that its clients wait for answers, and ends. */
function crash(): never {
  const end = performance.now() + 500;
  while (performance.now() < end);
  Deno.exit(1);
}

/** What `forkServer` needs to start one of the processes. */
const one = (host: string, port: number) => ({
  url: import.meta.url,
  args: { host, port, processes: 1 },
});

/** Keeps several processes running that all listen on the same port. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  processes = 2,
  onListen = announce,
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  if (processes === 1) return await serve({ hostname, port, onListen });

  needUnstableNet("reusePort");
  // This listener only holds the port (which the kernel may have chosen) until
  // the processes listen on it. It accepts nobody, so it must not stay open:
  // the kernel would give connections to it too.
  using holder = Deno.listen({ hostname, port, reusePort: true });
  const { addr } = holder;
  const command = { ...one(hostname, addr.port), print: () => {} };
  let listening = 0;
  const keepOne = async () => {
    let isCounted = false;
    let killed = 0;
    for (;;) {
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
      if (listening < processes) {
        // One that could not listen has said why. One that was killed starts again.
        const isKilled = status >= 128 && ++killed < MOST_KILLED;
        if (!isReady && !isKilled) throw new Error("a process does not listen");
      } else {
        print(`a process has ended with ${status}, another one is started`);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  };
  await Promise.all(Array.from({ length: processes }, keepOne));
}

/** Two processes, many clients, and a crash. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  connections = 40,
  print = console.log as (line: string) => unknown,
} = {}): Promise<number> {
  needUnstableNet("reusePort");
  let isDone = false;
  const first = { ...one(hostname, port), print };
  await forkServer(first, async (port, stop) => {
    const second = { ...one(hostname, port), print };
    await forkServer(second, async (_, stopSecond) => {
      const listen = () => Deno.listen({ hostname, port }).close();
      await print(`without reusePort: ${await outcomeOf(listen)}\n`);
      await print(`${await watchCrash({ hostname, port }, connections)}\n`);
      isDone = true;
      stopSecond();
    });
    stop();
  });
  return isDone ? 0 : 1; // The crash itself is not a failure.
}

/** Connects, lets the process of the first client crash, and connects again. */
async function watchCrash(address: Deno.ConnectOptions, connections: number) {
  const connectAll = () =>
    Promise.all(Array.from({ length: connections }, () => connect(address)));
  const clients = await connectAll();
  await clients[0]!.ask("crash");
  const outcomes = await Promise.all(
    clients.map(({ ask }) => outcomeOf(() => ask("still there?"))),
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
  const head = ["process", "connections", "when one crashes", "new ones"];
  return formatTable(head, rows);
}

/** A client, and the process that serves it. */
async function connect(address: Deno.ConnectOptions) {
  for (;;) {
    let conn: Deno.TcpConn | undefined;
    try {
      conn = await Deno.connect(address);
      const ask = asker(conn);
      return { conn, ask, process: await ask("who is there?") };
    } catch (error) {
      // A process that ends closes its connections first, and its listener
      // last. A client that connects in between is reset too, and tries again.
      conn?.close();
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Asks a server on this connection, and says which process has answered. */
function asker(conn: Deno.TcpConn) {
  const answers = readLines(conn);
  return async (text: string) => {
    await writeFull(conn, encode(`${text}\n`));
    const { value } = await answers.next();
    return value ? decode(value).split(":")[0]! : "end of stream";
  };
}

if (import.meta.main) {
  const flags = ["--allow-net", "--allow-run=deno", "--unstable-net"];
  const connections = { default: 40, min: 1, max: 1000, help: "how many" };
  const processes = { default: 2, min: 1, max: 64, help: "1: only this one" };

  await runLesson(import.meta.url, "Many processes: one port, and every core", {
    demo: {
      help: "two processes, many clients, and a crash",
      flags,
      options: { ...common.demo, connections },
      run: demo,
    },
    server: {
      help: "processes that share a port, and answer each line",
      flags,
      options: { ...common.server, processes },
      show: "trace", // stage
      run: server,
    },
  });
}
