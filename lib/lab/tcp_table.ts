/**
 * The kernel's own list of TCP sockets, see `proc_net(5)`. Linux only.
 *
 * @module
 */

import { plainAddress } from "../address.ts";
import { WITHOUT_LD } from "./plain_env.ts";

/** One TCP socket of this host, of any process. */
export interface TcpRow {
  /** Its own address; an IPv6 address without brackets. */
  local: { hostname: string; port: number };
  /** The other side's; `0.0.0.0` or `::` and port 0 if it listens. */
  remote: { hostname: string; port: number };
  /** By the name it has in RFC 9293: `"TIME-WAIT"`. */
  state: string;
  /** Bytes that it has sent without an answer, and that wait. A FIN is one. */
  sendQueue: number;
  /**
   * Bytes that have come and were not read, and 1 for an unread FIN; of LISTEN,
   * who waits in its queue.
   */
  receiveQueue: number;
  /** What happens next, and in how many milliseconds; `null` if nothing does. */
  timer: { kind: string; milliseconds: number } | null;
  /**
   * How often the oldest segment without an answer was sent again, by a timer
   * that doubles. A tail loss probe (RFC 8985, 7) is not counted, and often it is
   * the first one that is sent again: see `LibcDescriptor.retransmits`.
   */
  retransmits: number;
}

/** `enum` in the kernel's `include/net/tcp_states.h`, from 1. */
const STATES = [
  "ESTABLISHED",
  "SYN-SENT",
  "SYN-RECEIVED",
  "FIN-WAIT-1",
  "FIN-WAIT-2",
  "TIME-WAIT",
  "CLOSED",
  "CLOSE-WAIT",
  "LAST-ACK",
  "LISTEN",
  "CLOSING",
  "SYN-RECEIVED", // "new": before the third segment of the handshake
];

/** The kinds of timers, from 1. */
const TIMERS = ["retransmit", "keepalive", "time-wait", "window probe"];

/**
 * Lists the TCP sockets of this host. To compare several of them, like both ends
 * of a connection, take them from one such list: then they are from nearly the
 * same moment. (The kernel looks at one after the other.)
 *
 * @throws {Error} If the list cannot be read.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example A socket that listens
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * const rows = await readTcpTable();
 * assertEquals(rows.find((row) => row.local.port === port)?.state, "LISTEN");
 * ```
 */
export async function readTcpTable(): Promise<TcpRow[]> {
  // A host without IPv6 has only the first one.
  return parseTcpTable(await cat("/proc/net/tcp", "/proc/net/tcp6"));
}

/**
 * Reads what stands in `/proc/net/tcp` and `/proc/net/tcp6`.
 *
 * @param text The text of one or both of them.
 * @returns A row for each socket, in the kernel's order.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const [row] = parseTcpTable(
 *   "   0: 0100007F:2537 0100007F:C350 06 00000000:00000000 03:00001770 00000000",
 * );
 * assertEquals(row.local.port, 9527);
 * assertEquals(row.state, "TIME-WAIT");
 * assertEquals(row.timer, { kind: "time-wait", milliseconds: 60000 });
 * ```
 */
export function parseTcpTable(text: string): TcpRow[] {
  return Array.from(text.matchAll(/^ *\d+: (.+)/gm), ([, line = ""]) => {
    const [local = "", remote = "", ...numbers] = line.split(" ");
    const [
      state = 0,
      sendQueue = 0,
      receiveQueue = 0,
      timer = 0,
      when = 0,
      retransmits = 0,
    ] = numbers.flatMap((it) => it.split(":")).map((hex) => parseInt(hex, 16));
    const kind = TIMERS[timer - 1];
    return {
      local: toAddress(local),
      remote: toAddress(remote),
      state: STATES[state - 1] ?? `state ${state}`,
      sendQueue,
      receiveQueue,
      // A tick of the clock in /proc, sysconf(_SC_CLK_TCK), is 10 ms.
      timer: kind ? { kind, milliseconds: when * 10 } : null,
      retransmits,
    };
  });
}

