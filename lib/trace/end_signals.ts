/**
 * Something to do when a signal ends the program, or is told to it.
 *
 * @module
 */

import { isTesting } from "./every.ts";
import { replace } from "./replace.ts";

const { addSignalListener, removeSignalListener, exit, kill, pid } = Deno;
const SIGNALS = { SIGINT: 2, SIGTERM: 15 } as const;
/** Within these milliseconds another signal is of the same Ctrl+C. */
const SECOND_SIGNAL = 200;
type EndSignal = keyof typeof SIGNALS;

/** What is done at the end by a signal. */
export interface EndSignals {
  /** Listens to the signals, or listens no more. */
  arm(isArmed: boolean): void;
  /** Never listens to them again. */
  leave(): void;
  /** Whether the program itself listens to a signal. */
  hasListener(signal: string): boolean;
}

/**
 * Calls `tell` at each Ctrl+C and SIGTERM, before the program's own listeners, and
 * lets happen what would happen without it: the end, say, by the signal itself.
 *
 * A program that listens to a signal is told it by the event loop: so it cannot be
 * ended by Ctrl+C where it never returns to its loop. That a program is not changed
 * there, this listens only while it is armed.
 *
 * @param atKill Is called before a signal ends the process: there is no `unload` then.
 */
export function onEndSignals(
  tell: () => void,
  atKill: () => void = () => {},
): EndSignals {
  const listeners = new Map<string, Map<() => void, () => void>>();
  /** Signals of which a listener of the program's has just been told. */
  const heard = new Set<string>();
  let toldAt = -Infinity;
  const tellOnce = () => {
    // By the first of several listeners. (Under `deno task` each Ctrl+C comes twice.)
    if (performance.now() < toldAt + SECOND_SIGNAL) return;
    toldAt = performance.now();
    tell();
  };

  const add = (signal: Deno.Signal, listener: () => void) => {
    if (!(signal in SIGNALS) || typeof listener !== "function") {
      return addSignalListener(signal, listener);
    }
    const known = listeners.get(signal) ?? new Map();
    const told = known.get(listener) ?? (() => {
      // A listener that removes itself is gone when ours is called.
      heard.add(signal);
      queueMicrotask(() => heard.delete(signal));
      tellOnce();
      listener();
    });
    addSignalListener(signal, told); // It may throw.
    listeners.set(signal, known.set(listener, told));
  };
  const remove = (signal: Deno.Signal, listener: () => void) => {
    const told = listeners.get(signal)?.get(listener) ?? listener;
    removeSignalListener(signal, told);
    listeners.get(signal)?.delete(listener);
  };
  replace(Deno, "addSignalListener", () => add);
  replace(Deno, "removeSignalListener", () => remove);

  const hasListener = (signal: string) => !!listeners.get(signal)?.size;
  // Under `deno test` a listener is a leak of the test that was running.
  if (isTesting()) return { arm() {}, leave() {}, hasListener };
  let isKilled = false;
  // It comes before the program's own, and keeps `unload` from them: a process that a
  // signal kills has none.
  addEventListener("unload", (event) => {
    if (isKilled) event.stopImmediatePropagation();
  });
  const own = new Map(
    Object.entries(SIGNALS).map(([signal, number]) => {
      const end = () => {
        // The program's own tells, and decides.
        if (hasListener(signal) || heard.has(signal)) return;
        tellOnce();
        removeSignalListener(signal as EndSignal, end);
        const mayKill = Deno.permissions.querySync({ name: "run" }).state;
        if (mayKill === "granted") {
          atKill();
          return kill(pid, signal as EndSignal);
        }
        isKilled = true;
        exit(128 + number);
      };
      return [signal as EndSignal, end];
    }),
  );
  let wasArmed = false;
  let isLeft = false;
  const arm = (isWanted: boolean) => {
    const isArmed = isWanted && !isLeft;
    if (isArmed === wasArmed) return;
    wasArmed = isArmed;
    const change = isArmed ? addSignalListener : removeSignalListener;
    for (const [signal, end] of own) change(signal, end);
  };
  const leave = () => {
    isLeft = true;
    arm(false);
  };
  return { arm, leave, hasListener };
}
