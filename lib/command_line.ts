/**
 * The command line that every lesson has: modes, options, `--help`, signals,
 * errors in one line, exit codes.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { writeFull } from "./full_io.ts";
import { isQuit, LineReader } from "./lines.ts";
import {
  formatAddress,
  printEvent,
  sendEvent,
  type Trace,
  traceTo,
} from "./trace.ts";

/** An option that takes text. */
export interface TextOption {
  /** Marks an option that takes text. */
  kind: "text";
  /** What it is for. */
  help: string;
  /** Its value where it is not given. */
  default: string;
}

/** An option that takes a number in decimal digits. */
export interface IntegerOption {
  /** Marks an option that takes a number. */
  kind: "integer";
  /** What it is for, with the unit. */
  help: string;
  /** Its value where it is not given. */
  default: number;
  /** The least value. */
  min: number;
  /** The greatest value. */
  max: number;
}

/** An option that is there or is not. */
export interface FlagOption {
  /** Marks an option without a value. */
  kind: "flag";
  /** What it is for. */
  help: string;
}

/** The options of a mode, by their names without the two dashes. */
export type Options = Record<string, TextOption | IntegerOption | FlagOption>;

/** The value of an option. */
export type Value<T> = T extends FlagOption ? boolean
  : T extends IntegerOption ? number
  : string;

/** The values of options, by the same names. */
export type Values<O extends Options> = { [K in keyof O]: Value<O[K]> };

/** Describes an option that takes text. */
export function textOption(help: string, usual: string): TextOption {
  return { kind: "text", help, default: usual };
}

/** Describes an option that takes a number, from 0 to any unless said. */
export function integerOption(
  help: string,
  usual: number,
  min = 0,
  max: number = Number.MAX_SAFE_INTEGER,
): IntegerOption {
  return { kind: "integer", help, default: usual, min, max };
}

/** Describes an option without a value. */
export function flagOption(help: string): FlagOption {
  return { kind: "flag", help };
}

/** `--quiet`, an option of every mode. */
export const quietOption = { quiet: flagOption("no trace, no diagram") };

/** The options of every server. */
export const serverOptions = {
  host: textOption("address to listen on", "0.0.0.0"),
  port: integerOption("port to listen on, 0 for a free one", 9527, 0, 65535),
  child: flagOption("as demo runs it: traces JSON, ends when its input does"),
  ...quietOption,
};

/** The options of every client. */
export const clientOptions = {
  host: textOption("address of the server", "127.0.0.1"),
  port: integerOption("port of the server", 9527, 1, 65535),
  ...quietOption,
};

/** The options of every demo that forks a server. */
export const demoOptions = {
  host: textOption("address to listen on", "127.0.0.1"),
  port: integerOption("port to listen on, 0 for a free one", 0, 0, 65535),
  ...quietOption,
};

/**
 * What a mode needs of the process it runs in, by the names that the options
 * of the lessons' functions have.
 */
export interface Io {
  /**
   * Aborted by SIGINT, by SIGTERM, when standard output is closed, and for a
   * `--child` when standard input ends.
   */
  signal: AbortSignal;
  /** Traces to standard error, unless `--quiet` is given. */
  trace: Trace;
  /** The operands of a mode that takes many. */
  args: string[];
  /** The value of `--host`, under the name it has in Deno. */
  hostname: string;
  /**
   * Reads a line of standard input, with its newline; `null` for `q`, for `Q`
   * and for the end. On a terminal it asks for it first.
   */
  ask(prompt: string): Promise<Uint8Array | null>;
  /** Whether somebody may type, or standard input has anything to read. */
  hasInput(): Promise<boolean>;
  /** Standard output. When nobody reads it any more, `signal` is aborted. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Prints a line on standard output. Resolves when it is out. */
  print(line: string): Promise<void>;
  /** Prints an error on standard error, unless it is the abort's reason. */
  report(error: unknown): void;
  /** Prints a server's first line; when it has ended, its last one follows. */
  onListen(address: Deno.NetAddr): void;
}

