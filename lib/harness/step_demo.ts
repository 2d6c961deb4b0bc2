/**
 * Goes through a demo step by step: its two processes stop before each call, and
 * the diagram grows while somebody lets the calls happen.
 *
 * @module
 */

import type { TcpRow } from "../lab/tcp_table.ts";
import { foldText } from "../text_width.ts";
import { type SocketCall, textOf } from "../trace/recorder.ts";
import { freshLines, startStep, terminalColumns } from "../trace/start_step.ts";
import { lineWriter } from "../trace/start_trace.ts";
import { rowOf, type StepView } from "../trace/stepper.ts";
import { watchChildren } from "./child_watch.ts";
import { drawCalls, withoutTwice } from "./diagram.ts";
import { drawEvent, type Side } from "./sequence_diagram.ts";

/** How long the server's last calls may take to be heard of, in milliseconds. */
const LAST_CALLS = 1000;

/** Draws what both sides do as a diagram that grows. */
class LaneView implements StepView {
  readonly write = freshLines();
  readonly columns = terminalColumns();
  readonly #calls: Record<Side, SocketCall[]> = { client: [], server: [] };
  #hasHead = false;
  #isRunningOn = false;
  readonly #lineOf = lineWriter();

  hears(side: Side, call: SocketCall): void {
    this.#calls[side].push(call);
  }

  textOf(
    side: Side,
    call: SocketCall,
    rows: TcpRow[] | undefined,
    isRunningOn: boolean,
  ): string {
    this.#isRunningOn = isRunningOn;
    if (isRunningOn) return ""; // They are drawn at the end.
    if (this.#calls.server.length === 0) {
      // Both ends are in this process, and so in no lane.
      return foldText(this.#lineOf(call), this.columns).join("\n");
    }
    const { own, peer, toPeer, at } = call;
    const states = rows && statesOf(side, own, peer, rows);
    const what = withoutTwice(textOf(call));
    const { head, lines } = drawEvent(
      { side, at, what, toPeer, states },
      this.columns,
      !Deno.noColor,
    );
    if (!this.#hasHead && head !== "") lines.unshift(head);
    this.#hasHead = true;
    return lines.join("\n");
  }

  /** All that was done, if not all of it was shown. */
  rest(): string {
    const { client, server } = this.#calls;
    return this.#isRunningOn ? drawCalls(client, server) : "";
  }
}

/** The states of both ends of a connection, as one side has its addresses. */
function statesOf(side: Side, own: string, peer: string, rows: TcpRow[]) {
  const here = rowOf(rows, own, peer)?.state ?? "gone";
  if (peer === "") return { client: "", server: here };
  const there = rowOf(rows, peer, own)?.state ?? "gone";
  return side === "client"
    ? { client: here, server: there }
    : { client: there, server: here };
}

/**
 * Stops the calls of this process, and of the one that it will start.
 *
 * @returns What to wait for at the end: it resolves to what is still to be shown.
 */
export function startStepDemo(): () => Promise<string> {
  const view = new LaneView();
  const { stepper, mailbox, port } = startStep(view, "client", "listen");
  const module = new URL("../trace/step_child.ts", import.meta.url);
  module.searchParams.set("port", String(port));
  watchChildren(module);
  const end = Promise.withResolvers<void>();
  let hasPeer = false;
  stepper.onPeer = (message) => {
    hasPeer = true;
    if (message === null) return end.resolve();
    const { stop, call, isSync, done } = message;
    if (done !== undefined) return stepper.report("server", done);
    stepper.stop(call, () => mailbox.send({ go: stop }), isSync);
  };
  return async () => {
    const limit = setTimeout(end.resolve, hasPeer ? LAST_CALLS : 0);
    await end.promise;
    clearTimeout(limit);
    return view.rest();
  };
}
