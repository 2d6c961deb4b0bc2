/**
 * What is known of the socket calls of a process: which socket has which number,
 * which calls wait, and what came of those that have returned.
 *
 * @module
 */

import { counted } from "../counted.ts";
import { describeError } from "../error_text.ts";
import { quoteBytes } from "../quote_bytes.ts";
import { callSite, NOWHERE, type Place } from "./call_site.ts";

/** One call, when it has returned, or while it waits. */
export interface SocketCall extends Place {
  /**
   * Milliseconds since 1970, in fractions, so that processes can be compared. A
   * call that sends (connect, write, send, close) has the time when it was
   * called. A call that waits (accept, read, receive) has the time when it
   * returned.
   */
  at: number;
  /** How long it took, or has taken so far, in milliseconds. */
  took: number;
  /** The number of its socket, from 1; 0 if it has none. */
  socket: number;
  /** The call: `read`. */
  name: string;
  /** What it was given: an address, or `""`. */
  target: string;
  /** What came of it: ` 6 bytes "hello\n"`, or `: ECONNRESET (...)`. */
  result: string;
  /** How many bytes were read or written. */
  bytes: number;
  /** Whether it has not returned yet. */
  isWaiting: boolean;
  /** Whether it has opened the socket. */
  isOpening: boolean;
  /** The address of the socket itself, or `""`. */
  own: string;
  /** The address of the other side, or `""`. */
  peer: string;
  /** Whether the process had several connections. */
  isOneOfSeveral: boolean;
  /** Whether bytes or a connection went to the other side. */
  toPeer: boolean;
  /** For UDP: which datagram was sent or received. */
  datagram?: undefined | {
    /** The port that it went out from. */
    from: number;
    /** The port that it was sent to. */
    to: number;
    /** Its number, where this process received it, or now passes it on. */
    id?: number | undefined;
  };
}

/** A socket that is watched. */
export interface SocketInfo {
  /** Its number in this process, from 1. */
  number: number;
  /** Its own address. */
  own: string;
  /** The other side's address; `""` where there is none. */
  peer: string;
  /** Where in the program it was opened. */
  place: Place;
  /** Where the program wrote last, if its reads have no line of their own. */
  wroteAt?: Place;
}

/** A call that is about to be made. */
export interface Call {
  /** The call: `read`. */
  name: string;
  /** What it is given: an address. */
  target?: string | undefined;
  /** Its socket, if that is open. */
  socket?: SocketInfo | undefined;
  /** Whether it sends something to the other side. */
  isSending?: boolean;
  /** Where it stands if no line of the program is on the stack. */
  otherwise?: Place | undefined;
}

/** A call that was made. */
export interface Begun {
  /** The call: `read`. */
  name: string;
  /** What it was given: an address. */
  target: string | undefined;
  /** Its socket, if that was open. */
  socket: SocketInfo | undefined;
  /** Whether it sends something to the other side. */
  isSending: boolean;
  /** Where it stands. */
  place: Place;
  /** When, by {@linkcode now}. */
  since: number;
  /** Whether it was told that it waits. */
  isTold: boolean;
}

/** What came of a call. */
export interface Outcome {
  /** `""` if there is nothing to say but that it is done. */
  result?: string;
  /** What it was given, if that is known better now. */
  target?: string;
  /** The socket that it has opened. */
  opened?: SocketInfo | undefined;
  /** How many bytes were read or written. */
  bytes?: number;
  /** Whether something went to the other side, where the call alone does not say. */
  toPeer?: boolean;
  /** For UDP: which datagram was sent or received. */
  datagram?: SocketCall["datagram"];
  /** What it has thrown. */
  error?: unknown;
}

/** Deno's: a program may put another one in its place. */
const NativePromise = Promise;

/** Is told a call, and the error that it has thrown, if it has. */
export type Report = (call: SocketCall, error?: unknown) => void;

/** Lets a call happen when somebody says so. */
export interface Gate {
  /** For a call that returns a promise: makes it then. */
  pass<T>(call: Begun, make: () => Promise<T>): Promise<T>;
  /** For a call that returns at once: the process stops. */
  passSync(call: Begun): void;
}

/**
 * Holds back a call that returns a promise.
 *
 * @returns What the program gets, and what makes the call: at once, although the
 * program may stand still in another one.
 */
export function holdBack<T>(
  begun: Begun,
  make: () => Promise<T>,
): { promise: Promise<T>; go: () => void } {
  const { promise, resolve } = Promise.withResolvers<T>();
  const go = () => {
    begun.since = now(); // It has not waited yet.
    resolve(Promise.try(make));
  };
  return { promise, go };
}

/** What is told of calls. */
export interface RecorderOptions {
  /** How many bytes of what was read or written are shown. */
  bytes?: number;
  /** Whether to look where a call stands, which takes most of the time. */
  hasPlaces?: boolean;
  /** Asked before each call. */
  gate?: Gate | undefined;
  /** Called when a call begins to wait while no other one waits. */
  onWait?: () => void;
}

