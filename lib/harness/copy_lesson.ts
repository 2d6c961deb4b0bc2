/**
 * Copies a lesson, a module of lib, or the trace, with all that it needs, into
 * one file.
 *
 *     deno task copy 02_tcp_echo echo.ts
 *
 * @module
 */

import { writeFull } from "../full_io.ts";
import { WITHOUT_LD } from "../plain_env.ts";
import { shellQuote, UsageError } from "./command_line.ts";
import { runLesson } from "./run_lesson.ts";
import repo from "../../deno.json" with { type: "json" };
import jsrMap from "../jsr_imports.json" with { type: "json" };

const ROOT = new URL("../../", import.meta.url);
const PART =
  `// Only some of its functions. The text below may mention others, and a command
// line: they are in the original.`;
const ORIGIN = "Linux sockets in Deno";
/** What others load before their own programs. */
const TRACE = "lib/harness/trace.ts";
const LICENSE = `Copyright (c) 2026 the authors of ${ORIGIN}. MIT License.`;

// The patterns rely on `deno fmt`: what begins at the left edge is a declaration
// at the top of its module, and a doc comment has lines of its own.

/** A line of what puts a lesson on stage, with the doc comment above it. */
const STAGE = /(?:^ *\/\*\*(?:(?!\*\/)[^])*\*\/\n)?^.*\/\/ stage\n/gm;
/** Where the command line of a lesson begins. */
const MAIN = /^(?=if \(import\.meta\.main)/m;
const SPECIFIER = /(?:type )?(\w+)(?: as (\w+))?,?/g;
const IMPORT = /^import (?:type )?\{([^}]*)\} from "(.+)";\n/gm;
const EXAMPLE = /(?:^ *\*\n)?^ *\* @example[^]*?```[^]*?```\n/gm;
const COMMENT = /^ *\/\*\*[^]*?\*\/|(?:^| )\/\/ .*/gm;
/** A string. None with `$` or a backtick: in a template there may be code. */
const STRING = /"(?:[^"\\\n$`]|\\.)*"/g;
/** A name that may stand for a declaration: no member's, but `...name`. */
const NAME = /(?<![\w$]|(?<!\.\.)\.)[a-z_$][\w$]*/gi;
/** A declaration, with the comments above it and the empty lines below it. */
const DECLARATION =
  /(?:^(?:\/\*[^]*?\*\/|\/\/.*)\n+)*^[^\s})\]>/].*\n(?:(?:[ })\]>].*)?\n)*/gm;
const EXPORTED =
  /^export (?:async )?(const|function\*?|class|interface|type) (\w+)/gm;
const DECLARED =
  /^(?:export )?(?:async )?(?:const|let|function\*?|class|interface|type) ([\w$]+|\[[^\]]+\])/m;

/** Options of {@linkcode copyLesson}. */
export interface CopyOptions {
  /** The name of the file it will stand in; the original's by default. */
  fileName?: string;
  /** Imports the standard library from JSR, and not as the repository does. */
  jsr?: boolean;
  /** Leaves out `demo` and the command line of a lesson that has more. */
  functions?: boolean;
  /** Takes these exports only, and what they need. */
  only?: string[];
}

/**
 * Makes one file of a lesson, or of a module of lib, and of what it uses.
 *
 * @param path The lesson or module, as {@linkcode findSource} finds it.
 * @returns The text of the file, formatted.
 * @throws {UsageError} If an export is wanted that it does not have.
 * @throws {Error} `fork failed!` if `deno` cannot be run.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const text = await copyLesson("lessons/01_tcp_hello.ts");
 * assertStringIncludes(text, "export async function writeFull(");
 * ```
 */
