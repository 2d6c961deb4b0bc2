/**
 * A server for many clients: whatever it does for each of them, these are the
 * nine things that it needs. The comments below have the same numbers.
 *
 * 1. Many clients: nobody waits until somebody else is served.
 * 2. No descriptors (EMFILE): the server waits until one is free.
 * 3. A limit: so many clients at once, and the others wait in the queue.
 * 4. The end: clients may finish, but not take for ever.
 * 5. No Nagle: a small piece of data is sent at once.
 * 6. A lost client: its error ends this client, and not the server.
 * 7. Backpressure: nothing is read that nobody has asked for.
 * 8. Fairness: a client that was served lets the others go first.
 * 9. Silent clients: they are closed, so that they do not keep a place.
 *
 * @module
 */

import { announce } from "./address.ts";
import { isConnectionLost } from "./connection_lost.ts";
import { withDeadline } from "./deadline.ts";
import type { Reader, Writer } from "./full_io.ts";
import { IdleTimer } from "./idle_timer.ts";
import { ReadGate } from "./read_gate.ts";

/** How long to wait when there is no descriptor, in milliseconds. */
const DESCRIPTOR_PAUSE = 100;

/** What a handler gets: a connection that is closed for it. */
export interface ServedConn extends Reader, Writer {
  /** Ends this side of the stream, as the method of `Deno.Conn` does. */
  closeWrite(): Promise<void>;
  /** The server's address, as the client sees it. */
  readonly localAddr: Deno.NetAddr;
  /** The client's address. */
  readonly remoteAddr: Deno.NetAddr;
  /**
   * Aborted when the server is told to end. A handler need not look at it, but
   * one that does can say goodbye in time.
   */
  readonly signal: AbortSignal;
}

/** Options of {@linkcode serve}. Times are in milliseconds. */
export interface ServeOptions {
  /** The address to listen on; all of this host's, `0.0.0.0`, by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 is any that is free. */
  port?: number;
  /** How many clients may wait in the kernel's queue, 1024 by default. */
  backlog?: number;
  /** How many clients are served at once; 0, the default, is no limit. */
  maxConnections?: number;
  /** How long a client may be silent; 0, the default, is for ever. */
  idleTimeout?: number;
  /** How long clients may take to finish at the end, 5000 by default. */
  drainTimeout?: number;
  /** Leaves Nagle's algorithm on. */
  nagle?: boolean;
  /** Lets Deno's loop choose whose data is read next. */
  noGate?: boolean;
  /** Begins the end when it is aborted. */
  signal?: AbortSignal;
  /** Is told the address; by default it prints `listening on HOST:PORT`. */
  onListen?: (address: Deno.NetAddr) => unknown;
  /** Is told how many clients the server waits for at its end, if any. */
  onDrain?: (clients: number) => unknown;
  /** Gets what a handler has thrown, but no lost connection; console.error. */
  report?: (error: unknown) => unknown;
}

/**
 * Serves clients until `signal` is aborted, and lets them finish then.
 *
 * When a handler returns or throws, its connection is closed. It need not catch
 * the errors of `read` and `write`, because a client that is lost is no news.
 * (This is seen by the error alone. So a handler that has connections of its own
 * should catch the errors of those.) Any other error is reported, and also ends
 * only this client.
 *
 * With an `idleTimeout`, a client is silent while a `read` or `write` waits for
 * it and nothing comes of either. While the handler does something else the
 * client is not to blame, and its time stands still.
 *
 * @param handler Is called with each connection.
 * @param options Where to listen, and the limits.
 * @returns How many connections there were, when all have ended.
 * @throws The error of `Deno.listen`, or of `accept` if it is not about one
 * client. Clients may finish in this case too.
 *
 * @example A server that shouts
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const stop = new AbortController();
 * const { promise, resolve } = Promise.withResolvers<Deno.NetAddr>();
 * const serving = serve(async (conn) => {
 *   const buffer = new Uint8Array(16 * 1024);
 *   while (true) {
 *     const count = await conn.read(buffer);
 *     if (count === null) break;
 *     const text = new TextDecoder().decode(buffer.subarray(0, count));
 *     await conn.write(new TextEncoder().encode(text.toUpperCase()));
 *   }
 * }, { port: 0, signal: stop.signal, onListen: resolve });
 *
 * using client = await Deno.connect({ port: (await promise).port });
 * await client.write(new TextEncoder().encode("hello"));
 * const buffer = new Uint8Array(5);
 * assertEquals(await client.read(buffer), 5);
 * assertEquals(new TextDecoder().decode(buffer), "HELLO");
 *
 * stop.abort();
 * await client.closeWrite();
 * assertEquals(await serving, { connections: 1 });
 * ```
 */
