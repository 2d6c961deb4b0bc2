/**
 * @title Concurrent echo: many clients at once
 * @difficulty advanced
 * @tags tcp, server, concurrency, backpressure, EMFILE, load
 * @run deno run --allow-net --allow-run=deno lessons/12_concurrent_echo.ts
 * @run deno run --allow-net lessons/12_concurrent_echo.ts server
 * @run deno run --allow-net lessons/12_concurrent_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man7/epoll.7.html} epoll(7): how one thread waits for many sockets
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2): EMFILE, ECONNABORTED
 * @resource {https://www.rfc-editor.org/rfc/rfc862} RFC 862: the echo protocol
 * @see 02_tcp_echo.ts
 * @see 11_deadlines.ts
 *
 * The echo server of lesson 02, for many clients at once: each one gets an
 * async function of its own, which is not waited for. There are no threads; one
 * loop waits for all sockets (epoll), and goes on with the function whose
 * socket has something. The client is a load generator: many connections, each
 * message compared with its echo byte for byte, and a summary.
 *
 * Beyond the tutorial: its servers serve one client after the other, and one
 * that says nothing stops them all.
 *
 * What such a server must not do:
 * - Let one client harm another: each error ends in its own function.
 * - Read on while a client does not take its echo. `writeFull` is awaited
 *   before the next read, so at most one buffer waits for each client, and TCP
 *   tells the sender to wait (backpressure).
 * - Fall, or spin, when there are no file descriptors left (EMFILE). The client
 *   stays in the kernel's queue; there will be one when another client ends.
 * - Drop everybody on Ctrl+C: it stops accepting, and lets the others finish.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername`; `epoll_wait` when nobody is there |
 * | `conn.read` | `recvfrom`; `epoll_wait` when nothing is there |
 * | `writeFull` | `sendto`, as often as it takes |
 * | `conn.close` | `shutdown(SHUT_WR)`, `close` |
 *
 * The buffer: one for each connection, used again for each read, and four times
 * larger as soon as a read fills it, from 4 KiB to 256 KiB. Of ten designs
 * measured on Deno 2.9.6 it was the fastest: a new buffer for each read ran at
 * 40 % of its speed, `for await` over `conn.readable` and `pipeTo` at 25 %. The
 * system calls are the same as a C server's; what costs is to allocate.
 * TCP_NODELAY changes nothing for ping-pong, and hurts streams.
 *
 * Try it:
 * - `server`, and `client --clients 1000 --messages 20` in another terminal.
 * - `server --idle-timeout 2000`, and `nc 127.0.0.1 9527` that types nothing.
 * - `(ulimit -n 64; ... server)`: more clients than descriptors.
 * - Ctrl+C while a `nc` is connected: it ends when nc does, or in five seconds.
 *
 * What is still missing: fairness. With more than 128 busy connections Deno's
 * own loop serves some of them far more often than others.
 *
 * @module
 */

import { forkServer } from "../lib/child.ts";
import {
  clientOptions,
  demoOptions,
  describeError,
  failed,
  integerOption,
  mode,
  runLesson,
  serverOptions,
} from "../lib/command_line.ts";
import { abortable, withDeadline } from "../lib/deadline.ts";
import { readFull, writeFull } from "../lib/full_io.ts";
import { Progress } from "../lib/progress.ts";
import { formatAddress, type Trace } from "../lib/trace.ts";

const FIRST_BUFFER = 4 * 1024;
const LARGEST_BUFFER = 256 * 1024;
/** How long to wait when there is no file descriptor, in milliseconds. */
const PAUSE = 100;

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to listen on; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** The queue length for listen(2), 511 by default. */
  backlog?: number;
  /** How many clients at once, 0 by default: no limit; others wait. */
  maxConnections?: number;
  /** Ends a client that is silent so many milliseconds; 0 by default: never. */
  idleTimeout?: number;
  /** How long clients may finish after the signal, 5000 ms by default. */
  drainTimeout?: number;
  /** Stops accepting, and ends the server when its clients have finished. */
  signal?: AbortSignal;
  /** Gets the address when the server listens. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/** What a server has done. */
