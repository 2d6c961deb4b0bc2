import { assertEquals } from "@std/assert";
import { stackedBars } from "../../lib/harness/stacked_bars.ts";

/** The bars, and the numbers behind them. */
function barsOf(rows: [string, ...number[]][]): string[][] {
  return stackedBars(["a", "b", "c"], rows, { color: false }).split("\n")
    .slice(1).map((line) => line.split(/ +/).slice(1));
}

Deno.test("stackedBars() draws all bars equally long, and their parts to scale", () => {
  assertEquals(
    barsOf([
      ["all", 26, 0, 0],
      ["half", 13, 0, 13],
      ["thirds", 2, 2, 2],
      ["little", 100, 1, 0],
      ["last", 0, 0, 0.5],
    ]),
    [
      [".".repeat(26), "26.0", "0.0", "0.0"],
      [".".repeat(13) + "=".repeat(13), "13.0", "0.0", "13.0"],
      [".".repeat(9) + "#".repeat(8) + "=".repeat(9), "2.0", "2.0", "2.0"],
      [".".repeat(26), "100.0", "1.0", "0.0"],
      ["=".repeat(26), "0.0", "0.0", "0.5"],
    ],
  );
});