export async function serve(
  handler: (conn: ServedConn) => Promise<unknown>,
  {
    hostname = "0.0.0.0",
    port = 9527,
    backlog = 1024,
    maxConnections = 0,
    idleTimeout = 0,
    drainTimeout = 5000,
    nagle = false,
    noGate = false,
    signal = new AbortController().signal,
    onListen = announce,
    onDrain = () => {},
    report = console.error,
  }: ServeOptions = {},
): Promise<{ connections: number }> {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  const clients = new Set<GuardedConn>();
  const most = maxConnections > 0 ? maxConnections : Infinity;
  const gate = noGate ? undefined : new ReadGate();
  let connections = 0;
  let wake = () => {};
  const someoneLeaves = () => new Promise<void>((resolve) => wake = resolve);
  const stopAccepting = () => {
    listener[Symbol.dispose](); // It ends the accept() that waits.
    wake();
  };
  signal.addEventListener("abort", stopAccepting);

  try {
    while (!signal.aborted) {
      try {
        const conn = await listener.accept();
        connections++;
        // 1. Many clients. This is not awaited: the next one may come at once.
        serveClient(new GuardedConn(conn, gate, idleTimeout));
      } catch (error) {
        // A client may be lost already while it is in the queue.
        if (signal.aborted || isConnectionLost(error)) continue;
        if (!isExhausted(error)) throw error;
        // 2. No descriptors. This must not end the server, because a descriptor
        // is free again when a client leaves, or when another process gives one
        // back. But to try again at once would only keep a core busy. Until
        // then clients wait in the queue.
        await withDeadline(someoneLeaves(), DESCRIPTOR_PAUSE).catch(() => {});
      }
      // 3. A limit. The next client waits in the kernel's queue (the backlog).
      while (clients.size >= most && !signal.aborted) await someoneLeaves();
    }
  } finally {
    // 4. The end. There are no new clients. Those that are connected are told,
    // and may finish, but not take longer than the server can wait.
    signal.removeEventListener("abort", stopAccepting);
    stopAccepting();
    clients.forEach((client) => client.drain());
    try {
      if (clients.size > 0) onDrain(clients.size);
    } finally {
      await withDeadline(allLeave(), drainTimeout).catch(closeAll);
    }
  }
  return { connections };

  async function allLeave(): Promise<void> {
    while (clients.size > 0) await someoneLeaves();
  }

  async function closeAll(): Promise<void> {
    gate?.letAllGo();
    clients.forEach((client) => client.close());
    // Their handlers find out at once, if they wait for nothing else.
    await withDeadline(allLeave(), 0).catch(() => {});
  }

  /** One client's error must not end the server, because nobody takes reports. */
  function tryToReport(error: unknown): void {
    try {
      report(error);
    } catch {
      // Where standard error is full, console.error() throws.
    }
  }

  async function serveClient(client: GuardedConn): Promise<void> {
    clients.add(client);
    try {
      // 5. No Nagle. By Nagle's algorithm, the kernel holds a small piece of data
      // back until the other side has acknowledged the piece before. But the
      // other side delays that for 40 ms, to send it together with its own data.
      if (!nagle) client.setNoDelay();
      await handler(client);
    } catch (error) {
      // 6. A lost client. Its error ends only this client, and is no news. The
      // same is true if this server has closed it (4 and 9).
      const isExpected = isConnectionLost(error) ||
        client.isClosed && isClosedResource(error);
      if (!isExpected) tryToReport(error);
    } finally {
      client.close();
      clients.delete(client);
      wake();
    }
  }
}