/** The kernel prints addresses as 32-bit numbers of this host's byte order. */
function toAddress(text: string) {
  const [host = "", port = ""] = text.split(":");
  const words = host.match(/.{8}/g)!.map((word) => parseInt(word, 16));
  const bytes = new Uint8Array(new Uint32Array(words).buffer);
  const groups = bytes.toHex().match(/.{4}/g)!.join(":");
  const hostname = bytes.length === 4 ? bytes.join(".") : plainAddress(groups);
  return { hostname, port: parseInt(port, 16) };
}

/**
 * Finds one end of a connection.
 *
 * @param rows What the kernel lists, from one reading.
 * @param end A `Deno.TcpConn`, or as much of it as its addresses.
 * @returns Its row, or `undefined` if the kernel has none any more.
 *
 * @example Both ends of a connection on this host
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * using accepted = await listener.accept();
 * const rows = await readTcpTable();
 * assertEquals(endOf(rows, conn)?.state, "ESTABLISHED");
 * assertEquals(endOf(rows, accepted)?.state, "ESTABLISHED");
 * ```
 */
export function endOf(
  rows: TcpRow[],
  end: ConnEnd,
): TcpRow | undefined {
  const isSame = (a: TcpRow["local"], b: TcpRow["local"]) =>
    a.port === b.port && a.hostname === plainAddress(b.hostname);
  return rows.find(({ local, remote }) =>
    isSame(local, end.localAddr) && isSame(remote, end.remoteAddr)
  );
}

/** The addresses of one end of a connection, as `Deno.TcpConn` has them. */
export interface ConnEnd {
  /** Its own address. */
  localAddr: TcpRow["local"];
  /** The other side's. */
  remoteAddr: TcpRow["remote"];
}

/** States that the kernel leaves by itself, as soon as an answer comes. */
const PASSING = /SYN-|FIN-WAIT-1|LAST-ACK|CLOSING/;

/**
 * Says whether a socket is in a state that it leaves by itself, as soon as an
 * answer comes. Where the other side has no room, the answer may never come.
 */
function isPassing({ state, timer }: TcpRow): boolean {
  return PASSING.test(state) && timer?.kind !== "window probe";
}

/**
 * Says whether a socket waits for an answer: it is in a state that passes, or
 * what it has sent was not acknowledged yet. Where the other side has no room,
 * the answer may never come, so this is not such a case.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const [row] = parseTcpTable(
 *   "   0: 0100007F:2537 0100007F:C350 01 00000005:00000000 01:00000014 00000000",
 * );
 * assertEquals(describeRow(row), "ESTABLISHED, 5 bytes not acknowledged");
 * assertEquals(awaitsAnswer(row), true);
 * ```
 */
export function awaitsAnswer(row: TcpRow): boolean {
  const isSent = row.sendQueue > 0 && row.timer?.kind !== "window probe";
  return isPassing(row) || isSent;
}

/** How long {@linkcode readUntilSettled} reads at most, in milliseconds. */
const SETTLES = 5000;

/**
 * Lists the TCP sockets of this host again and again, until some of them have got
 * the answers that they wait for. After a FIN that takes up to 50 ms, because an
 * acknowledgement may be delayed.
 *
 * @param ends The sockets.
 * @param isMoving Whether a socket is to be awaited: by default, whether its state
 * is one that passes.
 * @returns Each list. The last one is how it stays, or how it is after 5 s.
 * @throws {Error} If the list cannot be read.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { connectPair } from "./tcp_pair.ts";
 *
 * using pair = await connectPair();
 * await pair.client.closeWrite();
 * const { client, server } = pair;
 * const lists = await Array.fromAsync(readUntilSettled([client, server]));
 * assertEquals(endOf(lists.at(-1)!, client)?.state, "FIN-WAIT-2");
 * assertEquals(endOf(lists.at(-1)!, server)?.state, "CLOSE-WAIT");
 * ```
 */
export async function* readUntilSettled(
  ends: ConnEnd[],
  isMoving: (row: TcpRow) => boolean = isPassing,
): AsyncGenerator<TcpRow[], void> {
  const start = performance.now();
  let wasMoving = false;
  while (true) {
    const rows = await readTcpTable();
    yield rows;
    const isSettled = ends.every((end) => {
      const row = endOf(rows, end);
      return !row || !isMoving(row);
    });
    if (performance.now() - start > SETTLES) return;
    // The kernel lists one end a little later than the other. What has come in
    // between stands at one of them only, so look once more.
    if (isSettled && !wasMoving) return;
    wasMoving = !isSettled;
  }
}

