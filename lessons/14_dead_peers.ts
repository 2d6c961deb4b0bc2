/**
 * @title Dead peers: the other side is gone and says nothing
 * @difficulty advanced
 * @tags tcp, SO_KEEPALIVE, TCP_USER_TIMEOUT, heartbeat, IP_MINTTL, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/14_dead_peers.ts
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT, tcp_retries2
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_KEEPALIVE
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.3} RFC 9293, 3.8.3: how long TCP sends again
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.4} RFC 9293, 3.8.4: keep-alives, off unless asked for
 * @resource {https://www.rfc-editor.org/rfc/rfc5482} RFC 5482: the user timeout
 * @resource {https://www.rfc-editor.org/rfc/rfc5082} RFC 5082: packets whose TTL is too small (IP_MINTTL)
 * @see 11_deadlines.ts
 * @see 13_streams.ts
 *
 * When a process ends, its kernel says so: it sends a FIN or a RST. A host
 * without power says nothing, and neither does a cable that was pulled. To the
 * other side the connection looks as before. This lesson makes such peers, and
 * shows who notices. At first nobody does. Then each of three remedies does.
 *
 * What to look at:
 * - `cutOff` makes a peer dead, and does not need root. IP_MINTTL tells the
 *   peer's socket to take only packets with the largest TTL, and Linux sends
 *   with a smaller one. So the kernel drops all that comes in, and answers
 *   nothing, as if the host were gone. The other side cannot see the difference
 *   from a network that loses the bytes.
 * - A program that only reads is never told. Its socket stays ESTABLISHED, and
 *   the kernel has no timer for it: `read` waits for ever. A program that
 *   writes is not told either: the bytes go into the send queue. The kernel
 *   sends them again and again, and waits twice as long each time. With its own
 *   settings it gives up after a quarter of an hour.
 * - (a) Keepalive: the kernel asks the other side's kernel. With Deno's
 *   `conn.setKeepAlive(true)` it asks for the first time after two hours. With the
 *   times of this lesson's `setKeepAlive`, a read ends after 1 + 2 * 1 seconds,
 *   with ETIMEDOUT.
 * - (b) TCP_USER_TIMEOUT: the kernel gives up when bytes are unanswered for
 *   this time. It begins to count when it sends them again, so the error comes
 *   a little late.
 * - (a) does not help a writer: while bytes are unanswered, the kernel does not
 *   ask. (b) does not help a reader. Both together help both. Then the user timeout
 *   also says how long the kernel asks, in place of TCP_KEEPCNT (tcp(7)).
 * - (c) A heartbeat asks the other side's program, with lesson 11's deadline
 *   for the answer. It needs no libc. It also finds a program that is stuck.
 *   The kernel of a stuck program still answers. So (a) sees nothing wrong. (b)
 *   does when the buffers are full, but it also ends a program that is slow.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `conn.setKeepAlive(true)` | `setsockopt(SO_KEEPALIVE)` |
 * | `socket.setsockopt` | `setsockopt(TCP_KEEPIDLE)`, and so on |
 * | `dropIncoming`, `passIncoming` | `setsockopt(IP_MINTTL, 255)`, `setsockopt(IP_MINTTL, 0)` |
 * | `conn.read` of a dead peer | `recvfrom`: EAGAIN; `epoll_wait`; `recvfrom`: ETIMEDOUT |
 * | `withDeadline` | none: a timer of the event loop |
 *
 * Deno's own call for all this is `setKeepAlive(true)`. The rest goes through
 * libc (`--allow-ffi`). What the kernel knows of a socket stands in `/proc`,
 * which Deno reads by `cat` (`--allow-run=cat`).
 *
 * Try it:
 * - `deno task dead_peers`: it takes six seconds.
 * - `ss -tno`, in another terminal meanwhile: the timers of all these sockets.
 *   `keepalive` asks, and `on` sends again.
 * - `nstat -az TcpExtTCPMinTTLDrop`, before and after: how many packets the
 *   kernel has dropped.
 * - `sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_retries2`: what the kernel
 *   does if a program sets nothing else.
 *
 * It is beyond the tutorial, whose programs wait for ever.
 *
 * What is still missing: a peer that comes back. Its kernel does not know the
 * connection any more, and answers with a RST. Lesson 08 shows resets.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../lib/deadline.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { descriptorOf, openLibc } from "../lib/libc_socket.ts";
import { dropIncoming, passIncoming } from "../lib/packet_loss.ts";
import { connectPair } from "../lib/tcp_pair.ts";
import { cat, endOf, readTcpTable, type TcpRow } from "../lib/tcp_table.ts";

/** How long the demo waits for what may never come, in seconds. */
const PATIENCE = 5;