/** One way to run a lesson. */
export interface Mode<O extends Options = Options> {
  /** What it does, in a few words. */
  help: string;
  /** The flags that `deno run` needs for it. */
  flags: string[];
  /** Its options. */
  options: O;
  /**
   * What may stand on its command line without dashes: the names of options,
   * in this order, or the name of something that may be given many times.
   */
  operands?: string[] | string;
  /** Runs it. Resolves to the exit code, if that is not 0. */
  run(options: Values<O> & Io): Promise<number | void> | void;
}

/** A lesson, as its command line has it. */
export interface Lesson {
  /** The lesson's own `import.meta.url`. */
  url: string;
  /** The `@title` of its header. */
  title: string;
  /** Its modes; the first one is what runs when none is named. */
  modes: Record<string, Mode>;
}

/** Lets TypeScript infer what `run` gets from the options. */
export function mode<O extends Options>(definition: Mode<O>): Mode {
  return definition;
}

/** The command line cannot be understood: exit code 2. */
export class UsageError extends Error {}

/** What {@linkcode parseCommandLine} found. */
export interface CommandLine {
  /** The name of the mode, or `"help"`. */
  mode: string;
  /** The mode's options, each with its value. */
  values: Values<Options>;
  /** The operands that are not options, where the mode takes many. */
  args: string[];
}

/**
 * Reads a command line.
 *
 * @param lesson The lesson that it is for.
 * @param argv The arguments, as `Deno.args`.
 * @returns The mode to run and its options, or the mode `"help"`.
 * @throws {UsageError} If the lesson cannot be run like this.
 *
 * @example
 * ```ts
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const server = mode({
 *   help: "waits for clients",
 *   flags: ["--allow-net"],
 *   options: { port: integerOption("port to listen on", 9527, 0, 65535) },
 *   run: ({ port }) => console.log(port),
 * });
 * const lesson = { url: import.meta.url, title: "Test", modes: { server } };
 * assertEquals(parseCommandLine(lesson, []).values, { port: 9527 });
 * assertThrows(
 *   () => parseCommandLine(lesson, ["--port", "-1"]),
 *   UsageError,
 *   '--port must be an integer from 0 to 65535, got "-1"',
 * );
 * ```
 */
export function parseCommandLine(lesson: Lesson, argv: string[]): CommandLine {
  const known: Options = Object.assign(
    {},
    ...Object.values(lesson.modes).map((mode) => mode.options),
  );
  const { joined, unknown } = joinValues(argv, known);
  const parsed: Record<string, unknown> = parseArgs(joined, {
    string: ["_", ...Object.keys(known).filter((it) => takesValue(known, it))],
    boolean: [
      "help",
      ...Object.keys(known).filter((it) => !takesValue(known, it)),
    ],
    alias: { help: "h" },
  });
  if (unknown.length > 0) {
    throw new UsageError(`unknown option ${JSON.stringify(unknown[0])}`);
  }
  if (parsed.help) return { mode: "help", values: {}, args: [] };

  const args = parsed._ as string[];
  const usual = Object.keys(lesson.modes)[0];
  const name = Object.hasOwn(lesson.modes, args[0] ?? usual) ||
      typeof lesson.modes[usual].operands !== "string"
    ? args.shift() ?? usual
    : usual;
  if (!Object.hasOwn(lesson.modes, name)) {
    const names = Object.keys(lesson.modes).join(", ");
    throw new UsageError(
      `unknown mode ${JSON.stringify(name)}, expected one of ${names}`,
    );
  }
  const { options, operands = [] } = lesson.modes[name];
  for (const key of Object.keys(parsed)) {
    // parseArgs gives every flag of its list a value, whether it was there.
    if (Object.hasOwn(known, key) && parsed[key] !== false) {
      if (Object.hasOwn(options, key)) continue;
      throw new UsageError(`unknown option "--${key}" for ${name}`);
    }
  }
  if (typeof operands !== "string") {
    for (const key of operands) {
      if (args.length === 0) break;
      if (parsed[key] !== undefined) throw new UsageError(`${key} given twice`);
      parsed[key] = args.shift();
    }
    if (args.length > 0) {
      throw new UsageError(`unexpected argument ${JSON.stringify(args[0])}`);
    }
  }

  const values: CommandLine["values"] = {};
  for (const [key, option] of Object.entries(options)) {
    const given = parsed[key];
    if (option.kind === "flag") values[key] = given === true;
    else if (given === undefined) values[key] = option.default;
    else if (option.kind === "integer") {
      values[key] = integer(`--${key}`, String(given), option);
    } else if (key === "host" && given === "") {
      throw new UsageError("--host must not be empty");
    } else values[key] = String(given);
  }
  return { mode: name, values, args };
}

