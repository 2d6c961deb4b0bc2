import { assertEquals } from "@std/assert";
import { describeError, outcomeOf } from "../../lib/error_text.ts";

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
