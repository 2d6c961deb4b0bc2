/**
 * Bars for tables of numbers.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Draws a number as a bar. It suits the last column of a table.
 *
 * @param value The number, from 0.
 * @param largest What a whole bar stands for.
 * @param width The length of a whole bar, in characters.
 * @returns A number of `#` in proportion to `value`. At least one if it is not
 * 0.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatBar(25, 100, 8), "##");
 * ```
 */
export function formatBar(value: number, largest: number, width = 30): string {
  if (!(value > 0 && largest > 0)) return "";
  const part = Math.min(value / largest, 1);
  return "#".repeat(Math.max(Math.round(part * width), 1));
}
