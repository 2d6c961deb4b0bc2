/**
 * The lines that somebody types.
 *
 * @module
 */

import { encode } from "./encode.ts";
import { writeFull } from "./full_io.ts";
import { readLines } from "./lines.ts";

/** Lines of bytes, as an array has them, or as they come. */
export type Lines =
  | Iterable<Uint8Array<ArrayBuffer>>
  | AsyncIterable<Uint8Array<ArrayBuffer>>;

/** Read by all that ask, so that one goes on where another one has stopped. */
const standardInput = readLines({
  read: (p) =>
    Deno.stdin.read(p).catch((error) => {
      throw new Error("read stdin", { cause: error });
    }),
}, { maxLength: Infinity }); // Whoever types it may do so.

/**
 * The lines of standard input, up to the tutorial's word for "enough": a line
 * that is only `q` or `Q`. On a terminal there is a prompt for each line.
 *
 * @param prompt The text of the prompt.
 * @returns The lines, each with its newline. To ask again goes on after the `q`.
 * @throws {Error} `read stdin`, with the system's error as its `cause`.
 *
 * @example
 * ```ts no-assert
 * async function greet() {
 *   for await (const line of askLines("Your name: ")) {
 *     await Deno.stdout.write(line);
 *   }
 * }
 * ```
 */
export async function* askLines(prompt: string): Lines {
  const isAsked = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
  while (true) {
    if (isAsked) await writeFull(Deno.stdout, encode(prompt));
    const { value: line } = await standardInput.next();
    // What comes next does not belong behind the prompt.
    if (isAsked && line?.at(-1) !== 0x0a) {
      await writeFull(Deno.stdout, encode("\n"));
    }
    if (!line || isQuit(line)) return;
    yield line;
  }
}

function isQuit(line: Uint8Array): boolean {
  return /^q\n?$/i.test(new TextDecoder().decode(line.subarray(0, 3)));
}
