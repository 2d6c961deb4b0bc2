/**
 * Full reads and full writes.
 *
 * A TCP socket is a stream of bytes: `read` returns what has arrived so far,
 * and `write` accepts what fits into the socket's send buffer. Either may be
 * less than you asked for. These functions go on until all of it is read or
 * written, and `readSome` until anything has come.
 *
 * They take anything with Deno's `read` or `write` method: a `Deno.Conn`, a
 * file, standard input, a fake in a test. This module imports nothing.
 *
 * @module
 */

/** Anything to read bytes from, as `Deno.Conn` is. */
export interface Reader {
  /**
   * Reads up to `p.length` bytes into `p`. Resolves to how many came, or to
   * `null` at the end of the stream.
   */
  read(p: Uint8Array): Promise<number | null>;
}

/** Anything to write bytes to, as `Deno.Conn` is. */
export interface Writer {
  /** Writes from the start of `p`. Resolves to how many bytes were accepted. */
  write(p: Uint8Array): Promise<number>;
}

/** The stream ended after some of the bytes that {@linkcode readFull} wants. */
export class UnexpectedEofError extends Deno.errors.UnexpectedEof {
  /** The bytes that came before the end. */
  readonly partial: Uint8Array;
  /** How many bytes were wanted. */
  readonly expected: number;

  /** Keeps the bytes that came, and how many were wanted. */
  constructor(partial: Uint8Array, expected: number) {
    super(
      `Unexpected end of stream: read ${partial.length} of ${expected} bytes`,
    );
    this.name = "UnexpectedEofError";
    this.partial = partial;
    this.expected = expected;
  }
}

/** A write accepted no byte at all, so trying again might never end. */
export class WriteZeroError extends Deno.errors.WriteZero {
  /** How many bytes had been written before. */
  readonly written: number;
  /** How many bytes there were to write. */
  readonly expected: number;

  /** Keeps how many bytes were written, and how many there were. */
  constructor(written: number, expected: number) {
    super(
      `Write accepted no byte: wrote ${written} of ${expected} bytes`,
    );
    this.name = "WriteZeroError";
    this.written = written;
    this.expected = expected;
  }
}

/** As in Go's `io.ErrNoProgress`: so many empty reads are not chance. */
const MAX_EMPTY_READS = 100;

/**
 * Reads what one `read` brings, but one byte at least: a reader may return 0 bytes
 * before the end of the stream, and then is asked again.
 *
 * @param reader Where the bytes come from.
 * @param buffer The buffer to read into. It must not be empty.
 * @returns How many bytes came, from 1 to `buffer.length`, or `null` at the end of
 * the stream.
 * @throws {RangeError} If the reader returns an impossible count.
 * @throws {Error} If the reader returns 0 bytes 100 times in a row.
 * @throws The reader's own errors.
 *
 * @example An empty read is not the end
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const counts = [0, 3, null];
 * const reader = { read: () => Promise.resolve(counts.shift()!) };
 * const buffer = new Uint8Array(4);
 * assertEquals(await readSome(reader, buffer), 3);
 * assertEquals(await readSome(reader, buffer), null);
 * ```
 */
export async function readSome(
  reader: Reader,
  buffer: Uint8Array,
): Promise<number | null> {
  for (let reads = 0; reads < MAX_EMPTY_READS; reads++) {
    const count = await reader.read(buffer);
    if (count === null) return null;
    checkCount("Reader", count, buffer.length);
    if (count > 0) return count;
  }
  throw noProgress();
}

/**
 * Reads until `buffer` is full: `readn` in Stevens' UNP, `recv(2)` with
 * `MSG_WAITALL`.
 *
 * An error of the reader passes through unchanged. After any error an unknown
 * number of bytes has been taken from the stream, so the program cannot go on
 * with this stream.
 *
 * @param reader Where the bytes come from.
 * @param buffer The buffer to fill. If it is empty, nothing is read.
 * @returns `buffer`, or `null` if the stream ended before the first byte.
 * @throws {UnexpectedEofError} If the stream ends midway.
 * @throws {RangeError} If the reader returns an impossible count.
 * @throws {Error} If the reader returns 0 bytes 100 times in a row.
 *
 * @example Four bytes that arrive one at a time
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = [1, 2, 3, 4];
 * const reader = {
 *   read(p: Uint8Array) {
 *     p[0] = bytes.shift()!;
 *     return Promise.resolve(1);
 *   },
 * };
 * const buffer = await readFull(reader, new Uint8Array(4));
 * assertEquals(buffer, new Uint8Array([1, 2, 3, 4]));
 * ```
 */
