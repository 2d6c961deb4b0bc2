import { assert, assertEquals } from "@std/assert";
import { drawTimeline } from "../../lib/harness/timeline.ts";

Deno.test("drawTimeline() draws marks over spans, and all to scale", () => {
  const rows = [
    { label: "fin", spans: [[0, 4] as [number, number]], marks: marks("F") },
    { label: "a longer one", marks: marks("60") },
  ];
  assertEquals(drawTimeline("seconds", rows, { columns: 55 }).split("\n"), [
    "seconds       0         1         2         3         4",
    "fin           F---------F-------------------F---------|",
    "a longer one  60        60                  60",
  ]);
});

const marks = (text: string) =>
  [0, 1, 3].map((at): [number, string] => [at, text]);

Deno.test("drawTimeline() ends where it is told to, and has room for notes", () => {
  const rows = [
    { label: "none", spans: [[0, 5] as [number, number]] },
    { label: "one", marks: [[5, "end"] as [number, string]], note: "5.0 s" },
  ];
  const lines = drawTimeline("s", rows, { end: 10, columns: 53 }).split("\n");
  assertEquals(lines, [
    "s     0       2       4       6       8      10",
    "none  |-------------------|",
    "one                       end                   5.0 s",
  ]);
});

Deno.test("drawTimeline() keeps to its width whatever the times are", () => {
  for (const end of [0, 0.001, 0.3, 7, 99, 100, 12_345]) {
    const row = {
      label: "wait",
      spans: [[0, end / 3], [end / 3, end]] as [number, number][],
      marks: [[end, "the end"]] as [number, string][],
      note: `${end} ms`,
    };
    const lines = drawTimeline("ms", [row]).split("\n");
    for (const line of lines) assert(line.length <= 80, line);
    assert(lines[1].includes("the end"), lines[1]);
    const numbers = lines[0].split(/ +/).slice(1).map(Number);
    assertEquals(numbers[0], 0);
    assertEquals(numbers, numbers.toSorted((a, b) => a - b));
    assert(numbers.every((it) => it <= Math.max(end, 1)), lines[0]);
  }
});
