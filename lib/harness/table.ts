/**
 * Tables for a terminal or a pipe.
 *
 * @module
 */

import { bold } from "@std/fmt/colors";
import { padText, widthOf, wrapText } from "./text_width.ts";

/** Options of {@linkcode formatTable}; the defaults suit standard output. */
export interface TableOptions {
  /** How wide the table may be; what is no terminal has no limit. */
  columns?: number;
  /** Whether the head is bold. */
  color?: boolean;
  /**
   * Whether the head is shown. Without it, rows can follow one by one in a table
   * whose cells are no wider than its head.
   */
  hasHead?: boolean;
}

/**
 * Formats a table: text to the left of its column, numbers to the right. Where
 * it is too wide, it is a list, each cell behind the name of its column.
 *
 * @param head The names of the columns.
 * @param rows The cells.
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
  const isTerminal = Deno.stdout.isTerminal();
  const {
    // A bare pseudo-terminal has 0 columns: as good as unknown.
    columns = isTerminal && Deno.consoleSize().columns || Infinity,
    color = isTerminal && !Deno.noColor,
    hasHead = true,
  } = options;
  const widths = head.map((name, column) =>
    Math.max(widthOf(name), ...rows.map((row) => widthOf(String(row[column]))))
  );
  const width = widths.reduce((sum, it) => sum + it + GAP.length, -GAP.length);
  if (width > columns) return listRows(head, rows, columns).join("\n");

  const isNumeric = head.map((_, column) =>
    rows.length > 0 && rows.every((row) => typeof row[column] === "number")
  );
  const line = (cells: (string | number)[]) =>
    cells.map((cell, column) =>
      padText(
        String(cell),
        widths[column],
        isNumeric[column] ? "right" : "left",
      )
    ).join(GAP).trimEnd();
  const title = line(head);
  const lines = rows.map(line);
  if (hasHead) lines.unshift(color ? bold(title) : title);
  return lines.join("\n");
}

/** What is between two columns. */
const GAP = "  ";

/** One row after the other, each cell behind the name of its column. */
function listRows(
  head: string[],
  rows: (string | number)[][],
  columns: number,
): string[] {
  return rows.flatMap((row) => {
    const cells = row.map((cell, column) =>
      head[column] === "" || cell === ""
        ? `${cell}`
        : `${head[column]}: ${cell}`
    );
    const text = cells.filter((it) => it !== "").join(", ");
    return wrapText(text, Math.max(columns, 20) - 2)
      .map((line, i) => i === 0 ? line : `  ${line}`);
  });
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
