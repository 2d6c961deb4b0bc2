/**
 * A lesson as a process: its output, signals, errors in one line, exit codes.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { describeError, formatAddress } from "../describe.ts";
import { writeFull } from "../full_io.ts";
import {
  helpText,
  type Mode,
  parseCommandLine,
  UsageError,
} from "./command_line.ts";
import type { Modes, Options } from "./mode_types.ts"; // stage
import { patient } from "./patient.ts";
import { stage } from "./stage.ts"; // stage

/** What is still to be done before the process ends; not for long. */
export const beforeExit: Set<() => Promise<unknown>> = new Set();

const lineOf = (text: string) => new TextEncoder().encode(`${text}\n`);

/** Whether the program ends: nothing new begins then. */
export let isEnding = false;

/** How long children may take to end after a signal, in milliseconds. */
const CHILDREN_END = 3000;
/** How long the last output may take to be read, in milliseconds. */
const OUTPUT_ENDS = 500;

/** What TypeScript checks: a mode's function takes the options of its mode. */
export async function runLesson<M extends Record<string, Options>>( // stage
  url: string, // stage
  title: string, // stage
  modes: Modes<M>, // stage
): Promise<never>; // stage
/**
 * Runs a lesson from its command line, and ends the process: exit code 0 done,
 * 1 the network or the system said no, 2 wrong usage, 130 or 143 ended by
 * SIGINT or SIGTERM. A server that a signal ends has done its work: 0.
 */
export async function runLesson(
  url: string,
  title: string,
  modes: Record<string, Mode>,
): Promise<never> {
  const [, program] = decodeURIComponent(url).match(/([^/]+?)(?:\.ts)?$/)!;
  const stop = new AbortController();
  let name = "";
  let values: Record<string, unknown> = {};
  let lastLine: string | undefined;
  let ending: Promise<never> | undefined;
  let isLost = false;
  let isInterrupted = false;

  // In the background: a full pipe that nobody reads must not stop the program.
  const stderr = patient(Deno.stderr);
  let reported: Promise<unknown> = Promise.resolve();
  const say = (error: unknown) => {
    const call = callOf(error, name, values);
    const line = lineOf(`${program}: ${call}${describeError(error)}`);
    reported = reported.then(() => writeFull(stderr, line))
      .catch(() => {}); // A full disk. The exit code still says it.
  };
  const report = (error: unknown) => {
    if (!isEnding) say(error); // What the end cuts short fails: this is expected.
  };

  // One after the other, even if a lesson does not wait for what it prints.
  const stdout = patient(Deno.stdout);
  let printed: Promise<unknown> = Promise.resolve();
  const write = (p: Uint8Array): Promise<number> => {
    const writing = printed
      .then(() => stage.beforePrint()) // stage
      .then(() => isLost ? p.length : writeFull(stdout, p))
      .catch((error) => {
        isLost = true;
        // When nobody reads standard output any more (`| head -1`), a program
        // in C is ended by SIGPIPE, quietly. The same here. But a full disk is
        // reported.
        if (!(error instanceof Deno.errors.BrokenPipe)) {
          say(new Error("write stdout", { cause: error }));
          Deno.exitCode = 1;
        }
        setTimeout(end, 0, 0); // Errors that are there already come first.
        return p.length;
      });
    printed = writing;
    return writing;
  };
  const print = (line: string) => write(lineOf(line));

  // Without a signal the end takes as long as it takes; with one, only so long.
  const signalled = Promise.withResolvers<void>();
  const atMost = (milliseconds: number, work: Promise<unknown>) =>
    Promise.race([work, signalled.promise.then(() => delay(milliseconds))]);
  const end = (code: number): Promise<never> =>
    ending ??= (async () => {
      isEnding = true;
      if (lastLine !== undefined) print(lastLine);
      const children = [...beforeExit].map((it) => it());
      await atMost(CHILDREN_END, Promise.allSettled(children));
      await stage.end(print); // stage
      await atMost(OUTPUT_ENDS, printed.then(() => reported));
      return Deno.exit(Math.max(code, Deno.exitCode));
    })();
  // A mistake of ours is no reason for a stack trace either.
  const fail = (event: Event, error: unknown) => {
    event.preventDefault();
    report(error);
    end(1);
  };
  globalThis.addEventListener("error", (event) => fail(event, event.error));
  globalThis.addEventListener(
    "unhandledrejection",
    (event) => fail(event, event.reason),
  );

  try {
    const parsed = parseCommandLine(modes, Deno.args);
    if (parsed.help) {
      await print(helpText(url, title, modes));
      return await end(0);
    }
    ({ name, values } = parsed);
    const mode = modes[name]!;
    const interrupt = async (code: number) => {
      if (isInterrupted) return; // Under `deno task` it arrives twice.
      isInterrupted = true;
      if (!mode.drains) {
        isEnding = true;
        lastLine ??= mode.last;
        if (name !== "server") Deno.exitCode = code;
      }
      signalled.resolve();
      // The terminal has shown ^C, wherever the cursor was.
      if (Deno.stdin.isTerminal() && Deno.stdout.isTerminal()) {
        await atMost(OUTPUT_ENDS, print(""));
      }
      stop.abort();
      if (!mode.drains) end(0);
    };
    Deno.addSignalListener("SIGINT", () => interrupt(130));
    if (Deno.build.os !== "windows") {
      Deno.addSignalListener("SIGTERM", () => interrupt(143));
    }
    if (values["child"]) {
      // A child ends when its parent closes the child's standard input, or is
      // killed.
      Deno.stdin.readable.pipeTo(new WritableStream())
        .catch(() => {}).then(() => interrupt(0));
    }
    await stage.begin(mode.show, values); // stage
    const io = {
      args: parsed.args,
      output: {
        write: async (p: Uint8Array) => isEnding ? p.length : await write(p),
      },
      async print(line: string) {
        // A server's last line is the last. But a demo prints what its child says.
        if (!isEnding || name !== "server") await print(line);
      },
      report,
      signal: stop.signal,
      onListen(address: Deno.NetAddr) {
        if (isEnding) return;
        print(`listening on ${formatAddress(address)}`);
        lastLine = "server closed";
      },
    };
    const status = await mode.run({ ...values, ...io } as never);
    return await end(typeof status === "number" ? status : 0);
  } catch (error) {
    report(error);
    return await end(error instanceof UsageError ? 2 : 1);
  }
}

/**
 * The call of Deno's that an error came from, as perror(3) names it:
 * `connect 127.0.0.1:9527: `. It is found in the error's own stack.
 */
function callOf(error: unknown, mode = "", values: unknown = {}): string {
  const { stack, cause } = Object(error);
  const call = /at (?:async )?\w+\.(\w+) \(ext:deno_net/.exec(stack)?.[1];
  if (call === undefined || cause !== undefined) return "";
  // Only this address is known: a demo has several, and accept() has none.
  const isKnown = mode === "client"
    ? /^(connect|send)/.test(call)
    : mode === "server" && call.startsWith("listen");
  const address = isKnown ? ` ${formatAddress(values as Deno.NetAddr)}` : "";
  return `${call === "listenDatagram" ? "bind" : call}${address}: `;
}
