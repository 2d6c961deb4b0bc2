import { assertEquals } from "@std/assert";
import { counted } from "../../lib/counted.ts";

Deno.test("counted() has the plural of all numbers but 1", () => {
  const words = [0, 1, 2, 11, 101].map((count) => counted(count, "byte"));
  assertEquals(words, [
    "0 bytes",
    "1 byte",
    "2 bytes",
    "11 bytes",
    "101 bytes",
  ]);
});
