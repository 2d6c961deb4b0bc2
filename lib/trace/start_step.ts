/**
 * Stops the socket calls of this process.
 *
 * @module
 */

import { foldText } from "../text_width.ts";
import { onEndSignals } from "./end_signals.ts";
import { errorText } from "./error_line.ts";
import { holdTimers } from "./hold_timers.ts";
import { type Link, Mailbox } from "./mailbox.ts";
import { type Recorder, safely } from "./recorder.ts";
import { replace } from "./replace.ts";
import { watchSocketCalls } from "./socket_calls.ts";
import { lineWriter, whileCallsWait } from "./start_trace.ts";
import { Stepper, type StepView } from "./stepper.ts";

/**
 * Whether somebody can be asked: both streams must be a terminal. Then this asks for
 * the right to read what the kernel knows, while standard input is still free.
 */
export function canStep(): boolean {
  const isTerminal = Deno.stdin.isTerminal() && Deno.stderr.isTerminal();
  const cat = { name: "run", command: "cat" } as const;
  if (isTerminal) Deno.permissions.requestSync(cat);
  return isTerminal;
}

/** So many calls are told after somebody has said to run on. */
const MOST_AFTER = 100;

/** What is told of this process alone: the lines of its trace. */
export function traceView(): StepView {
  const lineOf = lineWriter();
  const columns = terminalColumns();
  let after = 0;
  return {
    write: freshLines(),
    textOf(_side, call, _rows, isRunningOn) {
      if (isRunningOn && ++after > MOST_AFTER) {
        return after === MOST_AFTER + 1 ? "(later calls are not told)" : "";
      }
      return foldText(lineOf(call), columns).join("\n");
    },
    columns,
  };
}

/**
 * Writes on standard error, in a new line where the program has begun one: its output
 * is on the same terminal. (The console's methods end their lines themselves.)
 */
export function freshLines(): (text: string) => void {
  let isInLine = false;
  const note = (data: Uint8Array) => {
    if (data.length > 0) isInLine = data.at(-1) !== "\n".charCodeAt(0);
  };
  for (const stream of [Deno.stdout, Deno.stderr]) {
    for (const key of ["write", "writeSync"]) {
      replace(stream, key, (original) =>
        function (data, ...args) {
          safely(() => note(data));
          return original.call(stream, data, ...args);
        });
    }
  }
  for (const key of ["log", "info", "debug", "warn", "error"]) {
    replace(console, key, (original) =>
      function (...args) {
        isInLine = false;
        return original.apply(this, args);
      });
  }
  return (text) => {
    errorText(isInLine ? `\n${text}` : text);
    isInLine = false;
  };
}

/** How wide the terminal is. A bare one has 0 columns: as good as unknown. */
export function terminalColumns(): number {
  return Deno.consoleSize().columns || 80;
}

/**
 * Stops the calls on Deno's sockets from now on. What is typed goes to the stepper
 * first, so nothing else may read standard input.
 *
 * @param side What this process is called, where there are two.
 * @param link Whether another process steps too: it is told the port.
 */
export function startStep(
  view: StepView,
  side = "",
  link?: Link,
): { stepper: Stepper; recorder: Recorder; mailbox: Mailbox; port: number } {
  const mailbox = new Mailbox(link);
  let port = 0;
  while (link === "listen" && port === 0) {
    const message = mailbox.take(1000);
    if (message && "port" in message) port = message.port;
  }
  let isHeard = false; // By a listener that may have removed itself since.
  const signals = onEndSignals(() => isHeard = true);
  const stepper = new Stepper(mailbox, view, side, (signal) => {
    if (!isHeard && !signals.hasListener(signal)) {
      Deno.exit(signal === "SIGINT" ? 130 : 143);
    }
    isHeard = false;
  });
  holdTimers(() => stepper.movedFor);
  const tell = (call: Parameters<Stepper["report"]>[1]) =>
    stepper.report(side, call);
  const onWait = whileCallsWait(() => recorder);
  const recorder: Recorder = watchSocketCalls(tell, { gate: stepper, onWait });
  return { stepper, recorder, mailbox, port };
}
