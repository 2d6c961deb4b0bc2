/**
 * @title Dead peers: the other side is gone and says nothing
 * @difficulty advanced
 * @tags tcp, SO_KEEPALIVE, TCP_USER_TIMEOUT, heartbeat, SO_ATTACH_FILTER, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/14_dead_peers.ts
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT, tcp_retries2
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_KEEPALIVE, SO_ATTACH_FILTER
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.3} RFC 9293, 3.8.3: how long TCP sends again
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.4} RFC 9293, 3.8.4: keep-alives, off unless asked for
 * @resource {https://www.rfc-editor.org/rfc/rfc5482} RFC 5482: the user timeout
 * @see 11_deadlines.ts
 * @see 13_streams.ts
 *
 * A process that ends says so: the kernel sends a FIN or a RST for it. A host
 * that loses its power says nothing, and neither does a cable that is pulled.
 * The connection then looks as it always has. This lesson makes such peers, and
 * shows who notices: nobody at first, and then each of four remedies.
 *
 * What to look at:
 * - `cutOff` makes a dead peer without root. A filter on the peer's socket drops
 *   all that comes in, so this side gets no answer, as if the network had failed.
 * - (a) A reader that only waits is never told. Its socket stays ESTABLISHED, and
 *   the kernel runs no timer for it.
 * - (b) `setKeepAlive(true)` lets the kernel ask the other side's kernel. But its
 *   first question comes after two hours. With the times of `setKeepAlive` here
 *   the read ends with ETIMEDOUT after three seconds.
 * - (c) A writer does not notice either: its bytes go into the send queue. The
 *   kernel sends them again, and waits twice as long each time. By itself it gives
 *   up after a quarter of an hour. TCP_USER_TIMEOUT says when.
 * - Keepalive does not help (c): while bytes are under way, the kernel asks no
 *   questions. And TCP_USER_TIMEOUT does not help (a). Both together help both.
 * - (d) A heartbeat asks the other side's program, with a deadline for the answer.
 *   It needs no libc. It finds a program that hangs as well, whose kernel still
 *   answers for it.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `conn.setKeepAlive(true)` | `setsockopt(SO_KEEPALIVE)` |
 * | `socket.setsockopt` | `setsockopt(TCP_KEEPIDLE)` and so on |
 * | `socket.dropIncoming`, `passIncoming` | `setsockopt(SO_ATTACH_FILTER)`, `setsockopt(SO_DETACH_FILTER)` |
 * | `conn.read` of a dead peer | `recvfrom` returns EAGAIN, `epoll_wait`; in the end ETIMEDOUT |
 * | `withDeadline` | none: a timer of the event loop |
 *
 * Deno has no call for these options but `setKeepAlive`. They go through libc
 * (`--allow-ffi`). The lists of the kernel are read by `cat` (`--allow-run=cat`).
 *
 * Try it:
 * - `deno task dead_peers`: three tables of what was seen, and one of what to use.
 * - `ss -tno`, in another terminal meanwhile: the timers of all these sockets,
 *   `keepalive` and `on` (for sending again).
 * - `sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_retries2`: when the kernel
 *   asks, and how often it sends again, where nobody says anything else.
 *
 * It is beyond the tutorial, whose programs wait for ever.
 *
 * What is still missing: a peer that comes back. Its kernel knows nothing of the
 * connection, and answers the next segment by a RST. Lesson 08 shows what that
 * looks like.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../lib/deadline.ts";
import { mode } from "../lib/harness/command_line.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  type Libc,
  type LibcDescriptor,
  openLibc,
} from "../lib/libc_socket.ts";
import { connectPair } from "../lib/tcp_pair.ts";
import { cat, readTcpTable, type TcpRow } from "../lib/tcp_table.ts";

/** How long the demo waits for what may never come, in seconds. */
const PATIENCE = 5;

/** Lets the kernel ask after 1 s of silence, and then 2 times in 1 s each. */
export function setKeepAlive(socket: LibcDescriptor): void {
  socket.setsockopt("SO_KEEPALIVE", 1);
  socket.setsockopt("TCP_KEEPIDLE", 1);
  socket.setsockopt("TCP_KEEPINTVL", 1);
  socket.setsockopt("TCP_KEEPCNT", 2);
}

/** Lets the kernel wait no longer than 1500 ms for an acknowledgement. */
export function setUserTimeout(socket: LibcDescriptor): void {
  socket.setsockopt("TCP_USER_TIMEOUT", 1500);
}

/** Asks the other side's program, which echoes, until no echo comes in time. */
export async function heartbeat(
  conn: Deno.Conn,
  timeout = 1000,
): Promise<void> {
  const buffer = new Uint8Array(1);
  const giveUp = () => conn[Symbol.dispose]();
  for (let count: number | null = 1; count !== null;) {
    await conn.write(buffer);
    count = await withDeadline(conn.read(buffer), timeout, giveUp);
    await delay(timeout / 2);
  }
}