/**
 * Numbers sockets, and tells what comes of their calls. Nothing here throws into
 * the program.
 */
export class Recorder {
  /** Asked before each call. */
  readonly gate: Gate | undefined;
  /** The prototypes whose methods it watches already. */
  readonly watched: WeakSet<object> = new WeakSet();
  /** How many bytes of what was read or written are shown. */
  readonly mostShown: number;
  #report: Report;
  #hasPlaces: boolean;
  #sockets = new WeakMap<object, SocketInfo>();
  #count = 0;
  #open = new OpenConns();
  /** Listeners, and sockets for datagrams, that are open. */
  #others = new WeakSet<object>();
  #areSeveral = false; // Then each call names its connection.
  #waiting = new Set<Begun>();
  #onWait: () => void;

  /**
   * Nothing is watched yet.
   *
   * @param report Is told each call, before the program has its result.
   */
  constructor(
    report: Report,
    { bytes = 16, hasPlaces = true, gate, onWait = () => {} }: RecorderOptions =
      {},
  ) {
    this.#report = report;
    this.mostShown = bytes;
    this.#hasPlaces = hasPlaces;
    this.gate = gate;
    this.#onWait = onWait;
  }

  /** Where a call stands. */
  place(otherwise?: Place, above?: unknown): Place {
    try {
      return this.#hasPlaces ? callSite(otherwise, above) : NOWHERE;
    } catch {
      return NOWHERE; // The program has frozen `Error`, say.
    }
  }

  /** What is known of a socket, if it is watched. */
  info(socket: object): SocketInfo | undefined {
    return this.#sockets.get(socket);
  }

