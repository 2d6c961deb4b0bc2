/**
 * What TypeScript knows of a lesson's modes: that each function takes the options
 * that its mode has. A copy was checked before, and does not need it.
 *
 * @module
 */

import type { Writer } from "../full_io.ts";
import type { Mode, Option } from "./command_line.ts";

/** Options by the names of their parameters. */
export type Options = Record<string, Option>;

/** Their values: each has the type of its default. */
export type Values<O extends Options> = {
  [K in keyof O]: O[K]["default"] extends string ? string
    : O[K]["default"] extends number ? number
    : boolean;
};

/** What a mode's function gets besides its options. */
export interface Io {
  /** The operands, if there may be any number of them. */
  args: string[];
  /** Standard output. */
  output: Writer;
  /** Prints a line on standard output. */
  print(line: string): Promise<unknown>;
  /** Prints an error on standard error, in one line. */
  report(error: unknown): void;
  /** Prints a server's first line. */
  onListen(address: Deno.NetAddr): void;
  /** Aborted by SIGINT and SIGTERM, for a mode that `drains`. */
  signal: AbortSignal;
}

/** The modes of a lesson, each with a function that takes its options. */
export type Modes<M extends Record<string, Options>> = {
  [K in keyof M]: Mode & {
    options: M[K];
    run(options: Values<M[K]> & Io): unknown;
  };
};
