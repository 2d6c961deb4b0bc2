/**
 * @title Copies a lesson's program, or modules of lib, into one file
 * @run deno run --allow-read --allow-write --allow-env=INIT_CWD lib/harness/copy.ts
 *
 * Each module stands whole in the copy, above those that import it, and the
 * program stands below them all. So code that is added at the end, or between
 * functions of the program, finds all that it uses.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { writeFull } from "../full_io.ts";
import { UsageError } from "./command_line.ts";
import { runLesson } from "./run_lesson.ts";

const ROOT = new URL("../../", import.meta.url);
const ORIGIN = "Linux sockets in Deno";
/** It is loaded before a program, and has nothing to import. */
const TRACE = "lib/trace/trace.ts";

// The patterns rely on `deno fmt`: what stands at the left edge is a declaration.
const HEADER = /^\/\*\*[^]*?\*\/\n\n?/;
const IMPORT = /^import (?:type )?\{([^}]*)\} from "(.+)";\n/gm;
const EXAMPLE = /(?:^ *\*\n)?^ *\* @example[^]*?```[^]*?```\n/gm;
const DECLARATION =
  /^(export )?(?:async )?(const|function\*?|class|interface|type) (\w+)/gm;
/** From the demo on, with its comment, a lesson is about itself. */
const DEMO =
  /^(?:\/\*\*(?:(?!\*\/)[^])*\*\/\n)?export (?:async )?function demo\b[^]*/m;

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));
const isLesson = (path: string) => path.startsWith("lessons/");
const fileNameOf = (path: string) => path.slice(path.lastIndexOf("/") + 1);

/**
 * Makes one file of modules, and of those that they import.
 *
 * @param paths Modules of the repository, one lesson among them at most.
 * @param fileName The name of the file, without its folder.
 * @returns Its text.
 * @throws {UsageError} If a lesson has no program that could be copied.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const text = copyOf(["lib/lines.ts"], "lines.ts");
 * assertStringIncludes(text, "export async function readFull");
 * ```
 */
