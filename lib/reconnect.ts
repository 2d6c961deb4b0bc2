/**
 * A client that connects again when its connection is lost.
 *
 * @module
 */

import { isConnectionLost } from "./connection_lost.ts";

/** When to try again, and when not. */
export interface ReconnectOptions {
  /**
   * How often in a row it may fail, at least 1; by default 10, which with the
   * other defaults takes some 40 s. `Infinity` is for ever.
   */
  tries?: number;
  /** The first wait, in milliseconds: by default 100. Each next one doubles, */
  firstWait?: number;
  /** up to this one: by default 10,000. */
  longestWait?: number;
  /** Gives up: it ends a wait, and it is for `attempt` to end what it does. */
  signal?: AbortSignal;
  /** Whether another attempt may help: by default, {@linkcode mayRecover}. */
  isWorthwhile?: (error: unknown) => boolean;
  /** Is told of each failure, and how long it waits now, in milliseconds. */
  onWait?: (error: unknown, milliseconds: number) => unknown;
  /** A number from 0 to 1: by default, `Math.random`. */
  random?: () => number;
}

/**
 * Makes an attempt, and another one when it fails, until one is done. Each time
 * it waits longer (backoff), because a server that is overloaded is not helped by
 * clients that ask all the time. A wait is by chance between half and all of its
 * length (jitter), because a server that ends loses all its clients at once, and
 * otherwise they would all come back at once.
 *
 * That a server accepts says little: it may close each connection at once, and a
 * kernel accepts for a server that hangs. So the waits grow until the attempt
 * says that it works, by the function that it gets.
 *
 * What was sent before the connection was lost may have been carried out, or not.
 * The attempt has to ask, or the server has to recognize it: lesson 11.
 *
 * @param attempt Connects, and talks until it is done. It gets a function to call
 * when the connection has proved to be of use: the next failure is the first one
 * again then. It closes what it opens (`using`).
 * @returns What the attempt returns.
 * @throws The last error, if that is not worth another attempt, or if it was the
 * last try.
 * @throws The `reason` of the signal, when it is aborted.
 *
 * @example The server is away for a moment
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { hostname, port } = listener.addr;
 * listener.close();
 * using open = new DisposableStack();
 * const failures: unknown[] = [];
 * const peer = await reconnect(async (works) => {
 *   using conn = await Deno.connect({ hostname, port });
 *   works();
 *   return conn.remoteAddr;
 * }, {
 *   firstWait: 10,
 *   onWait: (error) => {
 *     failures.push(error);
 *     open.use(Deno.listen({ hostname, port }));
 *   },
 * });
 * assertEquals([peer.port, failures.length], [port, 1]);
 * ```
 */
export async function reconnect<T>(
  attempt: (works: () => void) => Promise<T>,
  {
    tries = 10,
    firstWait = 100,
    longestWait = 10_000,
    signal,
    isWorthwhile = mayRecover,
    onWait,
    random = Math.random,
  }: ReconnectOptions = {},
): Promise<T> {
  for (let failures = 0;;) {
    signal?.throwIfAborted();
    try {
      return await attempt(() => failures = 0);
    } catch (error) {
      signal?.throwIfAborted(); // It need not say why it has ended.
      failures++;
      if (failures >= tries || !isWorthwhile(error)) throw error;
      const most = Math.min(firstWait * 2 ** (failures - 1), longestWait);
      const wait = most * (1 + random()) / 2;
      onWait?.(error, wait);
      await sleep(wait, signal);
    }
  }
}

/**
 * Says whether what was thrown may pass: the connection was lost or refused, or
 * there was no answer in time, or no port was left. It is not worth an attempt to
 * ask again for a name that does not exist, without a permission, or after a
 * mistake of the program's own.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(mayRecover(new Deno.errors.TimedOut("Timed out after 1000 ms")));
 * assert(!mayRecover(new Deno.errors.NotCapable("Requires net access")));
 * ```
 */
export function mayRecover(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return isConnectionLost(error) ||
    error instanceof Deno.errors.TimedOut ||
    error.name === "TimeoutError" || // From AbortSignal.timeout().
    // The stream ended where more was to come.
    error instanceof Deno.errors.UnexpectedEof ||
    // All ports are in use towards this server. (Or this host has no address of
    // the server's family, which will not pass, but the tries are limited.)
    error instanceof Deno.errors.AddrNotAvailable ||
    // A resolver's error has no code. "Name or service not known" is final.
    /Temporary failure in name resolution|Try again/.test(error.message);
}

/** Waits, and no longer when the signal is aborted. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener("abort", end);
  });
}
