import { assertEquals } from "@std/assert";
import {
  describeError,
  formatAddress,
  outcomeOf,
  quoteBytes,
} from "../../lib/describe.ts";

Deno.test("formatAddress() puts IPv6 addresses in brackets, once", () => {
  const format = (hostname: string) => formatAddress({ hostname, port: 9527 });
  assertEquals(format("127.0.0.1"), "127.0.0.1:9527");
  assertEquals(format("localhost"), "localhost:9527");
  assertEquals(format("::"), "[::]:9527");
  assertEquals(format("[::1]"), "[::1]:9527");
});

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

Deno.test("describeError() makes one line without numbers of errors", () => {
  const error = (message: string, code?: unknown) =>
    Object.assign(new Error(message), { code });
  assertEquals(
    describeError(error("Connection refused (os error 111)", "ECONNREFUSED")),
    "ECONNREFUSED (Connection refused)",
  );
  assertEquals(describeError(error("a\n  b")), "a b");
  assertEquals(describeError(error("a\x1b[31m\0b")), "a [31m b");
  const outer = new Error("connect a\nb:1", { cause: error("no\nway") });
  assertEquals(describeError(outer), "connect a b:1: no way");
  assertEquals(describeError(error("odd", 23)), "odd");
  assertEquals(describeError("text"), "text");
  assertEquals(describeError(new Deno.errors.TimedOut("deadline")), "TimedOut");
  assertEquals(
    describeError(new DOMException("Signal timed out.", "TimeoutError")),
    "TimedOut",
  );
});

const failing = (error: unknown) => () => {
  throw error;
};

Deno.test("outcomeOf() returns what the call returns", async () => {
  assertEquals(await outcomeOf(() => 0), 0);
  assertEquals(await outcomeOf(() => Promise.resolve(null)), null);
  assertEquals(await outcomeOf(() => {}), undefined);
});

Deno.test("outcomeOf() returns the error's code", async () => {
  const reset = Object.assign(new Error("gone"), { code: "ECONNRESET" });
  assertEquals(await outcomeOf(failing(reset)), "ECONNRESET");
  assertEquals(await outcomeOf(() => Promise.reject(reset)), "ECONNRESET");
});

Deno.test("outcomeOf() passes on what is no answer", async () => {
  const cases = [
    new RangeError("a mistake of ours"),
    new DOMException("its code is a number", "TimeoutError"),
    Object.assign(new Error("too many open files"), { code: "EMFILE" }),
    Object.assign(new Error("too many open files"), { code: "ENFILE" }),
    null,
  ];
  for (const error of cases) {
    const thrown = await outcomeOf(failing(error)).then(String, (it) => [it]);
    assertEquals(thrown, [error]);
  }
});
