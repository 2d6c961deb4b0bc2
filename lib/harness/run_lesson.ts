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
import { fitText } from "./fit_text.ts";
import { readHeader } from "./header.ts";
import { remedyOf, rootOf, type Where } from "./remedy.ts";
import { startShow } from "./show.ts";
import { OrderedOutput } from "./ordered_output.ts";
import { terminalSize } from "./terminal.ts";

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
  const report = (error: unknown, call = "", where: Where = {}) => {
    const remedy = remedyOf(error, where);
    const words = [describeError(error), remedy].filter((it) => it !== "");
    return stderr.print(`${program}: ${call}${words.join(": ")}`);
  };

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

/** On a terminal no word is broken that has room in a line. */
function fit(text: string): string {
  const { columns } = terminalSize();
  return columns ? fitText(text, columns) : text;
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
  report: (error: unknown, call: string, where: Where) => Promise<unknown>,
): Promise<number> {
  const show = await startShow(mode.show, values);
  const tell = (error: unknown) => {
    show.leaveOut(rootOf(error));
    const where = whereIs(error, name, values);
    return report(error, callText(error, where), where);
  };
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
  // Once a demo is told to end, only its server speaks. It ends its own line.
  let isEnding = false;
  let isMidLine = false;
  const never = new Promise<never>(() => {});
  const inOrder = () => {
    show.settle();
    return stdout;
  };
  const io: Io = {
    operands,
    output: {
      write(p) {
        if (isOver || isEnding && !isMidLine) return never;
        isMidLine = p.at(-1) !== 0x0a;
        return inOrder().write(p);
      },
    },
    print: (text) => isOver || isEnding ? never : inOrder().print(fit(text)),
    relay(line) {
      if (isOver) return never;
      if (isEnding && isMidLine) {
        isMidLine = false; // Its end does not come, or comes too late.
        stdout.print("");
      }
      return inOrder().print(line);
    },
    report(error) {
      if (!stop.signal.aborted) tell(error);
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
    const isTerminal = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
    if (isTerminal) {
      io.relay("");
      isMidLine = false;
    }
    isEnding = !isServer;
    return isServer && code > 128 ? 0 : code;
  });

  let code = 1;
  try {
    const status = await Promise.race([running, ending]);
    code = typeof status === "number" ? status : 0;
  } catch (error) {
    const reported = tell(error);
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
  show.settle();
  if (isEnding && isMidLine) stdout.print("");
  if (last !== undefined) stdout.print(last);
  // It could wait for ever for the trace of a child that hangs.
  const shown = hasEnded ? await show.finish() : "";
  if (shown !== "") stdout.print(shown);
  return code;
}

/** Where an error comes from, and which address that call was given. */
interface ErrorPlace extends Where {
  address?: string | undefined;
}

/** Finds the call of Deno's that an error came from, in the error's own stack. */
function whereIs(
  error: unknown,
  mode: string,
  values: Record<string, unknown>,
): ErrorPlace {
  const { stack } = Object(rootOf(error));
  const [, name] = /at (?:async )?\w+\.(\w+) \(ext:deno_net/.exec(stack) ?? [];
  const call = name === "listenDatagram" ? "bind" : name;
  // Only this address is known: a demo has several, and accept() has none.
  // (A call of libc's is not in the stack.)
  const isKnown = mode === "client"
    ? call === "connect" || call === "send"
    : SERVERS.includes(mode) &&
      (call === undefined || call === "listen" || call === "bind");
  if (!isKnown) return { call };
  const address = values as unknown as Deno.NetAddr | Deno.UnixAddr;
  const { port, path } = values as { port?: number; path?: string };
  return { call, address: formatAddress(address), port, path };
}

/** Names the call as perror(3) does: `connect 127.0.0.1:9527: `. */
function callText(error: unknown, { call, address }: ErrorPlace): string {
  if (call === undefined || Object(error).cause !== undefined) return "";
  // The name of a host may contain anything that a terminal would obey.
  const plain = address?.replace(/[\p{Cc}\p{Cf}]+/gu, " ");
  return `${plain === undefined ? call : `${call} ${plain}`}: `;
}
