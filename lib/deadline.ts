/**
 * Giving up in time.
 *
 * @module
 */

/**
 * Waits for `promise`, but no longer than until `signal` is aborted. Where the
 * promise itself ends because of the abort, that comes first. Else what it
 * stands for goes on, and its result is thrown away.
 *
 * @param promise What to wait for.
 * @param signal What ends the waiting; without one, nothing does.
 * @returns The result of `promise`.
 * @throws The error of `promise`, or the signal's reason.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * const stop = new AbortController();
 * const waiting = abortable(new Promise(() => {}), stop.signal);
 * stop.abort(new Error("enough"));
 * await assertRejects(() => waiting, Error, "enough");
 * ```
 */
export function abortable<T>(
  promise: Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const abort = () => timer = setTimeout(() => reject(signal.reason));
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    });
  });
}

/**
 * Waits for `promise`, but no longer than `milliseconds`. A read or a write of
 * Deno's cannot be cancelled: it goes on until its connection is closed, so
 * close it in `giveUp`, unless somebody will wait for it again.
 *
 * @param promise What to wait for.
 * @param milliseconds How long; 0 or less is not at all.
 * @param giveUp Is called when the time is over. It must not throw: dispose of
 * a connection, rather than close it, where it may be closed already.
 * @returns The result of `promise`.
 * @throws {Deno.errors.TimedOut} When the time is over.
 * @throws The error of `promise`.
 *
 * @example A peer that says nothing
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const conn = await Deno.connect({ port: listener.addr.port });
 * await assertRejects(
 *   () => withDeadline(conn.read(new Uint8Array(1)), 10, () => conn.close()),
 *   Deno.errors.TimedOut,
 *   "Timed out after 10 ms",
 * );
 * ```
 */
export async function withDeadline<T>(
  promise: Promise<T>,
  milliseconds: number,
  giveUp?: () => void,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const message = `Timed out after ${milliseconds} ms`;
      // First, so that this is the error, and not that of what is closed.
      reject(new Deno.errors.TimedOut(message));
      giveUp?.();
    }, Math.max(milliseconds, 0));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