/**
 * The other end of a connection.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { connectPair } from "./tcp_pair.ts";
 *
 * using pair = await connectPair();
 * assertEquals(otherEnd(pair.client).localAddr, pair.server.localAddr);
 * ```
 */
export function otherEnd({ localAddr, remoteAddr }: ConnEnd): ConnEnd {
  return { localAddr: remoteAddr, remoteAddr: localAddr };
}

/**
 * Puts in words what the kernel knows of a socket: its state, and what waits in
 * its queues. A SYN and a FIN count there as a byte, and are named instead. (The
 * read that takes the last bytes may take the FIN with them. Then "the end" is not
 * in the queue any more, although only the next read tells the program of it.)
 *
 * @param row Its row, or `undefined` if the kernel has none.
 * @returns As in `CLOSE-WAIT, 6 bytes and the end to read`; `gone` without a row.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { connectPair } from "./tcp_pair.ts";
 *
 * using pair = await connectPair();
 * await pair.client.write(new Uint8Array(6));
 * const rows = await readTcpTable();
 * assertEquals(
 *   describeRow(endOf(rows, pair.server)),
 *   "ESTABLISHED, 6 bytes to read",
 * );
 * assertEquals(describeRow(undefined), "gone");
 * ```
 */
export function describeRow(row: TcpRow | undefined): string {
  if (!row) return "gone";
  const { state, sendQueue, receiveQueue } = row;
  if (state === "LISTEN") {
    return receiveQueue > 0 ? `LISTEN, ${receiveQueue} in its queue` : state;
  }
  const sent = queued(sendQueue, SENT_FLAGS[state]);
  const received = queued(receiveQueue, RECEIVED_FLAGS[state]);
  return state + (sent && `, ${sent} not acknowledged`) +
    (received && `, ${received} to read`);
}

/** What stands last in the send queue in these states, as one byte of it. */
const SENT_FLAGS: Record<string, string> = {
  "SYN-SENT": "its SYN",
  "FIN-WAIT-1": "its FIN",
  "CLOSING": "its FIN",
  "LAST-ACK": "its FIN",
};
/** The same for the receive queue: the other side's FIN. */
const RECEIVED_FLAGS: Record<string, string> = {
  "CLOSE-WAIT": "the end",
  "CLOSING": "the end",
  "LAST-ACK": "the end",
};

/** What a queue has, in words: nothing, bytes, a flag, or both. */
function queued(count: number, flag?: string): string {
  const bytes = flag && count > 0 ? count - 1 : count;
  const words = bytes > 0 ? [`${bytes} ${bytes === 1 ? "byte" : "bytes"}`] : [];
  if (flag && count > 0) words.push(flag);
  return words.join(" and ");
}

/**
 * Reads a file by `cat`: Deno itself reads files under `/proc` only with
 * `--allow-all`.
 *
 * @param path The file.
 * @param more Files to read after it, if they exist.
 * @returns The text of all of them.
 * @throws {Error} `cat PATH: ...` and what `cat` says, if it has no text of it.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(Number(await cat("/proc/sys/net/core/somaxconn")) > 0);
 * ```
 */
export async function cat(path: string, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await catCommand([path, ...more]).output();
  const decoder = new TextDecoder();
  // It says "cat: /nowhere: No such file or directory", and goes on.
  const [said = ""] = decoder.decode(stderr).split("\n");
  const isRead = code === 0 || more.some((it) => said.includes(it));
  if (isRead && stdout.length > 0) return decoder.decode(stdout);
  const reason = said.split(": ").at(-1) || `exit code ${code}`;
  throw new Error(`cat ${path}: ${reason}`);
}

/**
 * Reads files by `cat` while nothing else in this program goes on.
 *
 * @param paths The files.
 * @returns The text of those that exist.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(Number(catSync("/proc/sys/net/core/somaxconn")) > 0);
 * ```
 */
export function catSync(...paths: string[]): string {
  const { stdout } = catCommand(paths).outputSync();
  return new TextDecoder().decode(stdout);
}

/** On a terminal Ctrl+C is for this program, which may go on; `cat` would end. */
function catCommand(args: string[]): Deno.Command {
  return new Deno.Command("cat", { args, env: WITHOUT_LD, detached: true });
}
