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
 * - Serve some and never others. With more than 128 busy clients Deno's own loop
 *   does: those it served last come first again. Here, in a crowd, who has been
 *   served lets the others go first (`lib/read_gate.ts`).
 * - Drop everybody on Ctrl+C: it stops accepting, and lets the others finish.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername`; `epoll_wait` when nobody is there |
 * | `conn.setNoDelay` | `setsockopt(TCP_NODELAY)` |
 * | `conn.read` | `recvfrom`; `epoll_wait` when nothing is there |
 * | `writeFull` | `sendto`, as often as it takes |
 * | `conn.close` | `shutdown(SHUT_WR)`, `close` |
 *
 * The buffer: one for each connection, used again for each read, and four times
 * larger as soon as a read fills it, from 1.5 KiB to 384 KiB. The system calls
 * are those of a server in C, one read and one write a message. What costs is a
 * new buffer with each read, and streams: `for await` over `conn.readable`
 * and `pipeTo` serve a hundred clients at half the speed or less, as `deno task
 * bench` of this repository shows.
 *
 * Why it grows: a message of 64 KiB through a buffer of 16 KiB takes four reads
 * and four writes. The kernel sends the first part at once, and holds the next
 * one back until that is acknowledged, because it does not fill a packet
 * (Nagle's algorithm; on loopback a packet has 64 KiB, on Ethernet it would be
 * the last piece of each write). But the client does not acknowledge it at once:
 * it waits some 40 ms for data that the acknowledgment could go with (delayed
 * ACK), and has none before it has the whole message. TCP_NODELAY turns Nagle's
 * algorithm off. Here are both cures: few writes, and TCP_NODELAY for the rest.
 *
 * Try it:
 * - `server`, and `client --clients 1000 --messages 20` in another terminal.
 * - `--clients 1000 --messages 20 --no-gate`, and without `--no-gate`: how many
 *   clients have no echo at all when the first one has its 20, and Jain's index:
 *   1 if all have the same, 0.2 as if a fifth of them shared everything. (Both
 *   sides do without: a gate on one side alone slows the other one down so much
 *   that it has no crowd.)
 * - `--clients 1 --size 65536 --buffer-size 16384 --nagle`: 23 messages a second,
 *   43 ms for each; without `--nagle` half of them take less than one.
 * - `server --idle-timeout 2000`, and `nc 127.0.0.1 9527` that types nothing.
 * - `(ulimit -n 64; ... server)`: more clients than descriptors.
 * - Ctrl+C while a `nc` is connected: it ends when nc does, or in five seconds.
 *
 * What is still missing: a second core. One process serves from one; Linux deals
 * connections out to several that listen on one port with SO_REUSEPORT.
 *
 * @module
 */

import { forkServer } from "../lib/child.ts";
import {
  clientOptions,
  demoOptions,
  describeError,
  failed,
  flagOption,
  integerOption,
  mode,
  runLesson,
  serverOptions,
  type Values,
} from "../lib/command_line.ts";
import { abortable, withDeadline } from "../lib/deadline.ts";
import { readFull, writeFull } from "../lib/full_io.ts";
import { Progress } from "../lib/progress.ts";
import { ReadGate } from "../lib/read_gate.ts";
import { formatAddress, type Trace } from "../lib/trace.ts";

// No powers of two: messages often are, and would fill a buffer to the last byte
// as if there were more.
const FIRST_BUFFER = 1536;
const LARGEST_BUFFER = 384 * 1024;
/** How long to wait when there is no file descriptor, in milliseconds. */
const PAUSE = 100;
/** How long clients wait for each other to connect, in milliseconds. */
const START_TIMEOUT = 2000;
/** How long echoes may come after the `duration`, in milliseconds. */
const END_TIMEOUT = 5000;

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
  /** Bytes of each client's buffer, 0 by default: it grows as it is filled. */
  bufferSize?: number;
  /** Leaves Nagle's algorithm on; by default it is turned off. */
  nagle?: boolean;
  /** Leaves it to Deno's loop who is served; by default a gate does. */
  noGate?: boolean;
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
  const { maxConnections = 0, drainTimeout = 5000 } = options;
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
  const gate = options.noGate ? null : new ReadGate();
  const clients = new Map<Deno.TcpConn, Promise<void>>();
  let wake = () => {}; // Is called when a client leaves.
  const someoneLeaves = () => new Promise<void>((resolve) => wake = resolve);
  let isFull = false;
  let isTooLate = false; // Who is still there after the drain timeout.

  const serve = async (conn: Deno.TcpConn) => {
    try {
      await echo(conn, gate, served, options);
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
  gate: ReadGate | null,
  served: Served,
  { idleTimeout = 0, bufferSize = 0, nagle = false }: ServerOptions,
): Promise<void> {
  using idle = idleTimeout > 0 ? new IdleTimer(conn, idleTimeout) : null;
  const writer = idle ?? conn;
  let buffer = new Uint8Array(bufferSize || FIRST_BUFFER);
  const largest = bufferSize || LARGEST_BUFFER;
  try {
    if (!nagle) conn.setNoDelay();
    for (;;) {
      const count = await conn.read(buffer);
      if (count === null) break;
      idle?.reset();
      // Until this is taken nothing more is read: all there is to backpressure.
      await writeFull(writer, buffer.subarray(0, count));
      served.bytes += count;
      if (count === buffer.length && count < largest) {
        buffer = new Uint8Array(count * 4);
      }
      // In a crowd: those first who have not been served. To wait for them is
      // not to be silent.
      idle?.pause();
      await gate?.pass(conn);
      idle?.reset();
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

  /** It is not the client that is waited for, until the next `reset`. */
  pause() {
    this.#lastActive = Infinity;
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
    const left = Math.min(
      this.#lastActive + this.#idleTimeout - performance.now(),
      this.#idleTimeout,
    );
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
  /** For how long instead, in milliseconds; by default 0: by the number. */
  duration?: number;
  /** How many bytes each message has, 64 by default. */
  size?: number;
  /** Leaves it to Deno's loop whose echo is read; by default a gate does. */
  noGate?: boolean;
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
 * @returns 0, or 1 if anything was lost or corrupted, or a connection failed.
 * @throws The signal's reason, when it is aborted.
 */
export async function client(options: ClientOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 9527, print, report, signal } =
    options;
  const { clients = 100, messages = 100, duration = 0, size = 64 } = options;
  const address = formatAddress({ hostname, port });
  const latencies: number[] = [];
  const echoes = new Array<number>(clients).fill(0);
  let sent = 0;
  let corrupted = 0;
  let firstError: unknown;
  using open = new DisposableStack();
  const close = () => open.dispose();
  signal?.addEventListener("abort", close);

  // All begin at once, when all are connected. But nobody waits long for that:
  // the server may let some in only when others have left.
  const connections = echoes.map(() =>
    Deno.connect({ hostname, port, signal }).then((conn) => open.use(conn))
      .catch(failed(`connect ${address}`))
  );
  await abortable(
    withDeadline(Promise.allSettled(connections), START_TIMEOUT),
    signal,
  ).catch(() => {});

  const start = performance.now();
  const total = duration || clients * messages;
  using progress = new Progress("messages", total);
  // Who has got how many when the first one is done, or the time is over.
  let fairness = "";
  const compare = (when: string) => {
    fairness ||= `${when}: Jain's index ${jainsIndex(echoes).toFixed(3)}, ` +
      `${echoes.filter((count) => count === 0).length} clients without an echo`;
  };
  const end = duration > 0 ? `after ${duration} ms` : "at the end";
  const timer = duration > 0 ? setTimeout(compare, duration, end) : undefined;
  const endTimer = duration > 0
    ? setTimeout(() => {
      firstError ??= new Error(`no echo for ${END_TIMEOUT} ms after the end`);
      close();
    }, duration + END_TIMEOUT)
    : undefined;
  const isOver = (count: number) =>
    duration > 0 ? performance.now() - start >= duration : count >= messages;

  // This side's loop has its favorites as well. The gate is before the read here:
  // while an echo waits for its turn, the server has had its message.
  const gate = options.noGate ? null : new ReadGate();
  const talk = async (number: number) => {
    const conn = await connections[number];
    // Filled and compared in words of four bytes, which is faster.
    const words = new Uint32Array(Math.ceil(size / 4));
    const message = new Uint8Array(words.buffer, 0, size);
    const padding = new Uint8Array(words.buffer, size);
    const replyWords = new Uint32Array(words.length);
    const reply = new Uint8Array(replyWords.buffer, 0, size);
    while (!isOver(echoes[number])) {
      // Another message each time: an echo of the last one is not this one's.
      let state = sent++;
      for (let i = 0; i < words.length; i++) {
        words[i] = state = Math.imul(state, 1664525) + 1013904223;
      }
      padding.fill(0); // It is not sent, so it is 0 in the reply as well.
      const sentAt = performance.now();
      const [, echo] = await Promise.all([
        writeFull(conn, message).catch(failed("write failed!")),
        Promise.resolve(gate?.pass(conn)).then(() => readFull(conn, reply))
          .catch(failed("read failed!")),
      ]);
      if (echo === null) throw new Error("read failed!: End of stream");
      const now = performance.now();
      latencies.push(now - sentAt);
      echoes[number]++;
      if (words.some((word, i) => word !== replyWords[i])) corrupted++;
      progress.update(duration > 0 ? now - start : latencies.length);
    }
    if (duration === 0) compare("when the first one was done");
    conn[Symbol.dispose]();
  };

  await Promise.all(echoes.map((_, number) =>
    talk(number).catch((error) => {
      firstError ??= error;
    })
  ));
  const seconds = (performance.now() - start) / 1000;
  progress[Symbol.dispose]();
  clearTimeout(timer);
  clearTimeout(endTimer);
  compare(end);
  signal?.removeEventListener("abort", close);
  try {
    signal?.throwIfAborted();
    if (firstError !== undefined) report(firstError);
    const wanted = duration > 0 ? sent : clients * messages;
    const lost = wanted - latencies.length;
    const sorted = Float64Array.from(latencies).sort();
    const percentile = (part: number) =>
      sorted[Math.ceil(sorted.length * part) - 1]?.toFixed(2) ?? "-";
    await print(
      `${clients} clients, ${wanted} messages, ${lost} lost, ` +
        `${corrupted} corrupted\n` +
        `${Math.round(latencies.length / seconds)} messages/s, ` +
        `p50 ${percentile(0.5)} ms, p99 ${percentile(0.99)} ms\n${fairness}`,
    );
    return lost > 0 || corrupted > 0 || firstError !== undefined ? 1 : 0;
  } finally {
    await print("client done!!");
  }
}

