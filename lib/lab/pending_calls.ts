/**
 * Giving up calls that cannot be cancelled: only `close` ends a read, a write or
 * an accept of Deno's. So the call goes on, and it is the waiting that ends.
 * This module imports nothing.
 *
 * @module
 */

/** Nobody waits for a call any more, but it goes on. */
export class GivenUpError extends Error {
  /** The name of the class. */
  override name = "GivenUpError";
}

/**
 * Waits for a call until it is given up.
 *
 * @param call The call, which goes on then. If it fails later, nobody is told.
 * @param signal Gives it up.
 * @returns What the call returns.
 * @throws {GivenUpError} When it is given up.
 * @throws The error of the call.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * const never = new Promise(() => {});
 * await assertRejects(
 *   () => untilGivenUp(never, AbortSignal.abort()),
 *   GivenUpError,
 * );
 * ```
 */
export async function untilGivenUp<T>(
  call: Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const giveUp = () => reject(new GivenUpError("given up, but it goes on"));
  signal.addEventListener("abort", giveUp);
  if (signal.aborted) giveUp();
  try {
    return await Promise.race([call, promise]);
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}

/**
 * Calls of one kind, reads or accepts, that can be given up without a loss. What a
 * call brings after it was given up belongs to the next one on the same socket:
 * that one takes it over, instead of making a new call.
 *
 * @example
 * ```ts
 * import { assertEquals, assertRejects } from "@std/assert";
 * import { connectPair } from "./tcp_pair.ts";
 *
 * using pair = await connectPair();
 * const { client, server } = pair;
 * const buffer = new Uint8Array(10);
 * const reads = new PendingCalls((conn: Deno.TcpConn) => conn.read(buffer));
 * await assertRejects(() => reads.wait(client, AbortSignal.timeout(1)));
 * await server.write(new Uint8Array(5));
 * const { signal } = new AbortController();
 * assertEquals(await reads.wait(client, signal), 5); // The first one's.
 * ```
 */
export class PendingCalls<S extends object, T> {
  #make: (socket: S) => Promise<T>;
  #calls = new WeakMap<S, Promise<T>>();

  /**
   * Makes no call yet.
   *
   * @param make Makes one.
   */
  constructor(make: (socket: S) => Promise<T>) {
    this.#make = make;
  }

  /**
   * Waits for the call that goes on, or else makes one.
   *
   * @param socket What the call is made on.
   * @param signal Gives it up.
   * @returns What the call returns.
   * @throws {GivenUpError} When it is given up.
   * @throws The error of the call.
   */
  async wait(socket: S, signal: AbortSignal): Promise<T> {
    const call = this.#calls.get(socket) ?? this.#make(socket);
    this.#calls.set(socket, call);
    let isTaken = true;
    try {
      return await untilGivenUp(call, signal);
    } catch (error) {
      isTaken = !(error instanceof GivenUpError);
      throw error;
    } finally {
      if (isTaken) this.#calls.delete(socket);
    }
  }

  /** The call on this socket that was given up, and that nobody took over. */
  on(socket: S): Promise<T> | undefined {
    return this.#calls.get(socket);
  }
}
