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

/** The repository, where its own programs are run. */
const REPOSITORY = new URL("../../", import.meta.url).href;

/** What `show` of a mode stands for. */
export const stage = {
  /** The path of a program of the repository, for `--help`. */
  pathOf: (url: string): string | undefined =>
    url.startsWith(REPOSITORY) ? url.slice(REPOSITORY.length) : undefined,

  /** The options that come with it. */
  options(show?: "trace" | "diagram") {
    if (show === undefined) return {};
    return show === "trace" ? traceOptions : diagramOptions;
  },

  /** What is added to the flags of a child. */
  childFlags: [] as string[],
  /** Where the standard error of a child goes. */
  childErrors: "inherit" as "inherit" | "piped",
  /** Reads it to its end, where it is piped. */
  watchErrors: (_child: Deno.ChildProcess): Promise<void> | undefined =>
    undefined,

  /** Loads it, unless `--quiet` is given; so it costs nothing then. */
  async begin(
    show: "trace" | "diagram" | undefined,
    { quiet, mermaid, child }: Record<string, unknown>,
  ): Promise<void> {
    if (show === undefined || quiet || child) return;
    if (show === "trace") {
      const { flushTrace } = await import("./trace.ts");
      stage.beforePrint = flushTrace;
      stage.end = flushTrace;
      stage.childFlags = [`--preload=${import.meta.resolve("./trace.ts")}`];
    } else {
      const { drawDiagram } = await import("./diagram.ts");
      stage.end = (print) => {
        const diagram = drawDiagram(mermaid === true);
        if (diagram !== "") print(diagram);
      };
    }
  },

  /** Lets the trace of what led to a line stand before it. */
  beforePrint: (): unknown => undefined,

  /** Shows what was collected, or is still to be written, before the end. */
  end: (_print: (text: string) => unknown): unknown => undefined,
};
