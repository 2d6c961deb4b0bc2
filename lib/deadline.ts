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
 * @param giveUp Is called when the time is over, or the signal comes first. It
 * must not throw: dispose of a connection, and do not `close()` it, if it may be
 * closed already.
 * @param signal Ends the wait before its time. Where several waits race for one
 * result, abort it afterwards: otherwise the timers of those that have lost keep
 * the program alive.
 * @returns The result of `promise`.
 * @throws {Deno.errors.TimedOut} When the time is over.
 * @throws The `reason` of the signal, if it is aborted first.
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
 *
 * @example Two peers, and whoever answers first
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const connect = () => Deno.connect({ port: listener.addr.port });
 * using silent = await connect();
 * using _silentPeer = await listener.accept();
 * using quick = await connect();
 * using quickPeer = await listener.accept();
 * await quickPeer.write(new Uint8Array(3));
 *
 * const done = new AbortController();
 * const answers = [silent, quick].map((conn) =>
 *   withDeadline(
 *     conn.read(new Uint8Array(9)),
 *     60_000,
 *     () => conn[Symbol.dispose](),
 *     done.signal,
 *   )
 * );
 * assertEquals(await Promise.any(answers), 3);
 * done.abort(); // No timer of a minute is left.
 * ```
 */
export async function withDeadline<T>(
  promise: Promise<T>,
  milliseconds: number,
  giveUp?: () => void,
  signal?: AbortSignal,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let cancelLook = () => {};
  let isOver = false;
  let abort = () => {};
  const over = new Promise<never>((_, reject) => {
    const stop = (reason: unknown) => {
      isOver = true;
      reject(reason);
    };
    abort = () => stop(signal?.reason);
    const end = () => {
      const message = `Timed out after ${milliseconds} ms`;
      stop(new Deno.errors.TimedOut(message));
    };
    const wait = (left: number) => {
      timer = left > LONGEST_TIMER
        ? setTimeout(wait, LONGEST_TIMER, left - LONGEST_TIMER)
        : setTimeout(() => cancelLook = afterReads(end), Math.max(left, 0));
    };
    wait(milliseconds);
  });
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    return await Promise.race([promise, over]);
  } catch (error) {
    // Only now, so that this is the error, and not the one of the closed
    // resource.
    if (isOver) giveUp?.();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
    clearTimeout(timer);
    cancelLook();
  }
}
