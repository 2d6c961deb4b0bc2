/** What holds for every lesson, and for lib as a whole. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { LESSONS, lessonSource, run, runDeno, runLines } from "../testing.ts";

const ROOT = new URL("../../", import.meta.url);
/** The modules of lib, by their paths in it. */
const LIB = ["", "harness/"].flatMap((folder) =>
  [...Deno.readDirSync(new URL(`lib/${folder}`, ROOT))]
    .map((entry) => folder + entry.name).filter((name) => name.endsWith(".ts"))
);
const libSource = (path: string) =>
  Deno.readTextFileSync(new URL(`lib/${path}`, ROOT));

/** Says which part is missing, or stands before another one. */
function inOrder(text: string, parts: Record<string, RegExp>) {
  let last = -1;
  for (const [name, part] of Object.entries(parts)) {
    const at = text.search(part);
    assert(at >= 0, `missing: ${name}`);
    assert(at > last, `not in its place: ${name}`);
    last = at;
  }
}

for (const lesson of LESSONS) {
  const header = lessonSource(lesson).split("*/")[0];
  const tag = (name: string) =>
    [...header.matchAll(new RegExp(`^ \\* @${name} (.+)$`, "gm"))]
      .map(([, text]) => text);

  Deno.test(`${lesson} has the header of a lesson`, () => {
    assert(header.startsWith("/**\n * @title "), "@title comes first");
    for (const name of ["title", "difficulty", "tags"]) {
      assertEquals(tag(name).length, 1, `@${name} stands there once`);
    }
    assert(tag("see").length > 0, "@see is missing");
    for (const resource of tag("resource")) {
      assertMatch(resource, /^\{https:\/\/\S+\} \S/);
    }
    for (const line of tag("run")) {
      assert(line.startsWith("deno run "), line);
      assert(line.includes(` lessons/${lesson}`), line);
    }
    assertMatch(header, /^ \* Try it:$/m, "Try it: is missing");
    // So that it can be pasted as it stands.
    const [tried] = header.match(/^ \* Try it:\n( \* .+\n)+/m)!;
    for (const [code] of tried.matchAll(/`[^`]*`/g)) {
      assert(!code.includes("\n"), code);
    }
  });

  Deno.test(`${lesson} reads in the order of a lesson`, () => {
    inOrder(lessonSource(lesson), {
      "a header that ends with @module": / \* @module\n \*\//,
      "import { ... }": /\nimport \{/,
      "export function": /\nexport (async )?function /,
      "if (import.meta.main) {": /\nif \(import\.meta\.main\) \{\n/,
    });
    inOrder(header, {
      "What to look at:": /What to look at:/,
      "| here | Linux system calls": /\| here \| Linux system calls/,
      "Try it:": /Try it:/,
      "What is still missing": /still missing/,
    });
  });

  // All that can be wrong with a command line is tested in one process, in
  // tests/harness/command_line_test.ts; here, that the lesson has it.
  Deno.test(`${lesson} --help prints title and exact commands without permissions`, async () => {
    const [help, wrong] = await Promise.all([
      run(lesson, ["--help"], { flags: [] }),
      run(lesson, ["nomode", "--help=1"], { flags: [] }),
    ]);
    assertEquals([help.code, help.stderr], [0, ""]);
    assertEquals(help.stdout.split("\n")[0], tag("title")[0]);
    const commands = help.stdout.matchAll(/^ {2}(deno run .+)$/gm);
    assertEquals([...commands].map(([, command]) => command), tag("run"));
    assertEquals([wrong.code, wrong.stdout], [2, ""]);
    assertEquals(
      wrong.stderr,
      `${lesson.replace(".ts", "")}: --help takes no value\n`,
    );
  });
}

Deno.test("deno.json has a task with the flags of every lesson", () => {
  const { tasks } = JSON.parse(
    Deno.readTextFileSync(new URL("deno.json", ROOT)),
  );
  for (const lesson of LESSONS) {
    const task = tasks[lesson.slice(3, -3)];
    assert(task, `deno.json has no task ${lesson.slice(3, -3)}`);
    assertEquals(task.command, runLines(lesson).get("demo")!.join(" "));
    assert(task.description.startsWith(lesson.slice(0, 2) + ": "));
  }
  for (const name in tasks) assert(tasks[name].description, name);
});

Deno.test("lib is documented", async () => {
  const files = LIB.map((file) => `lib/${file}`);
  const { code, stderr } = await runDeno(["doc", "--lint", ...files]);
  assertEquals(code, 0, stderr);
});

Deno.test("lessons point at lessons that there are", () => {
  for (const lesson of LESSONS) {
    for (const [, see] of lessonSource(lesson).matchAll(/^ \* @see (.+)$/gm)) {
      assert(LESSONS.includes(see), `${lesson}: ${see}`);
    }
  }
});

/** What a module imports when it is loaded, without types. */
const importsOf = (path: string) =>
  [...libSource(path).matchAll(/^(?:import|\}) (?!type ).*from "(.+)";/gm)]
    .map(([, from]) => from);

Deno.test("lib imports nothing from elsewhere, and nothing of the harness", () => {
  for (const path of LIB.filter((path) => !path.includes("/"))) {
    for (const from of importsOf(path)) {
      assertMatch(from, /^(\.\/[a-z_]+\.ts|node:.+)$/, path);
    }
  }
});

Deno.test("lib has no import cycle, and no name twice", () => {
  const done = new Set<string>();
  const visit = (path: string, on: string[]) => {
    assert(!on.includes(path), [...on, path].join(" -> "));
    if (done.has(path)) return;
    for (const from of importsOf(path)) {
      if (!from.startsWith(".") || !from.endsWith(".ts")) continue;
      const { pathname } = new URL(from, `file:///lib/${path}`);
      visit(pathname.replace(/^\/lib\//, ""), [...on, path]);
    }
    done.add(path);
  };
  for (const path of LIB) visit(path, []);

  const names = new Map<string, string>();
  for (const path of LIB) {
    const declared = libSource(path).matchAll(
      /^(?:export )?(?:declare )?(?:async )?(?:const|let|function\*?|class|interface|type) (\w+)/gm,
    );
    for (const [, name] of declared) {
      const other = names.get(name) ?? path; // It may have several signatures.
      assertEquals(other, path, `${name} in ${path} and ${other}`);
      names.set(name, path);
    }
  }
  assert(names.has("readFull") && names.has("textLines"));
});

Deno.test("the repository may stand in a folder whose name is not easy", async () => {
  const folder = await Deno.makeTempDir({ prefix: "a (b) 课 100% " });
  const parts = ["lessons", "lib", "deno.json", "deno.lock"];
  const copy = new Deno.Command("cp", { args: ["-r", ...parts, folder] });
  assertEquals((await copy.output()).code, 0);
  await Deno.writeTextFile(
    `${folder}/program.ts`,
    "Deno.listen({ port: 0 }).close();",
  );
  const [demo, trace] = await Promise.all([
    runDeno(
      ["run", "--allow-net", "--allow-run=deno"]
        .concat(`${folder}/lessons/10_framing.ts`, "demo", "--script"),
      "/",
    ),
    runDeno(
      ["run", "--preload", `${folder}/lib/harness/trace.ts`, "--allow-net"]
        .concat(`${folder}/program.ts`),
      "/",
    ),
  ]);
  await Deno.remove(folder, { recursive: true });
  assertEquals([demo.code, demo.stderr], [0, ""]);
  assertMatch(demo.stdout, /^write 10 bytes 00 00 00 06 +\|-+>\|/m);
  assertEquals(trace.code, 0);
  assertMatch(trace.stderr, /^program\.ts\(1\): socket, bind, listen /);
});
