/**
 * What the command line shows of a lesson's socket calls: their trace on
 * standard error, or a diagram when it is over.
 *
 * @module
 */

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
  show: "trace" | "diagram" | undefined,
  { quiet, mermaid, child }: Record<string, unknown>,
): Promise<() => Promise<string>> {
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
