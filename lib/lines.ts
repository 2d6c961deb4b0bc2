/**
 * Lines of bytes, for input that need not be text.
 *
 * @module
 */

const LINE_FEED = 0x0a;
/** So many empty reads are no accident. */
const MAX_ZERO_READS = 100;

/** Options of {@linkcode LineReader}. */
export interface LineReaderOptions {
  /** Ends a waiting `readLine` or `atEnd`, which rejects with its reason. */
  signal?: AbortSignal;
}

/**
 * Reads lines of any length from standard input or anything else with a `read`
 * method. Several users can take turns on one `LineReader`: each goes on with
 * the line after the last one that was taken.
 *
 * @example The last line needs no newline
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const chunks = ["one\ntw", "o"].map((text) => new TextEncoder().encode(text));
 * const lines = new LineReader({
 *   read(p: Uint8Array) {
 *     const chunk = chunks.shift();
 *     if (chunk !== undefined) p.set(chunk);
 *     return Promise.resolve(chunk?.length ?? null);
 *   },
 * });
 * assertEquals(await lines.readLine(), new TextEncoder().encode("one\n"));
 * assertEquals(await lines.readLine(), new TextEncoder().encode("two"));
 * assertEquals(await lines.readLine(), null);
 * ```
 */
export class LineReader {
  #reader: { read(p: Uint8Array): Promise<number | null> };
  #signal: AbortSignal | undefined;
  #buffer = new Uint8Array(64 * 1024);
  /** What has been read but not yet returned. */
  #rest = new Uint8Array();

  /** Reads from `reader`, and not before it is asked for a line. */
  constructor(
    reader: { read(p: Uint8Array): Promise<number | null> },
    options: LineReaderOptions = {},
  ) {
    this.#reader = reader;
    this.#signal = options.signal;
  }

  /**
   * Reads one line.
   *
   * @returns The line with its newline, without one if the input ends before
   * it, or `null` if there is no line left.
   * @throws {Error} If the reader returns 0 bytes 100 times in a row.
   * @throws The reader's own errors, and the signal's reason.
   */
  async readLine(): Promise<Uint8Array | null> {
    const pieces: Uint8Array[] = [];
    while (!await this.atEnd()) {
      const length = this.#rest.indexOf(LINE_FEED) + 1;
      pieces.push(this.#rest.subarray(0, length || undefined));
      this.#rest = this.#rest.subarray(length || this.#rest.length);
      if (length > 0) break;
    }
    if (pieces.length < 2) return pieces[0] ?? null;

    const line = new Uint8Array(
      pieces.reduce((total, piece) => total + piece.length, 0),
    );
    let offset = 0;
    for (const piece of pieces) {
      line.set(piece, offset);
      offset += piece.length;
    }
    return line;
  }

  /**
   * Waits until there is at least one more byte, or none will come.
   *
   * @returns Whether the input has ended.
   * @throws {Error} If the reader returns 0 bytes 100 times in a row.
   * @throws The reader's own errors, and the signal's reason.
   */
  async atEnd(): Promise<boolean> {
    for (let reads = 0; this.#rest.length === 0; reads++) {
      if (reads === MAX_ZERO_READS) {
        throw new Error(`Reader made no progress in ${MAX_ZERO_READS} reads`);
      }
      const count = await this.#read();
      if (count === null) return true;
      // A copy: lines that were handed out must outlive the next read.
      this.#rest = this.#buffer.slice(0, count);
    }
    return false;
  }

  /** One read, given up when the signal says so. */
  #read(): Promise<number | null> {
    const signal = this.#signal;
    if (signal === undefined) return this.#reader.read(this.#buffer);
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const abort = () => reject(signal.reason);
      signal.addEventListener("abort", abort);
      this.#reader.read(this.#buffer).then(resolve, reject).finally(() =>
        signal.removeEventListener("abort", abort)
      );
    });
  }
}

/**
 * Whether a line is the tutorial's word for "enough": `q` or `Q`, and nothing
 * else but its newline.
 *
 * @param line The line, with or without its newline.
 * @returns Whether it is.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(isQuit(new TextEncoder().encode("Q\n")));
 * assert(!isQuit(new TextEncoder().encode("quit\n")));
 * ```
 */
export function isQuit(line: Uint8Array): boolean {
  return (line[0] === 0x71 || line[0] === 0x51) &&
    (line.length === 1 || line.length === 2 && line[1] === LINE_FEED);
}
