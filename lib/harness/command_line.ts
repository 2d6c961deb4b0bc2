/**
 * The command line that every lesson has: modes, options, `--help`.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import type { Writer } from "../full_io.ts";
import type { Header } from "./header.ts";

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

/** Options by the names of their parameters. */
export type Options = Record<string, Option>;

/** The values of options: each has the type of its default. */
export type Values<O extends Options> = {
  [K in keyof O]: O[K]["default"] extends string ? string
    : O[K]["default"] extends number ? number
    : boolean;
};

/** A way to run a lesson. */
export interface Mode {
  /** What it does, in a few words. */
  help: string;
  /** Its options, by the names of its function's parameters. */
  options: Options;
  /** A word for operands, where there may be any number of them. */
  operands?: string;
  /** How its socket calls are shown; `"table"` only if one goes step by step. */
  show?: "trace" | "diagram" | "table";
  /** What is printed last, however it ends. */
  last?: string;
  /** Whether it ends by itself when its `signal` is aborted. */
  endsOnSignal?: boolean;
  /** If it resolves to a number, this is the exit code. */
  run(options: never): unknown;
}

/** The modes of a lesson, each with a function that takes its options. */
export type Modes<M extends Record<string, Options>> = {
  [K in keyof M]: Mode & {
    options: M[K];
    run(options: Values<M[K]> & Io): unknown;
  };
};

/** What a mode's function gets besides its options. */
export interface Io {
  /** The operands, if there may be any number of them. */
  operands: string[];
  /** Standard output. */
  output: Writer;
  /** Prints a line on standard output. */
  print(line: string): Promise<unknown>;
  /** Prints a line of a child's. */
  relay(line: string): Promise<unknown>;
  /** Prints an error on standard error, in one line. */
  report(error: unknown): void;
  /** Prints a server's first line. */
  onListen(address: Deno.NetAddr | Deno.UnixAddr): void;
  /** Aborted by SIGINT and SIGTERM, for a mode that `endsOnSignal`. */
  signal: AbortSignal;
  /**
   * Runs something that SIGINT gives up, by the signal that it gets. Meanwhile
   * SIGINT does not end the program.
   */
  interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T>;
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

const quiet = { default: false, help: "no trace" };
const mermaid = {
  default: false,
  help: "the diagram for Mermaid, to be a picture",
};

const step = {
  default: false,
  help: "stops before each call; needs --allow-run=cat",
};

/** The options that come with what is shown. */
const SHOW_OPTIONS: Record<NonNullable<Mode["show"]>, Options> = {
  trace: { quiet, step },
  diagram: { quiet: { ...quiet, help: "no diagram" }, mermaid, step },
  table: { step },
};

/** The operands of the tutorial's programs: options without their names. */
const OPERANDS: Record<string, string[]> = {
  server: ["port", "path"],
  supervisor: ["port"],
  client: ["host", "port", "path"],
};

const operandsOf = (name: string, options: object) =>
  (OPERANDS[name] ?? []).filter((it) => it in options);

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
  operands: string[];
}

/** The options of a mode, as the user calls them. */
function optionsOf(mode: Mode): Record<string, Option & { key: string }> {
  const options = { ...mode.options, ...mode.show && SHOW_OPTIONS[mode.show] };
  return Object.fromEntries(
    Object.entries(options).map(([key, option]) => {
      const flag = key === "hostname"
        ? "host"
        : key.replace(/[A-Z]/g, (it) => `-${it.toLowerCase()}`);
      return [flag, { ...option, key }];
    }),
  );
}

const quoted = (text: unknown) => JSON.stringify(text);

/**
 * Reads the name of a mode, by default the first one, and its options, in any
 * order.
 *
 * @throws {UsageError} If the lesson cannot be run like this.
 */