  /**
   * Gives a socket its number.
   *
   * @param as The socket that it was before, as `startTls` has it.
   */
  open(
    socket: object,
    { own, peer = "", place }: { own: string; peer?: string; place: Place },
    as?: SocketInfo,
  ): SocketInfo {
    const info = as ?? {
      number: ++this.#count,
      own: oneLine(own),
      peer: oneLine(peer),
      place,
    };
    this.#sockets.set(socket, info);
    if (peer !== "") {
      if (this.#open.size === 0) this.#areSeveral = false;
      this.#open.add(socket);
      this.#areSeveral ||= this.#open.size > 1;
    } else if (as === undefined) this.#others.add(socket);
    return info;
  }

  /** Says whether it was open. */
  close(socket: object): boolean {
    return this.#open.delete(socket) || this.#others.delete(socket);
  }

  /** Whether it is open. */
  isOpen(socket: object): boolean {
    return this.#open.has(socket) || this.#others.has(socket);
  }

  /**
   * Finds out what can only be known before a call.
   *
   * @param above The function that the program has called.
   */
  begin(call: Call, above?: unknown): Begun {
    const { name, target, socket, isSending = false, otherwise } = call;
    const place = this.place(otherwise, above);
    const since = now();
    return { name, target, socket, isSending, place, since, isTold: false };
  }

  /** Makes a call that returns a promise, when it may happen. */
  pass<T>(begun: Begun, make: () => Promise<T>): Promise<T> {
    return this.gate ? this.gate.pass(begun, make) : make();
  }

  /** Watches a call until it is done, and passes on what comes of it. */
  follow<T>(
    begun: Begun,
    result: Promise<T>,
    done: (value: T, begun: Begun) => Outcome,
    isExpected?: () => boolean,
  ): Promise<T> {
    if (!(result instanceof NativePromise)) return result; // It is not Deno's.
    this.wait(begun);
    return result.then((value) => {
      this.end(begun, () => done(value, begun));
      return value;
    }, (error) => {
      if (isExpected?.()) this.forget(begun);
      else this.fail(begun, error);
      throw error;
    });
  }

  /** From now on it waits. */
  wait(begun: Begun): void {
    if (this.#waiting.size === 0) this.#onWait();
    this.#waiting.add(begun);
  }

  /** It has returned. */
  end(begun: Begun, outcome: () => Outcome): void {
    this.#waiting.delete(begun);
    safely(() => this.#tell(begun, outcome()));
  }

  /** It has failed. */
  fail(begun: Begun, error: unknown): void {
    const result = () => `: ${oneLine(reasonOf(error))}`;
    this.end(begun, () => ({ result: result(), toPeer: false, error }));
  }

  /** Whether any call waits. */
  get hasWaiting(): boolean {
    return this.#waiting.size > 0;
  }

  /** Nothing is told of it: it was overtaken, by a close for example. */
  forget(begun: Begun): void {
    this.#waiting.delete(begun);
  }

  /**
   * Tells which calls have waited for `least` milliseconds.
   *
   * @param again Those as well that were told before.
   */
  tellWaiting(least: number, again = false): void {
    for (const begun of [...this.#waiting]) {
      const waited = now() - begun.since;
      if (waited < least || begun.isTold && !again) continue;
      begun.isTold = true;
      const { wroteAt } = begun.socket ?? {};
      const last = wroteAt && begun.name === "read"
        ? `, last write at ${wroteAt.file}(${wroteAt.line})`
        : "";
      const result = `: waiting for ${(waited / 1000).toFixed(1)} s${last}`;
      safely(() => this.#tell(begun, { result, toPeer: false }, true));
    }
  }

  #tell(begun: Begun, outcome: Outcome, isWaiting = false): void {
    const { result = "", target = begun.target ?? "" } = outcome;
    const { opened, bytes = 0, toPeer = begun.isSending } = outcome;
    const { place } = begun;
    const socket = opened ?? begun.socket;
    const returned = now();
    this.#report({
      at: EPOCH + (begun.isSending ? begun.since : returned),
      took: returned - begun.since,
      file: place.file,
      path: place.path,
      line: place.line,
      function: place.function,
      package: place.package,
      isOfLib: place.isOfLib,
      socket: socket?.number ?? 0,
      name: begun.name,
      target: target && oneLine(target),
      result,
      bytes,
      isWaiting,
      isOpening: opened !== undefined,
      own: socket?.own ?? "",
      peer: socket?.peer ?? "",
      isOneOfSeveral: this.#areSeveral,
      toPeer,
      datagram: outcome.datagram,
    }, outcome.error);
  }

  /**
   * What a read has brought.
   *
   * @param data The bytes, and perhaps more room; `null` at the end of the stream.
   */
  readOutcome(data: Uint8Array | null, bytes = data?.length ?? 0): Outcome {
    return data === null
      ? { result: ": end of stream" }
      : { result: ` ${this.quote(data, bytes)}`, bytes };
  }

  /**
   * `6 bytes "hello\n"`. A 0 at the start begins a number of four bytes, most
   * likely the length of a message.
   */
  quote(all: unknown, length?: number): string {
    try {
      // Whatever else it is, the call itself accepts or refuses it.
      const { byteLength } = all as Uint8Array;
      const count = counted(length ?? byteLength, "byte");
      const isShown = all instanceof Uint8Array && byteLength > 0;
      if (!isShown || this.mostShown === 0) return count;
      const data = all.subarray(0, length);
      const quoted = (part: Uint8Array) => quoteBytes(part, this.mostShown);
      if (data[0] !== 0 || data.length < 4) return `${count} ${quoted(data)}`;
      const number = Array.from(
        data.subarray(0, 4),
        (byte) => byte.toString(16).padStart(2, "0"),
      ).join(" ");
      return `${count} ${number} ${quoted(data.subarray(4))}`
        .replace(/ ""$/, "");
    } catch { // It only looks like an array of bytes.
      return "? bytes";
    }
  }
}

/**
 * The connections that are not closed. It keeps none of them alive, because Deno
 * closes a connection when nobody holds its streams any more.
 */
class OpenConns {
  size = 0;
  #conns = new WeakSet<object>();
  #collected = new FinalizationRegistry<void>(() => this.size--);

  has(conn: object): boolean {
    return this.#conns.has(conn);
  }

  add(conn: object): void {
    this.#conns.add(conn);
    this.#collected.register(conn, undefined, conn);
    this.size++;
  }

  /** Says whether it was open. */
  delete(conn: object): boolean {
    const wasOpen = this.#conns.delete(conn);
    if (wasOpen) {
      this.size--;
      this.#collected.unregister(conn);
    }
    return wasOpen;
  }
}

/** A program must do the same when it is watched. */
export function safely(watch: () => void): void {
  try {
    watch();
  } catch {
    // Then this is not watched.
  }
}

/** A call that the event loop makes: it stands where its socket was opened. */
export function byEventLoop(
  socket: SocketInfo | undefined,
  name: string,
): Begun {
  return {
    name,
    target: undefined,
    socket,
    isSending: false,
    place: socket?.place ?? NOWHERE,
    since: now(),
    isTold: false,
  };
}

/** Writes a call in one line: `read 6 bytes "hello\n"`. */
export function textOf(
  { name, target, result }: Pick<SocketCall, "name" | "target" | "result">,
): string {
  return `${name}${target && ` ${target}`}${result}`;
}

/** The name of a host may contain anything. */
export const oneLine = (text: string): string => text.replace(/\p{Cc}+/gu, " ");

/** What has gone wrong, if that can be said. */
function reasonOf(error: unknown): string {
  try {
    return describeError(error);
  } catch {
    return "?";
  }
}

const clock = performance.now.bind(performance); // A test may put its own there.

/** Milliseconds since this process was started. */
export const now = (): number => clock();

/** Milliseconds since 1970, in fractions. */
export const hostTime = (): number => EPOCH + now();

/**
 * When that was, by the clock of the host: `performance.timeOrigin` is measured by
 * each process for itself, and on a busy machine two of them differ by more than a
 * read takes. Of several readings the best one is that with the least time in it.
 */
const EPOCH = (() => {
  let [epoch, least] = [0, Infinity];
  for (let i = 0; i < 10; i++) {
    const before = now();
    const time = Number(Temporal.Now.instant().epochNanoseconds) / 1e6;
    const after = now();
    if (after - before < least) {
      least = after - before;
      epoch = time - (before + after) / 2;
    }
  }
  return epoch;
})();
