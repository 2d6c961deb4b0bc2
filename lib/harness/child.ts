/**
 * A lesson's server as a process of its own: the tutorial's `fork` and `wait`.
 *
 * @module
 */

import { WITHOUT_LD } from "../lab/plain_env.ts";
import { textLines } from "./text_lines.ts";

/** How long a child that was told to end may take, in milliseconds. */
const GRACE = 2000;
/** How long its clients have to find out by themselves that it was killed. */
const PARENT_NOTICES = 10_000;

/** What {@linkcode forkServer} needs to know. */
export interface ServerCommand {
  /** The lesson's `import.meta.url`. */
  url: string;
  /** The options of its server, by their names on the command line. */
  args: Record<string, string | number | boolean>;
  /** The flags of `deno run` that it needs besides those for the network. */
  flags?: string[];
  /** Gets each line that the server prints. */
  relay?: (line: string) => unknown;
  /** Ends the server when it is aborted. */
  signal?: AbortSignal;
}

/**
 * Starts a lesson's server in a process of its own, runs `parent` when it
 * listens, and waits for it to end. It ends by itself, by `stop`, by `signal`,
 * or with this process, even if this process is killed: with `--child` a server
 * ends when its standard input ends, and this process holds the other end.
 *
 * @returns The server's exit status.
 * @throws {Error} `fork failed!`, what `parent` throws, and the signal's reason.
 */
export async function forkServer(
  { url, args, flags = [], relay = console.log, signal }: ServerCommand,
  parent: (port: number, stop: () => void) => unknown,
): Promise<number> {
  signal?.throwIfAborted();
  const options = Object.entries(args).filter(([_, value]) => value !== false)
    .map(([key, value]) => value === true ? `--${key}` : `--${key}=${value}`);
  const child = spawnDeno([...flags, url, "server", "--child", ...options]);
  const lines = textLines(child.stdout);
  const stop = () => void endChild(child);
  const wait = async () => {
    for await (const line of lines) relay(line);
    return (await child.status).code;
  };
  const runBoth = async () => {
    const { value: ready } = await lines.next();
    if (ready === undefined) return await wait(); // It could not even begin.
    relay(ready);
    signal?.throwIfAborted();
    const port = Number(ready.split(":").at(-1));
    await Promise.race([parent(port, stop), failLate()]);
    return await wait(); // What it prints last stands behind its clients' lines.
  };
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  /** A parent that asks a server which is gone might wait for a long time. */
  const failLate = async () => {
    const { code } = await child.status;
    const { promise, resolve } = Promise.withResolvers<void>();
    if (code !== 0 && !isOver) timer = setTimeout(resolve, PARENT_NOTICES);
    await promise;
    throw new Error(`the server has ended with ${code}`);
  };
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal?.reason);
  signal?.addEventListener("abort", abort);
  try {
    return await Promise.race([runBoth(), aborted.promise]);
  } catch (error) {
    stop();
    const status = await wait();
    // It may be worse than the error's own code, as 137 is. But if this program
    // was told to end, and had to kill its child, this is no news.
    if (!signal?.aborted) Deno.exitCode ||= status;
    throw error;
  } finally {
    isOver = true;
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    stop();
  }
}

/** Starts `deno run`, which may use the network, and nothing else. */
export function spawnDeno(
  args: string[],
  stderr?: "inherit" | "piped" | "null",
): Deno.ChildProcess {
  const flags = ["--allow-net"];
  if (typeof Deno.listenDatagram === "function") flags.push("--unstable-net");
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
  try {
    return new Deno.Command(program, { ...options, env }).spawn();
  } catch (error) {
    throw new Error("fork failed!", { cause: error });
  }
}

/** Ends a child by the end of its standard input, and later by SIGKILL. */
async function endChild(child: Deno.ChildProcess): Promise<void> {
  child.stdin.close().catch(() => {}); // It may be closed, or in use.
  const killer = setTimeout(() => child.kill("SIGKILL"), GRACE);
  await child.status;
  clearTimeout(killer);
}
