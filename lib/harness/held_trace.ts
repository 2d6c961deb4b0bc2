/**
 * A trace that leaves out what is reported as an error: it would stand there
 * twice.
 *
 * @module
 */

import { errorLine } from "../trace/error_line.ts";
import { lineWriter } from "../trace/start_trace.ts";
import type { SocketCall } from "../trace/recorder.ts";

/**
 * Prints calls, each in one line, as they come. Only a call that fails has to
 * wait, with those that come after it, until it is known whether its error is
 * reported: that is when the event loop turns, or when the program prints
 * something.
 */
export class HeldTrace {
  #held: { line: string; error: unknown }[] = [];
  readonly #lineOf = lineWriter();

  /** Takes a call, and the error that it has thrown, if it has. */
  take(call: SocketCall, error?: unknown): void {
    const line = this.#lineOf(call);
    if (error === undefined && this.#held.length === 0) return errorLine(line);
    if (this.#held.length === 0) setTimeout(() => this.settle(), 0);
    this.#held.push({ line, error });
  }

  /** Leaves out the call that has thrown this error, and prints the others. */
  leaveOut(error: unknown): void {
    this.#held = this.#held.filter((it) => it.error !== error);
    this.settle();
  }

  /** Prints what has waited. */
  settle(): void {
    for (const { line } of this.#held.splice(0)) errorLine(line);
  }
}
