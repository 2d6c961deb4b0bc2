/** What holds for every lesson, and for lib as a whole. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  LESSONS,
  lessonSource,
  run,
  runDeno,
  runLines,
  withoutTimes,
} from "../testing.ts";

const ROOT = new URL("../../", import.meta.url);
/** The modules of lib, by their paths in it. */
const LIB = ["", "lab/", "trace/", "harness/"].flatMap((folder) =>
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
    const lines = header.split("\n");
    assert(lines.length <= 25, `it has ${lines.length} lines`);
    const tags = Array.from(
      header.matchAll(/^ \* @(\w+)/gm),
      ([, name]) => name!,
    );
    assertEquals(
      [...new Set(tags)],
      ["title", "difficulty", "tags", "run", "resource", "see", "module"],
    );
    assertEquals(
      tags,
      tags.toSorted((a, b) => tags.indexOf(a) - tags.indexOf(b)),
    );
    assert(header.startsWith("/**\n * @title "), "@title comes first");
    assert(header.endsWith("\n *\n * @module\n "), "@module comes last");
    for (const name of ["title", "difficulty", "tags"]) {
      assertEquals(tag(name).length, 1, `@${name} stands there once`);
    }
    for (const line of tag("run")) {
      assert(line.startsWith("deno run "), line);
      assert(line.includes(` lessons/${lesson}`), line);
    }
    assertEquals(runLines(lesson).size, tag("run").length, "one line a mode");
    assert(runLines(lesson).has("demo"), "a line without a mode");
    assert(tag("resource").length <= 3, "the other resources: README.md");
    for (const resource of tag("resource")) {
      assertMatch(resource, /^\{https:\/\/\S+\} \S/);
    }
    const prose = lines.filter((line) => /^ \* [^@]/.test(line));
    assert(prose.length >= 5, "what it shows, and what to look at");
  });

  Deno.test(`${lesson} reads in the order of a lesson`, () => {
    const source = lessonSource(lesson);
    inOrder(source, {
      "a header that ends with @module": / \* @module\n \*\//,
      "import { ... }": /\nimport \{/,
      "export function": /\nexport (async )?function /,
      "if (import.meta.main) { ... }, last":
        /\nif \(import\.meta\.main\) \{\n(?: .*\n|\n)*\}\n$/,
    });
    // A client below the demo is a tool of the lesson's, and in no copy.
    for (const names of [["server", "client"], ["server", "demo"]]) {
      const functions = names.map((name) =>
        [name, RegExp(`\nexport (async )?function ${name}\\(`)] as const
      );
      inOrder(
        source,
        Object.fromEntries(functions.filter(([, it]) => it.test(source))),
      );
    }
  });

  // All that can be wrong with a command line is tested in one process, in
  // tests/harness/command_line_test.ts; here, that the lesson has it.
  const name = lesson.replace(".ts", "");

  Deno.test(`${lesson} has the command line of a lesson`, async (t) => {
    const help = await run(lesson, ["--help"], { flags: [] });
    const modes = modesOf(help.stdout);

    await t.step(
      "--help prints title, modes and exact commands, without permissions",
      () => {
        assertEquals([help.code, help.stderr], [0, ""]);
        assertEquals(help.stdout.split("\n")[0], tag("title")[0]);
        assertEquals(modes.map(({ command }) => command), tag("run"));
        assertEquals(modes.map(({ mode }) => mode), [
          ...runLines(lesson).keys(),
        ]);
      },
    );

    await t.step("it refuses what it does not understand", async () => {
      const wrong = modes.flatMap(wrongLines);
      const results = await Promise.all(
        wrong.map(([args]) => run(lesson, args, { flags: [] })),
      );
      for (const [i, { code, stdout, stderr }] of results.entries()) {
        const [args, message] = wrong[i];
        assertEquals([code, stdout], [2, ""], args.join(" "));
        assertMatch(stderr, /^.*\n$/, args.join(" "));
        assert(stderr.startsWith(`${name}: ${message}`), stderr);
      }
    });

    await t.step("it names the flag that is missing", async () => {
      const cases = modes.flatMap(({ mode, flags, options }) => {
        const args = [mode];
        if ("--quiet" in options) args.push("--quiet");
        const hasPort = "--port" in options;
        if (mode === "server" && hasPort) args.push("--port=0");
        if (mode === "client" && hasPort) args.push("--port=1");
        if (mode === "peer") return []; // It says so for each call.
        // The network is asked for first. What is asked for later takes longer to
        // be missed: it is tried without the last of the others.
        const [first, ...others] = withoutOne(flags);
        return [first, ...others.slice(-1)].map((it) => ({ args, ...it }));
      });
      const results = await Promise.all(
        cases.map(({ args, flags }) => run(lesson, args, { flags })),
      );
      for (const [i, { code, stderr }] of results.entries()) {
        const { args, missing } = cases[i];
        const what = `${args.join(" ")} without ${missing}: ${stderr}`;
        assertEquals(code, 1, what);
        assertMatch(stderr, /^.*\n$/, what);
        assert(stderr.startsWith(`${name}: `), what);
        assert(stderr.includes(missing.split("=")[0]), what);
      }
    });
  });
}

