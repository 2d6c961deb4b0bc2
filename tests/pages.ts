/**
 * The pages of the project, its `.md` files, as tests read them.
 *
 * @module
 */

import { returnedCalls } from "./testing.ts";

/** The folder that all paths count from. */
export const ROOT = new URL("../", import.meta.url);

/** The paths of all pages. */
export const PAGES = [...pagesIn("")].toSorted();

function* pagesIn(folder: string): Generator<string> {
  for (const entry of Deno.readDirSync(new URL(folder || ".", ROOT))) {
    if (entry.name.startsWith(".") || entry.name === "node_modules") continue;
    if (entry.isDirectory) yield* pagesIn(`${folder}${entry.name}/`);
    else if (entry.name.endsWith(".md")) yield folder + entry.name;
  }
}

/** The text of a page. */
export function textOf(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

/** A section of a page, up to the next heading of the same level. */
export function sectionOf(path: string, heading: string): string {
  const text = textOf(path);
  const start = text.indexOf(`\n## ${heading}\n`);
  if (start < 0) throw new Error(`${path} has no section "${heading}"`);
  return text.slice(start + 1).split("\n## ")[0]!;
}

/** The code blocks of a text in Markdown, also those within a list. */
export function codeBlocks(text: string): { language: string; text: string }[] {
  const blocks = text.matchAll(/^( *)```(.+)\n([^]*?)^\1```$/gm);
  return Array.from(blocks, ([, indent, language, code]) => ({
    language: language!,
    text: code!.replaceAll(RegExp(`^${indent}`, "gm"), ""),
  }));
}

/** The code blocks of a language on a page. */
export function blocksOf(path: string, language: string): string[] {
  return codeBlocks(textOf(path))
    .filter((it) => it.language.replace(" ignore", "") === language)
    .map(({ text }) => text);
}

/** A command and what it prints, on a page: what stands behind its `$`. */
export function transcriptOf(
  path: string,
  part: string,
): { command: string; shown: string[] } {
  const block = blocksOf(path, "console").find((it) => it.includes(part));
  if (block === undefined) throw new Error(`${path} has no ${part}`);
  const [first = "", ...shown] = block.trimEnd().split("\n");
  if (!first.startsWith("$ ")) throw new Error(`no command: ${first}`);
  return { command: first.slice(2), shown };
}

/** The tasks of `deno.json`. */
export const TASKS: Record<string, { command: string }> =
  JSON.parse(textOf("deno.json")).tasks;

/** A text without the ports in it, which differ from run to run. */
export const withoutPorts = (text: string) =>
  text.replaceAll(/:\d{4,5}\b/g, ":PORT");

/**
 * Runs a program of a page under the trace, as the page's transcript says, and
 * ends it when the trace says `end`.
 *
 * @param path The page.
 * @param file The name that the page gives to the program.
 * @param part What only this program has in it.
 * @param ask A client, which gets the port on which the program listens.
 * @param onTrace Is told the trace so far.
 */
export async function traceOn(
  path: string,
  { file, part, ask, end, onTrace = () => {} }: {
    file: string;
    part: string;
    ask: (port: number) => Promise<string>;
    end: string;
    onTrace?: (trace: string) => void;
  },
): Promise<{ answer: string; trace: string; shown: string[] }> {
  const program = blocksOf(path, "ts").find((it) => it.includes(part))!;
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(
    `${folder}/${file}`,
    program.replace(/port: 800\d/, "port: 0"),
  );
  const { command, shown } = transcriptOf(path, ` ${file}(`);
  const child = new Deno.Command(Deno.execPath(), {
    args: command.split(" ").slice(1, -1).concat(`${folder}/${file}`),
    cwd: ROOT,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  let trace = "";
  let asked = Promise.resolve("");
  let [isAsked, isTold] = [false, false];
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    trace += text;
    onTrace(trace);
    const [, port] = trace.match(/listen 127\.0\.0\.1:(\d+)/) ?? [];
    if (port && !isAsked) {
      isAsked = true;
      asked = ask(Number(port));
    }
    if (returnedCalls(trace).includes(end) && !isTold) {
      isTold = true; // It tells which calls wait, and ends.
      child.kill("SIGTERM");
    }
  }
  await child.status;
  await Deno.remove(folder, { recursive: true });
  return { answer: await asked, trace, shown };
}
