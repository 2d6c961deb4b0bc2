/**
 * Lines for standard error that do not hold the program up while it runs.
 *
 * @module
 */

import { patient } from "./patient.ts";

/** How many lines may wait for somebody to read. */
const MOST_UNREAD = 10_000;
/** How many may wait for the program to come to an `await`. */
const MOST_LINES = 1_000_000;
/** How many are written at once. */
const BATCH_OF_LINES = 1000;
/** How long a write may take before we believe that nobody reads. */
const PATIENCE = 200;

/**
 * Writes lines to standard error. On a terminal each one is there before the
 * program goes on. A pipe that nobody reads may be full. So if it is not a
 * terminal, the lines wait in a queue. Those that do not fit into it are
 * counted. The end of the program, and an error that nobody catches, may wait
 * until the last lines are read.
 */
export class LineQueue {
  #waiting: string[] = [];
  #dropped = 0;
  #writing: Promise<void> | undefined;
  /** When the write that is under way began, if there is one. */
  #since: number | undefined;
  #isTerminal = Deno.stderr.isTerminal();
  #isBroken = false;
  #isEnding = false;
  // The program may put others in their place.
  #stderr = patient({ write: Deno.stderr.write.bind(Deno.stderr) });
  #toStderr = Deno.stderr.writeSync.bind(Deno.stderr);
  #encoder = new TextEncoder();
  #clock = performance;

  constructor() {
    // Neither Deno.exit() nor an error that nobody catches waits for a write.
    // And where the program has ended, a write of ours must not wake it up.
    const ends = ["beforeunload", "unload", "error", "unhandledrejection"];
    const [later, unref] = [setTimeout, Deno.unrefTimer];
    for (const end of ends) {
      globalThis.addEventListener(end, () => {
        this.#writeRest();
        this.#isEnding = true; // The program's own listeners may come next.
        unref(later(() => this.#isEnding = false, 0)); // It goes on.
      });
    }
  }

  /** Writes a line, now or soon. */
  write(line: string): void {
    if (this.#isTerminal) return this.#writeSync(line + "\n");
    if (this.#isBroken) return;
    const { length } = this.#waiting;
    if (this.#isEnding && length === 0 && !this.#isStuck()) {
      return this.#writeSync(line + "\n");
    }
    const isFull = length >= MOST_UNREAD && this.#isStuck();
    if (isFull || length >= MOST_LINES) this.#dropped++;
    else {
      this.#sayDropped(); // Here is the gap.
      this.#waiting.push(line);
    }
    this.#writing ??= this.#writeAll();
  }

  /** Waits until the queue is empty, or nobody reads it. */
  async flush(): Promise<void> {
    while (this.#writing && !this.#isStuck()) {
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, PATIENCE);
      await Promise.race([this.#writing, late.promise]);
      clearTimeout(timer);
    }
  }

  #isStuck(): boolean {
    return this.#clock.now() - (this.#since ?? Infinity) >= PATIENCE;
  }

  async #writeAll(): Promise<void> {
    await null; // What comes in the same turn goes along.
    while (this.#waiting.length > 0) {
      const bytes = this.#encoder.encode(this.#take());
      for (let written = 0; written < bytes.length;) {
        this.#since = this.#clock.now();
        try {
          written += await this.#stderr.write(bytes.subarray(written));
        } catch { // The reader is gone, but the program goes on.
          this.#isBroken = true;
          this.#waiting = [];
          break;
        }
      }
      this.#since = undefined;
    }
    this.#writing = undefined;
  }

  #sayDropped(): void {
    if (this.#dropped === 0) return;
    this.#waiting.push(`trace: ${this.#dropped} lines were dropped, unread`);
    this.#dropped = 0;
  }

  /** Some of the lines that wait. */
  #take(): string {
    if (this.#waiting.length <= BATCH_OF_LINES) this.#sayDropped();
    return this.#waiting.splice(0, BATCH_OF_LINES).join("\n") + "\n";
  }

  #writeRest(): void {
    if (this.#isStuck()) return;
    if (this.#since !== undefined) { // A thread is writing: let it be first.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
    }
    while (this.#waiting.length > 0) this.#writeSync(this.#take());
  }

  #writeSync(text: string): void {
    try {
      const bytes = this.#encoder.encode(text);
      for (let written = 0; written < bytes.length;) {
        written += this.#toStderr(bytes.subarray(written));
      }
    } catch {
      // As above.
    }
  }
}
