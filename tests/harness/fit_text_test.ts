import { assertEquals } from "@std/assert";
import { fitText } from "../../lib/harness/fit_text.ts";

Deno.test("fitText() leaves a text as it is where all lines have room", () => {
  const texts = [
    "",
    "\n",
    "one two\nthree",
    "a  b\n\n  c",
    "\x1b[1ma head, bold\x1b[22m",
    "你好 你好 你",
  ];
  for (const text of texts) assertEquals(fitText(text, 12), text);
});

Deno.test("fitText() lets a line that is too wide go on in the next one", () => {
  const text =
    "The limit is a file. Asked\nfor more, the kernel cuts.\nSo.\n\nNew.";
  assertEquals(
    fitText(text, 20),
    "The limit is a file.\nAsked for more, the\nkernel cuts. So.\n\nNew.",
  );
});

Deno.test("fitText() joins no title, and no table, with what comes next", () => {
  assertEquals(
    fitText("What becomes of it:\nname  value\na     1", 12),
    "What becomes\nof it:\nname  value\na     1",
  );
  assertEquals(
    fitText("Where is it, then?\nHere.", 12),
    "Where is it,\nthen?\nHere.",
  );
  assertEquals(
    fitText("one two three four\nname  value", 14),
    "one two three\nfour\nname  value",
  );
  assertEquals(
    fitText("one two three four\n  five six", 14),
    "one two three\nfour\n  five six",
  );
});

Deno.test("fitText() breaks a word only if a line has no room for it", () => {
  assertEquals(fitText("a 123456789", 5), "a\n12345\n6789");
  assertEquals(fitText("  one two three", 9), "  one two\n  three");
});
