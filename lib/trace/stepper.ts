/**
 * Lets the calls of a program happen one by one, when somebody says so.
 *
 * @module
 */

import { plainAddress } from "../address.ts";
import {
  catSync,
  describeRow,
  parseTcpTable,
  type TcpRow,
} from "../lab/tcp_table.ts";
import { type Place, placeText } from "./call_site.ts";
import { every } from "./every.ts";
import type { Mailbox, Message } from "./mailbox.ts";
import { type Begun, type Gate, now, type SocketCall } from "./recorder.ts";
import type { Any } from "./replace.ts";

/** A call that has not happened yet. */
export interface StoppedCall {
  /** Which process makes it: `""` if there is only one. */
  side: string;
  /** The call: `read`. */
  name: string;
  /** What it is given, or `""`. */
  target: string;
  /** Where it stands. */
  place: Place;
  /** The number of its socket; 0 if it has none. */
  socket: number;
  /** The addresses of its socket, or `""`. */
  own: string;
  /** The other side's, or `""`. */
  peer: string;
}

/** What a stopped call is, for another process too. */
export function stoppedCall(begun: Begun, side: string): StoppedCall {
  const { name, target = "", place, socket } = begun;
  const { number = 0, own = "", peer = "" } = socket ?? {};
  return { side, name, target, place, socket: number, own, peer };
}

/** How a stepper shows what goes on. */
export interface StepView {
  /** Writes text, which need not be whole lines. */
  write(text: string): void;
  /**
   * What a call has come to, in one line or more.
   *
   * @param rows Asks the kernel for its lists.
   */
  textOf(
    side: string,
    call: SocketCall,
    rows: () => TcpRow[] | undefined,
  ): string;
  /** How wide the terminal is. */
  columns: number;
}

/** How long nothing else may happen before somebody is asked, in milliseconds. */
const QUIET = 60;
/** The same while a process does something else than its calls. */
const BUSY_QUIET = 700;
/** How often a stepper looks around, in milliseconds. */
const STEP_LOOK = 15;
/** Closed connections that are shown as long as the kernel has them. */
const MOST_CLOSED = 2;

/** A call, and how to let it happen. */
interface Stopped {
  call: StoppedCall;
  go: () => void;
  /** Whether its process stands still, so that no other call of it can return. */
  isSync: boolean;
}

/** A socket that is shown. */
interface Shown {
  side: string;
  number: number;
  own: string;
  peer: string;
  isDatagram: boolean;
  isClosed: boolean;
}

/**
 * Stops each call, shows it with its line of source and with what the kernel knows
 * of all sockets, and lets it happen when somebody presses Enter. What is typed
 * while no call is stopped is for the program itself. Timers go on meanwhile.
 */
export class Stepper implements Gate {
  #mailbox: Mailbox;
  #view: StepView;
  #side: string;
  #stopped: Stopped[] = [];
  #shown: Shown[] = [];
  #news = 0; // When something has happened last.
  #isAsked = false;
  #lastSide = ""; // Whose call has happened last.
  #begun = new Map<string, number>(); // How many calls of a side may still wait.
  #isExplained = false;
  #isRunningOn = false;
  #onSignal: (signal: "SIGINT" | "SIGTERM") => void;
  #onPeer: (message: Any) => void = () => {};
  #typed: string[] = [];
  #input = new Input(() => this.#passInput());
  #timer: { ref(): void; unref(): void };

  /**
   * From now on standard input is the stepper's.
   *
   * @param side What this process is called, where there are two.
   * @param onSignal Is told a signal; after that no call is stopped any more.
   */
  constructor(
    mailbox: Mailbox,
    view: StepView,
    side: string,
    onSignal: (signal: "SIGINT" | "SIGTERM") => void,
  ) {
    this.#mailbox = mailbox;
    this.#view = view;
    this.#side = side;
    this.#onSignal = onSignal;
    this.#timer = every(STEP_LOOK, () => this.#look(0));
    this.#input.takeOver(() => this.#look(STEP_LOOK));
  }

  /** What to do with what another process says. */
  set onPeer(listener: (message: Any) => void) {
    this.#onPeer = listener;
  }