/** A mode, as `--help` shows it. */
interface ModeHelp {
  mode: string;
  operands: string[];
  command: string;
  flags: string[];
  /** What `--help` writes behind each option, `TEXT`, `N` or nothing. */
  options: Record<string, string>;
}

function modesOf(help: string): ModeHelp[] {
  const sections = help.matchAll(
    /^(\w+)((?: \[[A-Z.]+\])*): .*\n {2}(deno run .+)\n((?:\n| {2}--.+\n)*)/gm,
  );
  return [...sections].map(([, mode, operands, command, options]) => ({
    mode,
    operands: operands.match(/[A-Z.]+/g) ?? [],
    command,
    flags: command.match(/ --\S+/g)?.map((it) => it.trim()) ?? [],
    options: Object.fromEntries(
      Array.from(
        options.matchAll(/^ {2}(--[a-z-]+)(?: (TEXT|N))? /gm),
        ([, option, value = ""]) => [option, value],
      ),
    ),
  }));
}

/**
 * Command lines that are wrong, and what is said of each: for each mode an
 * unknown option and one more, another one for the next mode.
 */
function wrongLines(
  { mode, operands, options }: ModeHelp,
  index: number,
): [string[], string][] {
  const isOpen = operands.some((it) => it.endsWith("..."));
  const first = (value: string) =>
    Object.keys(options).find((it) =>
      options[it] === value && !it.startsWith("--no-")
    );
  const [flag, text, number] = ["", "TEXT", "N"].map(first);
  const lines: [string[], string][] = [];
  if (!isOpen) {
    const extra = [mode, ...operands.map(() => "1"), "extra"];
    lines.push([extra, 'unexpected argument "extra"']);
  }
  if (flag) lines.push([[mode, `${flag}=true`], `${flag} takes no value`]);
  if (text) lines.push([[mode, `${text}=`], `${text} needs a value`]);
  if (number) {
    const value = number === "--port" ? "65536" : "1e3";
    const message = `${number} must be an integer from `;
    lines.push([[mode, `${number}=${value}`], message]);
  }
  const chosen = lines.slice(index % lines.length).slice(0, 1);
  chosen.push([[mode, "--nothing"], 'unknown option "--nothing"']);
  if (index === 0 && !isOpen) {
    chosen.push([["nomode"], 'unknown mode "nomode", expected one of ']);
  }
  return chosen;
}