/** Whether `name` is an option with a value. */
function takesValue(options: Options, name: string): boolean {
  return Object.hasOwn(options, name) && options[name].kind !== "flag";
}

/**
 * Joins `--port -1` to `--port=-1`, which a parser would take for two options,
 * and sorts out the options that there are not.
 */
function joinValues(argv: string[], known: Options) {
  const joined: string[] = [];
  const unknown: string[] = [];
  const end = argv.includes("--") ? argv.indexOf("--") : argv.length;
  for (let i = 0; i < end; i++) {
    const arg = argv[i];
    const [, name = "", value] = arg.match(/^--([^=]+)(=[^]*)?$/) ?? [];
    if (takesValue(known, name) && value === undefined) {
      const next = argv[++i];
      if (next === undefined || next.startsWith("--") || next === "-h") {
        throw new UsageError(`--${name} needs a value`);
      }
      joined.push(`--${name}=${next}`);
    } else if (takesValue(known, name) || arg === "-h") {
      joined.push(arg);
    } else if (name === "help" || Object.hasOwn(known, name)) {
      if (value !== undefined) {
        throw new UsageError(`--${name} takes no value`);
      }
      joined.push(arg);
    } else if (arg.startsWith("-") && arg !== "-") {
      unknown.push(arg);
    } else joined.push(arg);
  }
  return { joined: [...joined, ...argv.slice(end)], unknown };
}

/** Decimal digits only: `Number` would take `0x50`, `1e3` and ` 80` as well. */
function integer(
  name: string,
  text: string,
  { min, max }: { min: number; max: number },
): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || number < min || number > max) {
    throw new UsageError(
      `${name} must be an integer from ${min} to ${max}, got ${
        JSON.stringify(text)
      }`,
    );
  }
  return number;
}

/**
 * How long a client or demo may clean up after a signal, in milliseconds: more
 * than `lib/child.ts` gives a server.
 */
const CLEANUP_TIME = 3000;

/**
 * Runs a lesson from its command line, and ends the process: exit code 0 done,
 * 1 the network or the system said no, 2 wrong usage, 130 or 143 ended by
 * SIGINT or SIGTERM. A server that a signal ends has done its work: 0.
 *
 * @param lesson The lesson.
 */
