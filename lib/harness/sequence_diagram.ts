/**
 * A sequence diagram in two lanes, for a terminal or a pipe, or for Mermaid. Its
 * lines are drawn in ASCII: box-drawing characters are two columns wide in some
 * of the terminals that the tutorial's readers use.
 *
 * @module
 */

import { bold, cyan } from "@std/fmt/colors";
import { isColored, terminalSize } from "./terminal.ts";
import { padText, wrapText } from "../text_width.ts";

/** One row of a diagram: what one side did, and when. */
export interface SequenceEvent {
  /** When it happened, in milliseconds; the rows are sorted by it. */
  at: number;
  /** What happened, in one line; `""` if only the states have changed. */
  what: string;
  /** Whether an arrow goes to the other lane. */
  toPeer: boolean;
  /** Whether what was sent was lost on its way. */
  isLost?: boolean;
  /** What state both sides are in afterwards: it stands beside their lanes. */
  states?: { client: string; server: string };
}

/** The lane of one side. */
export type Side = "client" | "server";
/** An event, and whose it is. */
export type SidedEvent = SequenceEvent & { side: Side };

/** Room for `ESTABLISHED`, the longest name of a state, and a space. */
const STATE_WIDTH = 12;
/** Room for `12345` milliseconds, and a space. */
const TIME_WIDTH = 6;
/** With less room than this for words, each event gets a line of its own. */
const LEAST_ROOM = 18;
/** Nobody reads more events than this. */
const MOST_EVENTS = 1000;

/**
 * Collects what a client and a server did, and draws it: the client on the
 * left, the server on the right, the first event at the top.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const diagram = new SequenceDiagram();
 * diagram.lane("server")({ at: 2, what: "read 6 bytes", toPeer: false });
 * diagram.lane("client")({ at: 1, what: "write 6 bytes", toPeer: true });
 * const [, write, read] = diagram.draw({ columns: 80 }).split("\n");
 * assertStringIncludes(write, "write 6 bytes                   |----");
 * assertStringIncludes(read, "| read 6 bytes");
 * assertStringIncludes(diagram.mermaid(), "client->>server: write 6 bytes");
 * ```
 */
export class SequenceDiagram {
  #events: SidedEvent[] = [];
  #hasTimes: boolean;
  #notes: string[];

  /**
   * Has no events yet.
   *
   * @param options Whether each event has its time, in milliseconds since the
   * first one; and lines that stand above all.
   */
  constructor({ hasTimes = false, notes = [] as string[] } = {}) {
    this.#hasTimes = hasTimes;
    this.#notes = notes;
  }

  /** Returns a function that takes the events of one side, in any order. */
  lane(side: Side): (event: SequenceEvent) => void {
    return (event) => this.#events.push({ ...event, side });
  }

  #inOrder(): SidedEvent[] {
    return this.#events.toSorted((a, b) => a.at - b.at).slice(0, MOST_EVENTS);
  }

  /** What says when an event was, if they have times. */
  #times(): Drawing["timeOf"] {
    const [first] = this.#inOrder();
    if (!this.#hasTimes || !first) return undefined;
    return ({ at }) => String(Math.round(at - first.at));
  }

  /** Says that some are left out, in a line of its own, if they are. */
  #leftOut(): string[] {
    const count = this.#events.length - MOST_EVENTS;
    return count > 0 ? [`${count} later calls are not drawn`] : [];
  }

  /** The states that both sides were in, each until it changed. */
  paths(): Record<Side, string[]> {
    const path = (side: Side) =>
      this.#inOrder().flatMap(({ states }) => states?.[side] ?? [])
        .filter((state, i, all) => state !== all[i - 1]);
    return { client: path("client"), server: path("server") };
  }

  /**
   * Draws it for a terminal, by default for standard output: at most 80 columns
   * wide. One that is taller than the terminal has its head at its end as well,
   * because the one at the top is out of sight then. The lines are joined by
   * newlines.
   */
  draw(
    {
      columns = terminalSize().columns ?? 80,
      height = terminalSize().rows ?? Infinity,
      color = isColored(),
    } = {},
  ): string {
    const hasStates = this.#events.some((event) => event.states);
    const timeOf = this.#times();
    const rows = laneRows({ columns, color, hasStates, timeOf });
    if (rows === undefined) return this.#list(columns);
    const drawn = this.#inOrder().flatMap(rows.draw);
    const lines = [
      ...this.#notes,
      rows.head,
      ...drawn,
      ...this.#leftOut(),
    ];
    if (lines.length >= height) lines.push(rows.head);
    return lines.join("\n");
  }

  /** One event after the other, where two lanes have no room. */
  #list(columns: number): string {
    const timeOf = this.#times();
    return this.#notes.flatMap((note) => wrapText(note, columns))
      .concat(
        this.#inOrder().flatMap((event) => listEvent(event, columns, timeOf)),
      )
      .concat(this.#leftOut()).join("\n");
  }

  /**
   * Writes it as a Mermaid `sequenceDiagram`, which many hosts and editors draw
   * as a picture. The lines are joined by newlines.
   */
  mermaid(): string {
    const rows = [
      "sequenceDiagram",
      "  participant client",
      "  participant server",
      ...this.#notes.map((it) => `  Note over client,server: ${escaped(it)}`),
    ];
    const timeOf = this.#times();
    for (const event of this.#inOrder()) {
      const { side, what, toPeer, isLost, states } = event;
      const other = side === "client" ? "server" : "client";
      const sent = isLost ? `${side}-x${other}` : `${side}->>${other}`;
      const timed = timeOf && what ? `${timeOf(event)} ms: ${what}` : what;
      const text = escaped(timed);
      if (toPeer) rows.push(`  ${sent}: ${text}`);
      else if (text !== "") rows.push(`  Note over ${side}: ${text}`);
      if (states) {
        const { client, server } = states;
        rows.push(`  Note over client,server: ${client} / ${server}`);
      }
    }
    const leftOut = this.#leftOut().map((it) => `  %% ${it}`);
    return [...rows, ...leftOut].join("\n");
  }
}

