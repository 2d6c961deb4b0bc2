import { assert, assertEquals } from "@std/assert";
import { formatBar, formatTable } from "../lib/table.ts";

Deno.test("formatTable() aligns text left and numbers right", () => {
  assertEquals(
    formatTable(["write", "offered", "accepted"], [
      [1, 67108864, 3919467],
      [2, 63189397, "waiting"],
    ], { color: false }),
    [
      "write   offered  accepted",
      "    1  67108864  3919467",
      "    2  63189397  waiting",
    ].join("\n"),
  );
});

Deno.test("formatTable() leaves no spaces at the ends of lines", () => {
  const table = formatTable(["a", "long head"], [["long cell", ""], ["", "x"]]);
  for (const line of table.split("\n")) assertEquals(line, line.trimEnd());
});

Deno.test("formatTable() formats a table without rows", () => {
  assertEquals(formatTable(["a", "b"], [], { color: false }), "a  b");
});

Deno.test("formatTable() makes only the head bold", () => {
  const [head, row] = formatTable(["a"], [["b"]], { color: true }).split("\n");
  assertEquals([head, row], ["\x1b[1ma\x1b[22m", "b"]);
  assert(!formatTable(["a"], [["b"]]).includes("\x1b"), "in a pipe");
});

Deno.test("formatBar() draws in proportion, and never too much", () => {
  assertEquals(formatBar(50, 100, 10), "#####");
  assertEquals(formatBar(100, 100, 10), "##########");
  assertEquals(formatBar(1, 100, 10), "#"); // Something is not nothing.
  assertEquals(formatBar(200, 100, 10), "##########");
  for (const [value, largest] of [[0, 9], [-1, 9], [NaN, 9], [0, 0], [1, 0]]) {
    assertEquals(formatBar(value, largest), "");
  }
});
