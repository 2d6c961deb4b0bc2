/**
 * Goes through a demo step by step: its two processes stop before each call, and
 * the diagram grows while somebody lets the calls happen.
 *
 * @module
 */

import { errorText } from "../trace/error_line.ts";
import { textOf } from "../trace/recorder.ts";
import { startStep, terminalColumns } from "../trace/start_step.ts";
import type { TcpRow } from "../lab/tcp_table.ts";
import { rowOf, type StepView } from "../trace/stepper.ts";
import { watchChildren } from "./child_watch.ts";
import { withoutTwice } from "./diagram.ts";
import { drawEvent, type Side } from "./sequence_diagram.ts";

/** Draws what both sides do as a diagram that grows. */
function laneView(): StepView {
  let hasHead = false;
  const columns = terminalColumns();
  return {
    write: errorText,
    columns,
    textOf(side, call, rows) {
      const { own, peer, toPeer, at } = call;
      const list = rows();
      const states = list && statesOf(side, own, peer, list);
      const { head, lines } = drawEvent(
        {
          side: side as Side,
          at,
          what: withoutTwice(textOf(call)),
          toPeer,
          states,
        },
        columns,
        !Deno.noColor,
      );
      if (!hasHead && head !== "") lines.unshift(head);
      hasHead = true;
      return lines.join("\n");
    },
  };
}

/** The states of both ends of a connection, as one side has its addresses. */
function statesOf(side: string, own: string, peer: string, rows: TcpRow[]) {
  const here = rowOf(rows, own, peer)?.state ?? "gone";
  if (peer === "") return { client: "", server: here };
  const there = rowOf(rows, peer, own)?.state ?? "gone";
  return side === "client"
    ? { client: here, server: there }
    : { client: there, server: here };
}

/** Stops the calls of this process, and of the one that it will start. */
export function startStepDemo(): void {
  const { stepper, mailbox, port } = startStep(laneView(), "client", "listen");
  const module = new URL("../trace/step_child.ts", import.meta.url);
  module.searchParams.set("port", String(port));
  watchChildren(module);
  stepper.onPeer = ({ stop, call, isSync, done }) => {
    if (done !== undefined) return stepper.report("server", done);
    stepper.stop(call, () => mailbox.send({ go: stop }), isSync);
  };
}
