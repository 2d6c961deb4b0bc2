/**
 * Byte order, and IPv4 addresses in text and bytes: `byteorder(3)`,
 * `inet_pton(3)`. This module imports nothing.
 *
 * @module
 */

/**
 * Converts a 16-bit number from host to network byte order.
 *
 * @param hostshort An integer from 0 to 65535.
 * @returns The number whose bytes in this host's memory are those of
 * `hostshort` with the most significant one first.
 * @throws {RangeError} If it is not such an integer.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const memory = new Uint8Array(new Uint16Array([htons(9527)]).buffer);
 * assertEquals(memory, new Uint8Array([0x25, 0x37]));
 * ```
 */
export function htons(hostshort: number): number {
  checkUnsigned(hostshort, 16);
  // Written in this host's order, read with the most significant byte first.
  return new DataView(new Uint16Array([hostshort]).buffer).getUint16(0);
}

/**
 * Converts a 32-bit number from host to network byte order.
 *
 * @param hostlong An integer from 0 to 4294967295.
 * @returns The number whose bytes in this host's memory are those of
 * `hostlong` with the most significant one first: unsigned, as `uint32_t` is.
 * @throws {RangeError} If it is not such an integer.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const memory = new Uint8Array(new Uint32Array([htonl(0x7f000001)]).buffer);
 * assertEquals(memory, new Uint8Array([127, 0, 0, 1]));
 * ```
 */
export function htonl(hostlong: number): number {
  checkUnsigned(hostlong, 32);
  return new DataView(new Uint32Array([hostlong]).buffer).getUint32(0);
}

/**
 * Converts an IPv4 address from text to its bytes in network byte order. As
 * strict as `inet_pton(3)`: four decimal numbers, no leading zeros (`inet_addr`
 * reads them as octal), no short forms, no spaces.
 *
 * @param text The address in dotted decimal.
 * @returns Its four bytes.
 * @throws {SyntaxError} If it is not such an address.
 *
 * @example
 * ```ts
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * assertEquals(inetPton("127.0.0.1"), new Uint8Array([127, 0, 0, 1]));
 * assertThrows(() => inetPton("127.1"), SyntaxError);
 * ```
 */
export function inetPton(text: string): Uint8Array<ArrayBuffer> {
  const octets = text.split(".");
  const isOctet = (it: string) => /^(0|[1-9]\d{0,2})$/.test(it) && +it <= 255;
  if (octets.length !== 4 || !octets.every(isOctet)) {
    throw new SyntaxError(`Not an IPv4 address: ${JSON.stringify(text)}`);
  }
  return Uint8Array.from(octets, Number);
}

/**
 * Converts an IPv4 address from its bytes in network byte order to text.
 *
 * @param bytes The four bytes.
 * @returns The address in dotted decimal.
 * @throws {RangeError} If they are not four.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(inetNtop(new Uint8Array([127, 0, 0, 1])), "127.0.0.1");
 * ```
 */
export function inetNtop(bytes: Uint8Array): string {
  if (bytes.length !== 4) {
    throw new RangeError(`An IPv4 address has 4 bytes, got ${bytes.length}`);
  }
  return bytes.join(".");
}

function checkUnsigned(number: number, bits: number): void {
  if (!Number.isInteger(number) || number < 0 || number >= 2 ** bits) {
    throw new RangeError(
      `Expected an integer from 0 to ${2 ** bits - 1}, got ${number}`,
    );
  }
}