export async function readFull<T extends Uint8Array>(
  reader: Reader,
  buffer: T,
): Promise<T | null> {
  let filled = 0;
  let emptyReads = 0;
  // Not by `readSome`: its promise would be one more for each read.
  while (filled < buffer.length) {
    // The first read gets the buffer itself. Mostly there is no second read.
    const count = await reader.read(
      filled === 0 ? buffer : buffer.subarray(filled),
    );
    if (count === null) {
      if (filled === 0) return null;
      throw new UnexpectedEofError(buffer.slice(0, filled), buffer.length);
    }
    checkCount("Reader", count, buffer.length - filled);
    emptyReads = count === 0 ? emptyReads + 1 : 0;
    if (emptyReads === MAX_EMPTY_READS) throw noProgress();
    filled += count;
  }
  return buffer;
}

/**
 * Reads until `buffer` is full, where an end of the stream is an error: between
 * two messages `readFull` says by `null` that there are no more, but within one
 * there must be more.
 *
 * @param reader Where the bytes come from.
 * @param buffer The buffer to fill. If it is empty, nothing is read.
 * @returns `buffer`.
 * @throws {UnexpectedEofError} If the stream ends before `buffer` is full.
 * @throws What {@linkcode readFull} throws.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * const ended = { read: () => Promise.resolve(null) };
 * await assertRejects(
 *   () => readExactly(ended, new Uint8Array(4)),
 *   UnexpectedEofError,
 *   "read 0 of 4 bytes",
 * );
 * ```
 */
export async function readExactly<T extends Uint8Array>(
  reader: Reader,
  buffer: T,
): Promise<T> {
  const full = await readFull(reader, buffer);
  if (full !== null) return full;
  throw new UnexpectedEofError(new Uint8Array(), buffer.length);
}

/**
 * Writes all of `data`: `writen` in Stevens' UNP.
 *
 * An error of the writer passes through unchanged. How much was written before
 * the error is not known. What was written may not have been delivered.
 *
 * @param writer Where the bytes go.
 * @param data The bytes. If there are none, nothing is written.
 * @returns `data.length`.
 * @throws {WriteZeroError} If a write accepts no byte.
 * @throws {RangeError} If the writer returns an impossible count.
 *
 * @example A writer that takes two bytes at a time
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const written: number[] = [];
 * const writer = {
 *   write(p: Uint8Array) {
 *     const accepted = p.subarray(0, 2);
 *     written.push(...accepted);
 *     return Promise.resolve(accepted.length);
 *   },
 * };
 * assertEquals(await writeFull(writer, new Uint8Array([1, 2, 3])), 3);
 * assertEquals(written, [1, 2, 3]);
 * ```
 */
export async function writeFull(
  writer: Writer,
  data: Uint8Array,
): Promise<number> {
  let written = 0;
  while (written < data.length) {
    const count = await writer.write(
      written === 0 ? data : data.subarray(written),
    );
    checkCount("Writer", count, data.length - written);
    if (count === 0) throw new WriteZeroError(written, data.length);
    written += count;
  }
  return written;
}

/** What a reader without progress ends with. */
function noProgress(): Error {
  return new Error(`Reader made no progress in ${MAX_EMPTY_READS} reads`);
}

/**
 * Checks how many bytes a read or a write has handled. A count that cannot be true
 * would corrupt the data without an error.
 *
 * @param who `Reader` or `Writer`.
 * @throws {RangeError} If it is not an integer from 0 to `remaining`.
 */
function checkCount(
  who: string,
  count: number,
  remaining: number,
): void {
  if (!Number.isInteger(count) || count < 0 || count > remaining) {
    throw new RangeError(
      `${who} returned ${count}: expected an integer from 0 to ${remaining}`,
    );
  }
}
