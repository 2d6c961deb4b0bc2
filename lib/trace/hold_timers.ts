/**
 * Timeouts that stand still while a program is stopped.
 *
 * @module
 */

import { type Any, replace } from "./replace.ts";

/** Shorter ones are no deadlines, in milliseconds. */
const SHORT_TIMER = 50;

/**
 * Lets `setTimeout` and `AbortSignal.timeout` count only the time in which the program
 * moves. (Those of Node's own modules are left alone.)
 *
 * @param movedFor Returns for how many milliseconds the program has moved so far.
 */
export function holdTimers(movedFor: () => number): void {
  const isHeld = (delay: unknown) =>
    typeof delay === "number" && delay >= SHORT_TIMER && delay < 2 ** 31;
  /** Timers that wait for what is left when another one is over. */
  const rests = new WeakMap<object, Any>();
  replace(globalThis, "clearTimeout", (clear) =>
    function clearTimer(timer) {
      clear(rests.get(Object(timer)));
      return clear(timer);
    });
  replace(
    globalThis,
    "setTimeout",
    (original) =>
      function setTimer(callback, delay, ...args) {
        if (typeof callback !== "function" || !isHeld(delay)) {
          return original.call(this, callback, delay, ...args);
        }
        let end = movedFor() + delay;
        const look = () => {
          const left = end - movedFor();
          if (left < 1) return callback.apply(timer, args);
          const rest = original(look, left);
          if (!timer.hasRef()) rest.unref();
          rests.set(timer, rest);
        };
        const timer: Any = original.call(this, look, delay);
        for (const key of ["ref", "unref"]) {
          replace(timer, key, (change) =>
            function () {
              rests.get(timer)?.[key]();
              return change.call(timer);
            });
        }
        replace(timer, "refresh", (refresh) =>
          function () {
            clearTimeout(rests.get(timer));
            end = movedFor() + delay;
            return refresh.call(timer);
          });
        return timer;
      },
  );
  const { setTimeout, clearTimeout } = globalThis;
  replace(AbortSignal, "timeout", (original) =>
    function timeout(milliseconds) {
      if (!isHeld(milliseconds)) {
        return original.call(AbortSignal, milliseconds);
      }
      const controller = new AbortController();
      const timer: Any = setTimeout(() => {
        const text = "The operation was aborted due to timeout"; // As Deno has it.
        controller.abort(new DOMException(text, "TimeoutError"));
      }, milliseconds);
      timer.unref();
      const { signal } = controller;
      // Deno's keeps the program alive as well when somebody listens to it.
      replace(signal, "addEventListener", (listen) =>
        function (...args) {
          timer.ref();
          return listen.apply(signal, args);
        });
      return signal;
    });
}
