/** What holds for every lesson, and for lib as a whole. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { LESSONS, lessonSource, run, runLines } from "./testing.ts";

const ROOT = new URL("../", import.meta.url);
const LIB = [...Deno.readDirSync(new URL("lib/", ROOT))]
  .map((entry) => entry.name).filter((name) => name.endsWith(".ts"));
const libSource = (name: string) =>
  Deno.readTextFileSync(new URL(`lib/${name}`, ROOT));

for (const lesson of LESSONS) {
  const header = lessonSource(lesson).split("*/")[0];
  const tag = (name: string) =>
    [...header.matchAll(new RegExp(`^ \\* @${name} (.+)$`, "gm"))]
      .map(([, text]) => text);

  Deno.test(`${lesson} has the header of a lesson`, () => {
    assert(header.startsWith("/**\n * @title "));
    for (const name of ["title", "difficulty", "tags"]) {
      assertEquals(tag(name).length, 1, `@${name}`);
    }
    assert(tag("see").length > 0);
    for (const resource of tag("resource")) {
      assertMatch(resource, /^\{https:\/\/\S+\} \S/);
    }
    for (const line of tag("run")) {
      assert(line.startsWith("deno run "), line);
      assert(line.includes(` lessons/${lesson}`), line);
    }
    assertMatch(header, /^ \* Try it:$/m);
    assertMatch(header, /\| here \| Linux system calls/);
  });

  Deno.test(`${lesson} --help prints title and exact commands without permissions`, async () => {
    for (const flag of ["--help", "-h"]) {
      const { code, stdout, stderr } = await run(lesson, [flag], { flags: [] });
      assertEquals([code, stderr], [0, ""]);
      assertEquals(stdout.split("\n")[0], tag("title")[0]);
      const commands = stdout.matchAll(/^ {2}(deno run .+)$/gm);
      assertEquals([...commands].map(([, command]) => command), tag("run"));
    }
  });

  Deno.test(`${lesson} answers wrong usage with one line and exit code 2`, async () => {
    const name = lesson.replace(".ts", "");
    const cases: [string[], string][] = [
      [["nomode"], ""],
      [["one", "two", "three", "four"], ""],
      [["--nothing"], 'unknown option "--nothing"'],
      [["demo", "--child"], 'unknown option "--child"'],
    ];
    for (const mode of runLines(lesson).keys()) {
      if (!runLines(lesson).has("server")) continue;
      cases.push(
        [[mode, "--nothing=1"], 'unknown option "--nothing=1"'],
        [[mode, "--port"], "--port needs a value"],
        [[mode, "--port", "--quiet"], "--port needs a value"],
        [[mode, "--host="], "--host must not be empty"],
        [[mode, "one", "two", "three"], ""],
      );
      const least = mode === "client" ? 1 : 0;
      for (const port of ["abc", "-1", "65536", "1.5", "0x50", " 80", ""]) {
        cases.push([
          [mode, "--port", port],
          `--port must be an integer from ${least} to 65535, got "${port}"`,
        ]);
      }
    }
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await run(lesson, args);
      assertEquals([code, stdout], [2, ""], args.join(" "));
      assert(stderr.startsWith(`${name}: ${message}`), stderr);
      assertEquals(stderr.indexOf("\n"), stderr.length - 1);
    }
  });
}

Deno.test("deno.json has a task with the flags of every lesson", () => {
  const { tasks } = JSON.parse(
    Deno.readTextFileSync(new URL("deno.json", ROOT)),
  );
  for (const lesson of LESSONS) {
    const task = tasks[lesson.slice(3, -3)];
    assertEquals(task.command, runLines(lesson).get("demo")!.join(" "));
    assert(task.description.startsWith(lesson.slice(0, 2) + ": "));
  }
  for (const name in tasks) assert(tasks[name].description, name);
});

/** The others can be copied without anything from elsewhere. */
const USES_STD = ["command_line.ts", "table.ts", "progress.ts"]
  .concat("sequence_diagram.ts");

Deno.test("lib is documented", async () => {
  const files = LIB.map((file) => `lib/${file}`);
  const command = new Deno.Command(Deno.execPath(), {
    args: ["doc", "--lint", ...files],
    cwd: ROOT,
  });
  const { success, stderr } = await command.output();
  assert(success, new TextDecoder().decode(stderr));
});

Deno.test("lessons point at lessons that there are", () => {
  for (const lesson of LESSONS) {
    for (const [, see] of lessonSource(lesson).matchAll(/^ \* @see (.+)$/gm)) {
      assert(LESSONS.includes(see), `${lesson}: ${see}`);
    }
  }
});

Deno.test("lib can be copied: few imports, and no name twice", () => {
  const names = new Map<string, string>();
  for (const file of LIB) {
    const source = libSource(file);
    for (
      const [, from] of source.matchAll(/^(?:import|\}) .*from "(.+)";$/gm)
    ) {
      assertMatch(from, /^(@std\/|\.\/[a-z_]+\.ts$)/, file);
      assert(!from.startsWith("@std/") || USES_STD.includes(file), file);
    }
    const declared = source.matchAll(
      /^(?:export )?(?:declare )?(?:async )?(?:const|let|function\*?|class|interface|type) (\w+)/gm,
    );
    for (const [, name] of declared) {
      assert(!names.has(name), `${name} in ${file} and ${names.get(name)}`);
      names.set(name, file);
    }
  }
  assert(names.has("readFull") && names.has("textLines"));
});
