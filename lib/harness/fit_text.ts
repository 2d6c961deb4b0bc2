/**
 * Prose on a terminal that is narrower than it was written for.
 *
 * @module
 */

import { widthOf, wrapText } from "../text_width.ts";

/** What colors a text, and takes no column. */
// deno-lint-ignore no-control-regex
const ESCAPES = /\x1b\[[\d;]*m/g;

/**
 * Breaks lines that are too wide at their spaces. What is left of one goes on in
 * the next line, as in a paragraph, unless this was a title (it ends with a colon
 * or a question mark), or the next line has columns, as a table has.
 *
 * @param text Lines, joined by newlines.
 * @param columns How many columns a line may take.
 * @returns The text. If all lines have room, it is the same.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(
 *   fitText("The limit is in /proc. Asked\nfor more, it is cut.", 24),
 *   "The limit is in /proc.\nAsked for more, it is\ncut.",
 * );
 * ```
 */
export function fitText(text: string, columns: number): string {
  const fitted: string[] = [];
  let left = "";
  for (const written of text.split("\n")) {
    const isNew = left === "" || written === "" || /^ | {2}/.test(written);
    if (isNew && left !== "") fitted.push(left);
    const line = isNew ? written : `${left} ${written}`;
    left = "";
    const plain = line.replaceAll(ESCAPES, "");
    if (widthOf(plain) <= columns) {
      fitted.push(line);
      continue;
    }
    const [indent = ""] = plain.match(/^ */) ?? [];
    const pieces = wrapText(plain, Math.max(columns - indent.length, 1))
      .map((piece) => indent + piece);
    if (indent === "" && !/[:?]$/.test(plain)) left = pieces.pop()!;
    fitted.push(...pieces);
  }
  if (left !== "") fitted.push(left);
  return fitted.join("\n");
}
