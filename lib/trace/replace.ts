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
  safely,
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

/**
 * Watches a method that returns a promise. It is called by the replacement
 * itself, which is then our only line on its stack.
 */
export function watchCall<T>(
  recorder: Recorder,
  owner: Any,
  key: string,
  about: Describe<T>,
): void {
  replace(owner, key, (original) =>
    function watched(...args) {
      const both = describe(recorder, about, this, args, watched);
      if (both === undefined) return original.apply(this, args);
      const [{ done, isExpected }, begun] = both;
      return recorder.pass(begun, () => {
        const result = original.apply(this, args);
        return recorder.follow(begun, result, done, isExpected);
      });
    });
}

/** Watches a method that returns at once. */
export function watchSync<T>(
  recorder: Recorder,
  owner: Any,
  key: string | symbol,
  about: Describe<T>,
): void {
  replace(owner, key, (original) =>
    function watched(...args) {
      const both = describe(recorder, about, this, args, watched);
      if (both === undefined) return original.apply(this, args);
      const [{ done, isQuiet }, begun] = both;
      recorder.gate?.passSync(begun);
      let value: T;
      try {
        value = original.apply(this, args);
      } catch (error) {
        if (!isQuiet) recorder.fail(begun, error);
        safely(() => leaveStack(error, watched));
        throw error;
      }
      recorder.end(begun, () => done(value, begun));
      return value;
    });
}

/** This file, as stacks name it. */
const [, HERE = "nowhere"] = new Error().stack?.match(/(\w+:.*?):\d+:\d+/) ??
  [];

/**
 * Takes our own line off the stack of an error that Deno has thrown: it would be
 * shown as the source of the error, if nobody catches that.
 */
function leaveStack(error: Any, above: (...args: Any[]) => unknown): void {
  const frames = String(error.stack).split("\n")
    .filter((line) => /^ +at /.test(line) && !/\bext:/.test(line));
  if (frames[0]?.includes(HERE)) Error.captureStackTrace(error, above);
}

/** The object of a prototype chain that has the property itself. */
export function prototypeWith(object: object, key: string | symbol): Any {
  let owner: object | null = object;
  while (owner !== null && !Object.hasOwn(owner, key)) {
    owner = Object.getPrototypeOf(owner);
  }
  return owner;
}
