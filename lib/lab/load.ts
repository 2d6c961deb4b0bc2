/**
 * A load for echo servers: many connections, and every byte compared.
 *
 * @module
 */

import { counted } from "../counted.ts";
import { withDeadline } from "../deadline.ts";
import { readExactly, writeFull } from "../full_io.ts";
import { grouped } from "../grouped.ts";
import { IdleTimer } from "../idle_timer.ts";

/** How long the clients wait for each other to connect, in milliseconds. */
const START_TIMEOUT = 2000;
/** How many clients read at once: with a write each, fewer than Deno's loop serves. */
const TURNS_AT_ONCE = 48;
/** With fewer echoes for any client, nothing can be said of who had how many. */
const ENOUGH_ECHOES = 10;
/** After this time another one may read as well, in milliseconds. */
const LONGEST_TURN = 50;

/** What load {@linkcode putLoad} makes. */
export interface LoadOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** How many connections there are at once, 100 by default. */
  clients?: number;
  /** How many messages each of them sends, 100 by default. */
  messages?: number;
  /** How long they send, in milliseconds; 0, the default: see `messages`. */
  duration?: number;
  /** How many bytes each message has, 64 by default. */
  size?: number;
  /** How many milliseconds of silence end the wait for the server; 5000. */
  timeout?: number;
  /** Lets Deno's loop choose whose echo is read. By default a gate does. */
  noGate?: boolean;
  /** Is told which part is done, from 0 to 1. */
  onProgress?: (part: number) => void;
}

/** The result of a load. */
export interface LoadReport {
  /** How many connections there were. */
  clients: number;
  /** How many messages were sent, or should have been. */
  messages: number;
  /** How many of them never came back. */
  lost: number;
  /** How many came back, but not as they were. */
  corrupted: number;
  /** How many came back in a second. */
  rate: number;
  /** How long half of the echoes took at most, in milliseconds. */
  p50: number | undefined;
  /** How long 99 of 100 echoes took at most. */
  p99: number | undefined;
  /** When the echoes of the clients were compared. */
  when: string;
  /** How many echoes the client had then that had most. */
  most: number;
  /** How many clients had no echo at all then. */
  starved: number;
  /** {@linkcode jainsIndex} of their numbers of echoes. */
  index: number;
  /** The first error of a connection, if there was one. */
  error?: unknown;
}

/**
 * Puts load on an echo server. Each client sends a message, waits for its echo,
 * compares all of it, and sends the next one. All begin at once.
 *
 * Up to 1000 clients it sees the same fairness as a client in C does (`tests/bench`
 * has one): an index of 1.000 where that has 1.000. With 5000 it sees 0.94 to 0.96
 * where that has 0.99, because it is slower than the server.
 *
 * @param options What load.
 * @returns The result. It contains errors of connections, too.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * const loading = putLoad({ port, clients: 1, messages: 3 });
 * const conn = await listener.accept();
 * await conn.readable.pipeTo(conn.writable);
 * const { lost, corrupted } = await loading;
 * assertEquals([lost, corrupted], [0, 0]);
 * ```
 */
export async function putLoad(options: LoadOptions): Promise<LoadReport> {
  const { hostname = "127.0.0.1", port = 9527 } = options;
  const { clients = 100, messages = 100, duration = 0, size = 64 } = options;
  const { timeout = 5000, noGate, onProgress } = options;
  const latencies: number[] = [];
  const echoes = new Array<number>(clients).fill(0);
  let sent = 0;
  let corrupted = 0;
  let error: unknown;

  const stop = new AbortController();
  using silence = new IdleTimer(timeout, () => {
    error ??= new Error(`No echo for ${timeout} ms`);
    stop.abort(error);
  });

  // All begin at once, when all are connected. But they do not wait long for
  // that: a server may let some in only when others have left.
  const connections = echoes.map(() =>
    Deno.connect({ hostname, port, signal: stop.signal })
  );
  await withDeadline(Promise.allSettled(connections), START_TIMEOUT)
    .catch(() => {});
  silence.reset();

  const start = performance.now();
  let end = start;
  // How many echoes each has when the first is done, or the time is over.
  let compared:
    | Pick<LoadReport, "when" | "most" | "starved" | "index">
    | undefined;
  const compare = (when: string) => {
    const starved = echoes.filter((count) => count === 0).length;
    const most = echoes.reduce((a, b) => Math.max(a, b), 0);
    return compared ??= { when, most, starved, index: jainsIndex(echoes) };
  };
  const isTimed = duration > 0;
  const atTheEnd = isTimed ? `after ${duration} ms` : "at the end";
  const timer = isTimed ? setTimeout(compare, duration, atTheEnd) : undefined;
  const part = (count: number) =>
    isTimed ? (performance.now() - start) / duration : count / messages;

  const turns = noGate ? null : new ReadTurns();
  const talk = async (connecting: Promise<Deno.TcpConn>, number: number) => {
    using conn = await connecting;
    stop.signal.throwIfAborted();
    stop.signal.addEventListener("abort", () => conn[Symbol.dispose]());
    const read = (p: Uint8Array) => {
      silence.reset();
      return conn.read(p);
    };
    // Filled and compared in words of four bytes, which is faster.
    const words = new Uint32Array(Math.ceil(size / 4));
    const message = new Uint8Array(words.buffer, 0, size);
    const padding = new Uint8Array(words.buffer, size);
    const echoWords = new Uint32Array(words.length);
    const echo = new Uint8Array(echoWords.buffer, 0, size);
    const readEcho = async () => {
      using _turn = await turns?.take();
      await readExactly({ read }, echo);
    };
    for (let count = 0; part(count) < 1;) {
      // A new message each time, so that an old echo is not taken for a new
      // one.
      let state = sent++;
      for (let i = 0; i < words.length; i++) {
        words[i] = state = Math.imul(state, 1664525) + 1013904223;
      }
      padding.fill(0); // It is not sent, so it must be 0 in the echo too.
      const sentAt = performance.now();
      await Promise.all([writeFull(conn, message), readEcho()]);
      end = performance.now();
      latencies.push(end - sentAt);
      echoes[number] = ++count;
      if (words.some((word, i) => word !== echoWords[i])) corrupted++;
      onProgress?.(part(latencies.length / clients));
    }
    if (!isTimed) compare("when the first one was done");
    await conn.closeWrite();
    // What comes after the last echo was never sent.
    if (await read(echo) !== null) corrupted++;
  };

  await Promise.all(
    connections.map((connecting, number) =>
      talk(connecting, number).catch((reason) => {
        error ??= reason;
      })
    ),
  );
  clearTimeout(timer);
  const all = isTimed ? sent : clients * messages;
  const sorted = Float64Array.from(latencies).sort();
  const percentile = (part: number) =>
    sorted.at(Math.ceil(sorted.length * part) - 1);
  return {
    clients,
    messages: all,
    lost: all - latencies.length,
    corrupted,
    rate: latencies.length / ((end - start) / 1000 || 1),
    p50: percentile(0.5),
    p99: percentile(0.99),
    ...compare(atTheEnd),
    error,
  };
}

