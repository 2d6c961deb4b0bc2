/**
 * A prompt for calls: somebody types them, one a line, and each is made when the
 * one before it is done.
 *
 * @module
 */

import { askLines } from "../ask_lines.ts";
import { encode } from "../encode.ts";
import { describeError } from "../error_text.ts";
import type { Io } from "./command_line.ts";

const PROMPT = "call> ";
/** How long a call may take before it is said that it waits, in milliseconds. */
const SAYS_WAITING = 300;

/**
 * The calls that can be typed, by their names. Each gets what stands behind its
 * name, and a signal that gives the call up. It returns what came of it.
 */
export type Calls<Name extends string = string> = Record<
  Name,
  (operand: string, signal: AbortSignal) => unknown
>;

/** What there is around the calls of a prompt. */
export interface CallPrompt<Name extends string>
  extends Pick<Io, "print" | "output" | "interruptible"> {
  /** What each call does, in a few words: `help` prints that. */
  help: Record<Name, string>;
  /** Returns what is printed after each call, and when an empty line is typed. */
  show(): Promise<string[]>;
}

/**
 * Makes the calls that are typed until the input ends, or a line is `q`. What came
 * of a call is printed before the prompt appears again. If a call takes its time,
 * this is said once, and Ctrl+C gives it up. What is typed meanwhile is the next
 * call.
 *
 * @param calls The calls. There is also `help`, which lists them.
 * @param prompt What there is around them.
 */
export async function promptForCalls<Name extends string>(
  calls: Calls<Name>,
  { help, show, print, output, interruptible }: CallPrompt<Name>,
): Promise<void> {
  const isTerminal = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
  const all = { ...calls, help: () => `\n${helpText(help)}` };
  const lines = ReadableStream.from(askLines("")).getReader();
  /** What is typed before the prompt appears; at the end of the input nothing. */
  let typed: string | undefined = "";
  const nextLine = async () => {
    const { value } = await lines.read();
    return typed = value && new TextDecoder().decode(value);
  };
  let reading = nextLine();
  while (true) {
    // The terminal has shown what was typed, but not behind a prompt.
    if (isTerminal && typed !== undefined) {
      output.write(encode(PROMPT + typed));
    }
    const line = await reading;
    if (line === undefined) return;
    typed = "";
    reading = nextLine();
    await interruptible(async (signal) => {
      const [name] = splitLine(line);
      // The terminal has shown ^C, wherever the cursor was.
      signal.addEventListener("abort", () => isTerminal && print(""));
      const says = () => print(`${name}: waiting, Ctrl+C gives it up`);
      const timer = setTimeout(says, SAYS_WAITING);
      const answer = name === "" ? "" : await answerTo(all, line, signal);
      clearTimeout(timer);
      if (answer !== "") print(answer);
      for (const row of await show()) print(`  ${row}`);
    });
  }
}

/**
 * Makes the calls that another program writes, and prints one line for each. It
 * reads ahead, and ends this process with its input, whatever a call waits for:
 * it would outlive that program otherwise.
 *
 * @param calls The calls.
 * @param io Where the lines go.
 */
export async function answerPipedCalls(
  calls: Calls,
  { print }: Pick<Io, "print">,
): Promise<void> {
  const { signal } = new AbortController();
  const end = { flush: () => Deno.exit(0) };
  const ahead = new TransformStream(end, undefined, {
    highWaterMark: Infinity,
  });
  const lines = ReadableStream.from(askLines("")).pipeThrough(ahead);
  for await (const line of lines) {
    print(await answerTo(calls, new TextDecoder().decode(line), signal));
  }
}

/** The name of a call, and what stands behind it. */
function splitLine(line: string): [name: string, operand: string] {
  const [, name = "", operand = ""] = line.trim().match(/^(\S*) ?(.*)$/s)!;
  return [name, operand];
}

/** Makes the call of a line, and says what came of it. */
async function answerTo(
  calls: Calls,
  line: string,
  signal: AbortSignal,
): Promise<string> {
  const [name, operand] = splitLine(line);
  try {
    const call = Object.hasOwn(calls, name) && calls[name];
    if (!call) throw new Error(`one of ${Object.keys(calls).join(", ")}`);
    const what = `${await call(operand, signal) ?? ""}`;
    return what === "" || what[0] === "\n" ? name + what : `${name} ${what}`;
  } catch (error) {
    return `${name}: ${describeError(error)}`;
  }
}

function helpText(help: Record<string, string>): string {
  const lines = Object.entries({
    ...help,
    q: "ends this, as Ctrl+D does; Ctrl+C gives up a call that waits",
    "": "(An empty line only looks again.)",
  });
  const width = Math.max(...lines.map(([name]) => name.length));
  return lines.map(([name, what]) => `  ${name.padEnd(width)}  ${what}`)
    .join("\n");
}
