/**
 * A sequence diagram in two lanes, for a terminal or a pipe, or for Mermaid. Its
 * lines are drawn in ASCII: box-drawing characters are two columns wide in some
 * of the terminals that the tutorial's readers use.
 *
 * @module
 */

import { bold, cyan } from "@std/fmt/colors";
import { padText, wrapText } from "./text_width.ts";

/** One row of a diagram: what one side did, and when. */
export interface SequenceEvent {
  /** When it happened, in milliseconds; the rows are sorted by it. */
  at: number;
  /** What happened, in one line; `""` if only the states have changed. */
  what: string;
  /** Whether an arrow goes to the other lane. */
  toPeer: boolean;
  /** Whether that was lost on its way. */
  isLost?: boolean;
  /** What state both sides are in afterwards: it stands beside their lanes. */
  states?: { client: string; server: string };
}

/** Options of {@linkcode SequenceDiagram.draw}; the defaults suit standard output. */
export interface SequenceOptions {
  /** The width to draw for; at most 80 columns are used. */
  columns?: number;
  /** Whether to use color. */
  color?: boolean;
}

/** The lane of one side. */
export type Side = "client" | "server";
type SidedEvent = SequenceEvent & { side: Side };

/** Room for `ESTABLISHED`, the longest name of a state, and a space. */
const STATE_WIDTH = 12;
/** With less room than this for words, each event gets a line of its own. */
const LEAST_ROOM = 18;

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

  /** Returns a function that takes the events of one side, in any order. */
  lane(side: Side): (event: SequenceEvent) => void {
    return (event) => this.#events.push({ ...event, side });
  }

  #inOrder(): SidedEvent[] {
    return this.#events.toSorted((a, b) => a.at - b.at);
  }

  /** Draws it for a terminal. The lines are joined by newlines. */
  draw(options: SequenceOptions = {}): string {
    const isTerminal = Deno.stdout.isTerminal();
    // A bare pseudo-terminal has 0 columns: as good as unknown.
    const {
      columns = isTerminal && Deno.consoleSize().columns || 80,
      color = isTerminal && !Deno.noColor,
    } = options;
    const width = Math.min(columns, 80);
    const gap = Math.floor(width / 6) + 1;
    const lane = Math.floor((width - gap - 4) / 2);
    const paint = (code: (text: string) => string, text: string) =>
      color ? code(text) : text;
    const hasStates = this.#events.some((event) => event.states);
    const room = hasStates ? lane - STATE_WIDTH : lane;
    if (room < LEAST_ROOM) return this.#list(columns);

    const row = (client: string, between: string, server: string) =>
      `${client} |${between}| ${server}`.trimEnd();
    const blank = " ".repeat(gap);
    const rows = [
      row(paint(bold, "client".padEnd(lane)), blank, paint(bold, "server")),
    ];
    for (const event of this.#inOrder()) {
      const isClient = event.side === "client";
      let between = event.toPeer
        ? paint(cyan, arrow(gap, isClient, event.isLost))
        : blank;
      let { client = "", server = "" } = event.states ?? {};
      for (const text of wrapText(event.what, room)) {
        const [left, right] = isClient ? [text, ""] : ["", text];
        rows.push(
          hasStates
            ? row(
              padText(left, room) + client.padStart(STATE_WIDTH),
              between,
              server.padEnd(STATE_WIDTH) + right,
            )
            : row(padText(left, lane), between, right),
        );
        between = blank;
        client = server = "";
      }
    }
    return rows.join("\n");
  }

  /** One event after the other, where two lanes have no room. */
  #list(columns: number): string {
    return this.#inOrder().flatMap(({ side, what, toPeer, isLost, states }) => {
      const to = !toPeer ? "" : isLost ? " --x" : " -->";
      const who = what === "" ? "later" : `${side}${to}`;
      const after = states ? ` [${states.client}, ${states.server}]` : "";
      return wrapText(`${who} ${what}${after}`, Math.max(columns, 20) - 2)
        .map((line, i) => i === 0 ? line : `  ${line}`);
    }).join("\n");
  }

  /**
   * Writes it as a Mermaid `sequenceDiagram`, which many hosts and editors draw
   * as a picture. The lines are joined by newlines.
   */
  mermaid(): string {
    const rows = ["sequenceDiagram", "  participant client"];
    rows.push("  participant server");
    for (const { side, what, toPeer, isLost, states } of this.#inOrder()) {
      const other = side === "client" ? "server" : "client";
      const text = what.replace(
        /[#;<>"\\&%]/g,
        (it) => `#${it.charCodeAt(0)};`,
      );
      if (toPeer) {
        rows.push(`  ${side}${isLost ? "-x" : "->>"}${other}: ${text}`);
      } else if (text !== "") rows.push(`  Note over ${side}: ${text}`);
      if (states) {
        rows.push(
          `  Note over client,server: ${states.client} / ${states.server}`,
        );
      }
    }
    return rows.join("\n");
  }
}

/** `------------->`, or `-----x` where it does not arrive. */
function arrow(gap: number, toRight: boolean, isLost = false): string {
  if (!isLost) {
    const line = "-".repeat(gap - 1);
    return toRight ? `${line}>` : `<${line}`;
  }
  const line = "-".repeat(Math.floor(gap / 2) - 1);
  return toRight ? `${line}x`.padEnd(gap) : `x${line}`.padStart(gap);
}
