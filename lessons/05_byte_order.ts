/**
 * @title Byte order: numbers in memory and on the wire
 * @difficulty beginner
 * @tags byte order, htons, htonl, sockaddr_in, libc
 * @run deno run --allow-ffi lessons/05_byte_order.ts
 * @resource {https://man7.org/linux/man-pages/man3/byteorder.3.html} byteorder(3): htons, htonl, ntohs, ntohl
 * @resource {https://man7.org/linux/man-pages/man3/inet_pton.3.html} inet_pton(3)
 * @resource {https://man7.org/linux/man-pages/man7/ip.7.html} ip(7): struct sockaddr_in
 * @resource {https://www.rfc-editor.org/rfc/rfc1700} RFC 1700: data notation, most significant octet first
 * @see 04_partial_write.ts
 * @see 06_udp_echo.ts
 *
 * A number that needs more than one byte can lie in memory with either end
 * first. Hosts differ in that; the network does not: the most significant byte
 * comes first ("big-endian"). So a program in C calls `htons` for each port and
 * `htonl` for each address that it hands to the kernel, and forgets it once in
 * its life. Numbers to look at can be given: `05_byte_order.ts 80 0xc0a80001`.
 *
 * In the tutorial: the section "主机字节序和网络字节序", and every `htons(9527)`.
 *
 * What the tutorial's programs get wrong: `htons((short)atoi(argv[1]))` makes a
 * port of any text, 0 of `http` and 4464 of `70000`; and `inet_addr` takes
 * `1.2` for 1.0.0.2 and `010.0.0.1` for 8.0.0.1, and says -1 for an error,
 * which is also 255.255.255.255. `lib/byte_order.ts` has none of this: it takes
 * one form of an address, and throws for any other.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `htons`, `htonl`, `inetPton` | none: they only move bytes |
 * | `socket.bind`, `socket.getsockname` | `socket`, `bind`, `getsockname` |
 *
 * In Deno you never call `htons`: ports are numbers, addresses are text. What
 * needs it is your own protocol; `DataView` is the tool (its methods take the
 * most significant byte first unless told otherwise), as lesson 10 shows.
 *
 * Try it:
 * - `05_byte_order.ts 256 1`: each is the other one, the wrong way round.
 * - `printf x | strace -e trace=network nc -u -w1 127.0.0.1 9527`: it shows `htons(9527)`, for 0x3725 is what the kernel really gets.
 *
 * What is still missing: what is done with an address. Lesson 06 sends to one,
 * without a connection.
 *
 * @module
 */

import { htonl, htons, inetNtop, inetPton } from "../lib/byte_order.ts";
import {
  mode,
  quietOption,
  runLesson,
  UsageError,
} from "../lib/command_line.ts";
import { openLibc, SOCK_DGRAM } from "../lib/libc_socket.ts";
import { formatTable } from "../lib/table.ts";

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** The numbers to look at, in decimal or with 0x. */
  args: string[];
  /** Gets each table. */
  print: (text: string) => void;
}

/** Shows numbers, an address and a `sockaddr_in`, byte by byte. */
export function demo({ args, print }: DemoOptions): void {
  const numbers = (args.length > 0 ? args : ["9527", "0x12345678"])
    .map(parseNumber);
  using libc = openLibc();

  // Not assumed: a number of two bytes is laid down, and its first one read.
  const [first] = new Uint8Array(new Uint16Array([0x0102]).buffer);
  const order = first === 0x02 ? "little-endian" : "big-endian";
  print(`This host is ${order}: of 0x0102 the byte 0${first} comes first.\n`);

  print(formatTable(
    ["number", "hexadecimal", "in memory", "on the wire", "", "returns"],
    numbers.map((number) => {
      const isShort = number <= 0xffff;
      const digits = isShort ? 4 : 8;
      const memory = isShort
        ? new Uint16Array([number])
        : new Uint32Array([number]);
      const wire = new DataView(new ArrayBuffer(memory.byteLength));
      if (isShort) wire.setUint16(0, number);
      else wire.setUint32(0, number);
      return [
        number,
        hex(number, digits),
        bytes(memory),
        bytes(wire),
        isShort ? "htons" : "htonl",
        hex(isShort ? htons(number) : htonl(number), digits),
      ];
    }),
  ));

  const address = inetPton("127.0.0.1");
  const value = new DataView(address.buffer).getUint32(0);
  const [sAddr] = new Uint32Array(address.buffer);
  print(`
127.0.0.1 is the bytes ${bytes(address)} in this order, wherever they lie.
Read with the most significant first they are ${value} (${hex(value, 8)});
read as this host reads its own numbers, as s_addr, they are ${hex(sAddr, 8)}.
`);

  using socket = libc.socket(SOCK_DGRAM);
  socket.bind({ hostname: "127.0.0.1", port: 0 }); // The kernel finds a port.
  const name = socket.getsocknameBytes();
  const [family] = new Uint16Array(name.buffer);
  const port = new DataView(name.buffer).getUint16(2);
  print("A struct sockaddr_in as getsockname(2) returns it:");
  print(formatTable(["offset", "field", "bytes", "value"], [
    [0, "sin_family", bytes(name.subarray(0, 2)), `${family}, host byte order`],
    [2, "sin_port", bytes(name.subarray(2, 4)), `${port}, network byte order`],
    [4, "sin_addr", bytes(name.subarray(4, 8)), inetNtop(name.subarray(4, 8))],
    [8, "sin_zero", bytes(name.subarray(8)), "nothing"],
  ]));
}

/** Decimal or 0x, and no more than 32 bits. */
function parseNumber(text: string): number {
  const number = Number(text);
  if (!/^([0-9]+|0x[0-9a-f]+)$/i.test(text) || number > 0xffffffff) {
    throw new UsageError(
      "NUMBER must be an integer from 0 to 4294967295, in decimal or with 0x," +
        ` got ${JSON.stringify(text)}`,
    );
  }
  return number;
}

function hex(number: number, digits: number): string {
  return "0x" + number.toString(16).padStart(digits, "0");
}

/** The bytes of a view, in the order in which they lie in memory. */
function bytes({ buffer, byteOffset, byteLength }: ArrayBufferView): string {
  const view = new Uint8Array(buffer, byteOffset, byteLength);
  return Array.from(view, (it) => it.toString(16).padStart(2, "0")).join(" ");
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Byte order: numbers in memory and on the wire",
    modes: {
      demo: mode({
        help: "numbers, an address, a sockaddr_in, byte by byte",
        flags: ["--allow-ffi"],
        options: quietOption,
        operands: "NUMBER",
        run: demo,
      }),
    },
  });
}
