/**
 * @title Dead peers: the other side is gone and says nothing
 * @difficulty advanced
 * @tags tcp, SO_KEEPALIVE, TCP_USER_TIMEOUT, heartbeat, IP_MINTTL, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/14_dead_peers.ts
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT, tcp_retries2
 * @see 11_deadlines.ts
 * @see README.md, "14 Dead peers"
 *
 * When a process ends, its kernel says so: it sends a FIN or a RST. A host
 * without power says nothing, and to the other side the connection looks as
 * before. `cutOff()` makes such a peer without root: its kernel drops all that
 * comes in. A program that only reads is never told, because nothing is under
 * way that could fail. One that writes is told after a quarter of an hour,
 * because its kernel sends the bytes again and again before it gives up.
 *
 * There are three remedies. (a) Keepalive: the kernel asks the other side's
 * kernel from time to time. (b) TCP_USER_TIMEOUT: the kernel gives up when
 * bytes are unanswered for this time. (a) does not help a writer, because the
 * kernel does not ask while bytes are unanswered, and (b) does not help a
 * reader, so set both. (c) `heartbeat()` asks the other side's program, so it
 * also finds one that is stuck, whose kernel still answers.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../lib/deadline.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { grouped } from "../lib/grouped.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { drawTimeline, type TimelineRow } from "../lib/harness/timeline.ts";
import { setKeepAliveTimes, setUserTimeout } from "../lib/lab/keep_alive.ts";
import { descriptorOf, openLibc } from "../lib/lab/libc_socket.ts";
import { dropIncoming, passIncoming } from "../lib/lab/packet_loss.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { cat, endOf, readTcpTable, type TcpRow } from "../lib/lab/tcp_table.ts";

/** How long the demo waits for what may never come, in seconds. */
const PATIENCE = 5;
const KEEP_ALIVE = { idle: 1, interval: 1, count: 2 };
const USER_TIMEOUT = 1500;

/** Asks the other side's program for an echo, until none comes in time. */
export async function heartbeat(conn: Deno.Conn, limit = 1000): Promise<void> {
  const buffer = new Uint8Array(1);
  const giveUp = () => conn[Symbol.dispose]();
  for (let count: number | null = 1; count !== null;) {
    // The write is part of it: a dead peer's queue may be full.
    const answer = conn.write(buffer).then(() => conn.read(buffer));
    count = await withDeadline(answer, limit, giveUp);
    await delay(limit / 2);
  }
}

const echo = (conn: Deno.Conn) =>
  conn.readable.pipeTo(conn.writable).catch(() => {});

/** The network loses all that comes for this end, until it is disposed of. */
function cutOff(conn: Deno.TcpConn): Disposable {
  dropIncoming(conn);
  return { [Symbol.dispose]: () => passIncoming(conn) };
}

const keepAlive = (conn: Deno.TcpConn) => setKeepAliveTimes(conn, KEEP_ALIVE);
const userTimeout = (conn: Deno.TcpConn) => setUserTimeout(conn, USER_TIMEOUT);

const PEERS = ["alive", "stuck", "dead", "dead, bytes sent"];
/** The remedies; `null` is a heartbeat. */
const REMEDIES: Record<string, ((conn: Deno.TcpConn) => void)[] | null> = {
  "none": [],
  "(a) keepalive, 1 + 2 * 1 s": [keepAlive],
  "(b) user timeout, 1.5 s": [userTimeout],
  "(a) and (b)": [keepAlive, userTimeout],
  "(c) heartbeat, 1 s": null,
};

/** Makes peers of all kinds, and shows who notices. */
export async function demo({
  print = console.log,
} = {}): Promise<void> {
  print("Options of a connection, in seconds, the last one in milliseconds:");
  print(await kernelValues() + "\n");
  print("The peer is dead. A reader, and a writer of 1,000 bytes a second:");
  const [seen, noticed] = await Promise.all([timeline(), notice()]);
  print(seen + "\n");
  print(`Which error, after how many seconds? "-" is none in ${PATIENCE} s:`);
  print(
    formatTable(["", ...PEERS], noticed) + `

The kernel of a stuck peer answers, but its program does not. The last column is
of a program that has written bytes, and has no answer to them.
`,
  );
  print("The same as a picture: at X the program is told of the error.");
  for (const peer of PEERS.slice(2)) print(picture(peer, noticed) + "\n");
  print("When to use which:");
  print(formatTable(["for", "use"], [
    ["a connection on which nothing is sent", "(a) SO_KEEPALIVE and its times"],
    ["bytes that must arrive in time", "(b) TCP_USER_TIMEOUT"],
    ["a program that may hang; no libc", "(c) a heartbeat"],
    ["one answer to one request", "a deadline, as in lesson 11"],
  ]));
}

