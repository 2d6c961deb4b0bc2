/**
 * A lesson's server as a process of its own: the tutorial's `fork` and `wait`.
 *
 * @module
 */

import { WITHOUT_LD } from "../plain_env.ts";
import { beforeExit, isEnding } from "./run_lesson.ts";
import { stage } from "./stage.ts"; // stage

/** How long a child that was told to end may take, in milliseconds. */
const GRACE = 2000;

/** What {@linkcode forkServer} needs to know. */
export interface ServerCommand {
  /** The lesson's `import.meta.url`. */
  url: string;
  /** The options of its server, by their names on the command line. */
  args: Record<string, string | number | boolean>;
  /** Gets each line that the server prints. */
  print: (line: string) => unknown;
}

/**
 * Starts a lesson's server in a process of its own, runs `parent` when it
 * listens, and waits for it to end. It ends by itself, by `stop`, or with this
 * process, even if this process is killed: with `--child` a server ends when
 * its standard input ends, and this process holds the other end of that.
 *
 * @returns The server's exit status.
 * @throws {Error} `fork failed!`, and what `parent` throws.
 */
export async function forkServer(
  { url, args, print }: ServerCommand,
  parent: (port: number, stop: () => void) => unknown,
): Promise<number> {
  const options = Object.entries(args).filter(([_, value]) => value !== false)
    .map(([key, value]) => value === true ? `--${key}` : `--${key}=${value}`);
  const child = spawnDeno(
    [url, "server", "--child", ...options],
    stage.childErrors, // stage
  );
  const lines = textLines(child.stdout);
  const errors = stage.watchErrors(child); // stage

  let ended: Promise<number> | undefined;
  const wait = () =>
    ended ??= (async () => {
      for await (const line of lines) print(line);
      await errors; // stage
      return (await child.status).code;
    })();
  const stop = async () => {
    const [status] = await Promise.all([wait(), endChild(child)]);
    return status;
  };

  beforeExit.add(wait); // What it prints last counts, even after a signal.
  try {
    const { value: ready } = await lines.next();
    if (ready !== undefined) { // Otherwise it has ended, and has said why.
      print(ready);
      await parent(Number(ready.split(":").at(-1)), stop);
    }
    return await wait();
  } catch (error) {
    Deno.exitCode ||= await stop(); // If it is worse than the error's own code.
    throw error;
  } finally {
    await stop();
    beforeExit.delete(wait);
  }
}

/**
 * Starts `deno run`, as {@linkcode spawnChild} does. It may use the network, and
 * nothing else.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const child = spawnDeno(["data:text/javascript,console.log(`${6*7}`)"]);
 * const lines: string[] = [];
 * for await (const line of textLines(child.stdout)) lines.push(line);
 * assertEquals(lines, ["42"]);
 * await child.stdin.close();
 * await child.status;
 * ```
 */
export function spawnDeno(
  args: string[],
  stderr?: "inherit" | "piped" | "null",
): Deno.ChildProcess {
  const flags = ["--allow-net"];
  if (typeof Deno.listenDatagram === "function") flags.push("--unstable-net");
  flags.push(...stage.childFlags); // stage
  // By name: `--allow-run=deno` is about what PATH finds, which need not be
  // the file that Deno.execPath() returns.
  return spawnChild("deno", ["run", ...flags, ...args], stderr);
}

/**
 * Starts a program that ends when its standard input does, and so with this
 * process. Its standard input and output are pipes.
 *
 * @throws {Error} `fork failed!`: the program is not on PATH, or `--allow-run`
 * does not name it.
 */
export function spawnChild(
  program: string,
  args: string[],
  stderr: "inherit" | "piped" | "null" = "inherit",
): Deno.ChildProcess {
  const options = { args, stdin: "piped", stdout: "piped", stderr } as const;
  const env = { ...WITHOUT_LD, NO_COLOR: "1" };
  let child: Deno.ChildProcess;
  if (isEnding) throw new Error("fork failed!: this program ends");
  try {
    child = new Deno.Command(program, { ...options, env }).spawn();
  } catch (error) {
    throw new Error("fork failed!", { cause: error });
  }
  const end = () => endChild(child);
  beforeExit.add(end);
  child.status.then(() => beforeExit.delete(end));
  return child;
}

/** Ends a child by the end of its standard input, and later by SIGKILL. */
async function endChild(child: Deno.ChildProcess): Promise<void> {
  child.stdin.close().catch(() => {}); // It may be closed, or in use.
  const killer = setTimeout(() => {
    child.kill("SIGKILL");
    const line = "a child process did not end, and was killed\n";
    Deno.stderr.write(new TextEncoder().encode(line)).catch(() => {});
  }, GRACE);
  await child.status;
  clearTimeout(killer);
}

/**
 * Splits a stream of text into lines, without their newlines.
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
