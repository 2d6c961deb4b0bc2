/**
 * Timers of the trace's own. Each is one of Node's, because with the first timer of
 * Deno's own, microtasks come at other times in the events of `node:net`.
 *
 * @module
 */

import type { Any } from "./replace.ts";

const { setInterval, clearInterval } = (globalThis as Any).process
  .getBuiltinModule("node:timers");

/**
 * Does something again and again. It keeps no program alive, unless one asks for it
 * by `ref()`. Where it begins before the program, it is no leak of a test.
 */
export function every(
  milliseconds: number,
  action: () => void,
): { ref(): void; unref(): void } {
  return setInterval(action, milliseconds).unref();
}

/**
 * Does something again and again, as long as there is a reason. A top-level `await`
 * that nothing can end is an error which ends the program, but not while any timer
 * runs, be it `unref()`ed.
 *
 * @param action Says whether there is a reason left.
 * @returns What starts it, if it does not run. (Under `deno test` it always runs,
 * because a timer that begins in a test is a leak of that test.)
 */
export function whileNeeded(
  milliseconds: number,
  action: () => boolean,
): () => void {
  if (isTesting()) {
    every(milliseconds, action);
    return () => {};
  }
  let timer: unknown;
  const look = () => {
    if (action()) return;
    clearInterval(timer);
    timer = undefined;
  };
  return () => timer ??= every(milliseconds, look);
}

/** Whether this runs under `deno test`. */
export function isTesting(): boolean {
  return Deno.test.name !== "noopTest";
}
