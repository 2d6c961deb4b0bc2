/**
 * Collects the socket calls of a demo's two processes, this one and the child
 * that is its server, and draws them.
 *
 * @module
 */

import { errorLine } from "../trace/error_line.ts";
import { type SocketCall, textOf } from "../trace/recorder.ts";
import { watchSocketCalls } from "../trace/socket_calls.ts";
import { watchChildren } from "./child_watch.ts";
import { SequenceDiagram } from "./sequence_diagram.ts";
import { textLines } from "./text_lines.ts";

/**
 * Begins to collect.
 *
 * @returns A function that draws what both have done since the server was ready,
 * for Mermaid or for a terminal. It resolves to `""` if there was no server.
 */
export function startDiagram(): (forMermaid: boolean) => Promise<string> {
  const client: SocketCall[] = [];
  const server: SocketCall[] = [];
  const reading: Promise<void>[] = [];

  watchSocketCalls((call) => client.push(call));
  const read = async (stderr: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const line of textLines(stderr)) {
      if (/^\{"at":.*\}$/.test(line)) server.push(JSON.parse(line));
      else errorLine(line);
    }
  };
  const traceJson = new URL("../trace/trace_json.ts", import.meta.url);
  watchChildren(traceJson, (stderr) => reading.push(read(stderr)));

  return async (forMermaid) => {
    await Promise.all(reading);
    return drawCalls(client, server, forMermaid);
  };
}

/**
 * Draws what both sides have done since the server was ready.
 *
 * @returns `""` if there was no server.
 */
export function drawCalls(
  client: SocketCall[],
  server: SocketCall[],
  forMermaid = false,
): string {
  // One that could not begin has said why.
  if (!server.some(({ isOpening }) => isOpening)) return "";
  const ready = server.reduce((at, call) => Math.min(at, call.at), Infinity);
  const relay = relayPorts([...client, ...server]);
  markLost([...client, ...server], relay);
  const own = client.filter((it) => it.at >= ready && !it.isOfLib);
  // Where datagrams are lost, it matters when they are sent again.
  const hasTimes = relay.size > 0;
  const notes = whoIsWhere(own, server, relay);
  const diagram = new SequenceDiagram({ hasTimes, notes });
  const draw = (side: "client" | "server", calls: SocketCall[]) =>
    calls.forEach((call) =>
      diagram.lane(side)({ ...call, what: wordsOf(call, relay) })
    );
  draw("server", server);
  draw("client", own);
  return forMermaid ? diagram.mermaid() : diagram.draw();
}

/** What a call was, and with which client where there are several. */
function wordsOf(call: SocketCall, relay: Set<number>): string {
  const { peer, target, isOneOfSeveral } = call;
  const which = isRelayed(call, relay)
    ? "relay"
    : isOneOfSeveral && target === ""
    ? peer
    : target;
  return withoutTwice(textOf({ ...call, target: which }));
}

/** Writes `6 bytes` for `6 of 6 bytes`: a diagram has little room. */
export function withoutTwice(text: string): string {
  return text.replace(/\b(\d+) of (?=\1 bytes?\b)/, "");
}

/** The ports of a relay: it is in this process, and its calls are lib's. */
function relayPorts(calls: SocketCall[]): Set<number> {
  const received = calls.filter(({ isOfLib, datagram, toPeer }) =>
    isOfLib && datagram && !toPeer
  );
  return new Set(received.map(({ datagram }) => datagram!.to));
}

/** Whether a datagram went to a relay, or came from one. */
function isRelayed(
  { datagram, toPeer }: SocketCall,
  relay: Set<number>,
): boolean {
  return relay.has((toPeer ? datagram?.to : datagram?.from) ?? 0);
}

/** Says which address is whose, where a relay stands in between. */
function whoIsWhere(
  client: SocketCall[],
  server: SocketCall[],
  relay: Set<number>,
): string[] {
  const [sent, received] = [client, server].map((calls, i) =>
    calls.find((it) => it.toPeer === (i === 0) && isRelayed(it, relay))
  );
  if (!sent) return [];
  const lines = [`client ${sent.own} <-> relay ${sent.target}`];
  if (received) {
    lines.push(`relay ${received.target} <-> server ${received.own}`);
  }
  return lines;
}

/**
 * Finds the datagrams that a relay has not passed on. Its own calls tell which
 * datagrams it received, and whether it sent them on. Between two ports of one
 * host they stay in order: the first that it received is the first that was sent
 * to it.
 */
function markLost(
  calls: (SocketCall & { isLost?: boolean })[],
  ports: Set<number>,
): void {
  const ordered = calls.filter(({ datagram }) => datagram)
    .toSorted((a, b) => a.at - b.at);
  const relayed = ordered.filter(({ isOfLib }) => isOfLib);
  const [sent, received] = [true, false].map((toPeer) =>
    relayed.filter((it) => it.toPeer === toPeer)
  );
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