export async function runLesson(lesson: Lesson): Promise<never> {
  const name = fileName(lesson).replace(/\.ts$/, "");
  const stop = new AbortController();
  let status = 0;
  let statusIfStopped = 0;
  let listened = false;

  const report = (error: unknown) => {
    if (stop.signal.aborted && error === stop.signal.reason) return;
    statusIfStopped ||= 1;
    writeError(`${name}: ${describeError(error)}\n`);
  };
  // Nobody reads our output any more (`| head -1`): a program in C would be
  // ended by SIGPIPE here. This one cleans up first, and is as quiet; but a
  // full disk it reports.
  let isLost = false;
  const write = async (p: Uint8Array): Promise<number> => {
    if (isLost) throw stop.signal.reason;
    for (;;) {
      try {
        return await Deno.stdout.write(p);
      } catch (error) {
        if (error instanceof Deno.errors.WouldBlock) { // Somebody's O_NONBLOCK.
          await new Promise((resolve) => setTimeout(resolve, 10));
          continue;
        }
        isLost = true;
        if (!(error instanceof Deno.errors.BrokenPipe)) {
          report(new Error("write stdout", { cause: error }));
        }
        stop.abort(error);
        throw error;
      }
    }
  };
  let printing: Promise<unknown> = Promise.resolve();
  const print = async (line: string) => {
    const bytes = new TextEncoder().encode(line + "\n");
    printing = printing.then(() => writeFull({ write }, bytes)).catch(() => {});
    await printing;
  };
  const output: Io["output"] = {
    async write(p) {
      await printing; // What was printed before comes before.
      return await write(p);
    },
  };

  // What an abort interrupts may have nobody waiting for it any more. Anything
  // else is a mistake of ours, and still no reason for a stack trace.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    if (stop.signal.aborted) return;
    report(event.reason);
    Deno.exit(1);
  });

  try {
    const { mode, values, args } = parseCommandLine(lesson, Deno.args);
    if (mode === "help") {
      await print(helpText(lesson));
      Deno.exit(0);
    }
    // The handlers stay: `deno task` delivers one Ctrl+C twice, and the second
    // must not cut the cleaning up short.
    for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
      if (Deno.build.os === "windows" && signal === "SIGTERM") continue;
      Deno.addSignalListener(signal, () => {
        if (mode !== "server") {
          statusIfStopped = code;
          // Where nobody takes the output, the last lines of it never get out.
          setTimeout(() => Deno.exit(code), CLEANUP_TIME);
        }
        stop.abort();
      });
    }
    if (values.child) endWithStdin(stop);
    const isTyped = Deno.stdin.isTerminal();
    const lines = new LineReader({
      read: (p) => Deno.stdin.read(p).catch(failed("read stdin")),
    }, { signal: stop.signal });
    const io: Io = {
      signal: stop.signal,
      trace: values.quiet
        ? () => {}
        : traceTo(values.child ? sendEvent : printEvent),
      args,
      hostname: String(values.host),
      async ask(prompt) {
        const prompts = isTyped && Deno.stdout.isTerminal();
        let line: Uint8Array | null = null;
        try {
          if (prompts) {
            await writeFull(output, new TextEncoder().encode(prompt));
          }
          line = await lines.readLine();
        } finally {
          // What comes next does not belong behind the prompt.
          if (prompts && line?.at(-1) !== 0x0a) await print("");
        }
        return line === null || isQuit(line) ? null : line;
      },
      hasInput: async () => isTyped || !await lines.atEnd(),
      output,
      print,
      report,
      onListen(address) {
        listened = true;
        print(`listening on ${formatAddress(address)}`);
      },
    };
    const { run } = lesson.modes[mode];
    try {
      status = await run({ ...values, ...io } as Values<Options> & Io) ?? 0;
    } finally {
      if (listened) print("server closed");
      await printing;
    }
  } catch (error) {
    report(error);
    status = error instanceof UsageError ? 2 : 1;
  }
  Deno.exit(stop.signal.aborted ? statusIfStopped : status);
}

/**
 * Ends a child when its parent lets go of its standard input: also when the
 * parent was killed, and also where a signal would end no more than the
 * launcher that an npm installation puts before `deno`.
 */
async function endWithStdin(stop: AbortController): Promise<void> {
  const buffer = new Uint8Array(1024);
  while (await Deno.stdin.read(buffer).catch(() => null) !== null);
  stop.abort();
}

/** Writes to standard error; if nobody reads it, there is nobody to tell. */
function writeError(text: string): void {
  try {
    const bytes = new TextEncoder().encode(text);
    for (let written = 0; written < bytes.length;) {
      written += Deno.stderr.writeSync(bytes.subarray(written));
    }
  } catch {
    // The exit code still says it.
  }
}

