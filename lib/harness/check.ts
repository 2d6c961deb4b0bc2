/**
 * What the judge's checks are made of: clients that compare what comes with what
 * they have sent, and can tell the story when it differs.
 *
 * @module
 */

import { describeError } from "../error_text.ts";
import { writeFull } from "../full_io.ts";
import { grouped } from "../grouped.ts";
import { IdleTimer } from "../idle_timer.ts";
import { connectAndReset, type ResetOptions } from "../lab/reset_client.ts";
import { readLines } from "../lines.ts";
import { quoteBytes } from "../quote_bytes.ts";

/** The server that is judged, and how. */
export interface Subject {
  /** Its address. */
  hostname: string;
  /** Its port. */
  port: number;
  /** How long a check may take, in milliseconds. */
  timeout: number;
  /** How many clients are a crowd. */
  clients: number;
  /** Its process, or 0 if it is not known. */
  pid: number;
}

/** A property that a server should have. */
export interface Check {
  /** The property, in words that a learner understands. */
  name: string;
  /** The number of the lesson that explains it. */
  lesson: string;
  /** A check that must have passed, or this one would fail for its reason. */
  needs?: Check;
  /** How many times the timeout it may take, 1 by default. */
  patience?: number;
  /** Whether it ends the server, which then need not be there any more. */
  endsServer?: boolean;
  /** Looks for itself. It throws a {@linkcode CheckFailure} if it is not so. */
  run(attempt: Attempt): Promise<unknown>;
}

/** A server does not have a property. */
export class CheckFailure extends Error {
  /** The name of the class. */
  override name = "CheckFailure";
  /** What the clients did. */
  readonly sent: string;
  /** What should have come of it. */
  readonly expected: string;
  /** What came. */
  readonly came: string;

  /** Keeps all three. */
  constructor(sent: string, expected: string, came: string, cause?: unknown) {
    super(`Expected ${expected}, came ${came}`, { cause });
    this.sent = sent;
    this.expected = expected;
    this.came = came;
  }
}

/** A client could not even connect. */
export class ConnectFailure extends CheckFailure {}

/** The judge itself has run out of these: the server is not to blame. */
export const OWN_FAULTS: string[] = ["EMFILE", "ENFILE", "EADDRNOTAVAIL"];
/** The longest wait for what should not come, in milliseconds. */
const LONGEST_PAUSE = 300;
/** What one read takes at most. */
const CHUNK = 64 * 1024;
/** How many bytes are shown as they are, and how many of a line. */
const [MOST_SHOWN, MOST_OF_LINE] = [32, 80];

/**
 * Runs a check. When it is over, or its time is, all its connections are closed.
 *
 * @returns What is wrong, or `undefined`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const where = { hostname: "127.0.0.1", port: 1 };
 * const subject = { ...where, timeout: 1000, clients: 10, pid: 0 };
 * const run = (attempt: Attempt) => attempt.connect();
 * const failure = await runCheck({ name: "open", lesson: "01", run }, subject);
 * assertEquals(failure?.came, "ECONNREFUSED (Connection refused)");
 * ```
 */
export async function runCheck(
  check: Check,
  subject: Subject,
): Promise<CheckFailure | undefined> {
  using attempt = new Attempt(subject, check.patience);
  try {
    await check.run(attempt);
    return undefined;
  } catch (error) {
    if (error instanceof CheckFailure) return error;
    throw error;
  }
}

/** One run of a check: its clients, its time, and what has happened so far. */
export class Attempt implements Disposable {
  /** The server that is judged. */
  readonly subject: Subject;
  /** How long it may take, in milliseconds. */
  readonly limit: number;
  /** How long to wait for what should not come, in milliseconds. */
  readonly pause: number;
  /** What others did, before the client that a failure is about. */
  readonly story: string[] = [];
  #stop = new AbortController();
  #open = new DisposableStack();
  #isLate = false;

  /** Begins: the time runs. */
  constructor(subject: Subject, patience = 1) {
    this.subject = subject;
    this.limit = subject.timeout * patience;
    this.pause = Math.min(subject.timeout / 10, LONGEST_PAUSE);
    const end = () => {
      this.#isLate = true;
      this[Symbol.dispose]();
    };
    this.#open.use(new IdleTimer(this.limit, end));
  }

  /** Aborted when it is over. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Closes something when it is over. */
  defer(close: () => void): void {
    if (this.signal.aborted) close();
    else this.#open.defer(close);
  }

  /** Opens a connection. `who` is how a failure calls this client. */
  async connect(who = ""): Promise<Client> {
    const { hostname, port } = this.subject;
    try {
      const { signal } = this;
      const conn = await Deno.connect({ hostname, port, signal });
      this.defer(() => conn[Symbol.dispose]());
      conn.setNoDelay(); // Pieces are to leave as they are written.
      return new Client(this, conn, who);
    } catch (error) {
      const { code } = Object(error);
      if (OWN_FAULTS.includes(code)) throw error;
      const story = this.told(`${who || "a client"} connects`);
      const came = this.reason(error);
      throw new ConnectFailure(story, "a connection", came, error);
    }
  }

