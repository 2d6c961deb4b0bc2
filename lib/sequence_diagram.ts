/**
 * A sequence diagram in two lanes, for a terminal or a pipe. It is drawn in
 * ASCII: box-drawing characters are two columns wide in some of the terminals
 * that the tutorial's readers use.
 *
 * @module
 */

import { bold, cyan } from "@std/fmt/colors";

/** One row of a diagram: what one side did, and when. */
export interface SequenceEvent {
  /** When it happened, in milliseconds; the rows are sorted by it. */
  at: number;
  /** What happened, in ASCII. */
  what: string;
  /** Whether an arrow goes to the other lane. */
  toPeer: boolean;
  /** What state both sides are in afterwards: it stands beside their lanes. */
  states?: { client: string; server: string };
}

/** Options of {@linkcode SequenceDiagram.draw}; the defaults suit standard output. */
export interface SequenceOptions {
  /** The width to draw for: from 40 to 80 columns are used. */
  columns?: number;
  /** Whether to use color. */
  color?: boolean;
}

/** Room for `ESTABLISHED`, the longest name of a state, and a space. */
const STATE_WIDTH = 12;

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
 * ```
 */
export class SequenceDiagram {
  #events: (SequenceEvent & { isClient: boolean })[] = [];

  /** Returns a function that takes the events of one side, in any order. */
  lane(side: "client" | "server"): (event: SequenceEvent) => void {
    const isClient = side === "client";
    return (event) => this.#events.push({ ...event, isClient });
  }

  /** Draws it. The lines are joined by newlines. */
  draw(options: SequenceOptions = {}): string {
    const isTerminal = Deno.stdout.isTerminal();
    // A bare pseudo-terminal has 0 columns: as good as unknown.
    const {
      columns = isTerminal && Deno.consoleSize().columns || 80,
      color = isTerminal && !Deno.noColor,
    } = options;
    const width = Math.min(Math.max(columns, 40), 80);
    const gap = Math.floor(width / 6) + 1;
    const lane = Math.floor((width - gap - 4) / 2);
    const paint = (code: (text: string) => string, text: string) =>
      color ? code(text) : text;
    const row = (client: string, between: string, server: string) =>
      `${client} |${between}| ${server}`.trimEnd();
    const hasStates = this.#events.some((event) => event.states);
    const room = hasStates ? lane - STATE_WIDTH : lane;

    const blank = " ".repeat(gap);
    const arrow = "-".repeat(gap - 1);
    const rows = [
      row(paint(bold, "client".padEnd(lane)), blank, paint(bold, "server")),
    ];
    for (const event of this.#events.toSorted((a, b) => a.at - b.at)) {
      let between = event.isClient ? `${arrow}>` : `<${arrow}`;
      between = event.toPeer ? paint(cyan, between) : blank;
      let { client = "", server = "" } = event.states ?? {};
      for (const text of wrap(event.what, room)) {
        const [left, right] = event.isClient ? [text, ""] : ["", text];
        rows.push(
          hasStates
            ? row(
              left.padEnd(room) + client.padStart(STATE_WIDTH),
              between,
              server.padEnd(STATE_WIDTH) + right,
            )
            : row(left.padEnd(lane), between, right),
        );
        between = blank;
        client = server = "";
      }
    }
    return rows.join("\n");
  }
}

/** Breaks text at spaces; a word longer than a line is broken anywhere. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  while (text.length > width) {
    const space = text.lastIndexOf(" ", width);
    const end = space > 0 ? space : width;
    lines.push(text.slice(0, end));
    text = text.slice(end).trimStart();
  }
  return [...lines, text];
}
