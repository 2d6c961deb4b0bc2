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
