/**
 * How many there are of something.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Writes a number and a noun, which has an `s` unless there is one of it.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(counted(1, "client"), "1 client");
 * assertEquals(counted(0, "byte"), "0 bytes");
 * ```
 */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