export interface Served {
  /** How many clients it has accepted. */
  connections: number;
  /** How many bytes it has sent back. */
  bytes: number;
}

/**
 * Echoes all clients at once, until the signal is aborted.
 *
 * @returns What it has served.
 * @throws {Error} `listen HOST:PORT` or `accept`, with the system's error as its
 * `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<Served> {
  const { hostname = "0.0.0.0", port = 9527, backlog = 511 } = options;
  const { maxConnections = 0, idleTimeout = 0, drainTimeout = 5000 } = options;
  const { signal, onListen, trace = () => {} } = options;
  signal?.throwIfAborted();

  using listener = await Promise.try(() =>
    Deno.listen({ hostname, port, tcpBacklog: backlog })
  ).catch(failed(`listen ${formatAddress({ hostname, port })}`));
  trace(`socket, bind, listen ${formatAddress(listener.addr)}`);
  const stop = () => listener[Symbol.dispose]();
  signal?.addEventListener("abort", stop);
  onListen?.(listener.addr);

  const served = { connections: 0, bytes: 0 };
  const clients = new Map<Deno.TcpConn, Promise<void>>();
  let wake = () => {}; // Is called when a client leaves.
  const someoneLeaves = () => new Promise<void>((resolve) => wake = resolve);
  let isFull = false;
  let isTooLate = false; // Who is still there after the drain timeout.

  const serve = async (conn: Deno.TcpConn) => {
    try {
      await echo(conn, idleTimeout, served);
    } catch (error) {
      const why = isTooLate
        ? `has not finished in ${drainTimeout} ms`
        : `is gone: ${describeError(error)}`;
      trace(`client ${why}`);
    } finally {
      trace("close", "to peer");
      conn[Symbol.dispose]();
      clients.delete(conn);
      wake();
    }
  };
  try {
    while (!signal?.aborted) {
      let conn: Deno.TcpConn;
      try {
        conn = await listener.accept();
      } catch (error) {
        if (signal?.aborted) break;
        // Reset before its turn came: lesson 01.
        if (
          error instanceof Deno.errors.NotConnected ||
          error instanceof Deno.errors.ConnectionAborted
        ) continue;
        if (!isExhausted(error)) failed("accept")(error);
        if (!isFull) trace(`accept waits: ${describeError(error)}`);
        isFull = true;
        // Not for ever: other processes free things as well.
        const pause = withDeadline(someoneLeaves(), PAUSE);
        await abortable(pause, signal).catch(() => {});
        continue;
      }
      isFull = false;
      served.connections++;
      trace(`accept ${formatAddress(conn.remoteAddr)}`);

      // Not awaited: the loop goes on to the next client.
      clients.set(conn, serve(conn));
      while (maxConnections > 0 && clients.size >= maxConnections) {
        await abortable(someoneLeaves(), signal).catch(() => {});
        if (signal?.aborted) break;
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    stop();
    trace("close listener");
    const finished = Promise.all(clients.values());
    await withDeadline(finished, drainTimeout, () => {
      isTooLate = true;
      for (const conn of clients.keys()) conn[Symbol.dispose]();
    }).catch(() => {});
    await finished;
  }
  return served;
}

/** Sends back what comes, until the client has ended its side. */
async function echo(
  conn: Deno.TcpConn,
  idleTimeout: number,
  served: Served,
): Promise<void> {
  using idle = idleTimeout > 0 ? new IdleTimer(conn, idleTimeout) : null;
  const writer = idle ?? conn;
  let buffer = new Uint8Array(FIRST_BUFFER);
  try {
    for (;;) {
      const count = await conn.read(buffer);
      if (count === null) break;
      idle?.reset();
      // Until this is taken nothing more is read: all there is to backpressure.
      await writeFull(writer, buffer.subarray(0, count));
      served.bytes += count;
      if (count === buffer.length && count < LARGEST_BUFFER) {
        buffer = new Uint8Array(count * 4);
      }
    }
  } catch (error) {
    throw idle?.isOver ? new Error(`silent for ${idleTimeout} ms`) : error;
  }
}

