/**
 * Tables for a terminal or a pipe.
 *
 * @module
 */

import { bold } from "@std/fmt/colors";
import { isColored, terminalSize } from "./terminal.ts";
import { widthOf, wrapText } from "../text_width.ts";

/** What `grouped` or `toFixed` may have made of a number. */
const NUMBER = /^-?\d{1,3}(,\d{3})*(\.\d+)?$/;

/**
 * Formats a table: text to the left of its column, numbers to the right, also
 * where they are text as `grouped` and `toFixed` make it. A table that is too
 * wide becomes a list: each cell is in its own line, after its column's name.
 * One that is taller than the terminal has its head at its end as well, because
 * the one at the top is out of sight then.
 *
 * @param head The names of the columns.
 * @param rows The cells.
 * @param options What suits standard output, by default: how many `columns` the
 * terminal has, and how many lines (its `height`), whether it has `color` for the
 * head, and whether the table `hasHead`; further rows of the same table need none.
 * @returns The table, its lines joined by newlines.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const table = formatTable(["call", "bytes"], [["read", 12], ["write", 6]], {
 *   color: false,
 * });
 * assertEquals(table, "call   bytes\nread      12\nwrite      6");
 * ```
 */
export function formatTable(
  head: string[],
  rows: (string | number)[][],
  {
    columns = terminalSize().columns ?? Infinity,
    height = terminalSize().rows ?? Infinity,
    color = isColored(),
    hasHead = true,
  } = {},
): string {
  const table = [head, ...rows].map((cells) => cells.map(String));
  const widths = head.map((_, column) =>
    Math.max(...table.map((cells) => widthOf(cells[column] ?? "")))
  );
  const isNumeric = head.map((_, column) => {
    const cells = rows.map((row) => row[column] ?? "");
    const isNumber = (cell: string | number) => typeof cell === "number";
    // Where all are plain digits they may be names, like those of processes.
    return cells.every((it) => isNumber(it) || NUMBER.test(`${it}`)) &&
      cells.some((it) => isNumber(it) || /[,.]/.test(`${it}`));
  });
  const lines = table.map((cells) =>
    cells.map((cell, column) => {
      const spaces = " ".repeat(widths[column]! - widthOf(cell));
      return isNumeric[column] ? spaces + cell : cell + spaces;
    }).join("  ").trimEnd()
  );
  if (lines.some((line) => widthOf(line) > columns)) {
    const lists = table.slice(1)
      .map((cells) => listCells(head, cells, columns));
    return lists.join("\n\n") + (hasHead ? "" : "\n"); // More will follow.
  }
  if (color) lines[0] = bold(lines[0]!);
  if (hasHead && lines.length >= height) lines.push(lines[0]!);
  return lines.slice(hasHead ? 0 : 1).join("\n");
}

function listCells(head: string[], cells: string[], columns: number): string {
  return cells
    .map((cell, i) => head[i] && cell ? `${head[i]}: ${cell}` : cell)
    .filter((line) => line !== "")
    .map((line) =>
      widthOf(line) <= columns
        ? line
        : wrapText(line, Math.max(columns - 2, 1)).join("\n  ")
    )
    .join("\n");
}
