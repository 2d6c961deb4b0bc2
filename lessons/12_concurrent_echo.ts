/**
 * @title Concurrent echo: many clients at once
 * @difficulty advanced
 * @tags tcp, server, concurrency, backpressure, fairness, TCP_NODELAY, EMFILE, load
 * @run deno run --allow-net --allow-run=deno lessons/12_concurrent_echo.ts
 * @run deno run --allow-net lessons/12_concurrent_echo.ts server
 * @run deno run --allow-net lessons/12_concurrent_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man7/epoll.7.html} epoll(7): how one thread waits for many sockets
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2): EMFILE, ECONNABORTED
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.7.4} RFC 9293, 3.7.4: Nagle's algorithm
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.6.3} RFC 9293, 3.8.6.3: delayed acknowledgments
 * @see 02_tcp_echo.ts
 * @see 11_deadlines.ts
 * @see 13_streams.ts
 *
 * The echo server of lesson 02, for many clients at once. The demo connects a
 * client that says nothing. In lessons 01 and 02 all others wait for it. Here a
 * second client has its echo at once. After that, many clients send messages,
 * and every byte of the echoes is compared. At the end the server is told to
 * stop.
 *
 * What to look at:
 * - One line in `server()`: `clients.set(conn, serve(conn))`. It starts to serve
 *   a client, and goes on to the next one without waiting for the end. There is
 *   one thread: Deno's loop waits for all sockets (`epoll_wait`). When a socket
 *   has something, the loop continues the function that waits for it.
 * - The rest is what a server with many clients needs. The comments are
 *   numbered in the order in which one would build it: 1 many clients, 2 a lost
 *   client, 3 backpressure, 4 no descriptors, 5 a limit, 6 silent clients, 7 the
 *   end, 8 fairness, 9 Nagle's algorithm.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername`; `epoll_wait` when nobody is there |
 * | `conn.setNoDelay` | `setsockopt(TCP_NODELAY)` |
 * | `conn.read` | `recvfrom`; `epoll_wait` when nothing is there |
 * | `writeFull` | `sendto`, as often as it takes |
 * | the end of a client | `shutdown(SHUT_WR)`, `close` |
 *
 * Try it:
 * - `deno task concurrent_echo server`, and in two more terminals
 *   `nc 127.0.0.1 9527`: type a line in either. Then press Ctrl+C in the
 *   server's terminal. The server says how many clients it waits for, and ends
 *   when both have ended, or after five seconds.
 * - `deno task concurrent_echo --clients 1000 --messages 20`, and once more with
 *   `--no-gate`: when the first client has all its 20 echoes, many others, in
 *   most runs hundreds, have none.
 * - `deno task concurrent_echo --clients 1 --size 65536 --buffer-size 16384 --nagle`:
 *   some 23 messages a second. Without `--nagle` there are many times more.
 * - `(ulimit -n 40; deno task concurrent_echo server --quiet)`, and in another
 *   terminal `deno task concurrent_echo client`: there are descriptors for fewer
 *   than 20 clients at once, and still all 100 are served.
 *
 * Beyond the tutorial: its servers serve one client after the other. One client
 * that says nothing makes all others wait.
 *
 * What is still missing: a second core. This process uses one. Linux
 * distributes the connections of one port among several processes, if all of
 * them set SO_REUSEPORT. Lesson 15 does that.
 *
 * @module
 */

