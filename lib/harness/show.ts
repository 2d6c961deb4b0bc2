/**
 * What the command line shows of a lesson's socket calls: their trace on
 * standard error, or a diagram when it is over.
 *
 * @module
 */

import { type Mode, UsageError } from "./command_line.ts";

/** How socket calls are shown while a lesson runs, and at its end. */
export interface Show {
  /** An error is reported: its call is not to be shown as well. */
  leaveOut(error: unknown): void;
  /** Shows what has waited, before something else is printed. */
  settle(): void;
  /** Resolves to what is printed at the end, or to `""`. */
  finish(): Promise<string>;
}

const NOTHING: Show = {
  leaveOut() {},
  settle() {},
  finish: () => Promise.resolve(""),
};

/** Printed after a demo that somebody has gone through step by step. */
const STEPPED =
  "(The demo was stopped at its calls: its times and rates do not count.)";

/**
 * Loads what shows the socket calls, unless `--quiet` is given: then it costs
 * nothing. What a child does is shown by its parent.
 *
 * @param show What is shown.
 * @param options The options of the command line.
 */
export async function startShow(
  show: Mode["show"],
  { quiet, mermaid, step, child }: Record<string, unknown>,
): Promise<Show> {
  if (step) return { ...NOTHING, finish: await startSteps(show) };
  if (show === "diagram" && !quiet) {
    const { startDiagram } = await import("./diagram.ts");
    const draw = startDiagram();
    return { ...NOTHING, finish: () => draw(mermaid === true) };
  }
  if (show === "trace" && !quiet && !child) {
    const { watchChildren } = await import("./child_watch.ts");
    const { startTrace } = await import("../trace/start_trace.ts");
    const { HeldTrace } = await import("./held_trace.ts");
    const trace = new HeldTrace();
    startTrace((call, error) => trace.take(call, error));
    watchChildren(new URL("../trace/trace.ts", import.meta.url));
    return {
      ...NOTHING,
      leaveOut: (error) => trace.leaveOut(error),
      settle: () => trace.settle(),
    };
  }
  return NOTHING;
}

/**
 * Stops before each call: of a demo's two processes, or of this one. Returns what
 * ends that, as `finish` does.
 */
async function startSteps(show: Mode["show"]): Promise<Show["finish"]> {
  const { canStep, startStep, traceView } = await import(
    "../trace/start_step.ts"
  );
  if (!canStep()) {
    const streams = "standard input and standard error";
    throw new UsageError(`--step: ${streams} must be a terminal`);
  }
  let rest = NOTHING.finish;
  if (show === "diagram") {
    rest = (await import("./step_demo.ts")).startStepDemo();
  } else startStep(traceView());
  if (show !== "diagram" && show !== "table") return rest;
  return async () => `${await rest()}\n${STEPPED}`.trimStart();
}
