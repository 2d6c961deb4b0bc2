/**
 * Programs that run with the trace and without it, and must do the same.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { returnedCalls, run } from "../testing.ts";

/** What a user loads by `--preload`. */
export const TRACE =
  new URL("../../lib/trace/trace.ts", import.meta.url).pathname;

/** A program in the words of other people. It prints what it found. */
export interface Program {
  script: string;
  /** What the trace says, without times. */
  trace: RegExp[];
  /** Other files, by their paths from the program's folder. */
  files?: Record<string, string>;
  /** Its flags, beside `--allow-net`. */
  flags?: string[];
}

/** Writes `program.ts` and other files into a folder that is removed at the end. */
export async function programFolder(
  script: string,
  files: Record<string, string> = {},
) {
  const folder = await Deno.makeTempDir();
  for (
    const [path, text] of Object.entries({ ...files, "program.ts": script })
  ) {
    const file = `${folder}/${path}`;
    await Deno.mkdir(file.slice(0, file.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(file, text);
  }
  return {
    folder,
    file: `${folder}/program.ts`,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

/** Flags of every program. */
export const FLAGS = ["--no-check", "--unstable-net", "--allow-net"];

/** Runs a program, with the flags of all of them and some more. */
export const runProgram = (
  file: string,
  flags: string[],
  env: Record<string, string> = {},
) =>
  run(file, [], {
    flags: [...FLAGS, ...flags],
    env: { NO_COLOR: "1", ...env },
  });

/** A test for each program: it does the same with the trace, which is right. */
export function testPrograms(programs: Record<string, Program>): void {
  for (
    const [name, { script, trace, files, flags = [] }] of Object.entries(
      programs,
    )
  ) {
    Deno.test(`trace shows ${name}, and changes nothing`, async () => {
      await using program = await programFolder(script, files);
      const [plain, traced] = await Promise.all([
        runProgram(program.file, flags),
        runProgram(program.file, [`--preload=${TRACE}`, ...flags]),
      ]);
      assertEquals([traced.code, traced.stdout], [plain.code, plain.stdout]);
      assert(plain.stdout !== "", plain.stderr);
      const told = returnedCalls(traced.stderr);
      for (const line of trace) assertMatch(told, line);
      // The rest is what the program itself said.
      const rest = traced.stderr.replaceAll(/^\d+\.\d{3} .+\n/gm, "");
      assertEquals(rest.split("\n")[0], plain.stderr.split("\n")[0]);
    });
  }
}
