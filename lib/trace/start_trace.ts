/**
 * Prints the socket calls of this process: those that have returned, and those
 * that wait.
 *
 * @module
 */

import { placeText } from "./call_site.ts";
import { onEndSignals } from "./end_signals.ts";
import { whileNeeded } from "./every.ts";
import {
  hostTime,
  oneLine,
  type Recorder,
  type RecorderOptions,
  type Report,
  type SocketCall,
  textOf,
} from "./recorder.ts";
import { watchSocketCalls } from "./socket_calls.ts";

/** After so many milliseconds a call that has not returned is told. */
const LONG = 1000;
/** How often that is looked for, in milliseconds. */
const LOOK = 100;
/** Below this, in milliseconds, a call has not waited. */
const SHORT = 1;

/**
 * Prints the calls on Deno's sockets from now on.
 *
 * @param print Gets each call.
 * @param atKill Is called before a signal ends the program: there is no `unload`.
 * @returns What knows them; other kinds of sockets are told to it. And what leaves
 * signals alone from now on.
 */
export function startTrace(
  print: Report,
  options?: RecorderOptions,
  atKill?: () => void,
): { recorder: Recorder; leaveSignals: () => void } {
  const signals = onEndSignals(() => recorder.tellWaiting(0, true), atKill);
  const recorder: Recorder = watchSocketCalls(print, {
    ...options,
    onWait: whileCallsWait(() => recorder, (isWaiting) => {
      signals.arm(isWaiting);
    }),
  });
  return { recorder, leaveSignals: signals.leave };
}

/**
 * Tells each call that has waited for a second.
 *
 * @param recorder Returns what knows them.
 * @param look Is told again and again whether any call waits, and at last that none
 * does.
 * @returns What a recorder wants to call when one begins to wait.
 */
export function whileCallsWait(
  recorder: () => Recorder,
  look: (isWaiting: boolean) => void = () => {},
): () => void {
  return whileNeeded(LOOK, () => {
    const { hasWaiting } = recorder();
    recorder().tellWaiting(LONG);
    look(hasWaiting);
    return hasWaiting;
  });
}

/**
 * Makes what writes a call in one line, with the time in seconds.
 *
 * @param since When it began, in milliseconds since 1970.
 * @param who Stands before each call.
 */
export function lineWriter(
  since: number = hostTime(),
  who = "",
): (call: SocketCall) => string {
  return (call) => {
    const seconds = ((hostTime() - since) / 1000).toFixed(3);
    const { package: by, socket } = call;
    const place = placeText(call);
    let text = `${seconds} ${who}`;
    if (place !== "") text += `${place} `;
    if (by !== "") text += `[${by}] `;
    if (socket !== 0) text += `#${socket} `;
    text += textOf(call);
    if (call.isOpening && call.peer !== "") {
      text += ` ${call.toPeer ? "from" : "at"} ${call.own}`;
    }
    if (call.took >= SHORT && !call.isWaiting) {
      text += ` after ${durationOf(call.took)}`;
    }
    return oneLine(text); // Names of files, functions and methods may be anything.
  };
}

/** `12 ms`, `2.0 s`. */
export function durationOf(milliseconds: number): string {
  return milliseconds < 1000
    ? `${Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}
