/**
 * Lines of bytes. The input need not be text.
 *
 * @module
 */

import { MAX_EMPTY_READS, type Reader, writeFull } from "./full_io.ts";

const LINE_FEED = 0x0a;
/** How long to wait for a first line, in milliseconds. */
const FIRST_LINE_WAIT = 200;

/**
 * Reads lines of any length.
 *
 * @param reader Where they come from.
 * @returns Each line with its newline; the last one may have none.
 * @throws {Error} If the reader returns 0 bytes 100 times in a row.
 * @throws The reader's own errors.
 *
 * @example The last line needs no newline
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const chunks = ["one\ntw", "o"].map((text) => new TextEncoder().encode(text));
 * const reader = {
 *   read(p: Uint8Array) {
 *     const chunk = chunks.shift();
 *     if (chunk !== undefined) p.set(chunk);
 *     return Promise.resolve(chunk?.length ?? null);
 *   },
 * };
 * const lines = await Array.fromAsync(readLines(reader));
 * assertEquals(lines[0], new TextEncoder().encode("one\n"));
 * assertEquals(lines[1], new TextEncoder().encode("two"));
 * ```
 */
export async function* readLines(
  reader: Reader,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
  const buffer = new Uint8Array(64 * 1024);
  let begun: Uint8Array<ArrayBuffer>[] = []; // A line that is not whole yet.
  let emptyReads = 0;
  for (let count; (count = await reader.read(buffer)) !== null;) {
    emptyReads = count === 0 ? emptyReads + 1 : 0;
    if (emptyReads === MAX_EMPTY_READS) {
      throw new Error(`Reader made no progress in ${MAX_EMPTY_READS} reads`);
    }
    // A copy: the next read must not change lines that were given out.
    let rest = buffer.slice(0, count);
    for (let end; (end = rest.indexOf(LINE_FEED) + 1) > 0;) {
      yield await join([...begun, rest.subarray(0, end)]);
      begun = [];
      rest = rest.subarray(end);
    }
    if (rest.length > 0) begun.push(rest);
  }
  if (begun.length > 0) yield await join(begun);
}

async function join(pieces: Uint8Array<ArrayBuffer>[]) {
  return pieces.length === 1 ? pieces[0]! : await new Blob(pieces).bytes();
}

/** Lines of bytes, as an array has them, or as they come. */
export type Lines =
  | Iterable<Uint8Array<ArrayBuffer>>
  | AsyncIterable<Uint8Array<ArrayBuffer>>;

const standardInput = readLines({
  read: (p) =>
    Deno.stdin.read(p).catch((error) => {
      throw new Error("read stdin", { cause: error });
    }),
});
/** A line that was asked for, and was not taken yet. */
let ahead: ReturnType<typeof standardInput.next> | undefined;

/**
 * The lines of standard input, up to the tutorial's word for "enough": a line
 * that is only `q` or `Q`. On a terminal there is a prompt for each line.
 *
 * @param prompt The text of the prompt.
 * @param ready What to wait for before each prompt.
 * @returns The lines, each with its newline. To iterate again goes on after the
 * `q`.
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
export function askLines(
  prompt: string,
  ready: () => Promise<unknown> | undefined = () => undefined,
): Lines {
  const isAsked = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
  const print = (text: string) =>
    writeFull(Deno.stdout, new TextEncoder().encode(text));
  return {
    async *[Symbol.asyncIterator]() {
      for (;;) {
        if (isAsked) {
          await ready();
          await print(prompt);
        }
        const { value: line } = await (ahead ?? standardInput.next());
        ahead = undefined;
        // What comes next does not belong after the prompt.
        if (isAsked && line?.at(-1) !== LINE_FEED) await print("\n");
        if (!line || isQuit(line)) return;
        yield line;
      }
    },
  };
}

/**
 * Says whether there is input: a terminal, or a standard input that has a line
 * within 200 ms. If there is none, a read stays under way: it gets what comes
 * later, and it keeps the process alive until standard input ends.
 *
 * @returns Whether to read standard input.
 *
 * @example
 * ```ts no-assert
 * const lines = await hasInput() ? askLines("Your name: ") : [];
 * ```
 */
export async function hasInput(): Promise<boolean> {
  if (Deno.stdin.isTerminal()) return true;
  ahead ??= standardInput.next();
  const late = Promise.withResolvers<{ done: true }>();
  const timer = setTimeout(late.resolve, FIRST_LINE_WAIT, { done: true });
  const { done } = await Promise.race([ahead, late.promise]);
  clearTimeout(timer);
  return !done;
}

function isQuit(line: Uint8Array): boolean {
  return /^q\n?$/i.test(new TextDecoder().decode(line.subarray(0, 3)));
}
