/**
 * Copies a lesson, or a module of lib, with all that it needs, into one file.
 *
 *     deno task copy 02_tcp_echo echo.ts
 *
 * @module
 */

import {
  failed,
  flagOption,
  mode,
  runLesson,
  UsageError,
} from "./command_line.ts";
import { writeFull } from "./full_io.ts";
import repo from "../deno.json" with { type: "json" };
import jsr from "./jsr_imports.json" with { type: "json" };

const ROOT = new URL("../", import.meta.url);
const ORIGIN = "Linux sockets in Deno";
const LICENSE = `Copyright (c) 2026 the authors of ${ORIGIN}. MIT License.`;
const MAIN = "\nif (import.meta.main) {";

/** Options of {@linkcode copyLesson}. */
export interface CopyOptions {
  /** The name of the file it will stand in; the lesson's own by default. */
  fileName?: string;
  /** Imports the standard library from npm, and not from JSR. */
  npm?: boolean;
}

/** A module of the graph, in the order in which it is needed. */
interface Part {
  path: string;
  text: string;
}

/**
 * Makes one file of a lesson and the modules of lib that it uses.
 *
 * @param name The lesson's or module's file, without `.ts`.
 * @returns The text of the file, formatted.
 * @throws {UsageError} If there is no such lesson or module.
 * @throws {Error} `fork failed!` if `deno` cannot be run.
 */
export async function copyLesson(
  name: string,
  options: CopyOptions = {},
): Promise<string> {
  const names = new Map(
    ["lessons", "lib"].flatMap((folder) =>
      Array.from(Deno.readDirSync(new URL(folder, ROOT)), ({ name }) => name)
        .filter((file) => file.endsWith(".ts"))
        .map((file) => [file.slice(0, -3), `${folder}/${file}`] as const)
    ).toSorted(),
  );
  const path = names.get(name.replace(/\.ts$/, ""));
  if (path === undefined || path === "lib/copy_lesson.ts") {
    names.delete("copy_lesson");
    throw new UsageError(
      `no lesson or module ${JSON.stringify(name)}, there are ${
        [...names.keys()].join(", ")
      }`,
    );
  }

  const imports = new Map<string, Set<string>>();
  const parts = (await modulesOf(path)).map(({ path, text }) => ({
    path,
    text: takeImports(text, imports),
  }));
  const copied = parts.pop()!;
  const { fileName = path.split("/")[1] } = options;
  copied.text = copied.text.replaceAll(path, fileName);

  // The lesson is what one reads first. Only what runs at once, at its end, has
  // to stand behind the parts that it uses.
  const headerEnd = copied.text.indexOf("*/") + 3;
  const mainStart = copied.text.indexOf(MAIN);
  const bodyEnd = mainStart < 0 ? copied.text.length : mainStart;
  const external = [...imports].map(([from, names]) => {
    const specifiers: Record<string, string> = options.npm
      ? repo.imports
      : jsr.imports;
    return `import { ${[...names].join(", ")} } from "${
      specifiers[from] ?? from
    }";`;
  });
  return await format([
    external.some((it) => /"(npm|jsr):/.test(it))
      ? "// deno-lint-ignore-file no-import-prefix\n"
      : "",
    `// Copied from ${path} of ${ORIGIN}.\n// ${LICENSE}\n\n`,
    copied.text.slice(0, headerEnd),
    "\n",
    external.join("\n"),
    copied.text.slice(headerEnd, bodyEnd),
    ...parts.map(({ path, text }) =>
      `\n// From ${path} of ${ORIGIN}.\n\n${
        text.replace(/^ \* @module\n/m, "").replace(/^ \*\n \*\//m, " */")
      }`
    ),
    copied.text.slice(bodyEnd),
  ].join(""));
}

/** The local modules that a module needs, each behind those it needs itself. */
async function modulesOf(path: string): Promise<Part[]> {
  const { modules } = JSON.parse(
    await deno(["info", "--json", new URL(path, ROOT).href]),
  ) as {
    modules: {
      specifier: string;
      local?: string;
      dependencies?: { code?: { specifier: string } }[];
    }[];
  };
  const parts = new Map<string, Part>();
  const visit = async (specifier: string) => {
    const found = modules.find((module) => module.specifier === specifier);
    if (!specifier.startsWith("file:") || parts.has(specifier) || !found) {
      return;
    }
    for (const { code } of found.dependencies ?? []) {
      if (code) await visit(code.specifier);
    }
    const text = await Deno.readTextFile(new URL(specifier));
    parts.set(specifier, { path: specifier.slice(ROOT.href.length), text });
  };
  await visit(new URL(path, ROOT).href);
  return [...parts.values()];
}

/** Takes the imports out of a text; those from elsewhere are collected. */
function takeImports(text: string, imports: Map<string, Set<string>>): string {
  return text.replaceAll(
    /^import \{([^}]*)\} from "(.+)";\n/gm,
    (_, list: string, from: string) => {
      if (!from.startsWith(".")) {
        const names = imports.get(from) ?? new Set();
        imports.set(from, names);
        for (const name of list.split(",")) {
          if (name.trim() !== "") names.add(name.trim());
        }
      }
      return "";
    },
  );
}

/** Formats TypeScript as `deno fmt` does. */
function format(text: string): Promise<string> {
  return deno(["fmt", "--no-config", "--ext=ts", "-"], text);
}

/** Runs `deno`, and returns what it prints. */
async function deno(args: string[], input = ""): Promise<string> {
  const child = await Promise.try(() =>
    new Deno.Command("deno", {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
      // As in lib/child.ts.
      env: {
        LD_LIBRARY_PATH: "",
        LD_PRELOAD: "",
        LD_RUN_PATH: "",
        LD_BIND_NOW: "",
      },
    }).spawn()
  ).catch(failed("fork failed!"));
  const writing = new Blob([input]).stream().pipeTo(child.stdin);
  const { success, stdout } = await child.output();
  await writing;
  if (!success) throw new Error(`deno ${args[0]} failed`);
  return new TextDecoder().decode(stdout);
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Copies a lesson, or a module of lib, into one file",
    modes: {
      copy: mode({
        help: "the name of a lesson or module, and where to write it",
        flags: ["--allow-read", "--allow-write", "--allow-run=deno"],
        options: {
          npm: flagOption("import the standard library from npm, not JSR"),
          force: flagOption("write over a file that exists"),
        },
        operands: "NAME [OUT]",
        async run({ args, npm, force, output }) {
          const [name, out, ...more] = args;
          if (name === undefined) throw new UsageError("which lesson?");
          if (more.length > 0) {
            throw new UsageError(
              `unexpected argument ${JSON.stringify(more[0])}`,
            );
          }
          const fileName = out?.split("/").at(-1);
          const text = await copyLesson(name, { npm, fileName });
          const bytes = new TextEncoder().encode(text);
          if (out === undefined) await writeFull(output, bytes);
          else {
            await Deno.writeFile(out, bytes, { createNew: !force })
              .catch((error) => {
                if (error instanceof Deno.errors.AlreadyExists) {
                  throw new Error(`${out} exists: --force writes over it`);
                }
                failed(`write ${out}`)(error);
              });
          }
        },
      }),
    },
  });
}