/** The network loses all that comes for this end, until it is disposed of. */
function cutOff(libc: Libc, conn: Deno.TcpConn): Disposable {
  const socket = libc.descriptorOf(conn);
  socket.dropIncoming();
  return { [Symbol.dispose]: () => socket.passIncoming() };
}

const PEERS = ["alive", "stuck", "dead", "dead, bytes sent"];
/** What is done about them; `null` is a heartbeat. */
const REMEDIES: Record<string, ((it: LibcDescriptor) => void)[] | null> = {
  "none": [],
  "(b) keepalive, 1 + 2 * 1 s": [setKeepAlive],
  "(c) user timeout, 1.5 s": [setUserTimeout],
  "(b) and (c)": [setKeepAlive, setUserTimeout],
  "(d) heartbeat, 1 s": null,
};

/** Makes peers of all kinds, and sees who notices. */
export async function demo({
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  using libc = openLibc();
  print("Options of a connection: the last one in ms, other times in s");
  print(await kernelValues(libc));
  const retries = await cat("/proc/sys/net/ipv4/tcp_retries2");
  print(`A segment is sent again tcp_retries2 = ${retries.trim()} times\n`);

  const noticing = notice(libc);
  print("The peer is dead. (a) only reads, (c) writes 1000 bytes each second:");
  print(await timeline(libc) + "\n");
  print(
    `After how many seconds is there an error? "-" is none in ${PATIENCE} s`,
  );
  print(await noticing + "\n");
  print("When to use which:");
  print(formatTable(["for", "use"], [
    ["a connection on which nothing is sent", "(b) SO_KEEPALIVE and its times"],
    ["bytes that must arrive in time", "(c) TCP_USER_TIMEOUT"],
    ["a program that may hang; no libc", "(d) a heartbeat"],
    ["one answer to one request", "a deadline, as in lesson 11"],
  ]));
}

/** The kernel's own times are long: keepalive ends after 7200 + 9 * 75 s. */
async function kernelValues(libc: Libc): Promise<string> {
  using pair = await connectPair();
  const socket = libc.descriptorOf(pair.client);
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
  setKeepAlive(socket);
  setUserTimeout(socket);
  const here = read();
  const rows = options.map((it, i) => [it, before[i], byDeno[i], here[i]]);
  return formatTable(["option", "new", "setKeepAlive(true)", "here"], rows);
}

/** What the kernel says, second by second, of a reader and a writer. */
async function timeline(libc: Libc): Promise<string> {
  using reader = await connectPair();
  using writer = await connectPair();
  using _reader = cutOff(libc, reader.server);
  using _writer = cutOff(libc, writer.server);
  reader.client.read(new Uint8Array(1)).catch(() => {}); // Ends with the pair.
  using progress = new Progress("waiting", PATIENCE);
  const show = (row: TcpRow) =>
    `${row.state}, ${row.timer?.kind ?? "no timer"}`;
  const rows: (string | number)[][] = [];
  for (let second = 0; second <= PATIENCE; second++) {
    progress.update(second);
    await writer.client.write(new Uint8Array(1000));
    const table = await readTcpTable(); // One look for both.
    const { client: a } = await reader.rows(table);
    const { client: c } = await writer.rows(table);
    rows.push([second, show(a!), show(c!), c!.sendQueue, c!.retransmits]);
    await delay(1000);
  }
  return formatTable(["s", "(a)", "(c)", "send queue", "sent again"], rows);
}

/** Each remedy with each peer, all at the same time. */
async function notice(libc: Libc): Promise<string> {
  const watch = async (remedies: typeof REMEDIES[string], peer: string) => {
    using pair = await connectPair();
    const { client, server } = pair;
    const socket = libc.descriptorOf(client);
    remedies?.forEach((remedy) => remedy(socket));
    if (peer === "alive") {
      server.readable.pipeTo(server.writable).catch(() => {});
    }
    using _cut = peer.startsWith("dead") ? cutOff(libc, server) : null;
    if (peer === PEERS[3]) await client.write(new Uint8Array(1000));
    const start = performance.now();
    const use = remedies ? client.read(new Uint8Array(1)) : heartbeat(client);
    return await Promise.race([use, delay(PATIENCE * 1000)])
      .then(() => "-", ({ code, name }) => {
        const seconds = (performance.now() - start) / 1000;
        return `${seconds.toFixed(1)} ${code ?? name}`;
      });
  };
  const rows = Object.entries(REMEDIES).map(async ([name, remedies]) => [
    name,
    ...await Promise.all(PEERS.map((peer) => watch(remedies, peer))),
  ]);
  return formatTable(["", ...PEERS], await Promise.all(rows));
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Dead peers: the other side is gone and says nothing",
    modes: {
      demo: mode({
        help: "dead peers, and who notices",
        flags: ["--allow-net", "--allow-ffi", "--allow-run=cat"],
        options: {},
        run: demo,
      }),
    },
  });
}
