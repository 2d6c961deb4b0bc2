/**
 * Finding out that nothing has happened for too long.
 * This module imports nothing.
 *
 * @module
 */

/** How long after the first look the second one comes, in milliseconds. */
const SECOND_LOOK = 100;
/** The longest wait of setTimeout(): it does not wait at all for more. */
const LONGEST_LOOK = 2 ** 31 - 1;

/**
 * Calls a function when nothing has happened for some time.
 *
 * It is cheap to say that something has happened: `reset` only notes the time.
 * There is one timer. When it is due, it looks how much time is left.
 *
 * When no time is left, it looks a second time before it gives up. A process
 * that was stopped (SIGSTOP), or very busy, finds two things when it goes on: a
 * timer that is due, and data that has come in time. Deno runs the timer first.
 * So the data is only known at the second look.
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
  }

  #lookAfter(milliseconds: number): void {
    const wait = Math.min(milliseconds, LONGEST_LOOK);
    this.#timer = setTimeout(this.#look, wait, false);
  }

  #look = (isSecond: boolean): void => {
    const idle = Math.max(performance.now() - this.#lastActive, 0);
    if (idle < this.#limit) {
      this.#lookAfter(this.#limit - idle);
    } else if (!isSecond) {
      this.#timer = setTimeout(this.#look, SECOND_LOOK, true);
    } else {
      this.#onIdle();
    }
  };
}
