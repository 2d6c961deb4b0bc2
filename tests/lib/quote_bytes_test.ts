import { assertEquals } from "@std/assert";
import { quoteBytes } from "../../lib/quote_bytes.ts";

Deno.test("quoteBytes() shows text as text, and all else as escapes", () => {
  const quote = (text: string) => quoteBytes(new TextEncoder().encode(text));
  assertEquals(quote(""), '""');
  assertEquals(quote('a"b\\c\n'), '"a\\"b\\\\c\\n"');
  assertEquals(quote("\0\x1b\x7f~ "), '"\\x00\\x1b\\x7f~ "');
  assertEquals(quote("好😀é"), '"好😀é"');
  // What turns text around, hides it, or breaks a line.
  assertEquals(quote("\u202e"), '"\\xe2\\x80\\xae"');
  assertEquals(quote("\u2028\u0085"), '"\\xe2\\x80\\xa8\\xc2\\x85"');
  assertEquals(quote("\ufeff"), '"\\xef\\xbb\\xbf"');
  const bytes = (...data: number[]) => quoteBytes(new Uint8Array(data));
  assertEquals(bytes(0xff, 0xc3, 0x28, 0xe5, 0xa5), '"\\xff\\xc3(\\xe5\\xa5"');
  assertEquals(bytes(0xc0, 0x80, 0xed, 0xa0, 0x80).length, 22);
});

Deno.test("quoteBytes() shows as many bytes as it is told, and whole characters", () => {
  const quote = (text: string, most?: number) =>
    quoteBytes(new TextEncoder().encode(text), most);
  assertEquals(quote("0123456789abcdef"), '"0123456789abcdef"');
  assertEquals(quote("0123456789abcdefg"), '"0123456789abcdef"...');
  assertEquals(quote("你好", 5), '"你"...');
  assertEquals(quote("你好", 6), '"你好"');
  assertEquals(quote("x".repeat(1e6), 1), '"x"...');
});
