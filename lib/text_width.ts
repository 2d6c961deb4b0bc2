/**
 * Text in the columns of a terminal.
 * This module imports nothing.
 *
 * @module
 */

/** Where each character takes two columns: East Asian scripts, and emoji. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}\p{Emoji_Presentation}]/u;

/**
 * Says how many columns a text takes on a terminal.
 *
 * @param text One line, without escapes for color.
 * @returns Two columns for a wide character, none for one that is a mark above
 * or below another.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(widthOf("你好!"), 5);
 * ```
 */
export function widthOf(text: string): number {
  let width = 0;
  for (const character of text) {
    width += WIDE.test(character) ? 2 : /\p{M}/u.test(character) ? 0 : 1;
  }
  return width;
}

/**
 * Fills a text up with spaces.
 *
 * @param text One line, without escapes for color.
 * @param width How many columns it takes at least.
 * @returns The text and the spaces.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(padText("你好", 6), "你好  ");
 * ```
 */
export function padText(text: string, width: number): string {
  return text + " ".repeat(Math.max(width - widthOf(text), 0));
}

/** What stays in one line if it fits: also four bytes, as `00 00 00 01`. */
const WORDS =
  /(?:[0-9a-f]{2} ){3}[0-9a-f]{2}\b|"(?:\\.|[^"\\])*"\S*|(?:\d+ of )?\d+ bytes?\b|\S+/g;

/**
 * Breaks text at spaces, but not within quotes, nor between a number and its
 * `bytes`. What is longer than a line is broken anywhere, but not in the middle
 * of an escape like `\x00`.
 *
 * @param text The text; spaces in a row count as one.
 * @param width How many columns a line may take.
 * @returns The lines, at least one.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(wrapText('read 5 bytes "a b c"', 12), ["read 5 bytes", '"a b c"']);
 * ```
 */
export function wrapText(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const [word] of text.matchAll(WORDS)) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (widthOf(longer) <= width) {
      line = longer;
      continue;
    }
    if (line !== "") lines.push(line);
    line = "";
    for (const [piece] of word.matchAll(/\\x[0-9a-f]{2}|\\.|\.{3}|./gu)) {
      if (widthOf(line + piece) > width) {
        lines.push(line);
        line = "";
      }
      line += piece;
    }
  }
  return [...lines, line];
}

/**
 * Shortens a text that is too wide.
 *
 * @param text One line, without escapes for color.
 * @param width How many columns it may take, at least 3.
 * @returns The text, or its beginning and `...`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(cutText("from server", 11), "from server");
 * assertEquals(cutText("from server 你好", 14), "from server...");
 * ```
 */
export function cutText(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  let cut = "";
  for (const character of text) {
    if (widthOf(cut + character) > width - 3) break;
    cut += character;
  }
  return `${cut.trimEnd()}...`;
}

/**
 * Breaks a line that is too wide. The lines that follow are indented by two columns
 * more than the first.
 *
 * @param line One line, without escapes for color.
 * @param width How many columns it may take.
 * @returns The lines, at least one.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(foldText("  #1 127.0.0.1:80 LISTEN", 20), ["  #1 127.0.0.1:80", "    LISTEN"]);
 * ```
 */
export function foldText(line: string, width: number): string[] {
  if (widthOf(line) <= width) return [line];
  const [indent = ""] = line.match(/^[> ]*/) ?? [];
  const more = " ".repeat(indent.length + 2);
  return wrapText(line.slice(indent.length), Math.max(width - more.length, 1))
    .map((text, i) => `${i === 0 ? indent : more}${text}`);
}
