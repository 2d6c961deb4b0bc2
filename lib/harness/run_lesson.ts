/**
 * A lesson as a process: its output, signals, errors in one line, exit codes.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import { describeError } from "../error_text.ts";
import {
  type CommandLine,
  helpText,
  type Io,
  type Mode,
  type Modes,
  type Options,
  parseCommandLine,
  UsageError,
} from "./command_line.ts";
import { readHeader } from "./header.ts";
import { startShow } from "./show.ts";
import { OrderedOutput } from "./ordered_output.ts";

/** How long a demo may take to end after a signal, in milliseconds. */
const DEMO_ENDS = 3000;
/** The modes that have done their work when a signal ends them. */
const SERVERS = ["server", "supervisor"];
/** Under `deno task` one Ctrl+C sends two signals, within these milliseconds. */
const SECOND_SIGNAL = 200;
/** How long the last output may take to be read after a signal. */
const LAST_READ = 500;

/**
 * Runs a lesson from its command line, and ends the process: exit code 0 done,
 * 1 the network or the system said no, 2 wrong usage, 130 or 143 ended by
 * SIGINT or SIGTERM. A server that a signal ends has done its work: 0.
 *
 * @param url The lesson's `import.meta.url`.
 * @param modes Its modes.
 */
export async function runLesson<M extends Record<string, Options>>(
  url: string,
  modes: Modes<M>,
): Promise<never> {
  const [, program] = decodeURIComponent(url).match(/([^/]+?)(?:\.ts)?$/)!;
  // In the background: if nobody reads standard error, a signal still ends this.
  const stderr = new OrderedOutput(() => {}, Deno.stderr);
  const report = (error: unknown, call = "") =>
    stderr.print(`${program}: ${call}${describeError(error)}`);

  // Resolves to the exit code when something ends the program from outside.
  const interrupted = Promise.withResolvers<number>();
  const stdout = new OrderedOutput((error) => {
    // When nobody reads standard output any more (`| head -1`), a program in C
    // is ended by SIGPIPE, quietly. The same here. But a full disk is reported.
    if (!(error instanceof Deno.errors.BrokenPipe)) {
      report(error, "write stdout: ");
      Deno.exitCode = 1; // Also if the program was done before it could know.
    }
    // Errors that are there already come first.
    setTimeout(() => interrupted.resolve(0), 0);
  });
  // A mistake of ours is no reason for a stack trace either.
  const fail = (event: Event, error: unknown) => {
    event.preventDefault();
    interrupted.reject(error);
  };
  addEventListener("error", (event) => fail(event, event.error));
  addEventListener("unhandledrejection", (event) => fail(event, event.reason));

  let code = 0;
  try {
    const commandLine = parseCommandLine(modes, Deno.args);
    if (commandLine.help) {
      await stdout.print(helpText(await readHeader(url), modes));
    } else {
      const mode: Mode = modes[commandLine.name]!;
      code = await runMode(mode, commandLine, stdout, interrupted, report);
    }
  } catch (error) {
    report(error);
    code = error instanceof UsageError ? 2 : 1;
  }
  const late = interrupted.promise.catch(() => {}).then(() => pause(LAST_READ));
  await Promise.race([Promise.all([stdout.flush(), stderr.flush()]), late]);
  return Deno.exit(Math.max(code, Deno.exitCode));
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Runs a mode until it is done, or interrupted. Resolves to the exit code. */
async function runMode(
  mode: Mode,
  { name, values, operands }: CommandLine,
  stdout: OrderedOutput,
  interrupted: PromiseWithResolvers<number>,
  report: (error: unknown, call?: string) => Promise<unknown>,
): Promise<number> {
  const finish = await startShow(mode.show, values);
  let giveUp: AbortController | undefined;
  // A second signal changes nothing. (Under `deno task` each arrives twice.)
  Deno.addSignalListener("SIGINT", () => {
    if (giveUp) giveUp.abort(new Error("given up"));
    else interrupted.resolve(130);
  });
  if (Deno.build.os !== "windows") {
    Deno.addSignalListener("SIGTERM", () => interrupted.resolve(143));
  }
  if (values["child"]) {
    // A child ends when its parent closes the child's standard input, or is
    // killed.
    Deno.stdin.readable.pipeTo(new WritableStream())
      .catch(() => {}).then(() => interrupted.resolve(0));
  }

  const stop = new AbortController();
  let { last } = mode;
  // When it is over, whoever still prints waits for ever, as a program that is
  // gone: if it went on, it might never let this process end.
  let isOver = false;
  const never = new Promise<never>(() => {});
  const io: Io = {
    operands,
    output: {
      write: (p) => isOver ? never : stdout.write(p),
    },
    print: (line) => isOver ? never : stdout.print(line),
    report(error) {
      if (!stop.signal.aborted) report(error, callOf(error, name, values));
    },
    signal: stop.signal,
    async interruptible(work) {
      const { signal } = giveUp = new AbortController();
      try {
        return await work(signal);
      } finally {
        // The second signal of the same Ctrl+C is not to end the program.
        if (signal.aborted) await pause(SECOND_SIGNAL);
        giveUp = undefined;
      }
    },
    onListen(address) {
      io.print(`listening on ${formatAddress(address)}`);
      last = "server closed";
    },
  };

  const running = (async () => await mode.run({ ...values, ...io } as never))();
  const isServer = SERVERS.includes(name);
  const ending = interrupted.promise.then((code) => {
    // The terminal has shown ^C, wherever the cursor was.
    if (Deno.stdin.isTerminal() && Deno.stdout.isTerminal()) io.print("");
    return isServer && code > 128 ? 0 : code;
  });

  let code = 1;
  try {
    const status = await Promise.race([running, ending]);
    code = typeof status === "number" ? status : 0;
  } catch (error) {
    const reported = report(error, callOf(error, name, values));
    // On a terminal it stands before the last line.
    await Promise.race([reported, pause(LAST_READ)]);
    if (error instanceof UsageError) code = 2;
  }
  // Whatever the reason is, what still runs is to end, as a demo's child is.
  stop.abort();
  let hasEnded = true;
  if (mode.endsOnSignal) {
    // What it says now does not matter: it is told to end, and that is why.
    const drained = running.then(() => true, () => true);
    const late = () => pause(DEMO_ENDS).then(() => false);
    hasEnded = await Promise.race(isServer ? [drained] : [drained, late()]);
  }
  isOver = true;
  if (last !== undefined) stdout.print(last);
  // It could wait for ever for the trace of a child that hangs.
  const shown = hasEnded ? await finish() : "";
  if (shown !== "") stdout.print(shown);
  return code;
}

/**
 * The call of Deno's that an error came from, as perror(3) names it:
 * `connect 127.0.0.1:9527: `. It is found in the error's own stack.
 */
function callOf(error: unknown, mode: string, values: unknown): string {
  const { stack, cause } = Object(error);
  const call = /at (?:async )?\w+\.(\w+) \(ext:deno_net/.exec(stack)?.[1];
  if (call === undefined || cause !== undefined) return "";
  // Only this address is known: a demo has several, and accept() has none.
  const isKnown = mode === "client"
    ? /^(connect|send)/.test(call)
    : SERVERS.includes(mode) && call.startsWith("listen");
  // The name of a host may contain anything that a terminal would obey.
  const address = isKnown
    ? ` ${formatAddress(values as Deno.NetAddr | Deno.UnixAddr)}`.replace(
      /[\p{Cc}\p{Cf}]+/gu,
      " ",
    )
    : "";
  return `${call === "listenDatagram" ? "bind" : call}${address}: `;
}
