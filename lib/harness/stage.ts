/**
 * What the command line shows of a lesson's socket calls: their trace on
 * standard error, or a diagram when it is over. A copy has none of it.
 *
 * @module
 */

/** `--quiet`, where there is something to leave out. */
const traceOptions = { quiet: { default: false, help: "no trace" } };
const diagramOptions = {
  quiet: { default: false, help: "no diagram" },
  mermaid: { default: false, help: "the diagram for Mermaid, to be a picture" },
};

/** Shows what was collected, or is still to be written. */
let finish: (print: (text: string) => Promise<unknown>) => Promise<void> =
  async () => {};

/** What `show` of a mode stands for. */
export const stage = {
  /** The options that come with it. */
  options(show?: "trace" | "diagram") {
    if (show === undefined) return {};
    return show === "trace" ? traceOptions : diagramOptions;
  },

  /** Loads it, unless `--quiet` is given; so it costs nothing then. */
  async begin(
    show: "trace" | "diagram" | undefined,
    { quiet, mermaid, child }: Record<string, unknown>,
  ): Promise<void> {
    if (show === undefined || quiet || child) return;
    if (show === "trace") {
      const { flushTrace } = await import("./trace.ts");
      finish = flushTrace;
    } else {
      const { drawDiagram } = await import("./diagram.ts");
      finish = async (print) => {
        const diagram = drawDiagram(mermaid === true);
        if (diagram !== "") await print(diagram);
      };
    }
  },

  /** Shows the rest before the process ends. */
  end(print: (text: string) => Promise<unknown>): Promise<void> {
    return finish(print);
  },
};