  /** For a call that returns a promise: the rest of the program goes on. */
  pass(begun: Begun): Promise<void> {
    if (this.#isRunningOn || begun.place.isOfLib) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.stop(stoppedCall(begun, this.#side), () => {
      begun.since = now(); // It has not waited yet.
      resolve();
    });
    return promise;
  }

  /** For a call that returns at once: the program stands still. */
  passSync(begun: Begun): void {
    if (this.#isRunningOn || begun.place.isOfLib) return;
    let isGone = false;
    this.stop(stoppedCall(begun, this.#side), () => isGone = true, true);
    while (!isGone) this.#look(STEP_LOOK);
    begun.since = now();
  }

  /** Stops a call, of this process or of another one. */
  stop(call: StoppedCall, go: () => void, isSync = false): void {
    if (this.#isRunningOn) return go();
    this.#stopped.push({ call, go, isSync });
    this.#begun.set(call.side, this.#begun.get(call.side) ?? 0);
    this.#news = now();
    if (this.#isAsked) this.#view.write("\n"); // It is asked again, with this one.
    this.#isAsked = false;
    this.#timer.ref(); // A promise alone would not keep the program alive.
  }

  /** Shows what a call has come to. */
  report(side: string, call: SocketCall): void {
    if (call.isOfLib) return; // It plays the network.
    // While somebody is asked, all of the program waits.
    if (call.isWaiting && this.#stopped.length > 0) return;
    const { socket: number, own, peer, name } = call;
    const known = this.#shown.find((it) =>
      it.side === side && it.number === number && !it.isClosed
    );
    const isDatagram = known?.isDatagram ?? name === "socket, bind";
    if (call.isOpening) {
      const isClosed = false;
      this.#shown.push({ side, number, own, peer, isDatagram, isClosed });
    } else if (known && /^(close|reset)(?!Write)/.test(name)) {
      known.isClosed = true;
    }
    if (!call.isWaiting) {
      const begun = this.#begun.get(side) ?? 0;
      this.#begun.set(side, Math.max(begun - 1, 0));
    }
    this.#news = now();
    this.#unask();
    const text = this.#view.textOf(
      side,
      call,
      () => isDatagram ? undefined : this.#rows(),
    ); // UDP has no states.
    this.#view.write(`${text}\n`);
  }

  /** Removes the question, to write something else in its place. */
  #unask(): void {
    if (this.#isAsked) this.#view.write("\r\x1b[K");
    this.#isAsked = false;
  }

  /** Takes messages, and asks what to do if nothing else happens. */
  #look(wait: number): void {
    for (const message of this.#mailbox.takeAll(wait)) this.#handle(message);
    if (this.#stopped.length === 0 || this.#isAsked) return;
    const quiet = this.#isBusy() ? BUSY_QUIET : QUIET;
    if (now() - this.#news >= quiet) this.#ask();
  }

  /** Whether a process has neither a call that is stopped, nor one that waits. */
  #isBusy(): boolean {
    const sides = this.#stopped.map(({ call }) => call.side);
    return !this.#input.isWanted &&
      [...this.#begun].some(([side, count]) =>
        count === 0 && !sides.includes(side)
      );
  }

  #handle(message: Message): void {
    if ("from" in message) {
      if (message.from !== null) this.#onPeer(JSON.parse(message.from));
      else this.#begun.clear(); // It has ended, and is not waited for.
    } else if ("signal" in message) {
      this.#runOn();
      this.#onSignal(message.signal);
    } else if ("line" in message) {
      const { line } = message;
      if (line === null) {
        this.#runOn();
        this.#input.add(null);
      } else if (this.#isAsked) this.#obey(line);
      else this.#typed.push(line);
      this.#passInput();
    }
  }

  /** What is typed while no call is stopped is the program's, if it reads it. */
  #passInput(): void {
    if (this.#stopped.length > 0 || !this.#input.isWanted) return;
    for (const line of this.#typed.splice(0)) this.#input.add(line);
  }

  #runOn(): void {
    this.#isRunningOn = true;
    if (this.#isAsked) this.#view.write("\n");
    this.#isAsked = false;
    this.#timer.unref();
    for (const { go } of this.#stopped.splice(0)) go();
    this.#passInput();
  }

  #obey(line: string): void {
    this.#isAsked = false; // The terminal has shown the line, and its end.
    const word = line.trim();
    if (word === "r") return this.#runOn();
    const chosen = this.#askable().find(({ call: { side, socket } }) =>
      word !== "" && (side[0] === word || word === String(socket))
    );
    if (word === "" || chosen !== undefined) {
      return this.#letGo(chosen ?? this.#next(this.#rows()));
    }
    if (this.#input.isWanted) return this.#input.add(line);
    this.#view.write(`no such call: ${JSON.stringify(word)}\n`);
  }

  #letGo(it: Stopped): void {
    this.#stopped.splice(this.#stopped.indexOf(it), 1);
    if (this.#stopped.length === 0) this.#timer.unref();
    const { side } = it.call;
    this.#news = now();
    this.#lastSide = side;
    this.#begun.set(side, (this.#begun.get(side) ?? 0) + 1);
    it.go();
  }

  /**
   * The calls of one side after those of the other. Where a process stands still,
   * only that call: its others could not return.
   */
  #askable(): Stopped[] {
    const still = this.#stopped.filter(({ isSync }) => isSync);
    return this.#stopped.filter((it) =>
      still.includes(it) ||
      !still.some(({ call }) => call.side === it.call.side)
    ).toSorted((a, b) => a.call.side.localeCompare(b.call.side));
  }

  /**
   * The call that Enter lets happen: one that does not have to wait, if there is any,
   * and rather of the side whose turn it is.
   */
  #next(rows: TcpRow[] | undefined): Stopped {
    const all = this.#askable();
    const ready = all.filter(({ call }) => canReturn(call, rows));
    return ready.find(({ call }) => call.side !== this.#lastSide) ??
      ready[0] ?? all[0]!;
  }

  #ask(): void {
    const rows = this.#rows();
    const { write, columns } = this.#view;
    if (!this.#isExplained) {
      write("Each call waits for you, but timers do not: deadlines go on.\n");
      if (!rows) write("What the kernel knows needs --allow-run=cat.\n");
      this.#isExplained = true;
    }
    const lines = rows ? this.#socketLines(rows) : [];
    const next = this.#next(rows);
    const all = this.#askable();
    for (const { call } of all) {
      const { side, place, socket, name, target } = call;
      const words = [call === next.call ? ">" : " "];
      if (side !== "") words.push(side);
      if (place.file !== "") words.push(placeText(place));
      if (socket !== 0) words.push(`#${socket}`);
      words.push(target === "" ? name : `${name} ${target}`);
      if (!canReturn(call, rows)) words.push("(would wait)");
      lines.push(words.join(" "));
      const source = sourceLine(place);
      if (source !== "") lines.push(`      ${source}`);
    }
    for (const line of lines) write(`${line.slice(0, columns)}\n`);
    const choices = all.length > 1 ? choicesOf(all) : "";
    const others = choices === "" ? "" : `, ${choices}: another one`;
    const input = this.#input.isWanted ? " (the program waits for a line)" : "";
    write(`Enter: let it happen${others}, r: run on${input} `);
    this.#isAsked = true;
    const typed = this.#typed.shift(); // Before it was asked.
    if (typed === undefined) return;
    write("\n");
    this.#obey(typed);
  }

  /** What the kernel knows of all sockets. */
  #socketLines(rows: TcpRow[]): string[] {
    const closed = this.#shown.filter((it) => it.isClosed);
    const gone = closed.slice(0, Math.max(closed.length - MOST_CLOSED, 0))
      .concat(closed.filter(({ own, peer }) => !rowOf(rows, own, peer)));
    this.#shown = this.#shown.filter((it) => !gone.includes(it));
    return this.#shown.map((it) => {
      const { side, number, own, peer, isDatagram, isClosed } = it;
      const row = rowOf(rows, own, peer);
      const who = `${side} #${number} ${own}`.trimStart();
      if (isDatagram) {
        const waits = (udpRowOf(rows, own)?.receiveQueue ?? 0) > 0;
        return `  ${who}${waits ? ", datagrams to receive" : ""}`;
      }
      if (!/:\d+$/.test(own)) return `  ${who}`; // A Unix socket: it is in no list.
      const here = `  ${who} ${describeRow(row)}${isClosed ? " (closed)" : ""}`;
      const there = rowOf(rows, peer, own);
      const isShown = this.#shown.some((it) => it.own === peer);
      return there && !isShown
        ? `${here} | ${peer} ${describeRow(there)}`
        : here;
    });
  }

  /** The kernel's lists of TCP and UDP, if they may be read. */
  #rows(): TcpRow[] | undefined {
    const cat = { name: "run", command: "cat" } as const;
    if (Deno.permissions.querySync(cat).state !== "granted") return undefined;
    const files = ["tcp", "tcp6", "udp", "udp6"].map((it) => `/proc/net/${it}`);
    return parseTcpTable(catSync(...files));
  }
}

