/**
 * What the command line shows of a lesson's socket calls: their trace on
 * standard error, or a diagram when it is over.
 *
 * @module
 */

import { type Mode, UsageError } from "./command_line.ts";

/**
 * Loads what shows the socket calls, unless `--quiet` is given: then it costs
 * nothing. What a child does is shown by its parent.
 *
 * @param show What is shown.
 * @param options The options of the command line.
 * @returns A function that resolves to what is to be printed at the end, or to
 * `""`.
 */
export async function startShow(
  show: Mode["show"],
  { quiet, mermaid, step, child }: Record<string, unknown>,
): Promise<() => Promise<string>> {
  if (step) {
    await startSteps(show);
    return () => Promise.resolve("");
  }
  if (show === "diagram" && !quiet) {
    const { startDiagram } = await import("./diagram.ts");
    const draw = startDiagram();
    return () => draw(mermaid === true);
  }
  if (show === "trace" && !quiet && !child) {
    const { watchChildren } = await import("./child_watch.ts");
    const { startTrace } = await import("../trace/start_trace.ts");
    startTrace();
    watchChildren(new URL("../trace/trace.ts", import.meta.url));
  }
  return () => Promise.resolve("");
}

/** Stops before each call: of a demo's two processes, or of this one. */
async function startSteps(show: Mode["show"]) {
  const { canStep, startStep, traceView } = await import(
    "../trace/start_step.ts"
  );
  if (!canStep()) {
    const streams = "standard input and standard error";
    throw new UsageError(`--step: ${streams} must be a terminal`);
  }
  if (show === "diagram") (await import("./step_demo.ts")).startStepDemo();
  else startStep(traceView());
}
