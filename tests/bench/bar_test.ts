import { assertEquals } from "@std/assert";
import { formatBar } from "./bar.ts";

Deno.test("formatBar() draws in proportion, and never too much", () => {
  assertEquals(formatBar(50, 100, 10), "#####");
  assertEquals(formatBar(100, 100, 10), "##########");
  assertEquals(formatBar(1, 100, 10), "#"); // Something is not nothing.
  assertEquals(formatBar(200, 100, 10), "##########");
  for (const [value, largest] of [[0, 9], [-1, 9], [NaN, 9], [0, 0], [1, 0]]) {
    assertEquals(formatBar(value, largest), "");
  }
});