/** How calls can be chosen: by the letter of their side, or by number. */
function choicesOf(stopped: Stopped[]): string {
  const names = stopped.map(({ call }) => call.side[0] ?? String(call.socket));
  return [...new Set(names)].filter((it) => it !== "0").join(" or ");
}

/** Whether a call would return at once, as far as the kernel's lists tell. */
function canReturn(call: StoppedCall, rows: TcpRow[] | undefined): boolean {
  const { name, own, peer } = call;
  if (rows === undefined || !/^(read|accept|recvfrom)$/.test(name)) return true;
  const row = name === "recvfrom"
    ? udpRowOf(rows, own)
    : rowOf(rows, own, peer);
  return row === undefined || row.receiveQueue > 0 ||
    /CLOSE-WAIT|LAST-ACK|CLOSING|TIME-WAIT/.test(row.state);
}

/**
 * Finds the row of a TCP socket.
 *
 * @param own Its address, as the trace writes it.
 * @param peer The other side's; `""` for a listener.
 */
export function rowOf(
  rows: TcpRow[],
  own: string,
  peer: string,
): TcpRow | undefined {
  return rows.find(({ local, remote, state }) =>
    isAddress(local, own) &&
    (peer === "" ? state === "LISTEN" : isAddress(remote, peer))
  );
}

