/**
 * A lesson's server as a process of its own: the tutorial's `fork` and `wait`.
 *
 * @module
 */

import { WITHOUT_LD } from "../plain_env.ts";
import { beforeExit } from "./run_lesson.ts";

/** What {@linkcode forkServer} needs to know. */
export interface ServerCommand {
  /** The lesson's `import.meta.url`. */
  url: string;
  /** The flags that `deno run` needs for its server. */
  flags: string[];
  /** The options of its server, by their names on the command line. */
  args: Record<string, string | number | boolean>;
  /** Gets each line that the server prints; by default standard output. */
  print?: (line: string) => unknown;
  /** Gets the error that `parent` ended with; by default standard error. */
  report?: (error: unknown) => unknown;
}

/** What is added to a child's flags, and who takes lines of its stderr. */
export const childTrace = { // stage
  flags: [] as string[], // stage
  takes: (_line: string): boolean => false, // stage
}; // stage

/** How long a server that was told to end may take, in milliseconds. */
const GRACE = 2000;

/**
 * Starts a lesson's server in a process of its own, runs `parent` when it
 * listens, and waits for the server to end. Its errors go to standard error.
 *
 * The server ends when it has served all it was asked to serve, when `parent`
 * fails, and when this process ends in any way, even by SIGKILL: with
 * `--child` a server watches its standard input, whose other end is held here.
 *
 * @param command What to run.
 * @param parent What this process does meanwhile, with the server's port; it
 * calls `stop` if the server would not end by itself.
 * @returns The worst exit status: the server's, or 1 if `parent` failed.
 * @throws {Error} `fork failed!`, as {@linkcode spawnDeno} does.
 */
export async function forkServer(
  command: ServerCommand,
  parent: (port: number, stop: () => void) => Promise<unknown>,
): Promise<number> {
  const { url, flags, print = console.log, report = console.error } = command;
  const args = Object.entries(command.args)
    .filter(([_, value]) => value !== false)
    .map(([key, value]) => value === true ? `--${key}` : `--${key}=${value}`);
  const child = spawnDeno([...flags, url, "server", "--child", ...args]);

  let running = true;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const ended = child.status.then(({ code }) => {
    running = false;
    clearTimeout(killer);
    return code;
  });
  const stop = () => {
    child.stdin.close().catch(() => {}); // The child may have ended meanwhile.
    if (!running) return;
    killer ??= setTimeout(() => {
      report(new Error("the server did not end, and was killed"));
      child.kill("SIGKILL");
    }, GRACE);
  };
  const lines = textLines(child.stdout);
  const errors = (async () => {
    for await (const line of textLines(child.stderr)) {
      if (childTrace.takes(line)) continue; // stage
      console.error(line);
    }
  })();
  // Only then the lines after the first: what `parent` prints is in one piece.
  let finishing: Promise<number> | undefined;
  const finish = () =>
    finishing ??= (async () => {
      for await (const line of lines) print(line);
      await errors;
      return await ended;
    })();
  const stopAndFinish = () => {
    stop();
    return finish();
  };
  beforeExit.add(stopAndFinish);

  let status = 0;
  try {
    const ready = (await lines.next()).value;
    if (ready !== undefined) { // Else it ended, and has said why.
      print(ready);
      await parent(Number(ready.split(":").at(-1)), stop);
    }
  } catch (error) {
    report(error);
    status = 1;
    stop();
  }

  status = Math.max(status, await finish());
  beforeExit.delete(stopAndFinish);
  child.stdin.close().catch(() => {});
  return status;
}

/**
 * Starts `deno run`, with pipes for its standard streams.
 *
 * @param args The flags, the script, and its arguments.
 * @throws {Error} `fork failed!`; its `cause` is `Deno.errors.NotFound` if there
 * is no `deno` on PATH, `Deno.errors.NotCapable` without `--allow-run=deno`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const child = spawnDeno(["data:text/javascript,console.log(6*7)"]);
 * const lines: string[] = [];
 * for await (const line of textLines(child.stdout)) lines.push(line);
 * assertEquals(lines, ["42"]);
 * await child.stderr.cancel();
 * await child.stdin.close();
 * await child.status;
 * ```
 */
export function spawnDeno(args: string[]): Deno.ChildProcess {
  const all = ["run", ...args];
  all.splice(1, 0, ...childTrace.flags); // stage
  // By name: `--allow-run=deno` is about what PATH finds, which need not be
  // the file that Deno.execPath() returns.
  const deno = new Deno.Command("deno", {
    args: all,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: WITHOUT_LD,
  });
  try {
    return deno.spawn();
  } catch (error) {
    throw new Error("fork failed!", { cause: error });
  }
}

/**
 * Splits a stream of text into lines.
 *
 * @param stream The bytes of the text.
 * @returns Each line as it comes, without its newline.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const lines = await Array.fromAsync(textLines(new Blob(["a\nb"]).stream()));
 * assertEquals(lines, ["a", "b"]);
 * ```
 */
export async function* textLines(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
): AsyncGenerator<string, undefined> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}
