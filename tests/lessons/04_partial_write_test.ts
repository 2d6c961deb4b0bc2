import { assert, assertEquals, assertMatch } from "@std/assert";
import { LessonProcess, run, tableBehind } from "../testing.ts";

const LESSON = "04_partial_write.ts";
const TOTAL = 64 * 1024 * 1024;

Deno.test("04 shows what write() returns and what follows from it", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);

  const writes = tableBehind(stdout, "Nobody reads.");
  let left = TOTAL;
  for (const [i, [number, offered, accepted]] of writes.entries()) {
    assertEquals([number, offered], [`${i + 1}`, `${left}`]);
    if (i === writes.length - 1) assertMatch(accepted, /^still waiting/);
    else {
      assert(Number(accepted) > 0 && Number(accepted) < left, accepted);
      left -= Number(accepted);
    }
  }
  assert(writes.length > 1, "no write was accepted");

  const [, , sent, got] = stdout.match(
    /^ +bytes +SHA-256\n(sent +(.*)\ngot +(.*))$/m,
  )!;
  assertMatch(sent, new RegExp(`^${TOTAL} +[0-9a-f]{64}$`));
  assertEquals(sent, got);

  const [[, believed], [, received], [, lost]] = tableBehind(
    stdout,
    "The same write",
  );
  assertEquals(Number(believed), TOTAL);
  assert(Number(lost) > 0);
  assertEquals(Number(received) + Number(lost), TOTAL);

  const [stuck, freed] = tableBehind(
    stdout,
    "All of it written to an echo server",
  );
  assertMatch(stuck[0], /^locked up: no byte moved/);
  assert(Number(stuck[2]) < Number(stuck[1]) && Number(stuck[1]) < TOTAL);
  assertEquals(freed, ["it reads as well: same bytes", `${TOTAL}`, `${TOTAL}`]);

  const [many, one] = tableBehind(stdout, "Where does a write end");
  assertEquals(many[0], "one two three");
  assertEquals(many[1].replaceAll(" ", ""), "onetwothree");
  assertEquals(one, ["123456789", "1234 5678 9"]);

  const [[, raced], [, inTurn]] = tableBehind(stdout, "Two writers at once");
  assert(Number(raced) >= 2);
  assertEquals(inTurn, "2");

  assertEquals(tableBehind(stdout, "Writing to a peer").slice(0, 3), [
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