/**
 * Jain's fairness index: 1 if all have the same, 1/n if one of n has all. It is
 * the square of the sum over n times the sum of the squares.
 */
export function jainsIndex(counts: number[]): number {
  let sum = 0;
  let squares = 0;
  for (const count of counts) {
    sum += count;
    squares += count * count;
  }
  return squares > 0 ? sum * sum / (counts.length * squares) : 0;
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
  const { bufferSize = 0, nagle, noGate } = options;
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
      "buffer-size": bufferSize,
      ...(nagle && { nagle }),
      ...(noGate && { "no-gate": noGate }),
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
  const noGate = {
    "no-gate": flagOption("leave it to Deno's loop who is served"),
  };
  const serves = {
    backlog: integerOption("length of listen(2)'s queue", 511, 0, 2 ** 31 - 1),
    "max-connections": integerOption("clients at once, 0: no limit", 0),
    "idle-timeout": milliseconds("end silent clients, 0: never", 0),
    "drain-timeout": milliseconds("let clients finish", 5000),
    "buffer-size": integerOption(
      "bytes of a buffer, 0: it grows",
      0,
      0,
      2 ** 26,
    ),
    nagle: flagOption("leave Nagle's algorithm on: no TCP_NODELAY"),
    ...noGate,
  };
  const loads = {
    clients: integerOption("connections at once", 100, 1, 100_000),
    messages: integerOption("messages on each", 100, 1, 1_000_000),
    duration: milliseconds("go on so long, not by number; 0: do not", 0),
    size: integerOption("bytes of each message", 64, 1, 2 ** 26),
    ...noGate,
  };
  const named = (options: Values<typeof serves>) => ({
    maxConnections: options["max-connections"],
    idleTimeout: options["idle-timeout"],
    drainTimeout: options["drain-timeout"],
    bufferSize: options["buffer-size"],
    noGate: options["no-gate"],
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
        run: (options) => client({ ...options, noGate: options["no-gate"] }),
      }),
    },
  });
}
