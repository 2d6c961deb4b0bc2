import { assertEquals, assertThrows } from "@std/assert";
import { htonl, htons, inetNtop, inetPton } from "../../lib/byte_order.ts";

const memory16 = (n: number) => new Uint8Array(new Uint16Array([n]).buffer);
const memory32 = (n: number) => new Uint8Array(new Uint32Array([n]).buffer);

Deno.test("htons() puts the most significant byte first in memory", () => {
  for (const n of [0, 1, 0x00ff, 0x0100, 9527, 0x7fff, 0x8000, 0xffff]) {
    assertEquals([...memory16(htons(n))], [n >> 8, n & 255]);
    // Back again, as ntohs(3) does it.
    assertEquals(new DataView(memory16(htons(n)).buffer).getUint16(0), n);
  }
});

Deno.test("htonl() puts the most significant byte first, and stays unsigned", () => {
  for (const n of [0, 1, 0x12345678, 0x7f000001, 0x80000000, 0xffffffff]) {
    const bytes = [24, 16, 8, 0].map((shift) => (n >>> shift) & 255);
    assertEquals([...memory32(htonl(n))], bytes);
    assertEquals(new DataView(memory32(htonl(n)).buffer).getUint32(0), n);
  }
  assertEquals(htonl(0xffffffff), 4294967295);
});

Deno.test("htons() and htonl() refuse what is no such number", () => {
  const bad = [-1, 1.5, NaN, Infinity, -0.5];
  for (const n of [...bad, 2 ** 16]) {
    assertThrows(() => htons(n), RangeError, `${n}`);
  }
  for (const n of [...bad, 2 ** 32]) {
    assertThrows(() => htonl(n), RangeError, `${n}`);
  }
  assertThrows(() => htons("80" as never), RangeError);
});

Deno.test("inetPton() takes dotted decimal and nothing else", () => {
  for (
    const text of ["0.0.0.0", "127.0.0.1", "255.255.255.255", "10.20.30.40"]
  ) {
    assertEquals([...inetPton(text)].join("."), text);
    assertEquals(inetNtop(inetPton(text)), text);
  }
  const bad = ["", "256.1.1.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.00"];
  bad.push(
    " 1.2.3.4",
    "1.2.3.4 ",
    "1.2.3.4\n",
    "1..3.4",
    "a.b.c.d",
    "0x7f.0.0.1",
  );
  bad.push("1.2.3.-4", "1.2.3.4e0", "::1", "١.2.3.4", "+1.2.3.4");
  for (const text of bad) {
    assertThrows(() => inetPton(text), SyntaxError, JSON.stringify(text));
  }
});

Deno.test("inetNtop() takes four bytes", () => {
  for (const length of [0, 3, 5, 16]) {
    assertThrows(() => inetNtop(new Uint8Array(length)), RangeError);
  }
});
