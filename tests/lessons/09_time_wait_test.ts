import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  canUnshare,
  fakeProgram,
  hasProgram,
  inNetwork,
  kernelRow,
  LessonProcess,
  onTerminal,
  run,
  sentAgain,
  tableBehind,
  until,
} from "../testing.ts";

const LESSON = "09_time_wait.ts";

Deno.test("09 shows TIME-WAIT, what SO_REUSEADDR does, and a lost ACK", async () => {
  await using process = new LessonProcess(LESSON, []);
  const title = /\nA \((\d+)\) closed first, now B \((\d+)\) closes/;
  const [, ...ports] = (await process.stdoutHas(title)).match(title)!;
  const [a, b] = ports.map(Number);
  // Meanwhile, what the kernel itself says: how often B sent its FIN again, and
  // that A's time began anew.
  await until(() => kernelRow(a, b)?.state === "TIME-WAIT");
  let again: number | undefined;
  let [restarts, least] = [0, 60];
  await until(async () => {
    again = await sentAgain(b, a) ?? again;
    const row = kernelRow(b, a);
    if (row === undefined) return true;
    const { state, seconds } = kernelRow(a, b)!;
    assertEquals([row.state, state], ["LAST-ACK", "TIME-WAIT"]);
    if (seconds > least) restarts++;
    least = seconds;
    return false;
  });
  assertEquals(kernelRow(a, b)!.state, "TIME-WAIT");
  // A busy machine looks too seldom to see each time.
  assert(restarts >= 1, `${restarts}`);

  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  const rows = tableBehind(stdout, `A (${a}) closed first`);
  const end = rows.pop()!;
  assertEquals([end[1], end[3]], ["gone", "TIME-WAIT"]);
  assertEquals(end.at(-1), "B has its ACK");
  assertEquals(rows[0].at(-1), "A's ACK is lost");
  const left = (cells: string[]) => parseFloat(cells.at(-2)!);
  for (const [i, row] of rows.entries()) {
    assertEquals([row[1], row[4]], ["LAST-ACK", "TIME-WAIT"]);
    if (i === 0) continue;
    // Its timer ran down, or is back at a minute.
    const hasWaited = row.at(-1) === "A waits";
    const isNew = left(row) > left(rows[i - 1]) || row[2] > rows[i - 1][2];
    assertEquals(
      row.at(-1) === "FIN sent again",
      isNew && left(row) <= left(rows[i - 1]),
    );
    assertEquals(isNew, !hasWaited, `${row}`);
  }
  // Each count has two rows, if the machine was not too busy to look twice. (ss
  // may miss the last one.)
  if (again !== undefined && rows.length >= 2 * (again + 1)) {
    assert(Number(rows.at(-1)![2]) >= again, `${again}: ${stdout}`);
  }
  const [, times] = stdout.match(/sent it again after\n([\d., ]+) s\./)!;
  assert(times.split(", ").length <= Number(end[2]), times);
  // The picture has a mark for each of these, and one for the first FIN; and one
  // for each time that the table has A's timer begin anew.
  const [axis, fins, anew] = stdout.slice(stdout.indexOf("\nseconds  ")).trim()
    .split("\n");
  const zero = axis.indexOf("0.0");
  const [last] = axis.match(/\S+$/)!; // Further right it is more exact.
  const one = (axis.lastIndexOf(last) - zero) / Number(last);
  const places = (line: string, mark: string) =>
    [...line.slice(zero).matchAll(RegExp(mark, "g"))].map(({ index }) => index);
  const seconds = ["0", ...times.split(", ")].map(Number);
  const near = (drawn: number[], seconds: number[]) => {
    // Two that are nearer than a column share one.
    const columns = new Set(seconds.map((it) => Math.round(it * one)));
    assert(drawn.length <= seconds.length, `${drawn}`);
    assert(drawn.length >= columns.size - 1, `${drawn}`);
    for (const at of drawn) {
      assert(seconds.some((it) => Math.abs(it * one - at) < 3), `${drawn}`);
    }
  };
  near(places(fins, "F(?!IN)"), seconds);
  const restarted = [...rows, end].filter((row, i, all) =>
    i > 0 && left(row) > left(all[i - 1])
  );
  near(places(anew, "R"), restarted.map(([second]) => Number(second)));
  assert(stdout.includes(`connection: ${restarted.length} times its`), stdout);
  // A very busy machine looks too seldom to see A wait, and has few rows.
  const seesWaiting = rows.some((row) => row.at(-1) === "A waits");
  assert(seesWaiting || rows.length <= 3, stdout);

  const [[own, other, state, timer]] = tableBehind(
    stdout,
    "A server closes first",
  );
  assertMatch(own, /^127\.0\.0\.1:\d+$/);
  assertMatch(other, /^127\.0\.0\.1:\d+$/);
  assertEquals(state, "TIME-WAIT");
  assert(parseFloat(timer) > 0 && timer.endsWith(" s left"), timer);
  const [port, peer] = [own, other].map((it) => Number(it.split(":")[1]));
  assertEquals(kernelRow(port, peer)!.state, "TIME-WAIT");
  // A Deno.listen that is not the lesson's.
  try {
    Deno.listen({ hostname: "127.0.0.1", port }).close();
    throw new Error("It could be bound");
  } catch (error) {
    assertEquals((error as { code?: string }).code, "EADDRINUSE");
  }

  assertEquals(tableBehind(stdout, "The server starts again"), [
    ["false", "false", "EADDRINUSE"],
    ["false", "true", "EADDRINUSE"],
    ["true", "false", "EADDRINUSE"],
    ["true", "true", "works"],
  ]);
  assertEquals(tableBehind(stdout, "And in Deno").map((row) => row[1]), [
    "1",
    "works",
    "EADDRINUSE",
  ]);
  const [[, server], [, waits], [, bound]] = tableBehind(
    stdout,
    "The client closes",
  );
  assert(!waits.endsWith(`:${server}`), "it sits at the client's address");
  assertEquals(bound, "works");
  assertEquals(tableBehind(stdout, "A port that somebody still"), [
    ["false", "EADDRINUSE"],
    ["true", "EADDRINUSE"],
  ]);
  assertEquals(tableBehind(stdout, "A Deno.listen is closed"), [
    ["at once", "EADDRINUSE"],
    ["the accept() has ended: BadResource", "works"],
  ]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("09 --wait waits for the port, and ends on Ctrl+C", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["--wait"], {
    wrapper: onTerminal,
  });
  await process.stdoutHas("TIME-WAIT [");
  await process.type("\x03");
  const { code, stdout } = await process.result();
  assertEquals(code, 130);
  assert(stdout.endsWith("\n"), JSON.stringify(stdout.slice(-80)));
});

Deno.test("09 says that the kernel's list could not be read", async () => {
  const script = 'echo "cat: $1: Permission denied" >&2; exit 1';
  await using cat = await fakeProgram("cat", script);
  const { code, stderr } = await run(LESSON, [], { env: cat.env });
  assertEquals(code, 1);
  const message = "cat /proc/net/tcp: Permission denied";
  assertEquals(stderr, `09_time_wait: ${message}\n`);
});

Deno.test("05, 07, 08, 09 and 15 say on another system that they need Linux", async () => {
  const preload = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(
    preload,
    `Object.defineProperty(Deno, "build", { value: { ...Deno.build, os: "darwin" } });`,
  );
  const flags = ["--preload", preload, "--allow-all", "--unstable-net"];
  const lessons = ["05_byte_order.ts", "07_socket_options.ts", "08_closing.ts"]
    .concat("15_many_processes.ts");
  await Promise.all([...lessons, LESSON].map(async (lesson) => {
    const { code, stderr } = await run(lesson, [], { flags });
    assertEquals(code, 1);
    assertMatch(stderr, /^\w+: This needs Linux: .*darwin\n$/);
  }));
  await Deno.remove(preload);
});

Deno.test("09 says so where B gives up, and does not say that it had its ACK", {
  ignore: !await canUnshare(),
}, async () => {
  // In a network of its own, whose TCP sends only once or twice again.
  const wrapper = inNetwork("echo 1 > /proc/sys/net/ipv4/tcp_retries2");
  const { code, stdout, stderr } = await run(LESSON, [], { wrapper });
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^.* gone +\d+ +TIME-WAIT +.* B has given up$/m);
  assertMatch(stdout, / s\. Then it gave up\.$/m);
  assert(!stdout.includes("B has its ACK"), stdout);
});