/**
 * Closes a connection when nothing has been read or written for so long. One
 * timer for the connection's life, not one for each call: when it is due, it
 * looks how much of its time is still left.
 */
class IdleTimer implements Disposable {
  isOver = false;
  #conn: Deno.TcpConn;
  #idleTimeout: number;
  #lastActive = performance.now();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Begins to wait, so many milliseconds. */
  constructor(conn: Deno.TcpConn, idleTimeout: number) {
    this.#conn = conn;
    this.#idleTimeout = idleTimeout;
    this.#check();
  }

  /** Something has been read or written. */
  reset() {
    this.#lastActive = performance.now();
  }

  /**
   * A write that counts, also if it is a part. A reader is silent only when it
   * is so slow that the kernel takes nothing more for so long.
   */
  async write(p: Uint8Array): Promise<number> {
    const count = await this.#conn.write(p);
    this.reset();
    return count;
  }

  #check() {
    const left = this.#lastActive + this.#idleTimeout - performance.now();
    this.isOver = left <= 0;
    if (this.isOver) this.#conn[Symbol.dispose]();
    else this.#timer = setTimeout(() => this.#check(), left);
  }

  [Symbol.dispose]() {
    clearTimeout(this.#timer);
  }
}

/** What the process or the host has run out of may be there again soon. */
function isExhausted(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"].includes(String(code));
}

/** Options of {@linkcode client}. */
export interface ClientOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** How many connections at once, 100 by default. */
  clients?: number;
  /** How many messages on each, 100 by default. */
  messages?: number;
  /** How many bytes each message has, 64 by default. */
  size?: number;
  /** Prints a line. */
  print: (line: string) => unknown;
  /** Gets the first error of a connection. */
  report: (error: unknown) => void;
  /** Ends the client, which rejects with the signal's reason. */
  signal?: AbortSignal;
}

/**
 * Puts load on an echo server, and checks every byte that comes back.
 *
 * @returns 0, or 1 if anything was lost or corrupted.
 */
export async function client(options: ClientOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 9527, print, report, signal } =
    options;
  const { clients = 100, messages = 100, size = 64 } = options;
  const address = formatAddress({ hostname, port });
  const latencies: number[] = [];
  let corrupted = 0;
  let firstError: unknown;
  using open = new DisposableStack();
  const close = () => open.dispose();
  signal?.addEventListener("abort", close);

  const talk = async (number: number) => {
    const conn = open.use(
      await Deno.connect({ hostname, port, signal })
        .catch(failed(`connect ${address}`)),
    );
    const message = new Uint8Array(size);
    const reply = new Uint8Array(size);
    for (let i = 0; i < messages; i++) {
      // Another message each time: an echo of the last one is not this one's.
      let state = number * messages + i;
      for (let j = 0; j < size; j++) {
        state = Math.imul(state, 1664525) + 1013904223;
        message[j] = state >>> 24;
      }
      const start = performance.now();
      const [, echo] = await Promise.all([
        writeFull(conn, message).catch(failed("write failed!")),
        readFull(conn, reply).catch(failed("read failed!")),
      ]);
      if (echo === null) throw new Error("read failed!: End of stream");
      latencies.push(performance.now() - start);
      if (!message.every((byte, j) => byte === reply[j])) corrupted++;
      progress.update(latencies.length);
    }
    conn[Symbol.dispose]();
  };

  using progress = new Progress("messages", clients * messages);
  const start = performance.now();
  await Promise.all(
    Array.from(
      { length: clients },
      (_, number) =>
        talk(number).catch((error) => {
          firstError ??= error;
        }),
    ),
  );
  const seconds = (performance.now() - start) / 1000;
  progress[Symbol.dispose]();
  signal?.removeEventListener("abort", close);
  try {
    signal?.throwIfAborted();
    if (firstError !== undefined) report(firstError);
    const lost = clients * messages - latencies.length;
    const sorted = Float64Array.from(latencies).sort();
    const percentile = (part: number) =>
      sorted[Math.ceil(sorted.length * part) - 1]?.toFixed(2) ?? "-";
    await print(
      `${clients} clients, ${clients * messages} messages, ${lost} lost, ` +
        `${corrupted} corrupted\n` +
        `${Math.round(latencies.length / seconds)} messages/s, ` +
        `p50 ${percentile(0.5)} ms, p99 ${percentile(0.99)} ms`,
    );
    return lost > 0 || corrupted > 0 ? 1 : 0;
  } finally {
    await print("client done!!");
  }
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions, ClientOptions {
  /** Gets what a line of the server says. */
  print: (line: string) => Promise<void>;
}

