/**
 * @title TIME-WAIT and SO_REUSEADDR: starting again at once
 * @difficulty intermediate
 * @tags tcp, TIME-WAIT, LAST-ACK, SO_REUSEADDR, bind, EADDRINUSE, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/09_time_wait.ts
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.4.1} RFC 9293, 3.4.1: why a connection's name must rest
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.4.2} RFC 9293, 3.4.2: the maximum segment lifetime (MSL)
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.6.1} RFC 9293, 3.6.1: TIME-WAIT, half-closed connections
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.10.7.4} RFC 9293, 3.10.7.4: a FIN in TIME-WAIT is acknowledged again
 * @resource {https://www.rfc-editor.org/rfc/rfc8985#section-7} RFC 8985, 7: the tail loss probe, the first repetition
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_REUSEADDR
 * @resource {https://www.rfc-editor.org/rfc/rfc5082} RFC 5082: packets whose TTL is too small (IP_MINTTL)
 * @see 08_closing.ts
 * @see 10_framing.ts
 *
 * The side that closes first has to wait: its end of the connection stays in
 * TIME-WAIT. If that was the server, its port is still in use when it starts
 * again, and `bind` fails. This lesson lets servers close first, and binds
 * their ports again, with SO_REUSEADDR and without. Then it shows what
 * TIME-WAIT is good for: it loses the last ACK of a connection, and prints what
 * both ends do about it. That part takes four seconds.
 *
 * What to look at:
 * - `bind()` sets SO_REUSEADDR before it binds. After `bind` it would be too
 *   late.
 * - `closeInTurn()` decides who is first.
 * - `loseLastAck()` makes a network that fails, without root. IP_MINTTL tells a
 *   socket to take only packets with the largest TTL. Linux sends with a smaller
 *   one, so the kernel drops all that comes in for this socket.
 * - The states and timers come from the kernel's list of sockets. Each row of a
 *   table comes from one reading.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `libc.socket` and `bind` | `socket` and `bind`, and no option |
 * | `setsockopt("SO_REUSEADDR", 1)` | `setsockopt` |
 * | `dropIncoming` | `setsockopt(IP_MINTTL, 255)` |
 * | `passIncoming` | `setsockopt(IP_MINTTL, 0)` |
 *
 * `Deno.listen` always sets SO_REUSEADDR: one cannot turn that off. The servers
 * without it are made through libc (`--allow-ffi`). The kernel's list is read
 * by `cat` (`--allow-run=cat`).
 *
 * Try it:
 * - `deno task time_wait --wait`: until the kernel lets a port go, about a
 *   minute.
 * - `deno task tcp_echo server --connections 0 --quiet`, in another terminal
 *   `deno task tcp_echo client`, and then press Ctrl+C in the server's terminal
 *   first. `ss -tan | grep 9527` shows FIN-WAIT-2, and when the client has
 *   ended by `q`, TIME-WAIT. The server starts again all the same:
 *   `Deno.listen` has set SO_REUSEADDR.
 * - Do the same with the tutorial's C++ server: `bind failed!`.
 *
 * In the tutorial it is "Time-wait", "bind error", "SO_REUSEADDR", and why
 * there is a TIME-WAIT and when its timer starts again. The tutorial describes
 * all that, and does not show it. What it gets wrong:
 * - "大约三分钟" (about three minutes). The timer below says how long it is.
 *   Linux has a fixed time in its source (TCP_TIMEWAIT_LEN). RFC 9293 asks for
 *   twice the maximum segment lifetime, which it sets to two minutes.
 * - SO_REUSEADDR is its cure for the server that starts again. But on Linux the
 *   server that has ended must have set it too. So set it before the first start.
 * - The client "need not be considered", because its port is another one each
 *   time. That is true until a client of many connections has used up its ports.
 * - It gives one reason for TIME-WAIT, and there is another: segments of the old
 *   connection that are still on their way must not be taken for those of a new
 *   one between the same two addresses (RFC 9293, 3.4.1).
 *
 * What is still missing: so far, the reader took one `read` as one message, or
 * knew how much was sent. Lesson 10 tells the reader how long a message is.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { formatAddress, outcomeOf } from "../lib/describe.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  descriptorOf,
  type Libc,
  type LibcSocket,
  openLibc,
  SOCK_STREAM,
} from "../lib/libc_socket.ts";
import { dropIncoming, passIncoming } from "../lib/packet_loss.ts";
import { connectPair } from "../lib/tcp_pair.ts";
import { endOf, readTcpTable, type TcpRow } from "../lib/tcp_table.ts";

const LOOPBACK = "127.0.0.1";
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

/** Starts servers again that have closed first, and loses a last ACK. */
export async function demo({
  wait = false,
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  using libc = openLibc();

  print("A server closes first. Its port's sockets, as the kernel lists them:");
  const { local, remote, state, timer } = await serveOnce(libc, false);
  print(formatTable(["own address", "other side", "state", "timer"], [[
    formatAddress(local),
    formatAddress(remote),
    state,
    `${seconds(timer!.milliseconds)} left`,
  ]]));

  print("\nThe server starts again on that port. Does bind(2) work?");
  const restarts: string[][] = [];
  for (const before of [false, true]) {
    for (const after of [false, true]) {
      const { port } = (await serveOnce(libc, before)).local;
      const result = await tryBind(libc, port, after);
      restarts.push([`${before}`, `${after}`, result]);
    }
  }
  const had = "the old one had SO_REUSEADDR";
  print(formatTable([had, "the new one has it", "bind(2)"], restarts));

  print("\nAnd in Deno:");
  print(formatTable(["", "observed"], await denoRestarts(libc)));
  print("\nThe client closes first:");
  print(formatTable(["", "observed"], await clientFirst(libc)));

  print("\nA port that somebody still listens on:");
  using listener = bind(libc, 0, true);
  listener.listen(1);
  const { port } = listener.getsockname();
  print(formatTable(["SO_REUSEADDR", "bind(2)"], [
    ["false", await tryBind(libc, port, false)],
    ["true", await tryBind(libc, port, true)],
  ]));

  print("\nWhy TIME-WAIT?");
  await loseLastAck(print);
  print(`
B has no answer to its FIN, and sends it again, each time after twice as long.
The kernel counts that ("again"), but no probe, which the first one may be.
A is in TIME-WAIT: it still knows the connection. So at each FIN it can answer,
and starts its wait anew. Had A forgotten the connection, its answer would be a
reset: for B an error, where there was none.`);

  if (wait) {
    print(`\nPort ${local.port}, without SO_REUSEADDR, until bind(2) works:`);
    print(await waitForPort(libc, local.port));
  }
}

/** A socket that is bound, with SO_REUSEADDR or without. */
function bind(libc: Libc, port: number, reuse: boolean): LibcSocket {
  const socket = libc.socket(SOCK_STREAM);
  try {
    if (reuse) socket.setsockopt("SO_REUSEADDR", 1);
    socket.bind({ hostname: LOOPBACK, port });
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

async function tryBind(libc: Libc, port: number, reuse: boolean) {
  return await outcomeOf(() => bind(libc, port, reuse).close()) ?? "works";
}

/** One side closes. The other one closes when it has read the end. */
async function closeInTurn(first: { close(): void }, second: Deno.TcpConn) {
  first.close();
  await second.read(new Uint8Array(1));
  second.close();
}

/** A server that closes first. Returns what the kernel lists afterwards. */
async function serveOnce(libc: Libc, reuse: boolean): Promise<TcpRow> {
  using listener = bind(libc, 0, reuse);
  listener.listen(1);
  const { port } = listener.getsockname();
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  using accepted = listener.accept();
  await closeInTurn(accepted, conn);
  return await timeWait(port);
}

/** Waits for the kernel to list a port in TIME-WAIT, which takes a moment. */
async function timeWait(port: number): Promise<TcpRow> {
  for (const end = performance.now() + 2000; performance.now() < end;) {
    const row = (await readTcpTable()).find(({ local, state }) =>
      local.port === port && state === "TIME-WAIT"
    );
    if (row) return row;
  }
  throw new Error(`Port ${port} is not in TIME-WAIT`);
}

async function denoRestarts(libc: Libc): Promise<string[][]> {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const option = descriptorOf(libc, listener).getsockopt("SO_REUSEADDR");
  const { client, server } = await connectPair();
  await closeInTurn(server, client);
  const { port } = (await timeWait(server.localAddr.port)).local;
  const without = (await serveOnce(libc, false)).local.port;
  const tryListen = async (port: number) => {
    const listen = () => Deno.listen({ hostname: LOOPBACK, port }).close();
    return await outcomeOf(listen) ?? "works";
  };
  return [
    ["SO_REUSEADDR of a Deno.listen", `${option}`],
    ["Deno.listen, after one that closed first", await tryListen(port)],
    ["Deno.listen, after one without SO_REUSEADDR", await tryListen(without)],
  ];
}

async function clientFirst(libc: Libc): Promise<string[][]> {
  const { client, server } = await connectPair();
  await closeInTurn(client, server);
  const { local } = await timeWait(client.localAddr.port);
  const { port } = server.localAddr;
  return [
    ["the server's port", `${port}`],
    ["TIME-WAIT is at", formatAddress(local)],
    ["bind(2) of the server's port", await tryBind(libc, port, false)],
  ];
}

const HEAD = [
  "second",
  "B's state",
  "again",
  "next in",
  "A's state",
  "A's timer",
  "what it means",
];

/** Prints a row of that table, with what it means. */
type Show = (meaning: string) => unknown;

/** A closes first. Its ACK of B's FIN is lost until B has tried in vain. */
async function loseLastAck(print: (line: string) => unknown) {
  using pair = await connectPair();
  const { client: a, server: b } = pair;
  a.close();
  await b.read(new Uint8Array(1)); // null: A's FIN has come.
  dropIncoming(b);
  await b.closeWrite();

  const [A, B] = [a, b].map(({ localAddr }) => localAddr.port);
  print(`A (${A}) closed first, now B (${B}) closes, and A's ACK is lost:`);
  print(formatTable(HEAD, []));
  const start = performance.now();
  let isLossy = true;
  let before:
    | { left: number; again: number | undefined; show?: Show }
    | undefined;
  for (; performance.now() < start + 30_000; await delay(20)) {
    const rows = await readTcpTable(); // One reading for both ends.
    const time = performance.now() - start;
    const endA = endOf(rows, a);
    const endB = endOf(rows, b);
    if (endA?.state !== "TIME-WAIT") continue;
    const left = endA.timer!.milliseconds;
    const again = endB?.retransmits;
    const cells = [
      (time / 1000).toFixed(2),
      endB?.state ?? "gone",
      again ?? "",
      endB ? seconds(endB.timer?.milliseconds ?? 0) : "",
      endA.state,
      seconds(left),
    ];
    const show: Show = (meaning) =>
      print(formatTable(HEAD, [[...cells, meaning]], { hasHead: false }));

    if (before && again === before.again && left <= before.left) {
      before = { left, again, show }; // Nothing new, to be shown if it is the last.
    } else {
      before?.show?.("A waits");
      if (!before) show("A's ACK is lost");
      else show(endB ? "FIN again: A restarts" : "at last B has its ACK");
      before = { left, again };
    }
    if (again === undefined) return;
    if (isLossy && again >= 3) {
      passIncoming(b);
      isLossy = false;
    }
  }
  throw new Error("B did not get its ACK");
}

/** Waits for TIME-WAIT to end, and binds. */
async function waitForPort(libc: Libc, port: number): Promise<string> {
  const start = performance.now();
  const total = (await timeWait(port)).timer!.milliseconds;
  using progress = new Progress("TIME-WAIT", total);
  for (let result; (result = await tryBind(libc, port, false)) !== "works";) {
    if (result !== "EADDRINUSE") throw new Error(`bind: ${result}`);
    progress.update(performance.now() - start);
    await delay(200);
  }
  return `bind(2) works after ${seconds(performance.now() - start)}; ` +
    `the timer had ${seconds(total)} left.`;
}

if (import.meta.main) {
  const title = "TIME-WAIT and SO_REUSEADDR: starting again at once";
  const wait = { default: false, help: "wait until the kernel lets a port go" };

  await runLesson(import.meta.url, title, {
    demo: {
      help: "servers that close first, and start again",
      flags: ["--allow-net", "--allow-ffi", "--allow-run=cat"],
      options: { wait },
      run: demo,
    },
  });
}