import { isConnectionLost } from "../lib/connection_lost.ts";
import { withDeadline } from "../lib/deadline.ts";
import { announce } from "../lib/describe.ts";
import { writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { Progress } from "../lib/harness/progress.ts"; // stage
import { runLesson } from "../lib/harness/run_lesson.ts";
import { IdleTimer } from "../lib/idle_timer.ts";
import { describeLoad, type LoadOptions, putLoad } from "../lib/load.ts";
import { ReadGate } from "../lib/read_gate.ts";

// Not powers of two. The length of a message often is one. It would fill the
// buffer to the last byte, as if there were more.
const FIRST_BUFFER = 1536;
const LARGEST_BUFFER = 384 * 1024;
/** How long to wait when there is no descriptor, in milliseconds. */
const PAUSE = 100;

/** Echoes all clients at once, until `signal` is aborted. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 1024,
  maxConnections = 0,
  idleTimeout = 0,
  drainTimeout = 5000,
  bufferSize = 0,
  nagle = false,
  noGate = false,
  signal = new AbortController().signal,
  onListen = announce,
  print = console.log as (line: string) => unknown,
  report = console.error as (error: unknown) => unknown,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  const clients = new Map<Deno.TcpConn, Promise<void>>();
  const most = maxConnections || Infinity;
  const gate = noGate ? null : new ReadGate();
  const served = { connections: 0, bytes: 0 };
  let wake = () => {};
  const someoneLeaves = () => new Promise<void>((resolve) => wake = resolve);
  const stopAccepting = () => {
    listener[Symbol.dispose](); // It ends the accept() that waits.
    wake();
  };
  signal.addEventListener("abort", stopAccepting);

  while (!signal.aborted) {
    try {
      const conn = await listener.accept();
      // 1. Many clients. This is not awaited: the loop goes on to the next one.
      clients.set(conn, serve(conn));
      served.connections++;
    } catch (error) {
      if (signal.aborted || isConnectionLost(error)) continue;
      if (!isExhausted(error)) throw error;
      // 4. No descriptor is left (EMFILE). That must not end the server. The
      // server must not try again at once either: accept() would fail again,
      // and the loop would spin. Meanwhile clients wait in the queue. A
      // descriptor is free again when a client leaves or another process gives
      // one back: look now and then.
      await withDeadline(someoneLeaves(), PAUSE).catch(() => {});
    }
    // 5. A limit. The next client waits in the kernel's queue (the backlog).
    if (clients.size >= most && !signal.aborted) await someoneLeaves();
  }

  // 7. The end. No new clients. Those that are connected may finish, in time.
  if (clients.size > 0) {
    const limit = `${drainTimeout} ms at most`;
    print(`waiting for clients to finish: ${clients.size}, ${limit}`);
  }
  const closeLate = () => clients.forEach((_, conn) => conn[Symbol.dispose]());
  await withDeadline(Promise.all(clients.values()), drainTimeout, closeLate)
    .catch(() => {});
  print(`served ${served.connections} connections, ${served.bytes} bytes`);

  async function serve(conn: Deno.TcpConn): Promise<void> {
    try {
      await echo(conn);
    } catch (error) {
      // 2. A lost client. Its error ends only this client, and is not reported.
      // The same is true if this server has closed it (steps 6 and 7).
      if (!isConnectionLost(error) && !isClosed(error)) report(error);
    } finally {
      clients.delete(conn);
      conn[Symbol.dispose]();
      wake();
    }
  }

  async function echo(conn: Deno.TcpConn): Promise<void> {
    // 9. Nagle's algorithm. An echo that takes several writes would wait: the
    // kernel holds a small piece back until the piece before is acknowledged,
    // and the client delays its acknowledgement for 40 ms. It hopes to send it
    // together with data. Two cures: TCP_NODELAY, and a buffer that takes a
    // message in one piece.
    if (!nagle) conn.setNoDelay();
    let buffer = new Uint8Array(bufferSize || FIRST_BUFFER);

    // 6. An idle timeout. A silent client keeps its place and its descriptor. A
    // client that has vanished is silent for ever. Beware: a client that sends
    // one byte now and then ("slowloris") keeps its place too. It is not
    // silent, so an echo server cannot find it. A protocol can: it knows when a
    // request is complete.
    const closeSilent = () => conn[Symbol.dispose]();
    using idle = new IdleTimer(idleTimeout, closeSilent);
    const send = (p: Uint8Array) => {
      idle.reset(); // A client that takes its echo in pieces is not silent.
      return conn.write(p);
    };

    for (let count; (count = await conn.read(buffer)) !== null;) {
      // 3. Backpressure. Nothing more is read until all of this is written.
      // Therefore at most one buffer waits for each client, and TCP makes the
      // client wait.
      await writeFull({ write: send }, buffer.subarray(0, count));
      served.bytes += count;

      // A full buffer: there may be more, so make it larger. It never shrinks.
      // A client that once sent much keeps up to 384 KiB while it is connected.
      if (count === buffer.length && !bufferSize && count < LARGEST_BUFFER) {
        buffer = new Uint8Array(count * 4);
      }

      // 8. Fairness. Deno's loop serves up to 128 busy clients equally. With
      // more clients, some get everything and others nothing. In such a crowd,
      // a client that was served waits for its next turn. This wait does not
      // count as silence.
      idle.pause();
      await gate?.pass(conn);
      idle.reset();
    }
  }
}

/** The process or the host has run out of something, perhaps not for long. */
function isExhausted(error: unknown): boolean {
  const { code, message } = error as Error & { code?: unknown };
  return ["EMFILE", "ENOBUFS", "ENOMEM"].includes(String(code)) ||
    message.endsWith("(os error 23)"); // ENFILE: Deno has no code for it.
}

/** The errors of a read or a write whose connection was closed on this side. */
function isClosed(error: unknown): boolean {
  return error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.BadResource;
}

/** Puts a load on an echo server, and prints the result. */
export async function client({
  output = Deno.stdout,
  ...load
}: LoadOptions & { output?: Writer } = {}): Promise<void> {
  const print = (text: string) =>
    writeFull(output, new TextEncoder().encode(`${text}\n`));
  try {
    using progress = new Progress("messages", 1); // stage
    const result = await putLoad({
      ...load,
      onProgress: (part) => progress.update(part), // stage
    });
    progress[Symbol.dispose](); // stage
    await print(describeLoad(result));
    if (result.error !== undefined) throw result.error;
    if (result.corrupted > 0) throw new Error("An echo is not what was sent");
  } finally {
    await print("client done!!");
  }
}

/** Forks the server. Then come a silent client, a second one, and many. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  bufferSize = 0,
  nagle = false,
  noGate = false,
  print = console.log,
  ...load
}: LoadOptions & {
  bufferSize?: number;
  nagle?: boolean;
  print?: (line: string) => unknown;
} = {}): Promise<number> {
  const args = {
    host: hostname,
    port,
    "buffer-size": bufferSize,
    nagle,
    "no-gate": noGate,
    "drain-timeout": 200,
  };
  const { url } = import.meta;
  return await forkServer({ url, args, print }, async (port, stop) => {
    using silent = await Deno.connect({ hostname, port });
    await print("a client is connected, and says nothing");

    const one = { hostname, port, clients: 1, messages: 1 };
    const { error, p50 } = await putLoad(one);
    if (error !== undefined) throw error;
    await print(`a second client has its echo after ${p50?.toFixed(2)} ms`);
    await print("(in lesson 01 it waits until the first one is gone)\n");

    await client({ ...load, hostname, port, noGate });
    // The silent one is still there: the server waits for it, but not for long.
    stop();
    await silent.read(new Uint8Array(1));
  });
}

if (import.meta.main) {
  const max = 2 ** 31 - 1;
  const noGate = { default: false, help: "let Deno's loop say who is next" };
  const sends = {
    bufferSize: { default: 0, max: 2 ** 26, help: "bytes, 0: as they come" },
    nagle: { default: false, help: "leave Nagle's algorithm on" },
    noGate,
  };
  const load = {
    clients: { default: 100, min: 1, max: 100_000, help: "how many at once" },
    messages: { default: 100, min: 1, max: 1_000_000, help: "of each client" },
    duration: { default: 0, max, help: "ms, instead of a number of messages" },
    size: { default: 64, min: 1, max: 2 ** 26, help: "bytes of a message" },
    timeout: { default: 5000, min: 1, max, help: "ms without any echo" },
    noGate,
  };

  await runLesson(import.meta.url, "Concurrent echo: many clients at once", {
    demo: {
      help: "a silent client, a second one, and a load of clients",
      flags: ["--allow-net", "--allow-run=deno"],
      options: { ...common.demo, ...sends, ...load },
      last: "client done!!",
      run: demo,
    },
    server: {
      help: "echoes what clients send, all at once",
      flags: ["--allow-net"],
      options: {
        ...common.server,
        backlog: { default: 1024, max, help: "length of listen(2)'s queue" },
        maxConnections: { default: 0, help: "clients at once, 0: no limit" },
        idleTimeout: { default: 0, max, help: "ms of silence, 0: no limit" },
        drainTimeout: {
          default: 5000,
          max,
          help: "ms for clients to finish",
        },
        ...sends,
      },
      show: "trace", // stage
      drains: true,
      run: server,
    },
    client: {
      help: "puts a load on an echo server, and compares every byte",
      flags: ["--allow-net"],
      options: { ...common.client, ...load },
      last: "client done!!",
      run: client,
    },
  });
}