/** Forks the server, and runs the client; resolves to the worst status. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, backlog = 511 } = options;
  const { maxConnections = 0, idleTimeout = 0, drainTimeout = 5000 } = options;
  let status = 0;
  const forked = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: {
      host: hostname,
      port,
      backlog,
      "max-connections": maxConnections,
      "idle-timeout": idleTimeout,
      "drain-timeout": drainTimeout,
      quiet: true,
    },
    onEvent: () => {},
  }, async (port, stop) => {
    status = await client({ ...options, hostname, port });
    stop();
  });
  return Math.max(status, forked);
}

const SERVER_FLAGS = ["--allow-net"];

if (import.meta.main) {
  const milliseconds = (help: string, usual: number) =>
    integerOption(`${help}, in milliseconds`, usual, 0, 2 ** 31 - 1);
  const serves = {
    backlog: integerOption("length of listen(2)'s queue", 511, 0, 2 ** 31 - 1),
    "max-connections": integerOption("clients at once, 0: no limit", 0),
    "idle-timeout": milliseconds("end silent clients, 0: never", 0),
    "drain-timeout": milliseconds("let clients finish", 5000),
  };
  const loads = {
    clients: integerOption("connections at once", 100, 1, 100_000),
    messages: integerOption("messages on each", 100, 1, 1_000_000),
    size: integerOption("bytes of each message", 64, 1, 2 ** 26),
  };
  const named = (options: Record<keyof typeof serves, number>) => ({
    maxConnections: options["max-connections"],
    idleTimeout: options["idle-timeout"],
    drainTimeout: options["drain-timeout"],
  });

  await runLesson({
    url: import.meta.url,
    title: "Concurrent echo: many clients at once",
    modes: {
      demo: mode({
        help: "a server process, and a load of clients",
        flags: ["--allow-net", "--allow-run=deno"],
        options: {
          ...demoOptions,
          ...serves,
          // Less than lib/child.ts waits before it ends the server.
          "drain-timeout": integerOption(
            "let clients finish, in milliseconds",
            1000,
            0,
            1500,
          ),
          ...loads,
        },
        run: (options) => demo({ ...options, ...named(options) }),
      }),
      server: mode({
        help: "echoes what clients send, all at once",
        flags: SERVER_FLAGS,
        options: { ...serverOptions, ...serves },
        async run(options) {
          const { connections, bytes } = await server({
            ...options,
            ...named(options),
          });
          await options.print(
            `served ${connections} connections, ${bytes} bytes`,
          );
        },
      }),
      client: mode({
        help: "puts load on an echo server, and checks each byte",
        flags: ["--allow-net"],
        options: { ...clientOptions, ...loads },
        run: client,
      }),
    },
  });
}