/** A socket for datagrams has no state; the list calls that CLOSED. */
function udpRowOf(rows: TcpRow[], own: string): TcpRow | undefined {
  return rows.find(({ local, state }) =>
    state === "CLOSED" && isAddress(local, own)
  );
}

function isAddress({ hostname, port }: TcpRow["local"], text: string): boolean {
  const [, host = "", number] = text.match(/^\[?(.*?)\]?:(\d+)$/) ?? [];
  return port === Number(number) && hostname === plainAddress(host);
}

/** The files of the program, in lines. */
const sources = new Map<string, string[]>();

/** The line of source where a call stands, if it may be read. */
function sourceLine({ path, line }: Place): string {
  if (!path.startsWith("/")) return "";
  try {
    const lines = sources.get(path) ?? catSync(path).split("\n");
    sources.set(path, lines);
    return lines[line - 1]?.trim() ?? "";
  } catch {
    return ""; // Without --allow-run=cat.
  }
}

/** Standard input of the program, while somebody else reads it. */
class Input {
  #chunks: (Uint8Array | null)[] = [];
  #news = Promise.withResolvers<void>();
  #readers = 0;
  #onWanted: () => void;

  constructor(onWanted: () => void) {
    this.#onWanted = onWanted;
  }

  /** Whether the program waits for a line. */
  get isWanted(): boolean {
    return this.#readers > 0;
  }

  /** Adds a line, or the end. */
  add(line: string | null): void {
    this.#chunks.push(line === null ? null : new TextEncoder().encode(line));
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }

  /**
   * Puts itself in the place of `Deno.stdin`.
   *
   * @param look Waits for news while the program stands still.
   */
  takeOver(look: () => void): void {
    const take = (buffer: Uint8Array): number | null => {
      const chunk = this.#chunks[0] ?? null;
      if (chunk === null) return null; // It stays at its end.
      buffer.set(chunk.subarray(0, buffer.length));
      if (chunk.length <= buffer.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(buffer.length);
      return Math.min(chunk.length, buffer.length);
    };
    const read = async (buffer: Uint8Array): Promise<number | null> => {
      // Waiting for a promise alone would not keep the program alive.
      const alive = setInterval(() => {}, 1 << 30);
      this.#readers++;
      this.#onWanted();
      while (this.#chunks.length === 0) await this.#news.promise;
      this.#readers--;
      clearInterval(alive);
      return take(buffer);
    };
    const readSync = (buffer: Uint8Array): number | null => {
      this.#readers++;
      this.#onWanted();
      while (this.#chunks.length === 0) look();
      this.#readers--;
      return take(buffer);
    };
    const readable = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const buffer = new Uint8Array(16 * 1024);
        const count = await read(buffer);
        if (count === null) controller.close();
        else controller.enqueue(buffer.subarray(0, count));
      },
    }, { highWaterMark: 0 });
    for (const [key, value] of Object.entries({ read, readSync })) {
      Object.defineProperty(Deno.stdin, key, { value });
    }
    Object.defineProperty(Deno.stdin, "readable", { get: () => readable });
  }
}
