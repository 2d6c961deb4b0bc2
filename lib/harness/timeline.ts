/**
 * Timelines for a terminal or a pipe: what happened in the same time, one row
 * each, to scale.
 *
 * @module
 */

import { terminalSize } from "./terminal.ts";

/** One row of a timeline. */
export interface TimelineRow {
  /** Whose it is. */
  label: string;
  /** What took time: its start and end are drawn as `|`, between them is `-`. */
  spans?: [start: number, end: number][];
  /** What happened at a moment, in a few characters; drawn over the spans. */
  marks?: [at: number, text: string][];
  /** What stands at the end of the row. */
  note?: string;
}

/** Columns that nobody's line is longer than. */
const COLUMNS = 80;
/** On a narrower terminal its lines break. */
const LEAST_WIDTH = 12;
/** At least so many columns are from one number of the axis to the next. */
const LEAST_STEP = 6;

/**
 * Draws rows over one axis, which begins at 0.
 *
 * @param unit What the numbers of the axis are: `ms`.
 * @param rows The rows, all times in that unit.
 * @param options The axis ends with `end`, by default with the last thing that
 * happened, and not before 1. No line is longer than `columns`, where that is
 * possible: by default what standard output has, and 80 at most.
 * @returns The axis and the rows, joined by newlines.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const timeline = drawTimeline("ms", [
 *   { label: "try 1", spans: [[0, 30]], note: "30 ms" },
 *   { label: "try 2", spans: [[30, 90]], note: "60 ms" },
 * ], { columns: 34 });
 * assertEquals(timeline.split("\n"), [
 *   "ms     0          50",
 *   "try 1  |------|              30 ms",
 *   "try 2         |------------| 60 ms",
 * ]);
 * ```
 */
export function drawTimeline(
  unit: string,
  rows: TimelineRow[],
  {
    end = lastOf(rows),
    columns = Math.min(terminalSize().columns ?? COLUMNS, COLUMNS),
  }: { end?: number; columns?: number } = {},
): string {
  const most = (texts: string[]) =>
    Math.max(...texts.map((text) => text.length));
  const labelWidth = most([unit, ...rows.map(({ label }) => label)]) + 2;
  const noteWidth = most(rows.map(({ note }) => note ? ` ${note}` : ""));
  const width = Math.max(columns - labelWidth - noteWidth, LEAST_WIDTH);
  const columnOf = (at: number) => Math.round(at / end * (width - 1));

  /** Texts on a line; what comes later covers what was there. */
  const line = (label: string, texts: [at: number, text: string][]) => {
    const drawn = Array(width).fill(" ");
    for (const [at, text] of texts) {
      const column = Math.min(columnOf(at), width - text.length);
      drawn.splice(column, text.length, ...text);
    }
    return label.padEnd(labelWidth) + drawn.join("");
  };
  const axis: [number, string][] = [];
  const step = niceStep(end * LEAST_STEP / width);
  const decimals = Math.max(-Math.floor(Math.log10(step)), 0);
  for (let i = 0; i * step <= end; i++) {
    axis.push([i * step, (i * step).toFixed(decimals)]);
  }

  const drawn = rows.map(({ label, spans = [], marks = [], note = "" }) => {
    const bars = spans.flatMap(([start, stop]): [number, string][] => [
      [start, "-".repeat(columnOf(stop) - columnOf(start))],
      [start, "|"],
      [stop, "|"],
    ]);
    return `${line(label, [...bars, ...marks])} ${note}`.trimEnd();
  });
  return [line(unit, axis).trimEnd(), ...drawn].join("\n");
}

/**
 * Draws how long somebody has waited for an answer, try after try.
 *
 * @param request What was sent.
 * @param waits How long each wait was, in milliseconds.
 * @param isAnswered Whether the last one ended with the answer: an `A`.
 * @returns A title, and a timeline with a row for each try.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const drawn = drawTries("a request", [30, 60], true);
 * const [title, , first, second] = drawn.split("\n");
 * assertEquals(title, "The waits for a request, until its answer came (A):");
 * assertEquals(first.replace(/-+\| +/, "-| "), "try 1  |-| 30 ms");
 * assertEquals(second.replace(/ +\|-+/, " |-"), "try 2 |-A 60 ms");
 * ```
 */
export function drawTries(
  request: string,
  waits: number[],
  isAnswered: boolean,
): string {
  const until = isAnswered
    ? "until its answer came (A)"
    : "all of them in vain";
  let end = 0;
  const rows = waits.map((wait, i): TimelineRow => ({
    label: `try ${i + 1}`,
    spans: [[end, end += wait]],
    note: `${Math.round(wait)} ms`,
  }));
  if (isAnswered) rows.at(-1)!.marks = [[end, "A"]];
  return `The waits for ${request}, ${until}:\n${drawTimeline("ms", rows)}`;
}

/** When the last thing happened, or 1 if that is later: the axis has a length. */
function lastOf(rows: TimelineRow[]): number {
  const times = rows.flatMap(({ spans = [], marks = [] }) => [
    ...spans.flat(),
    ...marks.map(([at]) => at),
  ]);
  return Math.max(...times, 1);
}

/** The next larger one of 1, 2, 5, 10, 20 and so on. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5].map((it) => it * power).find((it) => it >= least) ??
    10 * power;
}