/**
 * Lets the clients read in the order in which they have sent, a few at a time.
 * Deno's loop serves up to 128 sockets equally that have something to read, and
 * beyond that it prefers some. So this side, too, could let a client starve whose
 * echo has come long ago, and blame the server for that.
 */
class ReadTurns {
  #free = TURNS_AT_ONCE;
  #first: (() => void)[] = []; // Those that wait, the first one last,
  #later: (() => void)[] = []; // and those behind them, the first one first.

  /** Waits for a turn. It ends when it is disposed of, or has taken too long. */
  async take(): Promise<Disposable> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((go) => this.#later.push(go));
    let isOver = false;
    const end = () => {
      clearTimeout(timer);
      if (!isOver) this.#pass();
      isOver = true;
    };
    // Its echo may never come. The others must not wait for that.
    const timer = setTimeout(end, LONGEST_TURN);
    return { [Symbol.dispose]: end };
  }

  #pass(): void {
    if (this.#first.length === 0) {
      this.#first = this.#later.reverse();
      this.#later = [];
    }
    const next = this.#first.pop();
    if (next) next();
    else this.#free++;
  }
}

/**
 * Puts the result of a load into words.
 *
 * @param report The result.
 * @returns Some lines of text, without the error.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const report = await putLoad({ port: 1, clients: 3, messages: 2 });
 * assertStringIncludes(
 *   describeLoad(report),
 *   "3 clients, 6 messages, 6 lost, 0 corrupted",
 * );
 * ```
 */
export function describeLoad(report: LoadReport): string {
  const { clients, messages, lost, corrupted, rate, p50, p99 } = report;
  const ms = (time?: number) => `${time?.toFixed(2) ?? "-"} ms`;
  return [
    `${counted(clients, "client")}, ${counted(messages, "message")}, ` +
    `${lost} lost, ${corrupted} corrupted`,
    `${grouped(Math.round(rate))} messages/s, half of the echoes within ${
      ms(p50)
    }, ` +
    `99 % within ${ms(p99)}`,
    `${report.when}: ${counted(report.starved, "client")} without an echo, ` +
    `Jain's index ${report.index.toFixed(3)}`,
    report.most < ENOUGH_ECHOES
      ? `(but nobody had more than ${report.most}: too few to compare clients)`
      : `(the index is 1 if all have as many echoes, 1/${clients} if one has them all)`,
  ].join("\n");
}

/**
 * Jain's fairness index says in one number whether all have got the same: it is
 * 1 if they have, and 1/n if one of n has got everything.
 *
 * @param counts How much each of them has got.
 * @returns The square of the sum, over n times the sum of the squares; 0 if
 * nobody has got anything.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(jainsIndex([5, 5, 5, 5]), 1);
 * assertEquals(jainsIndex([0, 0, 7, 0]), 0.25);
 * ```
 */
export function jainsIndex(counts: number[]): number {
  const sum = counts.reduce((total, it) => total + it, 0);
  const squares = counts.reduce((total, it) => total + it * it, 0);
  return squares > 0 ? sum * sum / (counts.length * squares) : 0;
}
