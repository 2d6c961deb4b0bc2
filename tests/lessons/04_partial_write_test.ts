import { assert, assertEquals, assertMatch } from "@std/assert";
import { LessonProcess, run, tableBehind } from "../testing.ts";

const LESSON = "04_partial_write.ts";
const MIB = 1024 * 1024;
const TOTAL = 64 * MIB;

/** A number with its thousands apart. */
const numberOf = (text: string) => Number(text.replaceAll(",", ""));
const grouped = (count: number) => count.toLocaleString("en-US");

Deno.test("04 shows what write() returns and what follows from it", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);

  const writes = tableBehind(stdout, "Nobody reads.");
  let left = TOTAL;
  for (const [i, [number, offered, accepted]] of writes.entries()) {
    assertEquals([number, offered], [`${i + 1}`, grouped(left)]);
    if (i === writes.length - 1) assertMatch(accepted, /^still waiting/);
    else {
      const count = numberOf(accepted);
      assert(count > 0 && count < left, accepted);
      left -= count;
    }
  }
  assert(writes.length > 1, "no write was accepted");

  // The picture: nothing is lost in between, and its bars are to scale.
  const moments = tableBehind(stdout, "sides, or read by the reader");
  assertEquals(moments.map(([when]) => when), [
    "at first",
    "nobody reads",
    "the reader has 32 MiB",
    "the reader has 64 MiB",
  ]);
  for (const [when, bar, ...parts] of moments) {
    const [program, buffers, read] = parts.map(Number);
    assert(Math.abs(program + buffers + read - 64) < 0.2, `${parts}`);
    for (const [i, part] of [program, buffers, read].entries()) {
      const drawn = bar.split(".#="[i]).length - 1;
      const expected = bar.length * part / 64;
      assert(Math.abs(drawn - expected) <= 1, `${when}: ${bar} ${parts}`);
    }
  }
  const inMib = (bytes: number) => (bytes / MIB).toFixed(1);
  assertEquals(moments.map((cells) => cells.slice(2)).toSpliced(2, 1), [
    ["64.0", "0.0", "0.0"],
    [inMib(left), inMib(TOTAL - left), "0.0"], // As the table has it.
    ["0.0", "0.0", "64.0"],
  ]);
  assertEquals(moments[2][4], "32.0");
  assert(
    stdout.includes(`\n${grouped(TOTAL)} bytes came, the same as were sent.\n`),
    stdout,
  );

  const [[, believed], [, received], [, lost]] = tableBehind(
    stdout,
    "The same write",
  );
  assertEquals(believed, grouped(TOTAL));
  assert(numberOf(lost) > 0);
  assertEquals(numberOf(received) + numberOf(lost), TOTAL);

  const [stuck, freed] = tableBehind(
    stdout,
    "All of it written to an echo server",
  );
  assertMatch(stuck[0], /^locked up: no byte moved/);
  const [written, echoed] = stuck.slice(1).map(numberOf);
  assert(echoed < written && written < TOTAL, `${stuck}`);
  const all = [grouped(TOTAL), grouped(TOTAL)];
  assertEquals(freed, ["it reads as well: the same bytes", ...all]);

  const [many, one] = tableBehind(stdout, "Where does a write end");
  assertEquals(many[0], "one two three");
  assertEquals(many[1].replaceAll(" ", ""), "onetwothree");
  assertEquals(one, ["123456789", "1234 5678 9"]);

  const [[, raced], [, inTurn]] = tableBehind(stdout, "Two writers at once");
  assert(Number(raced) >= 2);
  assertEquals(inTurn, "2");

  assertEquals(tableBehind(stdout, "Writes to a peer").slice(0, 3), [
    ["0 bytes, the peer is there", "0 accepted"],
    ["5 bytes, the peer has closed", "5 accepted"],
    ["5 more bytes", "EPIPE"],
  ]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("04 ends at once on Ctrl+C, although it waits for what is stuck", async () => {
  await using process = new LessonProcess(LESSON, []);
  await process.stdoutHas("Nobody reads.");
  process.kill("SIGINT");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [130, ""]);
  assert(!stdout.includes("still waiting"), stdout);
});
