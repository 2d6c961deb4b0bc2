import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  hasProgram,
  LessonProcess,
  onTerminal,
  run,
  tableBehind,
} from "./testing.ts";

const LESSON = "09_time_wait.ts";

Deno.test("09 shows TIME-WAIT, and when a port can be bound again", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);

  const [[own, other, state, timer]] = tableBehind(
    stdout,
    "A server closes first",
  );
  assertMatch(own, /^127\.0\.0\.1:\d+$/);
  assertMatch(other, /^127\.0\.0\.1:\d+$/);
  assertEquals(state, "TIME-WAIT");
  assert(parseFloat(timer) > 0 && timer.endsWith(" s left"), timer);
  // The kernel's list, read here: the port is there as long as it says.
  const port = Number(own.split(":")[1]);
  const hex = (n: number) => n.toString(16).toUpperCase().padStart(4, "0");
  assertMatch(
    Deno.readTextFileSync("/proc/net/tcp"),
    new RegExp(`0100007F:${hex(port)} 0100007F:\\w{4} 06 `),
  );

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
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("09 agrees with a Deno.listen that is not the lesson's", async () => {
  const { stdout } = await run(LESSON, []);
  const [[own]] = tableBehind(stdout, "A server closes first");
  let code: unknown;
  try {
    const port = Number(own.split(":")[1]);
    Deno.listen({ hostname: "127.0.0.1", port }).close();
  } catch (error) {
    code = (error as { code: string }).code;
  }
  assertEquals(code, "EADDRINUSE");
});

Deno.test("09 --wait ends on Ctrl+C, with the terminal as it was", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["--wait"], {
    wrapper: onTerminal,
  });
  await process.stdoutHas("TIME-WAIT [");
  await process.type("\x03");
  const { code, stdout } = await process.result();
  assertEquals(code, 130);
  assert(stdout.endsWith("\r\x1b[K"), JSON.stringify(stdout.slice(-80)));
});

Deno.test("09 names the flag that is missing", async () => {
  const all = ["--allow-net", "--allow-ffi", "--allow-run=cat"];
  for (const missing of all) {
    const flags = all.filter((flag) => flag !== missing);
    const { code, stderr } = await run(LESSON, [], { flags });
    assertEquals(code, 1);
    assertMatch(stderr, /^09_time_wait: .*\n$/);
    assert(stderr.includes(missing.split("=")[0]), stderr);
  }
});

Deno.test("05, 07, 08 and 09 say on another system that they need Linux", async () => {
  const preload = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(
    preload,
    `Object.defineProperty(Deno, "build", { value: { ...Deno.build, os: "darwin" } });`,
  );
  const lessons = ["05_byte_order.ts", "07_socket_options.ts"];
  for (const lesson of [...lessons, "08_closing.ts", LESSON]) {
    const flags = ["--preload", preload, "--allow-all"];
    const { code, stderr } = await run(lesson, [], { flags });
    assertEquals(code, 1);
    assertMatch(stderr, /^\w+: This needs Linux: .*darwin\n$/);
  }
  await Deno.remove(preload);
});
