/**
 * Stops the socket calls of a demo's child, and lets its parent say when each may
 * happen. The parent's port stands in this module's own address: `?port=N`.
 *
 * @module
 */

import { every } from "./every.ts";
import { Mailbox } from "./mailbox.ts";
import {
  type Begun,
  type Gate,
  holdBack,
  now,
  type Recorder,
  type SocketCall,
} from "./recorder.ts";
import { watchSocketCalls } from "./socket_calls.ts";
import { whileCallsWait } from "./start_trace.ts";
import { stoppedCall } from "./stepper.ts";

/** How often it looks for an answer, in milliseconds. */
const ANSWER_LOOK = 5;

/** Asks the parent. If that has ended, or runs on, calls happen at once. */
class RemoteGate implements Gate {
  #mailbox: Mailbox;
  #isRunningOn = false;
  #asked = new Map<number, () => void>();
  #count = 0;

  constructor(mailbox: Mailbox) {
    this.#mailbox = mailbox;
    every(ANSWER_LOOK, () => this.#look(0));
  }

  pass<T>(begun: Begun, make: () => Promise<T>): Promise<T> {
    if (this.#isRunningOn) return make();
    const { promise, go } = holdBack(begun, make);
    this.#ask(begun, go, false);
    return promise;
  }

  passSync(begun: Begun): void {
    if (this.#isRunningOn) return;
    let isGone = false;
    this.#ask(begun, () => isGone = true, true);
    while (!isGone) this.#look(ANSWER_LOOK);
    begun.since = now(); // It has not waited yet.
  }

  #ask(begun: Begun, go: () => void, isSync: boolean): void {
    const stop = ++this.#count;
    this.#asked.set(stop, go);
    this.#mailbox.send({ stop, call: stoppedCall(begun, "server"), isSync });
  }

  #look(wait: number): void {
    for (const message of this.#mailbox.takeAll(wait)) {
      const isEnd = "from" in message && message.from === null;
      if (isEnd || "signal" in message) this.#runOn();
      else if ("from" in message) {
        const { go } = JSON.parse(message.from!);
        this.#asked.get(go)?.();
        this.#asked.delete(go);
      }
    }
  }

  #runOn(): void {
    this.#isRunningOn = true;
    for (const go of this.#asked.values()) go();
    this.#asked.clear();
  }
}

startStepChild(Number(new URL(import.meta.url).searchParams.get("port")));

function startStepChild(port: number): void {
  const mailbox = new Mailbox(port);
  addEventListener("unload", () => mailbox.flush());
  const gate = new RemoteGate(mailbox);
  const tell = (done: SocketCall) => mailbox.send({ done });
  const onWait = whileCallsWait(() => recorder);
  const recorder: Recorder = watchSocketCalls(tell, { gate, onWait });
}
