/**
 * A timer of the trace's own.
 *
 * @module
 */

import type { Any } from "./replace.ts";

/**
 * Does something again and again. It keeps no program alive, unless one asks for it
 * by `ref()`. Where it begins before the program, it is no leak of a test.
 *
 * It is one of Node's timers, because with the first timer of Deno's own, microtasks
 * come at other times in the events of `node:net`.
 */
export function every(
  milliseconds: number,
  action: () => void,
): { ref(): void; unref(): void } {
  const { process } = globalThis as Any;
  const { setInterval } = process.getBuiltinModule("node:timers");
  return setInterval(action, milliseconds).unref();
}
