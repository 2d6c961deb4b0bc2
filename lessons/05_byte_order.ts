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
 * A number of several bytes can lie in memory in two ways. Little-endian: the
 * least significant byte comes first. Big-endian: the most significant one
 * does. Each host has its own order, "host byte order". The network has one for
 * all, "network byte order": big-endian. So a program in C calls `htons` for
 * each port and `htonl` for each address that it gives to the kernel. This
 * lesson shows numbers, an address, and the kernel's own `struct sockaddr_in`,
 * byte by byte.
 *
 * What to look at:
 * - `htons` returns a number whose value means nothing in this program. Only
 *   its bytes in memory count: they are in the order of the wire.
 * - An IPv4 address in text has no byte order. `inetPton` makes four bytes of
 *   it, in the order in which they stand in the text.
 * - In a `sockaddr_in` both orders stand side by side: the kernel wants the
 *   family in host byte order, and port and address in network byte order.
 * - In Deno you never call `htons`. Ports are numbers there, and addresses are
 *   text. Only a protocol of your own has bytes to put in order. `DataView` does
 *   that. Its methods are big-endian, unless told otherwise (lesson 10).
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `htons`, `htonl`, `inetPton` | none: they only move bytes |
 * | `libc.socket` | `socket` |
 * | `socket.bind` | `bind` |
 * | `libc.call("getsockname", ...)` | `getsockname` |
 *
 * Try it:
 * - `deno task byte_order 256 1`: on a little-endian host the bytes of each
 *   number in the wrong order are the other number.
 * - `deno task byte_order 80 0xc0a80001`: a port, and the address 192.168.0.1.
 * - `strace -f -e trace=getsockname deno run --allow-ffi lessons/05_byte_order.ts`:
 *   strace writes the port as `htons(...)`, since in memory it lies in network
 *   byte order. The number in it is the one in the last table.
 *
 * In the tutorial this is the section "主机字节序和网络字节序", and every
 * `htons(9527)`. What its programs get wrong:
 * - `htons((short)atoi(argv[1]))` takes any text as a port: `http` is port 0,
 *   and `70000` is port 4464.
 * - `inet_addr` reads `1.2` as 1.0.0.2, and `010.0.0.1` as 8.0.0.1. It returns
 *   -1 for an error, which is also the address 255.255.255.255. `inetPton` in
 *   `lib/byte_order.ts` takes one form of an address, and throws for any other.
 *
 * What is still missing: this lesson only looks at addresses. Lesson 06 sends
 * to one, without a connection.
 *
 * @module
 */

import { htonl, htons, inetNtop, inetPton } from "../lib/byte_order.ts";
import { UsageError } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { openLibc, SOCK_DGRAM } from "../lib/libc_socket.ts";

/** Shows numbers, an address and a `sockaddr_in`, byte by byte. */
export function demo({
  args = [] as string[],
  print = console.log as (text: string) => unknown,
} = {}): void {
  const numbers = (args.length > 0 ? args : ["9527", "0x12345678"])
    .map(parseNumber);
  using libc = openLibc();

  // Not assumed: it writes a number of two bytes, and reads the first byte.
  const [first] = new Uint8Array(new Uint16Array([0x0102]).buffer);
  const order = first === 0x02 ? "little-endian" : "big-endian";
  print(`This host is ${order}: of 0x0102 the byte 0${first} comes first.\n`);

  print(formatTable(
    ["number", "hexadecimal", "in memory", "on the wire", "call", "returns"],
    numbers.map((number) => {
      // A port has 16 bits, an address 32.
      const isShort = number <= 0xffff;
      const Ints = isShort ? Uint16Array : Uint32Array;
      const swap = isShort ? htons : htonl;
      const digits = isShort ? 4 : 8;
      return [
        number,
        hex(number, digits),
        bytes(new Ints([number])),
        bytes(new Ints([swap(number)])),
        swap.name,
        hex(swap(number), digits),
      ];
    }),
  ));

  const address = inetPton("127.0.0.1");
  const value = new DataView(address.buffer).getUint32(0);
  const sAddr = new Uint32Array(address.buffer)[0]!;
  print(`
127.0.0.1 is the bytes ${bytes(address)} in this order, wherever they lie.
Read with the most significant first they are ${value} (${hex(value, 8)});
read as this host reads its own numbers, as s_addr, they are ${hex(sAddr, 8)}.
`);

  using socket = libc.socket(SOCK_DGRAM);
  socket.bind({ hostname: "127.0.0.1", port: 0 }); // The kernel finds a port.
  const name = new Uint8Array(16); // The size of a struct sockaddr_in.
  libc.call("getsockname", socket.fd, name, new Uint32Array([name.length]));
  const [family] = new Uint16Array(name.buffer);
  const port = new DataView(name.buffer).getUint16(2);
  const field = (from: number, to: number) => bytes(name.subarray(from, to));
  print("A struct sockaddr_in as getsockname(2) returns it:");
  print(formatTable(["offset", "field", "bytes", "byte order", "value"], [
    [0, "sin_family", field(0, 2), "host", `${family}`],
    [2, "sin_port", field(2, 4), "network", `${port}`],
    [4, "sin_addr", field(4, 8), "network", inetNtop(name.subarray(4, 8))],
    [8, "sin_zero", field(8, 16), "-", "-"],
  ]));
}

/** Decimal or 0x, and no more than 32 bits. */
function parseNumber(text: string): number {
  const number = Number(text);
  if (/^([0-9]+|0x[0-9a-f]+)$/i.test(text) && number <= 0xffffffff) {
    return number;
  }
  throw new UsageError(
    "NUMBER must be an integer from 0 to 4294967295, in decimal or with 0x," +
      ` got ${JSON.stringify(text)}`,
  );
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
  const title = "Byte order: numbers in memory and on the wire";

  await runLesson(import.meta.url, title, {
    demo: {
      help: "numbers, an address, a sockaddr_in, byte by byte",
      flags: ["--allow-ffi"],
      options: {},
      operands: "NUMBER...",
      run: demo,
    },
  });
}
