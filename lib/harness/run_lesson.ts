/**
 * A lesson as a process: its output, signals, errors in one line, exit codes.
 *
 * @module
 */

import { describeError, formatAddress } from "../describe.ts";
import { writeFull } from "../full_io.ts";
import {
  type CommandLine,
  helpText,
  type Io,
  type Lesson,
  type Options,
  parseCommandLine,
  UsageError,
  type Values,
} from "./command_line.ts";
import { stage } from "./stage.ts"; // stage

/** What is still to be done before the process ends; not for long. */
export const beforeExit: Set<() => Promise<unknown>> = new Set();

/** Waits, but not for more than so many milliseconds, nor for errors. */
function atMost(milliseconds: number, promise: Promise<unknown>) {
  const late = new Promise((resolve) => setTimeout(resolve, milliseconds));
  return Promise.race([promise.catch(() => {}), late]);
}

/**
 * Runs a lesson from its command line, and ends the process: exit code 0 done,
 * 1 the network or the system said no, 2 wrong usage, 130 or 143 ended by
 * SIGINT or SIGTERM. A server that a signal ends has done its work: 0.
 *
 * @param lesson The lesson.
 */
export async function runLesson({ url, title, modes }: Lesson): Promise<never> {
  const file = decodeURIComponent(url.slice(url.lastIndexOf("/") + 1));
  const stop = new AbortController();
  let name = "";
  let values: CommandLine["values"] = {};
  let lastLine: string | undefined;

  let ending: Promise<never> | undefined;
  const report = (error: unknown) => {
    if (ending) return; // What is cut short fails, and that is no news.
    const call = callOf(error, name, values);
    const line = `${file.replace(/\.ts$/, "")}: ${call}${describeError(error)}`;
    try {
      console.error(line);
    } catch {
      // A full disk. The exit code still says it.
    }
  };
  // A standard output that nobody reads any more (`| head -1`) ends a program
  // in C by SIGPIPE, quietly. So here; but a full disk is reported.
  let isLost = false;
  let leastCode = 0;
  const write = async (p: Uint8Array): Promise<number> => {
    if (isLost) return p.length;
    try {
      return await Deno.stdout.write(p);
    } catch (error) {
      if (error instanceof Deno.errors.WouldBlock) { // Somebody's O_NONBLOCK.
        await new Promise((resolve) => setTimeout(resolve, 10));
        return await write(p);
      }
      if (isLost) return p.length;
      isLost = true;
      const isClosed = error instanceof Deno.errors.BrokenPipe;
      if (!isClosed) {
        leastCode = 1; // Also where the lesson ends before it is told to.
        report(new Error("write stdout", { cause: error }));
      }
      setTimeout(() => end(0)); // What failed by now comes first.
      return p.length;
    }
  };
  let printed: Promise<unknown> = Promise.resolve();
  // One after the other, though a lesson need not wait for what it prints.
  const print = (line: string) =>
    printed = printed.then(() =>
      writeFull({ write }, new TextEncoder().encode(line + "\n"))
    );

  const end = (code: number, isPatient = !stop.signal.aborted) =>
    ending ??= (async () => {
      if (lastLine !== undefined) print(lastLine);
      await atMost(3000, Promise.all([...beforeExit].map((it) => it())));
      await stage.end(print); // stage
      await (isPatient ? printed : atMost(500, printed));
      return Deno.exit(Math.max(code, leastCode));
    })();
  // A mistake of ours, and still no reason for a stack trace.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    report(event.reason);
    end(1);
  });

  try {
    const parsed = parseCommandLine(modes, Deno.args);
    if (parsed.help) {
      await print(helpText({ url, title, modes }));
      return await end(0);
    }
    ({ name, values } = parsed);
    const mode = modes[name];
    const interrupt = (code: number) => {
      if (stop.signal.aborted) return;
      stop.abort();
      // The terminal has shown ^C, wherever the cursor was.
      if (Deno.stdin.isTerminal() && Deno.stdout.isTerminal()) print("");
      if (mode.drains) return;
      lastLine ??= mode.last;
      end(name === "server" ? 0 : code);
    };
    // The handlers stay: under `deno task` one Ctrl+C arrives twice.
    Deno.addSignalListener("SIGINT", () => interrupt(130));
    if (Deno.build.os !== "windows") {
      Deno.addSignalListener("SIGTERM", () => interrupt(143));
    }
    if (values.child) endOfInput().then(() => interrupt(0));
    await stage.begin(mode.show, values); // stage
    const io: Io = {
      args: parsed.args,
      output: {
        async write(p) {
          await printed; // What was printed before comes before.
          return ending ? p.length : await write(p);
        },
      },
      print,
      report,
      signal: stop.signal,
      onListen(address) {
        print(`listening on ${formatAddress(address)}`);
        lastLine = "server closed";
      },
    };
    const status = await mode.run({ ...values, ...io } as Values<Options> & Io);
    return await end(typeof status === "number" ? status : 0);
  } catch (error) {
    report(error);
    return await end(error instanceof UsageError ? 2 : 1);
  }
}

/**
 * A child ends when its parent lets go of its standard input: also when the
 * parent was killed, and where a signal would end no more than the launcher
 * that an npm installation puts before `deno`.
 */
async function endOfInput(): Promise<void> {
  const buffer = new Uint8Array(1024);
  while (await Deno.stdin.read(buffer).catch(() => null) !== null);
}

/**
 * The call of Deno's that an error came from, as perror(3) names it: `connect
 * 127.0.0.1:9527: `. The error's own stack knows.
 */
function callOf(
  error: unknown,
  mode: string,
  values: CommandLine["values"],
): string {
  const { stack = "", cause } = error as Partial<Error>;
  const call = /at (?:async )?\w+\.(\w+) \(ext:deno_net/.exec(stack)?.[1];
  if (call === undefined || cause !== undefined) return "";
  const { hostname, port } = values as Partial<Deno.NetAddr>;
  // What a client binds is not its peer's address, and a demo has several.
  const calls = mode === "client" ? /^(connect|send)/ : /^(listen|connect)/;
  const isThere = mode !== "demo" && hostname !== undefined && calls.test(call);
  return (call === "listenDatagram" ? "bind" : call) +
    (isThere ? ` ${formatAddress({ hostname, port: Number(port) })}: ` : ": ");
}
