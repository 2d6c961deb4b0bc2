/**
 * Collects the socket calls of a demo's two processes, this one and the child
 * that is its server, and draws them.
 *
 * @module
 */

import { writeFull } from "../full_io.ts";
import { textLines } from "./child.ts";
import { patient } from "./patient.ts";
import { SequenceDiagram } from "./sequence_diagram.ts";
import { type SocketCall, watchSocketCalls } from "./socket_calls.ts";
import { stage } from "./stage.ts";

const errors = patient(Deno.stderr);
const client: SocketCall[] = [];
const server: SocketCall[] = [];

watchSocketCalls((call) => client.push(call));
stage.childFlags = [
  `--preload=${new URL("./trace_json.ts", import.meta.url).href}`,
];
stage.childErrors = "piped";
stage.watchErrors = async ({ stderr }) => {
  for await (const line of textLines(stderr)) {
    if (line.startsWith('{"at":')) server.push(JSON.parse(line));
    else {
      // Not console.error, which would wait where nobody reads.
      await writeFull(errors, new TextEncoder().encode(`${line}\n`))
        .catch(() => {});
    }
  }
};

/**
 * Draws what both have done since the server was ready.
 *
 * @param forMermaid Whether to draw it for Mermaid, and not for a terminal.
 * @returns The diagram, or `""` if there was no server.
 */
export function drawDiagram(forMermaid: boolean): string {
  const start = Math.min(...server.map(({ at }) => at));
  markLost([...client, ...server]);
  const diagram = new SequenceDiagram();
  const draw = (side: "client" | "server", calls: SocketCall[]) =>
    calls.forEach(({ what, ...call }) =>
      diagram.lane(side)({
        ...call,
        what: what.replace(/\b(\d+) of \1 bytes/, "$1 bytes"),
      })
    );
  draw("server", server);
  draw("client", client.filter((it) => it.at >= start && !it.isOfLib));
  if (server.length === 0) return "";
  return forMermaid ? diagram.mermaid() : diagram.draw();
}

/**
 * Finds the datagrams that a relay has not passed on. The relay is in this
 * process. So its own calls tell which datagrams it received, and whether it
 * sent them on. Between two ports of one host they stay in order: the first
 * that it received is the first that was sent to it.
 */
function markLost(calls: (SocketCall & { isLost?: boolean })[]): void {
  const ordered = calls.filter(({ datagram }) => datagram)
    .toSorted((a, b) => a.at - b.at);
  const relayed = ordered.filter(({ isOfLib }) => isOfLib);
  const [sent, received] = [true, false].map((toPeer) =>
    relayed.filter((it) => it.toPeer === toPeer)
  );
  const ports = new Set(received.map(({ datagram }) => datagram!.to));
  const passedOn = new Set(sent.map(({ datagram }) => datagram!.id));
  const flow = ({ datagram }: SocketCall) =>
    `${datagram!.from} ${datagram!.to}`;
  const waiting = Map.groupBy(received, flow);
  for (const call of ordered) {
    if (call.isOfLib || !call.toPeer || !ports.has(call.datagram!.to)) continue;
    const arrived = waiting.get(flow(call))?.shift();
    call.isLost = !arrived || !passedOn.has(arrived.datagram!.id);
  }
}