/**
 * Lets the kernel ask after 1 s of silence, twice, and wait 1 s each time.
 * This and `setUserTimeout` are for IPv4.
 */
export function setKeepAlive(conn: Deno.TcpConn): void {
  using libc = openLibc();
  const socket = descriptorOf(libc, conn);
  socket.setsockopt("SO_KEEPALIVE", 1);
  socket.setsockopt("TCP_KEEPIDLE", 1);
  socket.setsockopt("TCP_KEEPINTVL", 1);
  socket.setsockopt("TCP_KEEPCNT", 2);
}

/** Lets the kernel wait no longer than 1500 ms for an acknowledgement. */
export function setUserTimeout(conn: Deno.TcpConn): void {
  using libc = openLibc();
  descriptorOf(libc, conn).setsockopt("TCP_USER_TIMEOUT", 1500);
}

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

const PEERS = ["alive", "stuck", "dead", "dead, bytes sent"];
/** The remedies; `null` is a heartbeat. */
const REMEDIES: Record<string, ((conn: Deno.TcpConn) => void)[] | null> = {
  "none": [],
  "(a) keepalive, 1 + 2 * 1 s": [setKeepAlive],
  "(b) user timeout, 1.5 s": [setUserTimeout],
  "(a) and (b)": [setKeepAlive, setUserTimeout],
  "(c) heartbeat, 1 s": null,
};

/** Makes peers of all kinds, and shows who notices. */
export async function demo({
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  print("Options of a connection: the last one in ms, the others' times in s:");
  print(await kernelValues() + "\n");
  print(
    "The peer is dead. One side only reads, another one writes 1000 bytes a second:",
  );
  const [seen, noticed] = await Promise.all([timeline(), notice()]);
  print(seen + "\n");
  print(`Which error, after how many seconds? "-" is none in ${PATIENCE} s:`);
  print(noticed + "\n");
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
  setKeepAlive(pair.client);
  setUserTimeout(pair.client);
  const here = read();
  const rows = options.map((it, i) => [it, before[i]!, byDeno[i]!, here[i]!]);
  const found = ([, idle = 0, interval = 0, count = 0]: number[]) =>
    `${idle + interval * count} s`;
  const retries = await cat("/proc/sys/net/ipv4/tcp_retries2");
  return formatTable(["option", "new", "setKeepAlive(true)", "here"], rows) +
    `\n\nKeepalive alone finds a dead peer after ${found(byDeno)}, here ${
      found(here)
    }.` +
    `\nBytes are sent again about ${retries.trim()} times (tcp_retries2), here for 1.5 s.`;
}

/** What the kernel says, second by second, of a reader and a writer. */
async function timeline(): Promise<string> {
  using reader = await connectPair();
  using writer = await connectPair();
  using _reader = cutOff(reader.server);
  using _writer = cutOff(writer.server);
  reader.client.read(new Uint8Array(1)).catch(() => {}); // Ends with the pair.
  using progress = new Progress("waiting", PATIENCE);
  const show = (it: TcpRow) => `${it.state}, ${it.timer?.kind ?? "no timer"}`;
  const rows: (string | number)[][] = [];
  for (let second = 0; second <= PATIENCE; second++) {
    progress.update(second);
    await writer.client.write(new Uint8Array(1000));
    const table = await readTcpTable(); // One reading for both.
    const r = endOf(table, reader.client)!;
    const w = endOf(table, writer.client)!;
    rows.push([second, show(r), show(w), w.sendQueue, w.retransmits]);
    await delay(1000);
  }
  return formatTable([
    "s",
    "the reader",
    "the writer",
    "send queue",
    "sent again",
  ], rows);
}

/** Each remedy with each peer, all at the same time. */
async function notice(): Promise<string> {
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
  return formatTable(["", ...PEERS], await Promise.all(rows));
}

if (import.meta.main) {
  const title = "Dead peers: the other side is gone and says nothing";

  await runLesson(import.meta.url, title, {
    demo: {
      help: "dead peers, and who notices",
      flags: ["--allow-net", "--allow-ffi", "--allow-run=cat"],
      options: {},
      run: demo,
    },
  });
}
