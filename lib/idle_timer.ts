/**
 * Finding out that nothing has happened for too long.
 *
 * @module
 */

import { afterReads, LONGEST_TIMER } from "./after_reads.ts";

/**
 * Calls a function when nothing has happened for some time.
 *
 * It is cheap to say that something has happened: `reset` only notes the time.
 * There is one timer. When it is due, it looks how much time is left.
 *
 * When no time is left, it looks a second time before it gives up, because a
 * process that was stopped (SIGSTOP), or very busy, may have data that came in
 * time and was not read yet ({@linkcode afterReads}).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * const start = performance.now();
 * await new Promise<void>((resolve) => new IdleTimer(20, resolve));
 * assert(performance.now() - start >= 20);
 * ```
 */
export class IdleTimer implements Disposable {
  #limit: number;
  #onIdle: () => void;
  #lastActive = performance.now();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #cancelLook = () => {};

  /**
   * Begins to wait.
   *
   * @param limit How many milliseconds without a `reset` to wait; 0 is never.
   * @param onIdle Is called after that time, once.
   */
  constructor(limit: number, onIdle: () => void) {
    this.#limit = limit;
    this.#onIdle = onIdle;
    if (limit > 0) this.#lookAfter(limit);
  }

  /** Something has happened: the time begins anew. */
  reset(): void {
    if (this.#limit > 0) this.#lastActive = performance.now();
  }

  /** Stops counting the time until the next `reset`. */
  pause(): void {
    this.#lastActive = Infinity;
  }

  /** Does not wait any more. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#cancelLook();
  }

  #lookAfter(milliseconds: number): void {
    const wait = Math.min(milliseconds, LONGEST_TIMER);
    this.#timer = setTimeout(this.#look, wait);
  }

  #look = (): void => {
    const left = this.#timeLeft(); // Once: it may be over by a second look.
    if (left > 0) return this.#lookAfter(left);
    this.#cancelLook = afterReads(() => {
      const left = this.#timeLeft();
      if (left > 0) this.#lookAfter(left);
      else this.#onIdle();
    });
  };

  #timeLeft(): number {
    const idle = performance.now() - this.#lastActive; // Less than 0: paused.
    return this.#limit - Math.max(idle, 0);
  }
}
