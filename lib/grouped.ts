/**
 * Numbers for people.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Writes a number with its thousands apart.
 *
 * @param count The number.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(grouped(4_194_304), "4,194,304");
 * ```
 */
export function grouped(count: number): string {
  return count.toLocaleString("en-US");
}
