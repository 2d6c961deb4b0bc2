/**
 * Timeouts that stand still while a program is stopped.
 *
 * @module
 */

import { type Any, replace } from "./replace.ts";

/** Shorter ones are no deadlines, in milliseconds. */
const SHORT_TIMER = 50;
/** How often it is looked whether the time of one is over. */
const SLICE = 20;

/**
 * Lets `setTimeout` and `AbortSignal.timeout` count only the time in which the program
 * moves. (Those of Node's own modules are left alone.)
 *
 * @param movedFor Returns for how many milliseconds the program has moved so far.
 */
export function holdTimers(movedFor: () => number): void {
  replace(
    globalThis,
    "setTimeout",
    (original) =>
      function setTimer(callback, delay, ...args) {
        if (typeof callback !== "function" || !(delay >= SHORT_TIMER)) {
          return original.call(this, callback, delay, ...args);
        }
        const end = movedFor() + delay;
        const timer: Any = original.call(this, () => {
          if (movedFor() >= end - 1) callback.apply(timer, args);
          else timer.refresh();
        }, SLICE);
        return timer;
      },
  );
  const timeOut = globalThis.setTimeout;
  replace(AbortSignal, "timeout", (original) =>
    function timeout(milliseconds) {
      if (!(milliseconds >= SHORT_TIMER && milliseconds < 2 ** 31)) {
        return original.call(AbortSignal, milliseconds);
      }
      const controller = new AbortController();
      const reason = new DOMException("Signal timed out.", "TimeoutError");
      const timer: Any = timeOut(() => controller.abort(reason), milliseconds);
      timer.unref();
      return controller.signal;
    });
}