  /** Opens a connection and resets it: after an echo, or at once. */
  async reset(options: ResetOptions = {}): Promise<void> {
    const { hostname, port } = this.subject;
    const { signal } = this;
    try {
      await connectAndReset(port, { hostname, signal, ...options });
    } catch {
      // It was no use to reset it: the next client finds out why.
    }
  }

  /** Waits, as long as `pause` says by default. */
  async rest(milliseconds: number = this.pause): Promise<void> {
    if (this.signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, milliseconds);
    this.signal.addEventListener("abort", () => resolve());
    await promise;
    clearTimeout(timer);
  }

  /** The story up to now, and what came last. */
  told(last: string): string {
    return [...this.story, last].join("; ");
  }

  /** Why a call has failed: by an error of its own, or because time is over. */
  reason(error: unknown, more = ""): string {
    return this.#isLate
      ? `nothing ${more}in ${this.limit} ms`
      : describeError(error);
  }

  /** Closes all that is open. */
  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#open.dispose();
  }
}

/** A connection that compares what comes with what should come. */
export class Client implements Disposable {
  #attempt: Attempt;
  #conn: Deno.TcpConn;
  #who: string;
  #sent: string[] = [];
  #writeError: unknown;
  /** How many bytes came before, and were right. */
  #right = 0;
  /** A read that has begun already. */
  #early: Promise<Uint8Array | null> | undefined;
  #lines: AsyncIterator<Uint8Array>;
  #hasLine = false;

  /** Takes a connection that is open. */
  constructor(attempt: Attempt, conn: Deno.TcpConn, who: string) {
    this.#attempt = attempt;
    this.#conn = conn;
    this.#who = who;
    this.#lines = readLines(conn);
  }

