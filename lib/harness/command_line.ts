/**
 * The command line that every lesson has: modes, options, `--help`.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { stage } from "./stage.ts"; // stage

/** An option. The type of its default is the type of its value. */
export interface Option {
  /** Its value where it is not given; `false` makes it a flag. */
  default: string | number | boolean;
  /** What it is for, with the unit. */
  help: string;
  /** The least value of a number, 0 by default. */
  min?: number;
  /** The greatest value of a number. */
  max?: number;
  /** Its name on the command line; by default `maxFrame` is `--max-frame`. */
  flag?: string;
}

/** The options of a mode, by the names that its function has for them. */
export type Options = Record<string, Option>;

/** The values of options, by the same names. */
export type Values<O extends Options> = {
  [K in keyof O]: O[K]["default"] extends string ? string
    : O[K]["default"] extends number ? number
    : boolean;
};

/** The options of every server. */
export const serverOptions = {
  hostname: { flag: "host", default: "0.0.0.0", help: "address to listen on" },
  port: { default: 9527, max: 65535, help: "its port, 0 for a free one" },
  child: { default: false, help: "as demo runs it: ends with its input" },
};

/** The options of every client. */
export const clientOptions = {
  hostname: {
    flag: "host",
    default: "127.0.0.1",
    help: "the server's address",
  },
  port: { default: 9527, min: 1, max: 65535, help: "the server's port" },
};

/** The options of every demo that forks a server. */
export const demoOptions = {
  hostname: { ...serverOptions.hostname, default: "127.0.0.1" },
  port: { ...serverOptions.port, default: 0 },
};

/** What a mode gets besides its options. */
export interface Io {
  /** The operands of a mode that takes any number of them. */
  args: string[];
  /** Standard output. When nobody reads it any more, the process ends. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Prints a line on standard output. */
  print(line: string): Promise<unknown>;
  /** Prints an error on standard error, in one line. */
  report(error: unknown): void;
  /** Prints a server's first line. */
  onListen(address: Deno.NetAddr): void;
  /** Aborted by SIGINT and SIGTERM, for a mode that `drains`. */
  signal: AbortSignal;
}

/** One way to run a lesson. */
export interface Mode<O extends Options = Options> {
  /** What it does, in a few words. */
  help: string;
  /** The flags that `deno run` needs for it. */
  flags: string[];
  /** Its options. */
  options: O;
  /** What may stand without a name: options, or the word for any number. */
  operands?: string[] | string;
  /** What is shown of its socket calls. */
  show?: "trace" | "diagram"; // stage
  /** What it prints last when a signal ends it. */
  last?: string;
  /** Whether it ends by itself when its signal is aborted. */
  drains?: boolean;
  /** Runs it. Resolves to the exit code; what is no number is 0. */
  run(options: Values<O> & Io): unknown;
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
  return definition as unknown as Mode;
}

/** The command line cannot be understood: exit code 2. */
export class UsageError extends Error {}

/** What {@linkcode parseCommandLine} found. */
export interface CommandLine {
  /** The name of the mode. */
  name: string;
  /** Whether it is only asked what there is. */
  help: boolean;
  /** The mode's options, each with its value. */
  values: Record<string, unknown>;
  /** The operands that are not options, where the mode takes any number. */
  args: string[];
}

const quote = (text: string) => JSON.stringify(text);

/** The options of a mode, by their names on the command line. */
function flagsOf(mode: Mode): Map<string, Option & { key: string }> {
  const options = { ...mode.options };
  Object.assign(options, stage.options(mode.show)); // stage
  return new Map(
    Object.entries(options).map(([key, option]) => {
      const flag = key.replace(/[A-Z]/g, (it) => `-${it.toLowerCase()}`);
      return [option.flag ?? flag, { ...option, key }];
    }),
  );
}

/**
 * Reads a command line: the name of a mode, and its options.
 *
 * @param modes The modes of a lesson; the first one needs no name.
 * @param argv The arguments, as `Deno.args`.
 * @throws {UsageError} If the lesson cannot be run like this.
 *
 * @example
 * ```ts
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * const server = mode({
 *   help: "waits for clients",
 *   flags: ["--allow-net"],
 *   options: { port: { default: 9527, max: 65535, help: "port to listen on" } },
 *   run: ({ port }) => console.log(port),
 * });
 * assertEquals(parseCommandLine({ server }, []).values, { port: 9527 });
 * assertThrows(
 *   () => parseCommandLine({ server }, ["--port", "-1"]),
 *   UsageError,
 *   '--port must be an integer from 0 to 65535, got "-1"',
 * );
 * ```
 */
