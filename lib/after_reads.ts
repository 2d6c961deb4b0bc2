/**
 * For timers that give up: a second look before they say that nothing has come,
 * and the longest wait that can be set. This module imports nothing.
 *
 * @module
 */

/**
 * So many turns of the event loop take some 2 ms. A loop that always has
 * something to do asks the kernel for news only in each 61st turn
 * (`event_interval` of tokio, which Deno stands on).
 */
const TURNS = 100;

/**
 * The longest wait of `setTimeout`, in milliseconds (some 25 days): for more it
 * does not wait at all.
 */
export const LONGEST_TIMER: number = 2 ** 31 - 1;

/**
 * Calls a function when the event loop has read what the kernel has for this
 * process now. Deno looks at timers before it reads. So where a process was busy
 * or stopped for a while, a timer that is due may be wrong: look once more.
 *
 * @param call The function.
 * @returns A function that calls it off.
 *
 * @example A byte that came while the process was busy
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using conn = await Deno.connect({ port: listener.addr.port });
 * using peer = await listener.accept();
 * let count: number | null = 0;
 * const reading = conn.read(new Uint8Array(1)).then((it) => count = it);
 * await peer.write(new Uint8Array(1));
 * await new Promise<void>((resolve) => afterReads(resolve));
 * assertEquals(count, 1);
 * await reading;
 * ```
 */
export function afterReads(call: () => void): () => void {
  let turn: ReturnType<typeof setImmediate>;
  const wait = (turns: number) => {
    if (turns === 0) call();
    else turn = setImmediate(wait, turns - 1);
  };
  turn = setImmediate(wait, TURNS - 1);
  return () => clearImmediate(turn);
}