/** The lesson's file, as one names it in a command. */
function fileName(lesson: Lesson): string {
  return decodeURIComponent(lesson.url.slice(lesson.url.lastIndexOf("/") + 1));
}

/** What `--help` prints: title, usage, and for each mode command and options. */
function helpText(lesson: Lesson): string {
  // A copy is run from where it is, the others from the repository's root.
  const [path] = decodeURIComponent(lesson.url)
    .match(/(?:(?<=\/)(?:lessons|lib|tests\/bench)\/)?[^/]+$/)!;
  const names = Object.keys(lesson.modes);
  const lines = [
    lesson.title,
    "",
    `Usage: deno run [flags] ${path} [${names.join("|")}] [options]`,
  ];
  for (const [name, mode] of Object.entries(lesson.modes)) {
    const { help, flags, options, operands = [] } = mode;
    const command = ["deno run", ...flags, path];
    if (name !== names[0]) command.push(name);
    const more = typeof operands === "string"
      ? ` [${operands}...]`
      : operands.map((key) => ` [${key.toUpperCase()}]`).join("");
    lines.push("", `${name}${more}: ${help}`, `  ${command.join(" ")}`, "");
    for (const [key, option] of Object.entries(options)) {
      const value =
        { text: " TEXT", integer: " NUMBER", flag: "" }[option.kind];
      const usual = option.kind === "flag" ? "" : ` [${option.default}]`;
      lines.push(`  ${`--${key}${value}`.padEnd(24)}  ${option.help}${usual}`);
    }
  }
  lines.push("", "--help or -h prints this.");
  return lines.join("\n");
}

/**
 * Says which flag is missing where there is no `Deno.listenDatagram`: it is
 * unstable, and TypeScript does not know.
 *
 * @throws {Error} Without `--unstable-net`.
 */
export function needUnstableNet(): void {
  if (!Deno.listenDatagram) {
    throw new Error(
      "Deno.listenDatagram is unstable, run again with the --unstable-net flag",
    );
  }
}

/**
 * Puts an error in one line: `ECONNREFUSED (Connection refused)`, behind the
 * errors that it is the cause of.
 *
 * @param error What was thrown.
 * @returns One line, without the number of the system's error.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const error = new Deno.errors.AddrInUse("Address already in use (os error 98)");
 * assertEquals(describeError(error), "Address already in use");
 * assertEquals(
 *   describeError(Object.assign(error, { code: "EADDRINUSE" })),
 *   "EADDRINUSE (Address already in use)",
 * );
 * ```
 */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const message = error.message.replace(/ \(os error \d+\)$/, "")
    .replace(/[\s\p{Cc}]+/gu, " ");
  if (error.cause !== undefined) {
    return `${message}: ${describeError(error.cause)}`;
  }
  const { code } = error as { code?: unknown };
  if (typeof code === "string") return `${code} (${message})`;
  const isTimeout = error instanceof Deno.errors.TimedOut ||
    error.name === "TimeoutError";
  return isTimeout ? "TimedOut" : message;
}

/**
 * For `promise.catch(failed("connect 127.0.0.1:9527"))`: names the call that
 * an error came from, as `perror(3)` does.
 *
 * @param call The call and its address, or what else says what was tried.
 * @returns A function that throws an `Error` with the original one as `cause`.
 *
 * @example
 * ```ts
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const refused = Promise.reject(new Error("Connection refused"));
 * const error = await assertRejects(
 *   () => refused.catch(failed("connect 127.0.0.1:9527")),
 *   Error,
 *   "connect 127.0.0.1:9527",
 * );
 * assertEquals(
 *   describeError(error),
 *   "connect 127.0.0.1:9527: Connection refused",
 * );
 * ```
 */
export function failed(call: string): (error: unknown) => never {
  return (error) => {
    throw new Error(call, { cause: error });
  };
}