  /**
   * Sends all of it. An error is not thrown: what can still be read says more of
   * the reason, and who reads is told of the error as well.
   */
  async send(
    data: Uint8Array,
    what: string = describeBytes(data),
    onWrite: () => void = () => {},
  ): Promise<void> {
    this.#sent.push(what);
    const write = async (p: Uint8Array) => {
      const count = await this.#conn.write(p);
      onWrite();
      return count;
    };
    await writeFull({ write }, data).catch((error) => this.#writeError = error);
  }

  /**
   * Sends without reading anything, until all is sent or nobody takes any more:
   * then all buffers between here and the server are full.
   *
   * @returns What is still to be awaited, when this side reads.
   */
  async sendUnread(
    data: Uint8Array,
  ): Promise<{ sending: Promise<void>; isStuck: boolean }> {
    const { promise: stuck, resolve } = Promise.withResolvers<boolean>();
    using timer = new IdleTimer(this.#attempt.pause, () => resolve(true));
    const what = `${describeBytes(data)} without reading`;
    const sending = this.send(data, what, () => timer.reset());
    const isStuck = await Promise.race([sending.then(() => false), stuck]);
    return { sending, isStuck };
  }

  /** Ends this side of the stream: the server reads its end. */
  async endSending(): Promise<void> {
    this.#sent.push("the end of the stream");
    await this.#conn.closeWrite().catch((error) => this.#writeError = error);
  }

  /** Sends it, and receives the same, both at once. */
  async echo(data: Uint8Array, what?: string): Promise<void> {
    await Promise.all([this.send(data, what), this.receive(data)]);
  }

  /** Receives exactly this: its bytes in their order, and not more at once. */
  async receive(
    wanted: Uint8Array,
    expected = "the same back",
  ): Promise<void> {
    const chunk = new Uint8Array(CHUNK);
    for (let done = 0; done < wanted.length;) {
      const before = wanted.subarray(0, done);
      let got;
      try {
        got = await this.#readChunk(chunk);
      } catch (error) {
        const reason = this.#attempt.reason(error, done > 0 ? "more " : "");
        throw this.#failure(expected, after(before, reason));
      }
      if (got === null) {
        throw this.#failure(expected, after(before, "the end of the stream"));
      }
      let wrong = 0; // Not by findIndex: these may be many MiB.
      while (wrong < got.length && got[wrong] === wanted[done + wrong]) wrong++;
      if (wrong < got.length) {
        throw this.#failure(expected, describeWrong(wanted, got, done, wrong));
      }
      done += got.length;
    }
    this.#right += wanted.length;
  }

  /**
   * Receives a line, where a server sends nothing but lines. One that is cut off by
   * the end is none.
   *
   * @returns Its text without its end, or `null` at the end of the connection.
   */
  async receiveLine(
    expected: string,
    isRight: (line: string | null) => boolean,
  ): Promise<string | null> {
    let line;
    try {
      line = (await this.#lines.next()).value;
      this.#hasLine = true;
    } catch (error) {
      const isReset = Object(error).code === "ECONNRESET";
      if (isReset && isRight(null)) return null;
      const more = this.#hasLine ? "more " : "";
      throw this.#failure(expected, this.#attempt.reason(error, more));
    }
    const text = line?.at(-1) === 0x0a
      ? new TextDecoder().decode(line).trimEnd()
      : null;
    if (isRight(text)) return text;
    const end = "the end of the stream";
    const cut = line === undefined ? end : quoteBytes(line, MOST_OF_LINE);
    const came = line !== undefined && text === null
      ? `${cut}, then ${end}`
      : cut;
    throw this.#failure(expected, came);
  }

  /** Waits until something comes, but not for long. It is received later. */
  async waitForSome(milliseconds?: number): Promise<void> {
    this.#early ??= this.#readChunk(new Uint8Array(CHUNK));
    const rest = this.#attempt.rest(milliseconds);
    await Promise.race([this.#early.catch(() => {}), rest]);
  }

  /** Receives the end of the stream, and nothing before it. */
  async receiveEnd({ orReset = false } = {}): Promise<void> {
    const expected = "the end of the stream";
    let got;
    try {
      got = await this.#readChunk(new Uint8Array(CHUNK));
    } catch (error) {
      if (orReset && Object(error).code === "ECONNRESET") return;
      throw this.#failure(expected, this.#attempt.reason(error));
    }
    if (got !== null) throw this.#failure(expected, describeBytes(got));
  }

  /** Closes it. Bytes that nobody has read make a reset of it. */
  [Symbol.dispose](): void {
    this.#conn[Symbol.dispose]();
  }

  async #readChunk(chunk: Uint8Array): Promise<Uint8Array | null> {
    const early = this.#early;
    this.#early = undefined;
    if (early) return await early;
    const count = await this.#conn.read(chunk);
    return count === null ? null : chunk.subarray(0, count);
  }

  #failure(expected: string, came: string): CheckFailure {
    const who = this.#who === "" ? "" : `${this.#who}: `;
    const sent = this.#attempt.told(`${who}${this.#sent.join(", then ")}`);
    const failed = this.#writeError === undefined ||
        this.#attempt.signal.aborted
      ? ""
      : `; the write failed: ${describeError(this.#writeError)}`;
    const before = this.#right === 0
      ? ""
      : ` (after ${grouped(this.#right)} that were right)`;
    return new CheckFailure(sent, expected, came + before + failed);
  }
}

/** What came, and what came after it. */
function after(before: Uint8Array, reason: string): string {
  return before.length === 0
    ? reason
    : `${describeBytes(before)}, then ${reason}`;
}

/** What came instead of what was wanted. */
function describeWrong(
  wanted: Uint8Array,
  got: Uint8Array,
  done: number,
  wrong: number,
): string {
  const [offset, end] = [done + wrong, done + got.length];
  if (end <= MOST_SHOWN) {
    return describeBytes(new Uint8Array([...wanted.subarray(0, done), ...got]));
  }
  if (offset === wanted.length) {
    return `all of it, and ${grouped(end - offset)} bytes more`;
  }
  if (offset < MOST_SHOWN) {
    const start = [...wanted.subarray(0, done), ...got.subarray(0, CHUNK)];
    return quoteBytes(new Uint8Array(start), MOST_SHOWN);
  }
  const [is, should] = [hex(got[wrong]!), hex(wanted[offset]!)];
  return `another byte at ${grouped(offset)}: ${is}, not ${should}`;
}

const hex = (byte: number) => `0x${byte.toString(16).padStart(2, "0")}`;

/**
 * Writes bytes as they are, if they are few, and otherwise how many they are.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(describeBytes(new Uint8Array([104, 105])), '"hi"');
 * assertEquals(describeBytes(new Uint8Array(100_000)), "100,000 bytes");
 * ```
 */
export function describeBytes(data: Uint8Array): string {
  return data.length <= MOST_SHOWN
    ? quoteBytes(data, MOST_SHOWN)
    : `${grouped(data.length)} bytes`;
}

/**
 * Makes bytes without any order, but the same ones each time: where one of them is
 * lost, nearly all that follow differ.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(noise(1000), noise(1000));
 * assertEquals(new Set(noise(10_000)).size, 256);
 * ```
 */
export function noise(size: number): Uint8Array<ArrayBuffer> {
  if (longest.length < size) longest = makeNoise(size);
  return longest.subarray(0, size);
}

let longest = new Uint8Array();

function makeNoise(size: number): Uint8Array<ArrayBuffer> {
  const words = new Int32Array(Math.ceil(size / 4));
  let state = 1;
  for (let i = 0; i < words.length; i++) { // Marsaglia's xorshift.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, size);
}
