/**
 * Lets the calls of a program happen one by one, when somebody says so.
 *
 * @module
 */

import { plainAddress } from "../address.ts";
import { counted } from "../counted.ts";
import {
  catSync,
  describeRow,
  parseTcpTable,
  type TcpRow,
} from "../lab/tcp_table.ts";
import { cutText, foldText } from "../text_width.ts";
import { type Place, placeText } from "./call_site.ts";
import { every } from "./every.ts";
import type { Mailbox, Message } from "./mailbox.ts";
import {
  type Begun,
  type Gate,
  holdBack,
  now,
  type SocketCall,
} from "./recorder.ts";
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
  /** Whether it sends something to the other side. */
  isSending: boolean;
  /** The addresses of its socket, or `""`. */
  own: string;
  /** The other side's, or `""`. */
  peer: string;
}

/** What a stopped call is, for another process too. */
export function stoppedCall(begun: Begun, side: string): StoppedCall {
  const { name, target = "", place, socket, isSending } = begun;
  const { number = 0, own = "", peer = "" } = socket ?? {};
  return { side, name, target, place, socket: number, isSending, own, peer };
}

/** How a stepper shows what goes on. */
export interface StepView {
  /** Writes text, which need not be whole lines. */
  write(text: string): void;
  /**
   * What a call has come to, in one line or more; `""` if that is not shown.
   *
   * @param rows The kernel's lists, where they tell anything of it.
   * @param isRunningOn Whether calls are not stopped any more.
   */
  textOf(
    side: string,
    call: SocketCall,
    rows: TcpRow[] | undefined,
    isRunningOn: boolean,
  ): string;
  /** Is told each call that has returned, before it is shown. */
  hears?(side: string, call: SocketCall): void;
  /** How wide the terminal is. */
  columns: number;
}

/** How long nothing else may happen before somebody is asked, in milliseconds. */
const QUIET = 60;
/** The same while a process does something else than its calls. */
const BUSY_QUIET = 700;
/** How often a stepper looks around, in milliseconds. */
const STEP_LOOK = 15;
/** How long the other process's word for something earlier may take. */
const HOLD = 25;
/** Closed connections that are shown as long as the kernel has them. */
const MOST_CLOSED = 2;
/** How many sockets and calls are shown, so that they fit on a screen. */
const [MOST_SOCKETS, MOST_CALLS] = [6, 4];

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

/** A call that has returned, and what the kernel had then. */
interface Returned {
  side: string;
  call: SocketCall;
  rows: TcpRow[] | undefined;
  /** When it was heard of. */
  since: number;
}

/**
 * Stops each call, shows it with its line of source and with what the kernel knows
 * of all sockets, and lets it happen when somebody presses Enter. What is typed
 * while no call is stopped is for the program itself.
 */
export class Stepper implements Gate {
  #mailbox: Mailbox;
  #view: StepView;
  #side: string;
  #stopped: Stopped[] = [];
  #waiting: StoppedCall[] = []; // They were let go, and have not returned.
  #returned: Returned[] = []; // They are shown when it is known what was earlier.
  #shown: Shown[] = [];
  #sides = new Set<string>(); // The processes that are stepped.
  #news = 0; // When something has happened last.
  #moved = 0; // How long no call was stopped, until the last one was.
  #movesSince = now();
  #isAsked = false;
  #lastSide = ""; // Whose call has happened last.
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

  /** What to do with what another process says; `null` is its end. */
  set onPeer(listener: (message: Any) => void) {
    this.#onPeer = listener;
  }

