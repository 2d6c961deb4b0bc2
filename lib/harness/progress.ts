/**
 * A progress bar for a terminal; elsewhere it is silent.
 *
 * @module
 */

import { green } from "@std/fmt/colors";
import { terminalSize } from "./terminal.ts";

/** Options of {@linkcode Progress}; the defaults suit standard error. */
export interface ProgressOptions {
  /** Where the bar is drawn. */
  stream?: { writeSync(p: Uint8Array): number };
  /** Whether that is a terminal. */
  isTerminal?: boolean;
  /** Whether to use color. */
  color?: boolean;
  /** How wide that terminal is. */
  columns?: number;
}

const BAR_WIDTH = 20;
/** What stands around the bar. */
const FRAME = " []  100%".length;

/**
 * Draws how far something has come, in one line on standard error. Disposing
 * of it clears the line.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * let drawn = "";
 * const stream = {
 *   writeSync(p: Uint8Array) {
 *     drawn += new TextDecoder().decode(p);
 *     return p.length;
 *   },
 * };
 * const options = { stream, isTerminal: true, color: false };
 * using progress = new Progress("sending", 200, options);
 * progress.update(50);
 * assertStringIncludes(drawn, "sending [#####---------------]  25%");
 * ```
 */
export class Progress implements Disposable {
  #label: string;
  #total: number;
  #stream: { writeSync(p: Uint8Array): number } | null;
  #color: boolean;
  #width: number;
  #drawn = "";

  /**
   * Draws nothing yet.
   *
   * @param label What is going on, in a word or two.
   * @param total The number that stands for all of it.
   */
  constructor(label: string, total: number, options: ProgressOptions = {}) {
    const {
      stream = Deno.stderr,
      isTerminal = Deno.stderr.isTerminal(),
      columns = terminalSize(Deno.stderr).columns ?? 80,
    } = options;
    this.#label = label;
    this.#total = total;
    this.#stream = isTerminal ? stream : null;
    this.#color = options.color ?? !Deno.noColor;
    const room = columns - label.length - FRAME;
    this.#width = Math.min(BAR_WIDTH, Math.max(room, 1));
  }

  /** Draws that `done` of the total is done. */
  update(done: number): void {
    const part = this.#total > 0
      ? Math.min(Math.max(done / this.#total, 0), 1)
      : 1;
    const filled = "#".repeat(Math.floor(part * this.#width));
    const bar = (this.#color ? green(filled) : filled) +
      "-".repeat(this.#width - filled.length);
    const percent = `${Math.floor(part * 100)}%`.padStart(4);
    this.#draw(`${this.#label} [${bar}] ${percent}`);
  }

  /** Clears the line. */
  [Symbol.dispose](): void {
    this.#draw("");
  }

  #draw(text: string): void {
    if (this.#stream === null || text === this.#drawn) return;
    this.#drawn = text;
    try {
      this.#stream.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
    } catch {
      // The terminal is gone, but the program goes on.
    }
  }
}
