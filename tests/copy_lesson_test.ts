import { assert, assertEquals, assertMatch } from "@std/assert";
import jsr from "../lib/jsr_imports.json" with { type: "json" };
import { LESSONS, lessonSource, runDeno, runLines } from "./testing.ts";

const ROOT = new URL("../", import.meta.url);
const LIB = [...Deno.readDirSync(new URL("lib/", ROOT))]
  .map((entry) => entry.name)
  .filter((name) => name.endsWith(".ts") && name !== "copy_lesson.ts");

/** Runs `deno task copy` with exactly its flags. */
function copy(...args: string[]) {
  const flags = ["--allow-read", "--allow-write", "--allow-run=deno"];
  return runDeno(["run", ...flags, "lib/copy_lesson.ts", ...args], ROOT);
}

/** An empty folder, with a name that is not easy. */
async function withFolder(f: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir({ prefix: "copied lessons 课 " });
  try {
    await f(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("copied lessons and modules stand alone", async (t) => {
  await withFolder(async (folder) => {
    const files = [...LESSONS, ...LIB];
    for (const file of files) {
      const name = file.replace(".ts", "");
      const { code, stderr } = await copy(name, `${folder}/${file}`, "--npm");
      assertEquals([code, stderr], [0, ""], file);
    }
    for (const config of [null, "{}"]) {
      const where = config === null ? "an empty folder" : "a project";
      if (config !== null) {
        await Deno.writeTextFile(`${folder}/deno.json`, config);
      }
      await t.step(`they pass check, lint and fmt in ${where}`, async () => {
        for (const args of [["check"], ["lint"], ["fmt", "--check"]]) {
          const { code, stderr } = await runDeno([...args, ...files], folder);
          assertEquals(code, 0, stderr);
        }
      });
    }
    for (const lesson of LESSONS) {
      await t.step(`${lesson} runs with its header's flags`, async () => {
        const text = await Deno.readTextFile(`${folder}/${lesson}`);
        const line = text.match(/^ \* @run deno (.+)$/m)![1];
        assert(!line.includes("lessons/"), line);
        const { code, stderr } = await runDeno(line.split(" "), folder);
        // Deno says on standard error what it downloads.
        assertEquals(code, 0, stderr);
        assert(!stderr.includes(`${lesson.slice(0, -3)}: `), stderr);
      });
    }
  });
});

Deno.test("copied lessons take the standard library from JSR", async () => {
  await withFolder(async (folder) => {
    // What JSR would deliver is declared in tests/std_types.
    const imports: Record<string, string> = {};
    const types = new URL("tests/std_types/", ROOT);
    const declared = JSON.parse(
      await Deno.readTextFile(new URL("import_map.json", types)),
    ).imports;
    for (const [name, specifier] of Object.entries(jsr.imports)) {
      imports[specifier] = new URL(declared[name], types).href;
    }
    await Deno.writeTextFile(`${folder}/map.json`, JSON.stringify({ imports }));
    for (const lesson of LESSONS) {
      const { stdout } = await copy(lesson.replace(".ts", ""));
      assertMatch(
        stdout,
        /^import \{ parseArgs \} from "jsr:@std\/cli@1\.0\.32\/parse-args";$/m,
      );
      assert(!stdout.includes('from "npm:'), lesson);
      await Deno.writeTextFile(`${folder}/${lesson}`, stdout);
    }
    const { code, stderr } = await runDeno(
      ["check", "--import-map=map.json", ...LESSONS],
      folder,
    );
    assertEquals(code, 0, stderr);
  });
});

Deno.test("copyLesson keeps comments and types, and says where they come from", async () => {
  const { stdout } = await copy("02_tcp_echo", "--npm");
  assertMatch(stdout, /^\/\/ Copied from lessons\/02_tcp_echo\.ts of /m);
  assertMatch(stdout, /^\/\/ Copyright \(c\) \d+ .* MIT License\.$/m);
  for (const part of ["child", "command_line", "full_io", "lines", "trace"]) {
    assertEquals(
      stdout.match(new RegExp(`^// From lib/${part}\\.ts`, "gm"))?.length,
      1,
    );
  }
  const source = Deno.readTextFileSync(new URL("lib/full_io.ts", ROOT));
  for (const line of source.split("\n")) {
    if (line.trim() !== "" && !/@module| \*\/?$/.test(line)) {
      assert(stdout.includes(line), line);
    }
  }
  const [body] = lessonSource("02_tcp_echo.ts").match(
    /^export async function server[^]*?^}/m,
  )!;
  assert(stdout.includes(body));
  assertEquals(runLines("02_tcp_echo.ts").size, 3);
});

Deno.test("copyLesson does not write over a file without --force", async () => {
  await withFolder(async (folder) => {
    const out = `${folder}/lines.ts`;
    await Deno.writeTextFile(out, "mine");
    const refused = await copy("lines", out);
    assertEquals(refused.code, 1);
    assertMatch(
      refused.stderr,
      /^copy_lesson: .*lines\.ts exists: --force writes over it\n$/,
    );
    assertEquals(await Deno.readTextFile(out), "mine");
    assertEquals((await copy("lines", out, "--force")).code, 0);
    assert((await Deno.readTextFile(out)).includes("class LineReader"));
  });
});

Deno.test("copyLesson lists what there is", async () => {
  for (const args of [["nothing"], ["copy_lesson"], ["../deno"]]) {
    const { code, stderr } = await copy(...args);
    assertEquals(code, 2);
    assertMatch(
      stderr,
      /^copy_lesson: no lesson or module ".*", there are 01_tcp_hello, .*, trace\n$/,
    );
  }
  assertEquals((await copy()).code, 2);
  assertEquals((await copy("lines", "a", "b")).code, 2);
  assertEquals((await copy("lines", "--port=1")).code, 2);
});
