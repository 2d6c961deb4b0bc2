/**
 * The command line that every lesson has: modes, options, `--help`.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { stage } from "./stage.ts"; // stage

/** An option: `maxFrame` is `--max-frame`, and `false` makes it a flag. */
export interface Option {
  /** Its value if it is not given, of the same type. */
  default: string | number | boolean;
  /** What it is for, with the unit. */
  help: string;
  /** The least value of a number, by default 0. */
  min?: number;
  /** The greatest value of a number. */
  max?: number;
}

/** A way to run a lesson. */
export interface Mode {
  /** What it does, in a few words. */
  help: string;
  /** What `deno run` needs for it. */
  flags: string[];
  /** Its options, by the names of its function's parameters. */
  options: Record<string, Option>;
  /** Options that may stand without their name, or a word for any operands. */
  operands?: string[] | string;
  /** What is shown of its socket calls. */
  show?: "trace" | "diagram"; // stage
  /** What it prints last when a signal ends it. */
  last?: string;
  /** Whether it ends by itself when its `signal` is aborted. */
  drains?: boolean;
  /** If it resolves to a number, this is the exit code. */
  run(options: never): unknown;
}

const anyPort = { default: 9527, max: 65535, help: "its port, 0: a free one" };
const listenOn = { default: "0.0.0.0", help: "address to listen on" };

/** The options of every server, every client, and every demo that forks. */
export const common = {
  server: {
    hostname: listenOn,
    port: anyPort,
    child: { default: false, help: "as demo runs it: ends with its input" },
  },
  client: {
    hostname: { default: "127.0.0.1", help: "the server's address" },
    port: { ...anyPort, min: 1, help: "the server's port" },
  },
  demo: {
    hostname: { ...listenOn, default: "127.0.0.1" },
    port: { ...anyPort, default: 0 },
  },
};

/** The command line cannot be understood: exit code 2. */
export class UsageError extends Error {}

/** What a command line says. */
export interface CommandLine {
  /** The name of the mode. */
  name: string;
  /** Whether it only asks for help. */
  help: boolean;
  /** The value of each option. */
  values: Record<string, unknown>;
  /** The operands, where there may be any number of them. */
  args: string[];
}

/** The options of a mode, as the user calls them. */
function flagsOf(mode: Mode): Map<string, Option & { key: string }> {
  const options = { ...mode.options };
  Object.assign(options, stage.options(mode.show)); // stage
  return new Map(
    Object.entries(options).map(([key, option]) => {
      const flag = key.replace(/[A-Z]/g, (it) => `-${it.toLowerCase()}`);
      return [flag === "hostname" ? "host" : flag, { ...option, key }];
    }),
  );
}

/**
 * Reads the name of a mode, by default the first one, and its options.
 *
 * @throws {UsageError} If the lesson cannot be run like this.
 */
export function parseCommandLine(
  modes: Record<string, Mode>,
  argv: string[],
): CommandLine {
  const names = Object.keys(modes);
  const isNamed = names.includes(argv[0] ?? "");
  const name = isNamed ? argv[0]! : names[0]!;
  const mode = modes[name]!;
  const flags = flagsOf(mode);
  const given: Record<string, unknown> = {};
  // A parser would read `--port -1` as two options, and `--child 1` as one. So
  // it gets `--port=-1`, and no flags.
  const words: string[] = [];
  const rest = isNamed ? argv.slice(1) : [...argv];
  for (let word; (word = rest.shift()) !== undefined;) {
    const [, flag = "", value] = word.match(/^--([^=]+)(=[^]*)?$/) ?? [];
    const usual = flag === "help" ? false : flags.get(flag)?.default;
    if (word === "--") {
      words.push(word, ...rest.splice(0));
    } else if (usual === undefined && /^-./.test(word) && word !== "-h") {
      throw new UsageError(`unknown option ${quote(word)}, see --help`);
    } else if (usual === undefined || (usual !== false && value)) {
      words.push(word);
    } else if (usual === false) {
      if (value) throw new UsageError(`--${flag} takes no value`);
      given[flag] = true;
    } else {
      const next = rest.shift() ?? "--";
      if (next.startsWith("--") || next === "-h") {
        throw new UsageError(`--${flag} needs a value`);
      }
      words.push(`${word}=${next}`);
    }
  }
  const string = ["_", ...flags.keys()];
  Object.assign(given, parseArgs(words, { string, boolean: ["h"] }));

  const args = given["_"] as string[];
  const help = given["help"] === true || given["h"] === true;
  const { operands = [] } = mode;
  if (Array.isArray(operands) && !help) {
    for (const flag of operands.slice(0, args.length)) {
      if (flag in given) throw new UsageError(`${flag} given twice`);
      given[flag] = args.shift();
    }
    if (args.length > 0) {
      const what = isNamed ? "unexpected argument" : "unknown mode";
      const known = isNamed ? "" : `, expected one of ${names.join(", ")}`;
      throw new UsageError(`${what} ${quote(args[0])}${known}`);
    }
  }
  const values: CommandLine["values"] = {};
  for (const [flag, option] of flags) {
    values[option.key] = valueOf(flag, option, given[flag]);
  }
  return { name, help, values, args };
}

const quote = (text: unknown) => JSON.stringify(text);

/** Decimal digits only: `Number` would also take `0x50`, `1e3` and ` 80`. */
function valueOf(flag: string, option: Option, given: unknown) {
  const { default: usual, min = 0, max = Number.MAX_SAFE_INTEGER } = option;
  if (given === undefined) return usual;
  if (flag === "host" && given === "") {
    throw new UsageError("--host must not be empty");
  }
  if (typeof usual !== "number") return given;
  const number = /^[0-9]+$/.test(String(given)) ? Number(given) : NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(
    `--${flag} must be an integer from ${min} to ${max}, got ${quote(given)}`,
  );
}

/** The file of a program, as one types it after `deno run`. */
function fileOf(url: string): string {
  const path = stage.pathOf(url); // stage
  if (path !== undefined) return path; // stage
  return url.slice(url.lastIndexOf("/") + 1);
}

/** Writes a file's name as a word of a shell: not as an option, or a URL. */
export function shellQuote(file: string): string {
  const path = /^-|^[^/]*:/.test(file) ? `./${file}` : file;
  const isPlain = /^[\w./+,:@-]+$/.test(path);
  return isPlain ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

/** What `--help` prints: title, usage, and for each mode command and options. */
export function helpText(
  url: string,
  title: string,
  modes: Record<string, Mode>,
): string {
  const path = shellQuote(decodeURIComponent(fileOf(url)));
  const names = Object.keys(modes);
  const usage = `deno run [flags] ${path} [${names.join("|")}] [options]`;
  const lines = [title, "", `Usage: ${usage}`];
  for (const [name, mode] of Object.entries(modes)) {
    const operands = [mode.operands ?? []].flat().map((it) => ` [${it}]`);
    const command = ["deno run", ...mode.flags, path];
    if (name !== names[0]) command.push(name);
    lines.push("", `${name}${operands.join("").toUpperCase()}: ${mode.help}`);
    lines.push(`  ${command.join(" ")}`);
    const flags = flagsOf(mode);
    if (flags.size > 0) lines.push("");
    for (const [flag, { default: usual, help }] of flags) {
      const value = { string: " TEXT", number: " N" }[typeof usual as string];
      const option = `  --${flag}${value ?? ""}`.padEnd(26);
      lines.push(`${option}  ${help}${value ? ` [${usual}]` : ""}`);
    }
  }
  return [...lines, "", "--help or -h prints this."].join("\n");
}
