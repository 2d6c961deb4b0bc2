/**
 * Text as bytes. This module imports nothing.
 *
 * @module
 */

/**
 * Makes the UTF-8 bytes of a text.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encode("你"), new Uint8Array([0xe4, 0xbd, 0xa0]));
 * ```
 */
export function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}