export async function copyLesson(
  path: string,
  options: CopyOptions = {},
): Promise<string> {
  const { fileName = fileNameOf(path), jsr = false, only = [] } = options;
  const source = readModule(path);
  const isPart = options.functions || only.length > 0;
  const copied = isPart ? exportsOf(source, only) : source;
  const isPartial = isPart && (only.length > 0 || path.startsWith("lessons/"));
  const { parts, external } = partsFor(copied);
  const specifiers: Record<string, string> = (jsr ? jsrMap : repo).imports;
  const imports = Array.from(
    external,
    ([from, names]) =>
      `import { ${[...names].join(", ")} } from "${specifiers[from] ?? from}";`,
  );
  const header = copied.header
    .replaceAll(path, () => shellQuote(fileName))
    // These are about the repository: its files, its tasks, its traces.
    .replaceAll(/^ \* @see .*\n/gm, "")
    .replace(/^ \* Try it:\n(?: \* .+\n)+(?: \*\n)?/m, "");
  // The lesson is what one reads first. But what runs at once has to stand after
  // the parts that it uses: the lesson's end, and all of the trace.
  const code = copied.code.replaceAll(
    /(?<=^ \* import .* from ")@std\/[\w/-]+(?=";$)/gm, // In an example.
    (name) => specifiers[name]!,
  );
  const [body = "", main = ""] = path === TRACE ? ["", code] : code.split(MAIN);
  return await format([
    imports.some((it) => /"(npm|jsr):/.test(it))
      ? "// deno-lint-ignore-file no-import-prefix"
      : "",
    `// Copied from ${path} of ${ORIGIN}.\n// ${LICENSE}`,
    isPartial ? PART : "",
    `\n${header}`,
    `${imports.join("\n")}\n`,
    body,
    ...parts,
    main,
  ].join("\n"));
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
 * ```
 */
export function findSource(name: string): string {
  const paths = ["lessons", "lib"].flatMap((folder) =>
    Array.from(Deno.readDirSync(new URL(folder, ROOT)), (it) => it.name)
      .filter((file) => file.endsWith(".ts"))
      .map((file) => `${folder}/${file}`).toSorted()
  ).concat(TRACE);
  const names = paths.map((path) => fileNameOf(path).slice(0, -3));
  const wanted = name.replace(/^\.\//, "").replace(/\.ts$/, "");
  const found = [
    paths.indexOf(`${wanted}.ts`),
    // Lessons come first: `byte_order` is the one of `deno task byte_order`.
    names.findIndex((it) => it.replace(/^\d+_/, "") === wanted),
    names.indexOf(wanted),
    names.findIndex((it) => it.match(/^\d+(?=_)/)?.[0] === wanted),
  ].find((index) => index >= 0);
  if (found !== undefined) return paths[found];
  const known = paths.join(", ").replaceAll(
    /lessons\/|lib\/harness\/|\.ts/g,
    "",
  );
  throw new UsageError(
    `no lesson or module ${JSON.stringify(name)}, there are ${known}`,
  );
}

/**
 * Says how a copy is used.
 *
 * @param text The copy.
 * @param file Where it is.
 * @returns The command of each mode; if there is none, its import.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * const text = await copyLesson("lib/full_io.ts");
 * const [line] = usageOf(text, "../io.ts");
 * assert(line.endsWith('readFull, writeFull } from "./io.ts";'));
 * ```
 */
export function usageOf(text: string, file: string): string[] {
  const commands = Array.from(
    text.matchAll(/^ \* @run (.+)$/gm),
    ([, command]) =>
      command.replace(shellQuote(fileNameOf(file)), () => shellQuote(file)),
  );
  if (commands.length > 0) return commands;
  const [own] = text.split(/^\/\/ lib\//m);
  const list = Array.from(
    own.matchAll(EXPORTED),
    ([, kind, name]) => /interface|type/.test(kind) ? `type ${name}` : name,
  ).join(", ");
  const url = fileNameOf(file).replace(/[%#?\\\t\r\n]/g, encodeURIComponent);
  return [`import { ${list} } from ${JSON.stringify(`./${url}`)};`];
}

/** A module, taken apart; without what puts it on stage. */
interface Source {
  path: string;
  /** Its JSDoc block. */
  header: string;
  /** The names that it imports, and where each one is from. */
  imports: Map<string, string>;
  /** The imported names that it has another name for: `a as b`, by that one. */
  renamed: Map<string, string>;
  /** All the rest. */
  code: string;
}

/** A module of lib that is copied in part. */
interface Part extends Source {
  /** What it declares, each with its comments, by name. */
  declarations: Map<string, string>;
}

function readModule(path: string): Source {
  const text = Deno.readTextFileSync(new URL(path, ROOT)).replace(STAGE, "");
  const imports = new Map<string, string>();
  const renamed = new Map<string, string>();
  const rest = text.replace(IMPORT, (_, names: string, from: string) => {
    const isOurs = from.startsWith(".");
    const url = isOurs ? new URL(from, new URL(path, ROOT)).href : from;
    for (const [, name, local] of names.matchAll(SPECIFIER)) {
      imports.set(local ?? name, url.replace(ROOT.href, ""));
      if (local) renamed.set(local, `${name} as ${local}`);
    }
    return "";
  });
  const [header] = rest.match(/^\/\*\*[^]*?\*\/\n/)!;
  return { path, header, imports, renamed, code: rest.slice(header.length) };
}

/** What a lesson, or a module of lib, exports, and what that uses. */
function exportsOf(source: Source, only: string[]): Source {
  if (source.path === TRACE) throw new UsageError("trace is copied as a whole");
  const [program] = source.code.split(MAIN);
  const names = Array.from(program.matchAll(EXPORTED), ([, , name]) => name)
    .filter((name) => name !== "demo");
  const isDemo = names.length === 0;
  if (isDemo) names.push("demo");
  // Some of these have text at the left edge, which is no declaration.
  const declarations = isDemo
    ? new Map([["demo", program]])
    : declarationsOf({ ...source, code: program });
  const exported = new Map(
    names.map((name) => [name, declarationsFor(name, declarations)] as const)
      // What starts its own file as a process needs a command line.
      .filter(([_, texts]) => !texts.join().includes("import.meta")),
  );
  const known = [...exported.keys()];
  const unknown = only.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    const what = `no export ${JSON.stringify(unknown)} in ${source.path}`;
    throw new UsageError(`${what}, there are ${known.join(", ")}`);
  }
  const wanted = only.length > 0 ? only : known;
  const kept = new Set(wanted.flatMap((name) => exported.get(name)!));
  const leftOut = names.filter((name) => !kept.has(declarations.get(name)!));
  const code = [...new Set(declarations.values())]
    .filter((text) => kept.has(text)).join("")
    .replaceAll(
      EXAMPLE,
      (example) =>
        leftOut.some((name) => RegExp(`\\b${name}\\b`).test(example))
          ? ""
          : example,
    );
  const used = namesIn(code);
  return {
    ...source,
    header: source.header.replaceAll(/^ \* @run .*\n/gm, ""),
    imports: new Map([...source.imports].filter(([name]) => used.has(name))),
    code,
  };
}

/** A declaration of a module, and all others that it uses. */
function declarationsFor(
  name: string,
  declarations: Map<string, string>,
  found: string[] = [],
): string[] {
  const text = declarations.get(name);
  if (text === undefined || found.includes(text)) return found;
  found.push(text);
  for (const used of namesIn(text)) declarationsFor(used, declarations, found);
  return found;
}

/** Each name in the code of a text: not those in its comments and strings. */
function namesIn(text: string): Set<string> {
  const code = text.replaceAll(COMMENT, "").replaceAll(STRING, '""');
  const names = code.matchAll(NAME);
  return new Set(Array.from(names, ([name]) => name));
}

/**
 * What a module needs: the declarations of others that are reached from it, and
 * the names from outside, by the modules that they are from.
 */
function partsFor(copied: Source) {
  const parts = new Map<string, Part>();
  const kept = new Set<string>();
  const external = new Map<string, Set<string>>();

  const reach = (name: string, from: string, renamed: Source["renamed"]) => {
    if (!from.endsWith(".ts")) {
      const specifier = renamed.get(name) ?? name;
      external.set(from, (external.get(from) ?? new Set()).add(specifier));
      return;
    }
    if (kept.has(name)) return;
    kept.add(name);
    if (!parts.has(from)) {
      const source = readModule(from);
      parts.set(from, { ...source, declarations: declarationsOf(source) });
    }
    const { imports, declarations, ...part } = parts.get(from)!;
    const text = declarations.get(name);
    if (text === undefined) throw new Error(`${from} declares no ${name}`);
    for (const used of namesIn(text)) {
      const origin = declarations.has(used) ? from : imports.get(used);
      if (origin !== undefined) reach(used, origin, part.renamed);
    }
  };
  for (const [name, from] of copied.imports) {
    reach(name, from, copied.renamed);
  }

  // First the parts that a program is built from, then those that show it.
  const isShow = ({ path }: Source) => path.startsWith("lib/harness/");
  const texts = [...parts.values()]
    .toSorted((a, b) => Number(isShow(a)) - Number(isShow(b)))
    .map(({ path, header, declarations }) => {
      const needed = [...declarations].filter(([name]) => kept.has(name));
      const code = new Set(needed.map(([, text]) => text));
      const text = [...code].join("").replaceAll(EXAMPLE, "");
      return `${titleOf(path, header)}\n\n${text}`;
    });
  return { parts: texts, external };
}

/** A module's path, as other comments name it, and its first sentence. */
function titleOf(path: string, header: string): string {
  const [, about] = header.match(/^ \* ([^]*?\.)\s/m)!;
  const line = `// ${path}: ${about}`;
  if (line.length <= 80) return line;
  return `// ${path}:\n// ${about.replaceAll("\n * ", "\n// ")}`;
}

/** The declarations of a module by their names, each with its comments. */
function declarationsOf({ path, code }: Source): Map<string, string> {
  const declarations = new Map<string, string>();
  for (const [text] of code.matchAll(DECLARATION)) {
    const [, names] = text.replaceAll(COMMENT, "").match(DECLARED) ?? [];
    if (!names) throw new Error(`what is this in ${path}? ${text}`);
    for (const [name] of names.matchAll(NAME)) declarations.set(name, text);
  }
  return declarations;
}

function fileNameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Formats TypeScript as `deno fmt` does. */
async function format(text: string): Promise<string> {
  const command = new Deno.Command("deno", {
    args: ["fmt", "--no-config", "--ext=ts", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
    env: WITHOUT_LD,
  });
  let child;
  try {
    child = command.spawn();
  } catch (error) {
    throw new Error("fork failed!", { cause: error });
  }
  const [, { success, stdout }] = await Promise.all([
    new Blob([text]).stream().pipeTo(child.stdin),
    child.output(),
  ]);
  if (!success) throw new Error("deno fmt failed");
  return new TextDecoder().decode(stdout);
}

/** Where a copy goes: to a file, or into a folder, as cp(1) understands it. */
async function fileFor(path: string, out?: string): Promise<string> {
  if (out === undefined) return fileNameOf(path);
  const isFolder = await Deno.stat(out)
    .then((it) => it.isDirectory, () => false);
  if (out.endsWith("/") && !isFolder) {
    throw new UsageError(`no folder ${JSON.stringify(out)}`);
  }
  const file = isFolder
    ? `${out.replace(/\/+$/, "")}/${fileNameOf(path)}`
    : out;
  if (!/(?<!\.d)\.(m?ts|tsx)$/i.test(file)) { // Deno goes by the name.
    throw new UsageError(`${JSON.stringify(file)} does not end in .ts`);
  }
  const real = await Deno.realPath(file).catch(() => "");
  const root = await Deno.realPath(ROOT);
  if (["lessons", "lib"].some((it) => real.startsWith(`${root}/${it}/`))) {
    throw new UsageError(`${JSON.stringify(file)} is an original`);
  }
  return file;
}

async function writeFile(
  file: string,
  bytes: Uint8Array,
  force: boolean,
): Promise<void> {
  try {
    await Deno.writeFile(file, bytes, { createNew: !force });
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) {
      throw new Error(`${file} exists: --force writes over it`);
    }
    // On a full disk half of it would stay.
    if (!force) await Deno.remove(file).catch(() => {});
    throw new Error(`write ${file}`, { cause: error });
  }
}

if (import.meta.main) {
  const jsr = {
    default: false,
    help: "import the standard library from JSR, pinned",
  };
  const functions = { default: false, help: "only what can be imported" };
  const only = {
    default: "",
    help: "only these exports, with commas: server,client",
  };
  const force = { default: false, help: "write over a file that exists" };

  await runLesson(
    import.meta.url,
    "Copies a lesson, or a module of lib, into one file",
    {
      copy: {
        help: "a lesson, a module of lib, or trace, and where to write it",
        flags: ["--allow-read", "--allow-write", "--allow-run=deno"],
        options: { jsr, functions, only, force },
        operands: "NAME [OUT]",
        async run({ args, jsr, functions, only, force, output, print }) {
          const [name, out, ...more] = args;
          if (name === undefined) throw new UsageError("which lesson?");
          if (more.length > 0) {
            throw new UsageError(
              `unexpected argument ${JSON.stringify(more[0])}`,
            );
          }
          const path = findSource(name);
          const file = await fileFor(path, out);
          const text = await copyLesson(path, {
            fileName: fileNameOf(file),
            jsr,
            functions,
            only: only === "" ? [] : only.split(",").map((it) => it.trim()),
          });
          const bytes = new TextEncoder().encode(text);
          const say = out === undefined ? console.error : print;
          if (out === undefined) await writeFull(output, bytes);
          else await writeFile(file, bytes, force);
          const lines = text.split("\n").length - 1;
          say(`${file}: ${lines} lines, a copy of ${path}`);
          for (const line of usageOf(text, file)) say(`  ${line}`);
        },
      },
    },
  );
}
