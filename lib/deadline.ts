/**
 * Giving up in time.
 *
 * @module
 */

/**
 * Waits for `promise`, but no longer than until `signal` is aborted. What the
 * promise stands for goes on; its result is thrown away.
 *
 * @param promise What to wait for.
 * @param signal What ends the waiting.
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
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() =>
      signal.removeEventListener("abort", abort)
    );
  });
}

/**
 * Waits for `promise`, but no longer than `milliseconds`. What the promise
 * stands for goes on: to end it, close what it reads from.
 *
 * @param promise What to wait for.
 * @param milliseconds How long; 0 or less is not at all.
 * @returns The result of `promise`.
 * @throws {Deno.errors.TimedOut} When the time is over.
 * @throws The error of `promise`.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * await assertRejects(
 *   () => withDeadline(new Promise(() => {}), 10),
 *   Deno.errors.TimedOut,
 *   "Timed out after 10 ms",
 * );
 * ```
 */
export async function withDeadline<T>(
  promise: Promise<T>,
  milliseconds: number,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const message = `Timed out after ${milliseconds} ms`;
      reject(new Deno.errors.TimedOut(message));
    }, Math.max(milliseconds, 0));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