/** The flags without one of them, or without one program of `--allow-run`. */
function withoutOne(flags: string[]) {
  return flags.flatMap((missing) => {
    const others = flags.filter((it) => it !== missing);
    const [flag, list] = missing.split("=");
    const programs = list?.split(",") ?? [];
    if (programs.length < 2) return [{ missing, flags: others }];
    return programs.map((program) => {
      const rest = programs.filter((it) => it !== program).join(",");
      return {
        missing: `${flag}=${program}`,
        flags: [...others, `${flag}=${rest}`],
      };
    });
  });
}

/** A command that may also run cat, which reads the kernel's tables. */
function withCat(command: string): string {
  if (/--allow-run=\S*\bcat\b/.test(command)) return command;
  return command.includes("--allow-run=")
    ? command.replace(/--allow-run=\S+/, "$&,cat")
    : command.replace(" lessons/", " --allow-run=cat lessons/");
}

Deno.test("deno.json has a task with the flags of every lesson", async () => {
  const { tasks } = JSON.parse(
    Deno.readTextFileSync(new URL("deno.json", ROOT)),
  );
  for (const lesson of LESSONS) {
    const task = tasks[lesson.slice(3, -3)];
    assert(task, `deno.json has no task ${lesson.slice(3, -3)}`);
    // And what --step needs besides, where there is --step.
    const command = runLines(lesson).get("demo")!.join(" ");
    const { stdout: help } = await run(lesson, ["--help"], { flags: [] });
    assertEquals(
      task.command,
      help.includes("--step") ? withCat(command) : command,
    );
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
      if (see.startsWith("README.md, ")) continue; // See guide_test.ts.
      assert(LESSONS.includes(see), `${lesson}: ${see}`);
    }
  }
});

/** What each module imports: types and `import()` too, as Deno itself sees it. */
async function importsOf(modules: string[]): Promise<Map<string, string[]>> {
  const all = await Deno.makeTempFile({ suffix: ".ts" });
  const lines = modules.map((it) => `import ${JSON.stringify(it)};\n`);
  await Deno.writeTextFile(all, lines.join(""));
  const { code, stdout, stderr } = await runDeno(["info", "--json", all]);
  await Deno.remove(all);
  assertEquals(code, 0, stderr);
  interface Dependency {
    specifier: string;
    code?: { specifier?: string };
    type?: { specifier?: string };
  }
  interface Module {
    specifier: string;
    dependencies?: Dependency[];
  }
  const found = JSON.parse(stdout).modules as Module[];
  const graph = new Map(
    found.map(({ specifier, dependencies = [] }) => [
      specifier,
      dependencies.map(({ specifier, code, type }) =>
        code?.specifier ?? type?.specifier ?? specifier
      ),
    ]),
  );
  for (const it of modules) assert(graph.has(it), `${it} was not looked at`);
  return graph;
}

/** A way from a module back to itself, if there is one. */
function findCycle(graph: Map<string, string[]>): string[] | undefined {
  const done = new Set<string>();
  const visit = (module: string, way: string[]): string[] | undefined => {
    if (way.includes(module)) {
      return [...way.slice(way.indexOf(module)), module];
    }
    if (done.has(module)) return undefined;
    for (const imported of graph.get(module) ?? []) {
      const cycle = visit(imported, [...way, module]);
      if (cycle) return cycle;
    }
    done.add(module);
    return undefined;
  };
  for (const module of graph.keys()) {
    const cycle = visit(module, []);
    if (cycle) return cycle;
  }
  return undefined;
}

const MODULES = [
  ...LIB.map((path) => new URL(`lib/${path}`, ROOT).href),
  ...LESSONS.map((lesson) => new URL(`lessons/${lesson}`, ROOT).href),
];
const GRAPH = await importsOf(MODULES);
const short = (module: string) => module.replace(ROOT.href, "");