/** The kernel's own times: these are long. */
async function kernelValues(): Promise<string> {
  using libc = openLibc();
  using pair = await connectPair();
  const socket = descriptorOf(libc, pair.client);
  const options = [
    "SO_KEEPALIVE",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_KEEPCNT",
    "TCP_USER_TIMEOUT",
  ] as const;
  const read = () => options.map((option) => socket.getsockopt(option));
  const before = read();
  pair.client.setKeepAlive(true);
  const byDeno = read();
  keepAlive(pair.client);
  userTimeout(pair.client);
  const here = read();
  const rows = options.map((option, i) => [
    option,
    ...[before, byDeno, here].map((values) => grouped(values[i]!)),
  ]);
  const [usual, ours] = [byDeno, here]
    .map(([_, idle, interval, count]) => grouped(idle! + interval! * count!));
  const retries = (await cat("/proc/sys/net/ipv4/tcp_retries2")).trim();
  return formatTable(["option", "new", "setKeepAlive(true)", "here"], rows) + `

Keepalive alone finds a dead peer after ${usual} s, here after ${ours} s.
Without a user timeout the kernel sends bytes again about ${retries} times
(tcp_retries2) before it gives up.`;
}

/** What the kernel says, second by second, of a reader and a writer. */
async function timeline(): Promise<string> {
  using libc = openLibc();
  using reader = await connectPair();
  using writer = await connectPair();
  using _reader = cutOff(reader.server);
  using _writer = cutOff(writer.server);
  const socket = descriptorOf(libc, writer.client);
  reader.client.read(new Uint8Array(1)).catch(() => {}); // Ends with the pair.
  using progress = new Progress("waiting", PATIENCE);
  const show = (it?: TcpRow) =>
    it ? `${it.state}, ${it.timer?.kind ?? "no timer"}` : "gone";
  const rows: (string | number)[][] = [];
  let writing: Promise<string | number> | undefined;
  for (let second = 0; second <= PATIENCE; second++) {
    progress.update(second);
    // It waits when its buffer is full, which takes less than this on few hosts.
    writing ??= outcomeOf(() => writer.client.write(new Uint8Array(1000)));
    const written = await Promise.race([writing, delay(100, "waits")]);
    if (written !== "waits") writing = undefined;
    const table = await readTcpTable(); // One reading for both.
    const w = endOf(table, writer.client);
    rows.push([
      second,
      show(endOf(table, reader.client)),
      typeof written === "number" ? show(w) : `${show(w)}: ${written}`,
      w ? grouped(w.sendQueue) : "-",
      socket.retransmits(),
    ]);
    await delay(1000);
  }
  const head = ["second", "reader", "writer", "send queue", "sent again"];
  return formatTable(head, rows);
}

/** Each remedy with each peer, all at the same time. */
async function notice(): Promise<string[][]> {
  const watch = async (remedies: typeof REMEDIES[string], peer: string) => {
    using pair = await connectPair();
    const { client, server } = pair;
    remedies?.forEach((remedy) => remedy(client));
    if (peer === "alive") echo(server);
    using _cut = peer.startsWith("dead") ? cutOff(server) : null;
    if (peer === PEERS[3]) await client.write(new Uint8Array(1000));
    const start = performance.now();
    const use = remedies ? client.read(new Uint8Array(1)) : heartbeat(client);
    const seconds = () => ((performance.now() - start) / 1000).toFixed(1);
    return await Promise.race([use, delay(PATIENCE * 1000)])
      .then(() => "-", ({ code, name }) => `${seconds()} ${code ?? name}`);
  };
  const rows = Object.entries(REMEDIES).map(async ([name, remedies]) => [
    name,
    ...await Promise.all(PEERS.map((peer) => watch(remedies, peer))),
  ]);
  return await Promise.all(rows);
}

/** A bar for each remedy: how long the program does not know of its peer. */
function picture(peer: string, noticed: string[][]): string {
  const rows = noticed.map(([label = "", ...cells]): TimelineRow => {
    const note = cells[PEERS.indexOf(peer)]!;
    const seconds = parseFloat(note) || PATIENCE; // "-" is no number.
    const end = note === "-" ? ">" : "X";
    return { label, spans: [[0, seconds]], marks: [[seconds, end]], note };
  });
  return drawTimeline(`${peer}: seconds`, rows, { end: PATIENCE });
}

if (import.meta.main) {
  await runLesson(import.meta.url, {
    demo: {
      help: "dead peers, and who notices",
      options: {},
      show: "table",
      run: demo,
    },
  });
}
