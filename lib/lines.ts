/**
 * Lines of bytes. The input need not be text.
 *
 * @module
 */

import { type Reader, readSome } from "./full_io.ts";

/** A line is longer than its reader accepts. */
export class LineTooLongError extends Error {
  /** The name of the class. */
  override name = "LineTooLongError";
}

/** Options of {@linkcode readLines}. */
export interface ReadLinesOptions {
  /**
   * How many bytes a line may have, its newline included; 64 KiB by default. The
   * reader keeps that much for a line that is not whole yet, so a peer that never
   * sends a newline must not be trusted with `Infinity`.
   */
  maxLength?: number;
}

/** How many bytes a first read takes at most, and a later one of short lines. */
const FIRST_CHUNK = 4 * 1024;
const LATER_CHUNK = 64 * 1024;

/**
 * Reads lines, as many bytes at a time as there are.
 *
 * @param reader Where they come from.
 * @param options How long a line may be.
 * @returns Each line with its newline; the last one may have none.
 * @throws {LineTooLongError} If a line has more than `maxLength` bytes.
 * @throws {RangeError} If `maxLength` is not a number from 0, or the reader returns
 * an impossible count.
 * @throws {Error} If the reader returns 0 bytes 100 times in a row.
 * @throws The reader's own errors.
 *
 * @example The last line needs no newline
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const chunks = ["one\ntw", "o"].map((text) => new TextEncoder().encode(text));
 * const reader = {
 *   read(p: Uint8Array) {
 *     const chunk = chunks.shift();
 *     if (chunk !== undefined) p.set(chunk);
 *     return Promise.resolve(chunk?.length ?? null);
 *   },
 * };
 * const lines = await Array.fromAsync(readLines(reader));
 * assertEquals(lines[0], new TextEncoder().encode("one\n"));
 * assertEquals(lines[1], new TextEncoder().encode("two"));
 * ```
 */
export async function* readLines(
  reader: Reader,
  { maxLength = 64 * 1024 }: ReadLinesOptions = {},
): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  if (!(maxLength >= 0)) throw new RangeError(`Not a length: ${maxLength}`);
  // One buffer for all that has come and is in no line yet, however small the
  // pieces are in which it comes: from `start` to `end`.
  let buffer = new Uint8Array(Math.min(maxLength + 1, FIRST_CHUNK));
  let start = 0;
  let end = 0;
  while (true) {
    // There is always room for a byte: it is made below.
    const count = await readSome(reader, buffer.subarray(end));
    if (count === null) break;
    let searched = end;
    end += count;
    while (true) {
      const newline = buffer.subarray(0, end).indexOf(0x0a, searched);
      const length = (newline < 0 ? end : newline + 1) - start;
      if (length > maxLength) {
        throw new LineTooLongError(`Line of more than ${maxLength} bytes`);
      }
      if (newline < 0) break;
      // A copy: the next read must not change lines that were given out.
      yield buffer.slice(start, newline + 1);
      start = searched = newline + 1;
    }
    if (start === end) {
      start = end = 0;
    } else if (end === buffer.length) {
      // What is left moves to the front: of a larger buffer if reads fill this
      // one, or if the line does.
      const rest = buffer.subarray(start, end);
      if (buffer.length < LATER_CHUNK || rest.length * 2 > buffer.length) {
        buffer = new Uint8Array(Math.min(buffer.length * 2, maxLength + 1));
      }
      buffer.set(rest);
      start = 0;
      end = rest.length;
    }
  }
  if (start < end) yield buffer.slice(start, end);
}