export function parseCommandLine(
  modes: Record<string, Mode>,
  argv: string[],
): CommandLine {
  const names = Object.keys(modes);
  const all = Object.assign({}, ...Object.values(modes).map(optionsOf));
  const isFlag = (name: string) => all[name].default === false;
  const flags = ["help", ...Object.keys(all).filter(isFlag)];

  const operands: string[] = [];
  const given = parseArgs(argv, {
    boolean: flags,
    string: Object.keys(all).filter((name) => !isFlag(name)),
    alias: { h: "help" },
    "--": true,
    unknown(word: string, name?: string) {
      if (name !== undefined) throw unknownOption(word);
      operands.push(word);
    },
  }) as Record<string, unknown>;
  operands.push(...given["--"] as string[]);

  const isNamed = names.includes(operands[0] ?? "");
  const name = isNamed ? operands.shift()! : names[0]!;
  const options = optionsOf(modes[name]!);
  const help = given["help"] !== false;
  if (help) return { name, help, values: {}, operands };

  for (const flag of flags) {
    // To parseArgs() this is a value, which would be lost without a word.
    const isValued = argv.some((word, i) =>
      word.startsWith(`--${flag}=`) || word.startsWith(`--no-${flag}=`) ||
      word === `--${flag}` && /^(true|false)$/.test(argv[i + 1] ?? "")
    );
    if (isValued) throw new UsageError(`--${flag} takes no value`);
  }
  for (const option of Object.keys(all)) {
    const isGiven = given[option] !== undefined && given[option] !== false;
    if (isGiven && !(option in options)) throw unknownOption(`--${option}`);
    if (given[option] === "") throw new UsageError(`--${option} needs a value`);
  }
  if (modes[name]!.operands === undefined) {
    for (const option of operandsOf(name, options)) {
      if (operands.length === 0) break;
      if (option in given) throw new UsageError(`${option} given twice`);
      given[option] = operands.shift();
    }
    if (operands.length > 0) {
      const what = isNamed ? "unexpected argument" : "unknown mode";
      const known = isNamed ? "" : `, expected one of ${names.join(", ")}`;
      throw new UsageError(`${what} ${quoted(operands[0])}${known}`);
    }
  }
  // What goes step by step is shown by its steps.
  for (const flag of Object.keys(SHOW_OPTIONS[modes[name]!.show ?? "table"])) {
    if (flag !== "step" && given["step"] && given[flag]) {
      throw new UsageError(`--step does not go together with --${flag}`);
    }
  }
  const values = Object.entries(options).map(([name, option]) =>
    [option.key, valueOf(name, option, given[name])] as const
  );
  return { name, help, values: Object.fromEntries(values), operands };
}

const unknownOption = (word: string) =>
  new UsageError(`unknown option ${quoted(word)}, see --help`);

/** Decimal digits only: `Number` would also take `0x50`, `1e3` and ` 80`. */
function valueOf(name: string, option: Option, given: unknown) {
  const { default: usual, min = 0, max = Number.MAX_SAFE_INTEGER } = option;
  if (given === undefined) return usual;
  if (given === "") throw new UsageError(`${name} needs a value`);
  if (name === "host" && /^\d+$/.test(String(given))) {
    // The resolver would take it for an address: 9527 is 0.0.37.55.
    throw new UsageError(`--host ${given} is a number, is it the port?`);
  }
  // An IPv6 address without brackets has colons too, but more than one.
  const [, host, port] = String(given).match(/^(\[.*\]|[^:]*):(\d*)$/) ?? [];
  if ((name === "host" || name === "port") && port !== undefined) {
    const bare = host!.replace(/^\[|\]$/g, "");
    const apart = `--host ${bare || "HOST"} --port ${port || "PORT"}`;
    throw new UsageError(
      `${given} is host and port, give them apart: ${apart}`,
    );
  }
  if (typeof usual !== "number") return given;
  const number = /^[0-9]+$/.test(String(given)) ? Number(given) : NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(
    `--${name} must be an integer from ${min} to ${max}, got ${quoted(given)}`,
  );
}

/** What `--help` prints: title, usage, and for each mode command and options. */
export function helpText(
  { title, commands }: Header,
  modes: Record<string, Mode>,
): string {
  const names = Object.keys(modes);
  const path = commands.get("")?.split(" ").at(-1);
  const usage = `deno run [flags] ${path} [${names.join("|")}] [options]`;
  const lines = [title, "", `Usage: ${usage}`];
  for (const [name, mode] of Object.entries(modes)) {
    const options = optionsOf(mode);
    const operands = mode.operands
      ? [mode.operands]
      : operandsOf(name, options);
    const usage = operands.map((it) => ` [${it.toUpperCase()}]`).join("");
    lines.push("", `${name}${usage}: ${mode.help}`);
    lines.push(`  ${commands.get(name === names[0] ? "" : name)}`);
    if (Object.keys(options).length > 0) lines.push("");
    for (const [name, { default: usual, help }] of Object.entries(options)) {
      const value = { string: " TEXT", number: " N" }[typeof usual as string];
      const option = `  --${name}${value ?? ""}`.padEnd(26);
      lines.push(`${option}  ${help}${value ? ` [${usual}]` : ""}`);
    }
  }
  return [...lines, "", "--help or -h prints this."].join("\n");
}
