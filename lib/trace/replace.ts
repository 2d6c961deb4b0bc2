/**
 * Methods that are replaced by ones that do the same and say so.
 *
 * @module
 */

import {
  type Begun,
  type Call,
  type Outcome,
  type Recorder,
} from "./recorder.ts";

/** The originals, of any type: they are called as they are. */
// deno-lint-ignore no-explicit-any
export type Any = any;

/** Replaces a method by one that keeps its name. */
export function replace(
  owner: Any,
  key: string | symbol,
  make: (original: Any) => (this: Any, ...args: Any[]) => unknown,
): void {
  replaceProperty(owner, key, (original) => {
    if (typeof original !== "function") return original;
    const replacement = make(original);
    for (const name of ["name", "length"] as const) {
      Object.defineProperty(replacement, name, {
        value: original[name],
        configurable: true,
      });
    }
    return replacement;
  });
}

/** Replaces a property. Deno has some that are made when they are asked for. */
export function replaceProperty(
  owner: Any,
  key: string | symbol,
  make: (original: Any) => unknown,
): void {
  // It may be inherited, and then it is replaced here, and nowhere else.
  const holder = prototypeWith(owner, key);
  if (holder === null) return;
  const before = Object.getOwnPropertyDescriptor(holder, key);
  const { get } = before ?? {};
  if (get === undefined) {
    const value = make(owner[key]);
    Reflect.defineProperty(owner, key, { ...before, value });
    return;
  }
  let made: { value: unknown } | undefined;
  Reflect.defineProperty(owner, key, {
    ...before,
    get() {
      made ??= { value: make(get.call(this)) };
      return made.value;
    },
  });
}

/** A call that is watched: what it is, and what came of it. */
export interface Watched<T> extends Call {
  /** Says what it has returned. */
  done(value: T, begun: Begun): Outcome;
  /** Whether an error is what the program asked for. */
  isExpected?: () => boolean;
  /** Whether it says nothing where it throws, because it does nothing. */
  isQuiet?: boolean;
}

/** What a method does with these arguments; `undefined` if it is not watched. */
export type Describe<T> = (self: Any, args: Any[]) => Watched<T> | undefined;

/** Says what a call is, and where it stands. */
function describe<T>(
  recorder: Recorder,
  about: Describe<T>,
  self: unknown,
  args: unknown[],
  above: unknown,
): [Watched<T>, Begun] | undefined {
  try {
    const call = about(self, args);
    return call && [call, recorder.begin(call, above)];
  } catch {
    return undefined; // Then this is not watched.
  }
}

/** What is done around a call that is watched. */
export interface Around<T> {
  /** Says what the call is; `undefined` if it is not watched. */
  before(self: unknown, args: unknown[], above: unknown): T | undefined;
  /** It has returned. The result is the program's. */
  after(seen: T, result: unknown): unknown;
  /** It has thrown. */
  failed?(seen: T, error: unknown): void;
  /** Makes it, when it may happen. */
  hold?: undefined | ((seen: T, make: () => unknown) => unknown);
}

/**
 * Makes a function that does something before another one, and after it. Where nobody
 * catches an error, Deno shows the first line of its stack that is not in a module of
 * Deno's own (`ext:`). So this function is compiled under such a name: otherwise Deno
 * would show a line of it, and not the program's.
 */
export const watchedBy: <T>(original: Any, around: Around<T>) => () => unknown =
  (0, eval)(`"use strict";
  (original, { before, after, failed, hold }) =>
    function watched(...args) {
      const seen = before(this, args, watched);
      if (seen === undefined) return original.apply(this, args);
      if (hold) return hold(seen, () => after(seen, original.apply(this, args)));
      let result;
      try {
        result = original.apply(this, args);
      } catch (error) {
        failed?.(seen, error);
        throw error;
      }
      return after(seen, result);
    }
  //# sourceURL=ext:socket_trace`);

/** Watches a method that returns a promise. */
export function watchCall<T>(
  recorder: Recorder,
  owner: Any,
  key: string,
  about: Describe<T>,
): void {
  const { gate } = recorder;
  replace(owner, key, (original) =>
    watchedBy<[Watched<T>, Begun]>(original, {
      before: (...call) => describe(recorder, about, ...call),
      after: ([{ done, isExpected }, begun], result) =>
        recorder.follow(begun, result as Promise<T>, done, isExpected),
      hold: gate &&
        (([, begun], make) => gate.pass(begun, make as () => Promise<T>)),
    }));
}

/** Watches a method that returns at once. */
export function watchSync<T>(
  recorder: Recorder,
  owner: Any,
  key: string | symbol,
  about: Describe<T>,
): void {
  replace(owner, key, (original) =>
    watchedBy<[Watched<T>, Begun]>(original, {
      before(...call) {
        const both = describe(recorder, about, ...call);
        if (both) recorder.gate?.passSync(both[1]);
        return both;
      },
      after([{ done }, begun], value) {
        recorder.end(begun, () => done(value as T, begun));
        return value;
      },
      failed([{ isQuiet }, begun], error) {
        if (!isQuiet) recorder.fail(begun, error);
      },
    }));
}

/** The object of a prototype chain that has the property itself. */
export function prototypeWith(object: object, key: string | symbol): Any {
  let owner: object | null = object;
  while (owner !== null && !Object.hasOwn(owner, key)) {
    owner = Object.getPrototypeOf(owner);
  }
  return owner;
}
