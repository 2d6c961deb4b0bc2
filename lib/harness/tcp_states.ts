/**
 * The states of both ends of a TCP connection: drawn beside what was called,
 * explained, and as a picture of the ways that they have taken.
 *
 * @module
 */

import {
  type ConnEnd,
  endOf,
  otherEnd,
  readUntilSettled,
  type TcpRow,
} from "../lab/tcp_table.ts";
import type { SequenceEvent, Side } from "./sequence_diagram.ts";
import { wrapText } from "../text_width.ts";

/** What a state says of the end that is in it. */
const MEANINGS: Record<string, string> = {
  "ESTABLISHED": "no FIN has come, and it has sent none",
  "FIN-WAIT-1": "it has sent its FIN, which is not acknowledged yet",
  "FIN-WAIT-2": "its FIN is acknowledged, but the other side's has not come",
  "CLOSE-WAIT": "the other side's FIN has come, but it has not sent its own",
  "LAST-ACK": "both have sent a FIN, but its own is not acknowledged yet",
  "CLOSING": "both have sent a FIN at once, and its own is not acknowledged",
  "TIME-WAIT": "both FINs have come, and it waits: its last ACK may be lost",
  "gone": "the kernel has no such connection any more",
};

/**
 * Explains a state in a line.
 *
 * @param state Its name in RFC 9293, or `gone`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(
 *   explainState("FIN-WAIT-1"),
 *   "  FIN-WAIT-1   it has sent its FIN, which is not acknowledged yet",
 * );
 * ```
 */
export function explainState(state: string): string {
  return `  ${state.padEnd(11)}  ${MEANINGS[state] ?? ""}`.trimEnd();
}

/** How the closing of a connection may go: the lower part of RFC 9293, figure 5. */
const CHANGES = [
  ["ESTABLISHED", "FIN-WAIT-1", "closes, sends FIN"],
  ["ESTABLISHED", "CLOSE-WAIT", "FIN comes, sends ACK"],
  ["FIN-WAIT-1", "FIN-WAIT-2", "ACK of its FIN comes"],
  ["FIN-WAIT-1", "CLOSING", "FIN comes, sends ACK"],
  ["FIN-WAIT-2", "TIME-WAIT", "FIN comes, sends ACK"],
  ["CLOSING", "TIME-WAIT", "ACK of its FIN comes"],
  ["CLOSE-WAIT", "LAST-ACK", "closes, sends FIN"],
  ["LAST-ACK", "gone", "ACK of its FIN comes"],
  ["TIME-WAIT", "gone", "its time is over"],
] as const;

/** The states that each side was in, one after the other. */
export type StatePaths = Record<Side, string[]>;

/**
 * Explains the states that connections pass through, and draws their ways.
 *
 * @example
 * ```ts
 * import { assertEquals, assertStringIncludes } from "@std/assert";
 *
 * const states = new TcpStates();
 * const text = states.explain({
 *   client: ["ESTABLISHED", "FIN-WAIT-1"],
 *   server: ["ESTABLISHED"],
 * });
 * assertEquals(text.split("\n"), [
 *   "client: ESTABLISHED -> FIN-WAIT-1",
 *   "server: ESTABLISHED",
 *   "  ESTABLISHED  no FIN has come, and it has sent none",
 *   "  FIN-WAIT-1   it has sent its FIN, which is not acknowledged yet",
 * ]);
 * const edge = "ESTABLISHED --> FIN_WAIT_1: closes, sends FIN (client 1)";
 * assertStringIncludes(states.mermaid(), edge);
 * ```
 */
export class TcpStates {
  #seen = new Set<string>();
  /** How often each side went from one state to another, by `"A B"`. */
  #changes = new Map<string, Record<Side, number>>();

  /**
   * Says in words how the states of both ends have changed.
   *
   * @param paths The states of each side, one after the other.
   * @returns The way of each end, and what those states mean that were not in such
   * a text before. The lines are joined by newlines.
   */
  explain(paths: StatePaths): string {
    const lines: string[] = [];
    const unknown = new Set<string>();
    for (const side of ["client", "server"] as const) {
      const path = paths[side];
      lines.push(`${side}: ${path.join(" -> ")}`);
      for (const [i, state] of path.entries()) {
        if (!this.#seen.has(state)) unknown.add(state);
        this.#seen.add(state);
        if (i > 0) this.#count(`${path[i - 1]} ${state}`, side);
      }
    }
    for (const state of unknown) {
      lines.push(explainState(state));
    }
    return lines.join("\n");
  }

  #count(change: string, side: Side): void {
    const counts = this.#changes.get(change) ?? { client: 0, server: 0 };
    counts[side]++;
    this.#changes.set(change, counts);
  }

  /**
   * Draws a Mermaid `stateDiagram-v2`, which many hosts and editors draw as a
   * picture: all ways in which a connection may close, and in brackets how often
   * each side has gone there. Where a state was left too soon to be seen, an arrow
   * of its own passes it over. The states that were seen are filled.
   */
  mermaid(): string {
    const taken = new Map(this.#changes);
    const counted = (change: string) => {
      const { client = 0, server = 0 } = taken.get(change) ?? {};
      taken.delete(change);
      const counts = Object.entries({ client, server })
        .filter(([_, count]) => count > 0);
      return counts.map((it) => it.join(" ")).join(", ");
    };
    const edges = CHANGES.map(([from, to, why]) => {
      const counts = counted(`${from} ${to}`);
      return arrow(from, to, counts === "" ? why : `${why} (${counts})`);
    });
    for (const change of [...taken.keys()]) {
      const [from = "", to = ""] = change.split(" ");
      edges.push(
        arrow(from, to, `the state between was not seen (${counted(change)})`),
      );
    }
    const states = new Set([...CHANGES.flatMap(([a, b]) => [a, b])]);
    return [
      "stateDiagram-v2",
      ...[...states].flatMap((state) => [
        `  state "${state}" as ${idOf(state)}`,
        ...wrapText(MEANINGS[state]!, 32).map((it) =>
          `  ${idOf(state)}: ${it}`
        ),
      ]),
      ...edges,
      "  classDef seen fill:#cde8cd,color:#000",
      `  class ${[...this.#seen].map(idOf).join(",")} seen`,
    ].join("\n");
  }
}

/** Mermaid takes no hyphen in a name. */
const idOf = (state: string) => state.replaceAll("-", "_");

const arrow = (from: string, to: string, label: string) =>
  `  ${idOf(from)} --> ${idOf(to)}: ${label}`;

/**
 * Draws a call, and the states of both ends of a connection after it, again and
 * again until they stay.
 *
 * @param draw Takes the rows of the one who has called.
 * @param event The call.
 * @param client The client's end.
 * @param isMoving Whether an end is in a state that it will leave by itself.
 * @throws {Error} If the kernel's list cannot be read.
 */
export async function drawStates(
  draw: (event: SequenceEvent) => void,
  event: SequenceEvent,
  client: ConnEnd,
  isMoving?: (row: TcpRow) => boolean,
): Promise<void> {
  let seen = "";
  const ends = [client, otherEnd(client)];
  for await (const rows of readUntilSettled(ends, isMoving)) {
    const [client = "gone", server = "gone"] = ends
      .map((it) => endOf(rows, it)?.state);
    if (`${client} ${server}` === seen) continue;
    draw({ ...event, states: { client, server } });
    seen = `${client} ${server}`;
    event = { at: event.at, what: "", toPeer: false };
  }
}
