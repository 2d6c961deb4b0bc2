/**
 * A lesson's server as a process of its own: the tutorial's `fork` and `wait`.
 *
 * @module
 */

/** What {@linkcode forkServer} needs to know. */
export interface ServerCommand {
  /** The lesson's `import.meta.url`. */
  url: string;
  /** The flags that `deno run` needs for its server. */
  flags: string[];
  /** The options of its server; `true` stands for one without a value. */
  args: Record<string, string | number | true>;
  /** Ends the server when it is aborted. */
  signal?: AbortSignal;
  /** Gets each line that the server prints. */
  print(line: string): unknown;
  /** Gets the error that `parent` ended with, and that the server was killed. */
  report(error: unknown): void;
  /** Gets each event that the server traces. */
  onEvent(event: ServerEvent): void;
}

/** What a server traces: see `TraceEvent` in `lib/trace.ts`. */
export interface ServerEvent {
  /** Milliseconds since 1970, in fractions. */
  at: number;
  /** What happens. */
  what: string;
  /** Whether bytes or a connection go to the other side. */
  toPeer: boolean;
}

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
  parent: (port: number, stop: () => void) => Promise<void>,
): Promise<number> {
  const { url, flags, signal, print, report, onEvent } = command;
  const args = Object.entries(command.args).map(([key, value]) =>
    value === true ? `--${key}` : `--${key}=${value}`
  );
  const child = spawnDeno([...flags, url, "server", "--child", ...args]);

  let running = true;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const stop = () => {
    child.stdin.close().catch(() => {}); // The child may have ended meanwhile.
    if (running) {
      killer ??= setTimeout(() => {
        report(new Error("the server did not end, and was killed"));
        child.kill("SIGKILL");
      }, GRACE);
    }
  };
  const ended = child.status.then(({ code }) => {
    running = false;
    clearTimeout(killer);
    return code;
  });
  signal?.addEventListener("abort", stop);
  if (signal?.aborted) stop();

  const tracing = (async () => {
    for await (const line of textLines(child.stderr)) {
      if (line.startsWith('{"at":')) onEvent(JSON.parse(line));
      else console.error(line);
    }
  })();
  const lines = textLines(child.stdout);
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

  // Only now the lines after the first: what `parent` prints is in one piece.
  for await (const line of lines) print(line);
  await tracing;
  signal?.removeEventListener("abort", stop);
  status = Math.max(status, await ended);
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
  // By name: `--allow-run=deno` is about what PATH finds, which need not be
  // the file that Deno.execPath() returns.
  const deno = new Deno.Command("deno", {
    args: ["run", ...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    // Deno refuses to start anything that inherits an LD_ variable. These are
    // the ones that people set; empty is as good as not there.
    env: {
      LD_LIBRARY_PATH: "",
      LD_PRELOAD: "",
      LD_RUN_PATH: "",
      LD_BIND_NOW: "",
    },
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