  /** For how long no call was stopped, so far, in milliseconds. */
  get movedFor(): number {
    return this.#moved +
      (this.#stopped.length > 0 ? 0 : now() - this.#movesSince);
  }

  /** For a call that returns a promise: the rest of the program goes on. */
  pass<T>(begun: Begun, make: () => Promise<T>): Promise<T> {
    if (this.#isRunningOn || begun.place.isOfLib) return make();
    const { promise, go } = holdBack(begun, make);
    this.stop(stoppedCall(begun, this.#side), go);
    return promise;
  }

  /** For a call that returns at once: the program stands still. */
  passSync(begun: Begun): void {
    if (this.#isRunningOn || begun.place.isOfLib) return;
    let isGone = false;
    this.stop(stoppedCall(begun, this.#side), () => isGone = true, true);
    while (!isGone) this.#look(STEP_LOOK);
    begun.since = now(); // It has not waited yet.
  }

  /** Stops a call, of this process or of another one. */
  stop(call: StoppedCall, go: () => void, isSync = false): void {
    if (this.#isRunningOn) return go();
    this.#moved = this.movedFor;
    this.#stopped.push({ call, go, isSync });
    this.#sides.add(call.side);
    this.#news = now();
    if (this.#isAsked) this.#view.write("\n"); // It is asked again, with this one.
    this.#isAsked = false;
    this.#timer.ref(); // A promise alone would not keep the program alive.
  }

  /** Shows what a call has come to. */
  report(side: string, call: SocketCall): void {
    if (!call.isWaiting) this.#view.hears?.(side, call);
    if (call.isOfLib) return; // It plays the network.
    // While somebody is asked, all of the program waits.
    if (call.isWaiting && this.#stopped.length > 0) return;
    const { socket: number, own, peer, name } = call;
    const known = this.#shown.find((it) =>
      it.side === side && it.number === number && !it.isClosed
    );
    const isDatagram = known?.isDatagram ?? name === "socket, bind";
    const isClosing = /^(close|reset)(?!Write)/.test(name);
    if (call.isOpening) {
      const isClosed = false;
      this.#shown.push({ side, number, own, peer, isDatagram, isClosed });
    } else if (known && isClosing) known.isClosed = true;
    if (!call.isWaiting) this.#hasReturned(side, call, isClosing);
    // UDP has no states. Who runs on does not wait until they can be read.
    const hasStates = !isDatagram && !this.#isRunningOn;
    const rows = hasStates ? this.#rows() : undefined;
    this.#returned.push({ side, call, rows, since: now() });
    this.#news = now();
    if (side === this.#side) this.#listen();
  }

  /** The call waits no more; those of a socket that is closed do not either. */
  #hasReturned(side: string, call: SocketCall, isClosing: boolean): void {
    const isThis = (it: StoppedCall) =>
      it.side === side && it.name === call.name &&
      (it.socket === call.socket || it.socket === 0 ||
        call.isOpening && ownPort(it.own) === ownPort(call.own));
    const at = this.#waiting.findIndex(isThis);
    if (at !== -1) this.#waiting.splice(at, 1);
    if (!isClosing) return;
    this.#waiting = this.#waiting.filter((it) =>
      it.side !== side || it.socket !== call.socket
    );
  }

  /** What another process has done before is heard of a moment later. */
  #listen(): void {
    const isAlone = this.#sides.size < 2;
    const end = isAlone || this.#isRunningOn ? 0 : now() + HOLD;
    for (let left = end - now(); left > 0; left = end - now()) this.#take(left);
    this.#show();
  }

  /** Shows what has returned, in the order in which it happened. */
  #show(): void {
    if (this.#returned.length === 0) return;
    this.#unask();
    const all = this.#returned.splice(0)
      .toSorted((a, b) => a.call.at - b.call.at);
    for (const { side, call, rows } of all) {
      const text = this.#view.textOf(side, call, rows, this.#isRunningOn);
      if (text !== "") this.#view.write(`${text}\n`);
    }
  }

  /** Removes the question, to write something else in its place. */
  #unask(): void {
    if (this.#isAsked) this.#view.write("\r\x1b[K");
    this.#isAsked = false;
  }

  /** Takes messages, and asks what to do if nothing else happens. */
  #look(wait: number): void {
    this.#take(wait);
    const [first] = this.#returned;
    if (first && (this.#isRunningOn || now() - first.since >= HOLD)) {
      this.#show();
    }
    if (this.#stopped.length === 0 || this.#isAsked) return;
    const quiet = this.#isBusy() ? BUSY_QUIET : QUIET;
    if (now() - this.#news >= quiet) this.#ask();
  }

  #take(wait: number): void {
    for (const message of this.#mailbox.takeAll(wait)) this.#handle(message);
  }

  /** Whether a process has neither a call that is stopped, nor one that waits. */
  #isBusy(): boolean {
    if (this.#input.isWanted) return false;
    const sides = [...this.#stopped.map(({ call }) => call), ...this.#waiting]
      .map(({ side }) => side);
    return [...this.#sides].some((side) => !sides.includes(side));
  }

  #handle(message: Message): void {
    if ("from" in message) {
      if (message.from === null) this.#forgetPeer();
      this.#onPeer(message.from && JSON.parse(message.from));
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

  /** The other process has ended: none of its calls will happen. */
  #forgetPeer(): void {
    const isOwn = ({ side }: { side: string }) => side === this.#side;
    this.#show(); // Nothing else will be heard of it.
    this.#sides.clear();
    this.#waiting = this.#waiting.filter(isOwn);
    const count = this.#stopped.length;
    this.#stopped = this.#stopped.filter(({ call }) => isOwn(call));
    if (this.#stopped.length < count) this.#unask();
    if (count > 0) this.#moveOn();
  }

  /** What is typed while no call is stopped is the program's, if it reads it. */
  #passInput(): void {
    if (this.#stopped.length > 0 || !this.#input.isWanted) return;
    for (const line of this.#typed.splice(0)) this.#input.add(line);
  }

  #runOn(): void {
    this.#show();
    this.#isRunningOn = true;
    if (this.#isAsked) this.#view.write("\n");
    this.#isAsked = false;
    const all = this.#stopped.splice(0);
    if (all.length > 0) this.#moveOn();
    for (const { go } of all) go();
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

  /** Where no call is stopped any more, time goes on, and nothing is awaited. */
  #moveOn(): void {
    if (this.#stopped.length > 0) return;
    this.#movesSince = now();
    this.#timer.unref();
  }

  #letGo(it: Stopped): void {
    this.#stopped.splice(this.#stopped.indexOf(it), 1);
    this.#moveOn();
    this.#news = now();
    this.#lastSide = it.call.side;
    if (!it.isSync) this.#waiting.push(it.call);
    it.go();
  }

  /**
   * The calls that may happen next, the client's first. Of the calls of one socket that
   * send, only the oldest may, and so of those that read: the program relies on their
   * order. A call that returns at once stops its whole process, so it comes after all
   * calls that this process began before.
   */
  #askable(): Stopped[] {
    const lanes = new Set<string>();
    return this.#stopped.filter(({ call, isSync }) => {
      const { side, socket, isSending } = call;
      const lane = `${side} ${socket} ${isSending}`;
      const isFirst = !lanes.has(lane) &&
        !(isSync && [...lanes].some((it) => it.startsWith(`${side} `)));
      lanes.add(lane);
      return isFirst;
    }).toSorted((a, b) => a.call.side.localeCompare(b.call.side));
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
      write(
        "Each call waits for you, and so does setTimeout, but not the kernel.\n",
      );
      if (!rows) write("What the kernel knows needs --allow-run=cat.\n");
      this.#isExplained = true;
    }
    const lines = rows ? this.#socketLines(rows) : [];
    const next = this.#next(rows);
    const all = this.#askable();
    const calls = all.filter((it, i) => i < MOST_CALLS || it === next);
    for (const { call } of calls) {
      const mark = call === next.call ? ">" : " ";
      const waits = canReturn(call, rows) ? "" : " (would wait)";
      lines.push(`${mark} ${wordsOf(call)}${waits}`);
      const source = sourceLine(call.place);
      if (source !== "") lines.push(cutText(`      ${source}`, columns));
    }
    if (all.length > calls.length) {
      lines.push(`  and ${counted(all.length - calls.length, "more call")}`);
    }
    for (const call of this.#waiting.slice(0, MOST_CALLS)) {
      lines.push(`  ${wordsOf(call)}: waiting`);
    }
    for (const line of lines.flatMap((it) => foldText(it, columns))) {
      write(`${line}\n`);
    }
    const choices = all.length > 1 ? choicesOf(calls) : "";
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
    const lines = this.#shown.slice(-MOST_SOCKETS).map((it) => {
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
    const more = this.#shown.length - lines.length;
    return more > 0
      ? [`  ${counted(more, "older socket")}, and`, ...lines]
      : lines;
  }

  /** The kernel's lists of TCP and UDP, if they may be read. */
  #rows(): TcpRow[] | undefined {
    const cat = { name: "run", command: "cat" } as const;
    if (Deno.permissions.querySync(cat).state !== "granted") return undefined;
    const files = ["tcp", "tcp6", "udp", "udp6"].map((it) => `/proc/net/${it}`);
    return parseTcpTable(catSync(...files));
  }
}

/** The port of `HOST:PORT`, or all of a path. */
const ownPort = (address: string) => address.split(":").at(-1);

/** Where a call stands, and what it is. */
function wordsOf({ side, place, socket, name, target }: StoppedCall): string {
  return [
    side,
    placeText(place),
    place.package && `[${place.package}]`,
    socket === 0 ? "" : `#${socket}`,
    name,
    target,
  ].filter((it) => it !== "").join(" ");
}

/** How calls can be chosen: by the letter of their side, or by number. */
function choicesOf(stopped: Stopped[]): string {
  const names = stopped.map(({ call }) => call.side[0] ?? String(call.socket));
  return [...new Set(names)].filter((it) => it !== "0").toSorted().join(" or ");
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