/** A connection, its turn among the others, and its idle timeout. */
class GuardedConn implements ServedConn {
  #conn: Deno.TcpConn;
  #gate: ReadGate | undefined;
  #idle: IdleTimer | undefined;
  #stop: AbortController | undefined;
  #hasRead = false;
  /** How many reads and writes wait. */
  #waiting = 0;
  isClosed = false;

  constructor(
    conn: Deno.TcpConn,
    gate: ReadGate | undefined,
    idleTimeout: number,
  ) {
    this.#conn = conn;
    this.#gate = gate;
    if (idleTimeout > 0) {
      this.#idle = new IdleTimer(idleTimeout, () => this.close());
      this.#idle.pause();
    }
  }

  read(p: Uint8Array): Promise<number | null> {
    // 7. Backpressure. Nothing is read before the handler asks for it. So while
    // the handler is busy, or its own write waits, the kernel's buffer fills up,
    // and TCP makes the client wait. The server keeps nothing for it.

    // 8. Fairness. Deno's loop serves up to 128 busy clients equally. With more,
    // some get everything and others nothing. In such a crowd, a client that
    // was served waits for its next turn here.
    const turn = this.#hasRead ? this.#gate?.pass(this) : undefined;
    this.#hasRead = true;
    if (turn !== undefined) return this.#readAfter(turn, p);
    return this.#watch(this.#conn.read(p));
  }

  async #readAfter(turn: Promise<void>, p: Uint8Array): Promise<number | null> {
    await turn; // This is not the client's silence.
    return await this.#watch(this.#conn.read(p));
  }

  write(p: Uint8Array): Promise<number> {
    return this.#watch(this.#conn.write(p));
  }

  /**
   * 9. Silent clients. A silent client keeps its place and its descriptor, and
   * one that has vanished is silent for ever. But a client that takes an answer
   * in pieces is not silent. Beware: one that sends a byte now and then
   * ("slowloris") is not silent either. Only the handler can find it, because
   * only the handler knows when a request is complete.
   */
  #watch<T>(call: Promise<T>): Promise<T> {
    return this.#idle === undefined ? call : this.#time(call, this.#idle);
  }

  async #time<T>(call: Promise<T>, idle: IdleTimer): Promise<T> {
    if (this.#waiting++ === 0) idle.reset();
    try {
      return await call;
    } finally {
      if (--this.#waiting === 0) idle.pause();
      else idle.reset();
    }
  }

  closeWrite(): Promise<void> {
    return this.#conn.closeWrite();
  }

  setNoDelay(): void {
    this.#conn.setNoDelay();
  }

  get localAddr(): Deno.NetAddr {
    return this.#conn.localAddr;
  }

  get remoteAddr(): Deno.NetAddr {
    return this.#conn.remoteAddr;
  }

  // A signal for each client, because one for all would keep the listeners of
  // clients that have left. It is made when somebody asks for it.
  get signal(): AbortSignal {
    return (this.#stop ??= new AbortController()).signal;
  }

  drain(): void {
    (this.#stop ??= new AbortController()).abort();
  }

  close(): void {
    this.isClosed = true;
    this.#idle?.[Symbol.dispose]();
    this.#conn[Symbol.dispose]();
  }
}

/** The process or the host has run out of something, perhaps not for long. */
function isExhausted(error: unknown): boolean {
  const { code, message } = error as Error & { code?: unknown };
  return ["EMFILE", "ENOBUFS", "ENOMEM"].includes(String(code)) ||
    String(message).endsWith("(os error 23)"); // ENFILE: Deno has no code for it.
}

/** The errors of a read or a write whose connection was closed on this side. */
function isClosedResource(error: unknown): boolean {
  return error instanceof Deno.errors.Interrupted ||
    error instanceof Deno.errors.BadResource;
}
