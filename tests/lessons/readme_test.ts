/** The end of lessons/README.md: the command line and the judge, as they are. */
import { assert, assertEquals } from "@std/assert";
import { sectionOf, TASKS } from "../pages.ts";
import { LessonProcess, LESSONS, run, runDeno } from "../testing.ts";

const PAGE = "lessons/README.md";

Deno.test("the guide's deno run commands are those of the headers", async () => {
  const commands = sectionOf(PAGE, "The command line")
    .match(/(?<=^ {4})deno run .+/gm)!;
  assert(commands.length >= 3);
  for (const command of commands) {
    const words = command.split(" ");
    const script = words.findIndex((word) => word.startsWith("lessons/"));
    const lesson = words[script].slice("lessons/".length);
    const [mode = "demo"] = words.slice(script + 1);
    const flags = words.slice(2, script);
    // The port of a test is free, and not the one that the guide names.
    if (mode === "server") {
      await using server = new LessonProcess(lesson, ["server", "--port=0"], {
        flags,
      });
      const port = await server.port();
      const talk = await run(lesson, ["client", `--port=${port}`], {
        flags,
        input: "hello\n",
      });
      assertEquals(talk.stdout, "from server hello\nclient done!!\n");
    } else if (mode === "demo") {
      assertEquals((await run(lesson, [], { flags })).code, 0);
    }
  }
});

Deno.test("the guide lists the flags that each lesson needs", () => {
  const rows = new Map(
    [
      ...sectionOf(PAGE, "The command line")
        .matchAll(/^\| `(--[a-z-]+(?:=\w+)?)` +\| (.+) \|$/gm),
    ].map(([, flag, why]) => [flag, why]),
  );
  for (const [name, { command }] of Object.entries(TASKS)) {
    const number = LESSONS.find((it) => it.slice(3, -3) === name)?.slice(0, 2);
    if (number === undefined) continue;
    const flags = command.split(" ").filter((word) => word.startsWith("--"))
      .flatMap((flag) =>
        flag.startsWith("--allow-run=")
          ? flag.slice(12).split(",").map((it) => `--allow-run=${it}`)
          : [flag]
      );
    for (const flag of flags) {
      const why = rows.get(flag);
      assert(why !== undefined, `${name}: ${flag}`);
      // Where the guide says which lessons need a flag, it names them all.
      const numbers = why!.match(/\b\d\d\b/g);
      assert(
        numbers === null || numbers.includes(number),
        `${flag}: ${number}`,
      );
    }
  }
});

Deno.test("the guide names each kind of server that judge knows, and its exit codes", async () => {
  const judge = (...args: string[]) => runDeno(["task", "judge", ...args]);
  const kinds = Array.from(
    sectionOf(PAGE, "The judge").matchAll(/^\| `(\w+)` /gm),
    ([, kind]) => kind,
  );
  const wrong = await judge("nothing", "1");
  assertEquals(wrong.code, 2);
  assert(wrong.stderr.endsWith(`expected one of ${kinds.join(", ")}\n`));
  // Nothing listens at port 1 of an address that nobody else uses.
  assertEquals((await judge("echo", "127.77.0.1:1")).code, 1);
});
