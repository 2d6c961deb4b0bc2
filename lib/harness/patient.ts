/**
 * Output that is written whole, even where somebody has set O_NONBLOCK on it.
 *
 * @module
 */

import type { Writer } from "../full_io.ts";

/** How long to wait before a write is tried again, in milliseconds. */
const PAUSE_OF_WRITES = 10;

/**
 * Makes a writer that waits where another one throws `WouldBlock`: standard
 * output and error are shared with other programs, and one of them may have
 * told the kernel not to wait.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const errors = [new Deno.errors.WouldBlock()];
 * const busy = {
 *   write(p: Uint8Array) {
 *     const error = errors.pop();
 *     return error ? Promise.reject(error) : Promise.resolve(p.length);
 *   },
 * };
 * assertEquals(await patient(busy).write(new Uint8Array(3)), 3);
 * ```
 */
export function patient(output: Writer): Writer {
  return {
    async write(p) {
      for (;;) {
        try {
          return await output.write(p);
        } catch (error) {
          if (!(error instanceof Deno.errors.WouldBlock)) throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSE_OF_WRITES));
      }
    },
  };
}