export function copyOf(paths: string[], fileName: string): string {
  const sources = new Map<string, string>();
  const parts: string[] = [];
  const outside = new Map<string, Set<string>>();
  const declared = new Map<string, string>();
  const exported: string[] = [];
  const take = (path: string) => {
    if (sources.has(path)) return;
    const source = read(path).replace(DEMO, "");
    sources.set(path, source);
    const code = source.replace(HEADER, "").replaceAll(IMPORT, "");
    for (const [, list = "", from = ""] of source.matchAll(IMPORT)) {
      // A lesson's demo is left out, and with it what only the demo uses.
      const names = list.split(",").map((it) => it.trim())
        .filter((it) =>
          it && RegExp(`\\b${it.replace("type ", "")}\\b`).test(code)
        );
      if (names.length === 0) continue;
      if (from.startsWith(".")) {
        take(new URL(from, new URL(path, ROOT)).href.slice(ROOT.href.length));
      } else {
        const known = outside.get(from) ?? new Set<string>();
        outside.set(from, known.union(new Set(names)));
      }
    }
    const about = isLesson(path) ? "" : source.match(HEADER)![0]
      .replaceAll(/^\/\*\*\n|^ \*\n \* @[^]*/gm, "")
      .replaceAll(/^ \*/gm, "//").trimEnd();
    const body = code.replaceAll(EXAMPLE, "").trim();
    for (const [, isExported, kind, name = ""] of body.matchAll(DECLARATION)) {
      const other = declared.get(name) ?? path;
      if (other !== path) {
        const both = `${other} and ${path} both declare ${name}`;
        throw new UsageError(`${both}: copy them into two files`);
      }
      declared.set(name, path);
      const isType = kind === "interface" || kind === "type";
      if (isExported) exported.push(isType ? `type ${name}` : name);
    }
    parts.push(`${`// ${path}\n${about}`.trim()}\n\n${body}\n`);
  };
  paths.forEach(take);

  const lesson = paths.find(isLesson);
  const { usage, start } = lesson === undefined
    ? { usage: usageOf(paths, exported, fileName), start: "" }
    : programOf(lesson, sources.get(lesson)!, fileName);
  const notes = [
    `// ${paths.join(", ")} of ${ORIGIN}, in one file.`,
    `// Copyright (c) 2026 the authors of ${ORIGIN}. MIT License.`,
    `// ${usage}`,
  ];
  const imports = Array.from(
    outside,
    ([from, names]) => `import { ${[...names].join(", ")} } from "${from}";`,
  );
  return [...notes, ...imports, "", ...parts, start].join("\n").trim() + "\n";
}

/** How modules without a program are used. */
function usageOf(
  paths: string[],
  exported: string[],
  fileName: string,
): string {
  if (paths.includes(TRACE)) {
    return `deno run --preload=${fileName} --allow-net any_program.ts`;
  }
  const from = JSON.stringify(`./${fileName}`);
  return `import { ${exported.join(", ")} } from ${from};`;
}

/** How a lesson's program is run, and the lines that start it. */
function programOf(lesson: string, source: string, fileName: string) {
  const functions = source.matchAll(
    /^export async function (server|client)\([^]*?^\}/gm,
  );
  const modes = new Map(Array.from(functions, ([all, name]) => [name, all]));
  if (modes.size === 0) throw noProgram(lesson, source);
  const [, flags] = source.match(/^ \* @run deno run (.+) \S+ server$/m)!;
  const words = [...modes.keys()].join("|");
  const isUnix = /^ {2}path = /m.test([...modes.values()].join());
  const operands = isUnix ? "[PATH]" : "[PORT] [HOST]";
  const usage = `deno run ${flags} ${fileName} [${words}] ${operands}`;
  const calls = Array.from(modes, ([name, text]) => {
    const call = `if (mode === "${name}")`;
    if (!/^ {2}signal = /m.test(text!)) {
      return `${call} await ${name}(address);`;
    }
    return `${call} {
    const stop = new AbortController();
    Deno.addSignalListener("SIGINT", () => stop.abort());
    Deno.addSignalListener("SIGTERM", () => stop.abort());
    await ${name}({ ...address, signal: stop.signal });
  }`;
  });
  const address = isUnix
    ? `  const [mode = "server", path] = Deno.args;
  const address = { ...(path && { path }) };`
    : `  const [mode = "server", port = "9527", hostname] = Deno.args;
  const address = { port: Number(port), ...(hostname && { hostname }) };`;
  const start = `if (import.meta.main) {
${address}
  if (!/^(${words})$/.test(mode)) throw new Error(\`No such mode: \${mode}\`);
  ${calls.join("\n  ")}
}
`;
  return { usage, start };
}

/** An experiment has none: what it shows stands in lib. */
function noProgram(lesson: string, source: string): UsageError {
  const shown = Array.from(source.matchAll(IMPORT), ([, , from]) => from!)
    .filter((from) => from[0] === "." && !from.includes("/harness/"))
    .map((from) => fileNameOf(from).replace(".ts", ""));
  const name = fileNameOf(lesson).replace(".ts", "");
  return new UsageError(
    `${name} is an experiment, and has no program to copy; it shows these ` +
      `modules, which can be copied: ${shown.join(", ")}`,
  );
}

/**
 * Finds a lesson, or a module of lib, by what people call it.
 *
 * @param name Its file; folder, number and `.ts` may be left out.
 * @returns Its path in the repository.
 * @throws {UsageError} If there is none.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(findSource("tcp_echo"), "lessons/02_tcp_echo.ts");
 * assertEquals(findSource("full_io"), "lib/full_io.ts");
 * ```
 */
export function findSource(name: string): string {
  const wanted = fileNameOf(name).replace(/\.ts$/, "");
  const paths = ["lessons", "lib", "lib/lab"].flatMap((folder) =>
    Array.from(Deno.readDirSync(new URL(folder, ROOT)), (it) => it.name)
      .filter((file) => file.endsWith(".ts")).toSorted()
      .map((file) => `${folder}/${file}`)
  ).concat(TRACE);
  const found = paths.find((path) => path.endsWith(`/${wanted}.ts`)) ??
    paths.find((path) => {
      const [, number, title] = path.match(/(\d+)_(\w+)\.ts$/) ?? [];
      return wanted === number || wanted === title;
    });
  if (found !== undefined) return found;
  const names = paths.map((path) => fileNameOf(path).replace(".ts", ""));
  throw new UsageError(
    `no lesson or module ${JSON.stringify(name)}, there are ${
      names.join(", ")
    }`,
  );
}

/** Where a copy goes: a file, or a folder, as cp(1) understands it. */
function fileFor(paths: string[], out: string): string {
  const from = Deno.env.get("INIT_CWD") ?? Deno.cwd(); // `deno task` moves.
  const path = out.startsWith("/") ? out : `${from}/${out}`;
  const isFolder = (path: string) => {
    try {
      return Deno.statSync(path).isDirectory;
    } catch {
      return false; // It is not there yet.
    }
  };
  const file = isFolder(path)
    ? `${path.replace(/\/+$/, "")}/${fileNameOf(paths[0]!)}`
    : path;
  if (!/(?<!\.d)\.[cm]?ts$/.test(file) || /\p{Cc}/u.test(file)) {
    // Deno goes by the name, which also stands in the copy.
    throw new UsageError(`${JSON.stringify(out)} does not end in .ts`);
  }
  return file;
}

/** What is said of a copy: how to run it, or what to import from it. */
function describeCopy(text: string, file: string): string[] {
  const [, , usage = ""] = text.split("\n").map((it) => it.slice("// ".length));
  const [, command, modes = ""] =
    usage.match(/^(deno run .+?) \S+ \[(.+?)\]/) ?? [];
  const word = /^[\w./-]+$/.test(file)
    ? file
    : `'${file.replaceAll("'", "'\\''")}'`;
  const lines = command === undefined
    ? [usage]
    : modes.split("|").map((mode) => `${command} ${word} ${mode}`);
  if (/^import .* from "node:/m.test(text)) {
    lines.push("It imports a module of Node's: beside a package.json");
    lines.push("`deno check` wants @types/node for that.");
  }
  return [`${file}: ${text.split("\n").length - 1} lines`]
    .concat(lines.map((line) => `  ${line}`));
}

if (import.meta.main) {
  const force = { default: false, help: "write over a file that exists" };

  await runLesson(import.meta.url, {
    copy: {
      help: "a lesson and modules of lib, with commas, or trace; and where to",
      options: { force },
      operands: "NAME[,NAME...] [OUT]",
      async run({ operands: [names, out, ...more], force, output, print }) {
        if (names === undefined) findSource(""); // It says which there are.
        if (more.length > 0) {
          throw new UsageError(
            `unexpected argument ${JSON.stringify(more[0])}`,
          );
        }
        const paths = [...new Set(names!.split(",").map(findSource))];
        if (paths.filter(isLesson).length > 1) {
          throw new UsageError("two lessons make no one program");
        }
        if (out === undefined) {
          const text = copyOf(paths, fileNameOf(paths[0]!));
          return void await writeFull(output, encode(text));
        }
        const file = fileFor(paths, out);
        const text = copyOf(paths, fileNameOf(file));
        // A new file: what has this name may be a link to something else.
        if (force) await Deno.remove(file).catch(() => {});
        try {
          await Deno.writeTextFile(file, text, { createNew: true });
        } catch (error) {
          const isThere = error instanceof Deno.errors.AlreadyExists;
          if (isThere) {
            throw new Error(`${file} exists: --force writes over it`);
          }
          throw new Error(`write ${file}`, { cause: error });
        }
        for (const line of describeCopy(text, file)) await print(line);
      },
    },
  });
}