export function parseCommandLine(
  modes: Record<string, Mode>,
  argv: string[],
): CommandLine {
  const names = Object.keys(modes);
  const isNamed = names.includes(argv[0]);
  const name = isNamed ? argv[0] : names[0];
  const flags = flagsOf(modes[name]);
  const isValued = (flag: string) => flags.get(flag)?.default !== false;
  const given: Record<string, unknown> = parseArgs(
    joinValues(isNamed ? argv.slice(1) : argv, flags),
    {
      string: ["_", ...[...flags.keys()].filter(isValued)],
      boolean: ["help", ...[...flags.keys()].filter((it) => !isValued(it))],
      alias: { help: "h" },
    },
  );
  const args = given._ as string[];
  const { operands = [] } = modes[name];
  if (Array.isArray(operands) && !given.help) {
    for (const flag of operands.slice(0, args.length)) {
      if (given[flag] !== undefined) {
        throw new UsageError(`${flag} given twice`);
      }
      given[flag] = args.shift();
    }
    if (args.length > 0) {
      throw new UsageError(
        isNamed
          ? `unexpected argument ${quote(args[0])}`
          : `unknown mode ${quote(args[0])}, expected one of ${
            names.join(", ")
          }`,
      );
    }
  }
  const values: CommandLine["values"] = {};
  for (const [flag, option] of flags) {
    values[option.key] = valueOf(`--${flag}`, option, given[flag]);
  }
  return { name, help: given.help === true, values, args };
}

/**
 * Joins `--port -1` to `--port=-1`, which a parser would take for two options,
 * keeps a flag from taking the next word for its value, and knows all options.
 */
function joinValues(argv: string[], flags: Map<string, Option>): string[] {
  const joined: string[] = [];
  const last: string[] = []; // Flags: behind them stands no word to take.
  let i = 0;
  for (; i < argv.length && argv[i] !== "--"; i++) {
    const [, flag, value] = argv[i].match(/^--([^=]+)(=[^]*)?$/) ?? [];
    const isFlag = flag === "help" || flags.get(flag)?.default === false;
    if (isFlag && value !== undefined) {
      throw new UsageError(`--${flag} takes no value`);
    }
    if (isFlag) last.push(`--${flag}`);
    else if (flags.has(flag) && value === undefined) {
      const next = argv[++i] ?? "--";
      if (next.startsWith("--") || next === "-h") {
        throw new UsageError(`--${flag} needs a value`);
      }
      joined.push(`--${flag}=${next}`);
    } else if (/^-./.test(argv[i]) && argv[i] !== "-h" && !flags.has(flag)) {
      throw new UsageError(`unknown option ${quote(argv[i])}, see --help`);
    } else joined.push(argv[i]);
  }
  return [...joined, ...last, ...argv.slice(i)];
}

/** Decimal digits only: `Number` would take `0x50`, `1e3` and ` 80` as well. */
function valueOf(flag: string, option: Option, given: unknown) {
  const { default: usual, min = 0, max = Number.MAX_SAFE_INTEGER } = option;
  if (given === undefined || typeof usual === "boolean") return given ?? usual;
  const text = String(given);
  if (flag === "--host" && text === "") {
    throw new UsageError("--host must not be empty");
  }
  if (typeof usual === "string") return text;
  const number = Number(text);
  if (/^[0-9]+$/.test(text) && number >= min && number <= max) return number;
  throw new UsageError(
    `${flag} must be an integer from ${min} to ${max}, got ${quote(text)}`,
  );
}

/** What `--help` prints: title, usage, and for each mode command and options. */
export function helpText({ url, title, modes }: Lesson): string {
  // A copy is run from where it is, the others from the repository's root.
  const [path] = decodeURIComponent(url)
    .match(/(?:(?<=\/)(?:lessons|lib\/harness|tests\/bench)\/)?[^/]+$/)!;
  const names = Object.keys(modes);
  const usage = `deno run [flags] ${path} [${names.join("|")}] [options]`;
  const lines = [title, "", `Usage: ${usage}`];
  for (const [name, mode] of Object.entries(modes)) {
    const { operands = [] } = mode;
    const shown = Array.isArray(operands)
      ? operands.map((it) => `[${it.toUpperCase()}]`)
      : [`[${operands}...]`];
    const command = ["deno run", ...mode.flags, path];
    if (name !== names[0]) command.push(name);
    lines.push("", `${[name, ...shown].join(" ")}: ${mode.help}`);
    lines.push(`  ${command.join(" ")}`);
    if (flagsOf(mode).size > 0) lines.push("");
    for (const [flag, option] of flagsOf(mode)) {
      const isNumber = typeof option.default === "number";
      const value = option.default === false ? "" : isNumber ? " N" : " TEXT";
      const usual = value && ` [${option.default}]`;
      lines.push(`  ${`--${flag}${value}`.padEnd(24)}  ${option.help}${usual}`);
    }
  }
  return [...lines, "", "--help or -h prints this."].join("\n");
}
