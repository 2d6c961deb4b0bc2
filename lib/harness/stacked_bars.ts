/**
 * Bars of several parts, for a terminal or a pipe.
 *
 * @module
 */

import { formatTable } from "./table.ts";

/** What the parts are drawn with, in their order. */
const CHARACTERS = ".#=+*";
/** How many columns a bar takes. */
const WIDTH = 26;

/**
 * Draws a bar for each row: its parts one after the other, to scale, and the
 * numbers behind it.
 *
 * @param names What the parts are, at most five.
 * @param rows What each bar is about, and how large its parts are: in any unit,
 * none below 0, not all 0.
 * @param options What suits standard output, as {@linkcode formatTable} takes it.
 * @returns The lines of a table, joined by newlines.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const bars = stackedBars(["to do", "done"], [
 *   ["before", 13, 0],
 *   ["after", 3.25, 9.75],
 * ], { color: false });
 * assertEquals(bars.split("\n"), [
 *   "                                    . to do  # done",
 *   "before  ..........................     13.0     0.0",
 *   "after   .......###################      3.3     9.8",
 * ]);
 * ```
 */
export function stackedBars(
  names: string[],
  rows: [about: string, ...parts: number[]][],
  options?: Parameters<typeof formatTable>[2],
): string {
  const head = names.map((name, i) => `${CHARACTERS[i]} ${name}`);
  return formatTable(
    ["", "", ...head],
    rows.map(([about, ...parts]) => [
      about,
      barOf(parts),
      ...parts.map((part, i) => part.toFixed(1).padStart(head[i]!.length)),
    ]),
    options,
  );
}

function barOf(parts: number[]): string {
  const total = parts.reduce((sum, part) => sum + part, 0);
  let [sum, bar] = [0, ""];
  for (const [i, part] of parts.entries()) {
    sum += part;
    bar = bar.padEnd(Math.round(sum / total * WIDTH), CHARACTERS[i]);
  }
  return bar;
}
