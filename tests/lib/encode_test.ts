import { assertEquals } from "@std/assert";
import { encode } from "../../lib/encode.ts";

Deno.test("encode() makes UTF-8", () => {
  assertEquals(encode(""), new Uint8Array());
  assertEquals([...encode("a\0é😀")], [
    ...[0x61, 0, 0xc3, 0xa9],
    ...[0xf0, 0x9f, 0x98, 0x80],
  ]);
  // Half of a pair is no character: U+FFFD stands for it.
  assertEquals([...encode("\ud83d")], [0xef, 0xbf, 0xbd]);
});
