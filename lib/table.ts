/**
 * Tables for a terminal or a pipe.
 *
 * @module
 */

import { bold } from "@std/fmt/colors";

/** Options of {@linkcode formatTable}; the default suits standard output. */
export interface TableOptions {
  /** Whether the head is bold. */
  color?: boolean;
}

/**
 * Formats a table: text to the left of its column, numbers to the right.
 *
 * @param head The names of the columns.
 * @param rows The cells, in ASCII.
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
  options: TableOptions = {},
): string {
  const { color = Deno.stdout.isTerminal() && !Deno.noColor } = options;
  const widths = head.map((name, column) =>
    Math.max(name.length, ...rows.map((row) => String(row[column]).length))
  );
  const isNumeric = head.map((_, column) =>
    rows.length > 0 && rows.every((row) => typeof row[column] === "number")
  );
  const line = (cells: (string | number)[]) =>
    cells.map((cell, column) =>
      isNumeric[column]
        ? String(cell).padStart(widths[column])
        : String(cell).padEnd(widths[column])
    ).join("  ").trimEnd();
  const title = line(head);
  return [color ? bold(title) : title, ...rows.map(line)].join("\n");
}

/**
 * Draws a number as a bar, for the last column of a table.
 *
 * @param value The number, from 0.
 * @param largest What a whole bar stands for.
 * @param width The length of a whole bar, in characters.
 * @returns As many `#` as are in proportion; at least one, if it is not 0.
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