/** Without what Mermaid takes for its own. */
const escaped = (text: string) =>
  text.replace(/[#;<>"\\&%]/g, (it) => `#${it.charCodeAt(0)};`);

/** How a diagram is drawn. */
interface Drawing {
  columns: number;
  color: boolean;
  hasStates: boolean;
  /** Says when an event was, if that is drawn. */
  timeOf?: undefined | ((event: SidedEvent) => string);
}

/** Draws events in two lanes; `undefined` if there is no room for them. */
function laneRows({ columns, color, hasStates, timeOf }: Drawing) {
  const timeWidth = timeOf ? TIME_WIDTH : 0;
  const width = Math.min(columns, 80) - timeWidth;
  const gap = Math.floor(width / 6) + 1;
  const lane = Math.floor((width - gap - 4) / 2);
  const stateWidth = hasStates ? STATE_WIDTH : 0;
  const room = lane - stateWidth;
  if (room < LEAST_ROOM) return undefined;

  const paint = (code: (text: string) => string, text: string) =>
    color ? code(text) : text;
  const row = (client: string, between: string, server: string, time = "") =>
    `${
      timeOf ? `${time.padStart(TIME_WIDTH - 1)} ` : ""
    }${client} |${between}| ${server}`
      .trimEnd();
  const blank = " ".repeat(gap);
  const head = row(
    paint(bold, "client".padEnd(lane)),
    blank,
    paint(bold, "server"),
    "ms",
  );
  const draw = (event: SidedEvent): string[] => {
    const isClient = event.side === "client";
    // Arrow and states stand in the first line of an event.
    let between = event.toPeer
      ? paint(cyan, arrow(gap, isClient, event.isLost))
      : blank;
    let { client = "", server = "" } = event.states ?? {};
    let time = timeOf?.(event);
    return wrapText(event.what, room).map((text) => {
      const [left, right] = isClient ? [text, ""] : ["", text];
      const drawn = row(
        padText(left, room) + client.padStart(stateWidth),
        between,
        server.padEnd(stateWidth) + right,
        time,
      );
      time = undefined;
      between = blank;
      client = server = "";
      return drawn;
    });
  };
  return { head, draw };
}

/** An event in lines of its own. */
function listEvent(
  event: SidedEvent,
  columns: number,
  timeOf?: Drawing["timeOf"],
): string[] {
  const { side, what, toPeer, isLost, states } = event;
  const time = timeOf ? `${timeOf(event)} ms ` : "";
  const to = !toPeer ? "" : isLost ? " --x" : " -->";
  const who = what === "" ? "later" : `${side}${to}`;
  const known = Object.entries(states ?? {})
    .flatMap(([side, state]) => state === "" ? [] : `${side} ${state}`);
  const after = known.length > 0 ? ` [${known.join(", ")}]` : "";
  return wrapText(`${time}${who} ${what}${after}`, Math.max(columns, 20) - 2)
    .map((line, i) => i === 0 ? line : `  ${line}`);
}

/**
 * Draws one event, with its states, as it happens.
 *
 * @param columns How wide the terminal is.
 * @param color Whether to use color.
 * @returns Its lines, and the head of such lines: `""` if there is no room for lanes.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const { lines } = drawEvent({
 *   side: "client",
 *   at: 0,
 *   what: "close",
 *   toPeer: true,
 *   states: { client: "FIN-WAIT-2", server: "CLOSE-WAIT" },
 * }, 80, false);
 * assertStringIncludes(lines[0], "FIN-WAIT-2 |------------->| CLOSE-WAIT");
 * ```
 */
export function drawEvent(
  event: SidedEvent,
  columns: number,
  color: boolean,
): { head: string; lines: string[] } {
  const rows = laneRows({ columns, color, hasStates: true });
  if (rows === undefined) return { head: "", lines: listEvent(event, columns) };
  return { head: rows.head, lines: rows.draw(event) };
}

/** `------------->`, or `-----x` where it does not arrive. */
function arrow(gap: number, toRight: boolean, isLost = false): string {
  const line = "-".repeat((isLost ? Math.floor(gap / 2) : gap) - 1);
  if (toRight) return `${line}${isLost ? "x" : ">"}`.padEnd(gap);
  return `${isLost ? "x" : "<"}${line}`.padStart(gap);
}