/** Who may import whom, besides its own room. */
const ROOMS: Record<string, RegExp> = {
  "lessons": /^(lib|lib\/lab|lib\/harness)\/\w+\.ts$|^node:/,
  "lib": /^lib\/\w+\.ts$|^node:/,
  "lib/lab": /^(lib|lib\/lab)\/\w+\.ts$|^node:/,
  "lib/trace":
    /^(lib|lib\/trace)\/\w+\.ts$|^lib\/lab\/tcp_table\.ts$|^node:|^npm:|^@std\//,
  "lib/harness":
    /^(lib|lib\/lab|lib\/trace|lib\/harness)\/\w+\.ts$|^node:|^npm:|^@std\//,
};

Deno.test("each module imports only from where its room may", () => {
  for (const module of MODULES) {
    const room = short(module).replace(/\/[^/]+$/, "");
    for (const imported of GRAPH.get(module)!.map(short)) {
      assert(ROOMS[room].test(imported), `${short(module)}: ${imported}`);
    }
  }
});

Deno.test("no module imports itself by a detour", () => {
  assertEquals(findCycle(GRAPH)?.map(short), undefined);
});

Deno.test("a cycle through types and one through import() are found", async () => {
  const folder = await Deno.makeTempDir();
  const write = (name: string, text: string) =>
    Deno.writeTextFile(`${folder}/${name}`, text);
  await write(
    "a.ts",
    'import {\n  type B,\n} from "./b.ts";\nexport type A = B;',
  );
  await write(
    "b.ts",
    'import type {\n  A,\n} from "./a.ts";\nexport type B = A;',
  );
  await write("c.ts", 'export const load = () => import("./d.ts");');
  await write("d.ts", 'import { load } from "./c.ts";\nexport { load };');
  const urlOf = (name: string) => new URL(`file://${folder}/${name}`).href;
  const name = (module: string) => module.split("/").at(-1);
  const [types, dynamic] = await Promise.all(
    ["a.ts", "c.ts"].map((it) => importsOf([urlOf(it)])),
  );
  await Deno.remove(folder, { recursive: true });
  assertEquals(findCycle(types)?.map(name).toSorted(), [
    "a.ts",
    "a.ts",
    "b.ts",
  ]);
  assertEquals(
    findCycle(dynamic)?.map(name).toSorted(),
    ["c.ts", "c.ts", "d.ts"],
  );
});

Deno.test("nothing that lib exports can be put in place of something else", () => {
  for (const path of LIB) {
    const [mutable] = libSource(path).match(/^export (let|var) .*/m) ?? [];
    assertEquals(mutable, undefined, path);
  }
});

Deno.test("lib, lib/lab and lib/trace have no name twice", () => {
  const names = new Map<string, string>();
  for (const path of LIB.filter((it) => !it.startsWith("harness/"))) {
    const declared = libSource(path).matchAll(
      /^(?:export )?(?:declare |default )?(?:async |abstract )?(?:const|let|var|function\*?|class|interface|type|enum|namespace) (\w+|\{[^}]*\}|\[[^\]]*\])/gm,
    );
    for (const [, text] of declared) {
      for (const [name] of text.matchAll(/\w+(?=\s*(?:,|\}|\]|=|$))/g)) {
        const other = names.get(name) ?? path; // It may have several signatures.
        assertEquals(other, path, `${name} in ${path} and ${other}`);
        names.set(name, path);
      }
    }
  }
  assert(names.has("readFull") && names.has("stderr"));
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
        .concat(`${folder}/lessons/02_tcp_echo.ts`, "demo"),
      "/",
    ),
    runDeno(
      ["run", "--preload", `${folder}/lib/trace/trace.ts`, "--allow-net"]
        .concat(`${folder}/program.ts`),
      "/",
    ),
  ]);
  await Deno.remove(folder, { recursive: true });
  assertEquals([demo.code, demo.stderr], [0, ""]);
  assertMatch(demo.stdout, /^write 6 bytes "hello\\n" +\|-+>\|/m);
  assertEquals(trace.code, 0);
  assertMatch(
    withoutTimes(trace.stderr),
    /^program\.ts\(1\): #1 socket, bind, listen /,
  );
});
