/**
 * What is known of the terminal that standard output is, if it is one.
 * This module imports nothing.
 *
 * @module
 */

/**
 * How large the terminal is.
 *
 * @param stream Standard output, or standard error.
 * @returns Its columns and rows. They are `undefined` where the stream is no
 * terminal, and on a bare pseudo-terminal, which says that it has 0 of each.
 */
export function terminalSize(
  stream: { isTerminal(): boolean } = Deno.stdout,
): { columns: number | undefined; rows: number | undefined } {
  const { columns, rows } = stream.isTerminal()
    ? Deno.consoleSize()
    : { columns: 0, rows: 0 };
  return { columns: columns || undefined, rows: rows || undefined };
}

/** Whether standard output is to be in color: on a terminal, without `NO_COLOR`. */
export function isColored(): boolean {
  return Deno.stdout.isTerminal() && !Deno.noColor;
}
