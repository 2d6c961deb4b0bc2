/**
 * @title Byte order: numbers in memory and on the wire
 * @difficulty beginner
 * @tags byte order, htons, htonl, sockaddr_in, libc
 * @run deno run --allow-ffi lessons/05_byte_order.ts
 * @resource {https://man7.org/linux/man-pages/man3/byteorder.3.html} byteorder(3): htons, htonl, ntohs, ntohl
 * @see 03_addresses.ts
 * @see README.md, "05 Byte order"
 *
 * A number of several bytes can lie in memory in two ways: little-endian hosts
 * put the least significant byte first, big-endian hosts the most significant
 * one. The network needs one order for all hosts, which is big-endian. So a
 * program in C calls `htons` for each port and `htonl` for each address that it
 * gives to the kernel.
 *
 * What they return means nothing as a number; only its bytes count, which lie
 * in the order of the wire. The tables show that byte by byte, at last in the
 * kernel's own `struct sockaddr_in`, where both orders stand side by side: the
 * family is in host byte order, but port and address are in network byte order.
 * In Deno you never call `htons`, because ports are numbers there, and
 * addresses are text. Only a protocol of your own has bytes to put in order.
 * `DataView` does that, and it is big-endian unless told otherwise (lesson 10).
 *
 * @module
 */

import { htonl, htons, inetNtop, inetPton } from "../lib/byte_order.ts";
import { UsageError } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { openLibc, SOCK_DGRAM } from "../lib/lab/libc_socket.ts";

/** Shows numbers, an address and a `sockaddr_in`, byte by byte. */
export function demo({
  operands = [] as string[],
  print = console.log,
} = {}): void {
  const numbers = (operands.length > 0 ? operands : ["9527", "0x12345678"])
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
  await runLesson(import.meta.url, {
    demo: {
      help: "numbers, an address, a sockaddr_in, byte by byte",
      options: {},
      operands: "NUMBER...",
      run: demo,
    },
  });
}
