/**
 * Giving up in time.
 *
 * @module
 */

import { afterReads, LONGEST_TIMER } from "./after_reads.ts";

/**
 * Waits for `promise`, but no longer than `milliseconds`. A read or a write of
 * Deno's cannot be cancelled: it goes on until its connection is closed. So
 * close the connection in `giveUp`, unless the program will wait for this
 * promise again.
 *
 * Data that the kernel has got in time counts as in time, even if this process
 * was too busy to look: when the time is over, it looks once more
 * ({@linkcode afterReads}).
 *
 * @param promise What to wait for.
 * @param milliseconds How long to wait. 0 or less takes only what is there
 * already. `Infinity` waits for ever.
 * @param giveUp Is called when the time is over. It must not throw: dispose of
 * a connection, and do not `close()` it, if it may be closed already.
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
  let cancelLook = () => {};
  const late = new Promise<never>((_, reject) => {
    const end = () => {
      const message = `Timed out after ${milliseconds} ms`;
      // First, so that this is the error, and not the one of the closed
      // resource.
      reject(new Deno.errors.TimedOut(message));
      giveUp?.();
    };
    const wait = (left: number) => {
      timer = left > LONGEST_TIMER
        ? setTimeout(wait, LONGEST_TIMER, left - LONGEST_TIMER)
        : setTimeout(() => cancelLook = afterReads(end), Math.max(left, 0));
    };
    wait(milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    cancelLook();
  }
}
