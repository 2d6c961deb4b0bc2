/**
 * @title TIME-WAIT and SO_REUSEADDR: starting again at once
 * @difficulty intermediate
 * @tags tcp, TIME-WAIT, LAST-ACK, SO_REUSEADDR, bind, EADDRINUSE, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/09_time_wait.ts
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.6.1} RFC 9293, 3.6.1: TIME-WAIT, half-closed connections
 * @see 08_closing.ts
 * @see README.md, "09 TIME-WAIT and SO_REUSEADDR"
 *
 * The side that closes first has to wait: its end of the connection stays in
 * TIME-WAIT. If that was the server, its port is still in use when it starts
 * again, so `bind` fails, unless both the old and the new socket have
 * SO_REUSEADDR. `bind()` sets it before it binds, because afterwards is too
 * late. `closeInTurn()` decides who closes first.
 *
 * But why wait? The last ACK may be lost, and then the other side repeats its
 * FIN (a retransmission). An end that has forgotten the connection would answer
 * with a reset. `loseLastAck()` shows that, and takes four seconds. It makes a
 * network that fails, without root: IP_MINTTL tells a socket to take only
 * packets with the largest TTL, and Linux sends with a smaller one, so the
 * kernel drops all that comes in. The states and timers are from the kernel's
 * own list of sockets.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { formatAddress } from "../lib/address.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { explainState } from "../lib/harness/tcp_states.ts";
import { drawTimeline } from "../lib/harness/timeline.ts";
import {
  descriptorOf,
  type Libc,
  type LibcSocket,
  openLibc,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import { dropIncoming, passIncoming } from "../lib/lab/packet_loss.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { endOf, readTcpTable, type TcpRow } from "../lib/lab/tcp_table.ts";

const LOOPBACK = "127.0.0.1";
/** How often B sends its FIN again in vain. */
const LOST = 4;
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

/** Starts servers again that have closed first, and loses a last ACK. */
export async function demo({
  wait = false,
  print = console.log,
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
  print(
    "\nA Deno.listen is closed while its accept() waits. Is the port free?",
  );
  print(formatTable(["when", "Deno.listen"], await closeWhileAccepting()));

  print(`
Why TIME-WAIT? The last ACK may be lost. Then the other side sends its FIN
again, and only an end that still knows the connection can acknowledge it.`);
  print(await loseLastAck(libc, print));

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

async function tryListen(port: number) {
  const listen = () => Deno.listen({ hostname: LOOPBACK, port }).close();
  return await outcomeOf(listen) ?? "works";
}

async function denoRestarts(libc: Libc): Promise<string[][]> {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const option = descriptorOf(libc, listener).getsockopt("SO_REUSEADDR");
  const { client, server } = await connectPair();
  await closeInTurn(server, client);
  const { port } = (await timeWait(server.localAddr.port)).local;
  const without = (await serveOnce(libc, false)).local.port;
  return [
    ["SO_REUSEADDR of a Deno.listen", `${option}`],
    ["Deno.listen, after one that closed first", await tryListen(port)],
    ["Deno.listen, after one without SO_REUSEADDR", await tryListen(without)],
  ];
}

/** An accept() that waits keeps the socket open until it has ended itself. */
async function closeWhileAccepting(): Promise<string[][]> {
  const listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const accepting = listener.accept().catch((error) => error.name);
  listener.close();
  const atOnce = await tryListen(port);
  const end = await accepting;
  return [
    ["at once", atOnce],
    [`the accept() has ended: ${end}`, await tryListen(port)],
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
  "FIN again",
  "next in",
  "A's state",
  "A's timer",
  "what it means",
];

/**
 * A closes first. Its ACK of B's FIN is lost until B has tried in vain.
 *
 * @returns What was seen, in words.
 */
async function loseLastAck(libc: Libc, print: (line: string) => unknown) {
  using pair = await connectPair();
  const { client: a, server: b } = pair;
  a.close();
  await b.read(new Uint8Array(1)); // null: A's FIN has come.
  dropIncoming(b);
  const socket = descriptorOf(libc, b);
  await b.closeWrite();

  const [A, B] = [a, b].map(({ localAddr }) => localAddr.port);
  print(`A (${A}) closed first, now B (${B}) closes, and A's ACK is lost:`);
  print(formatTable(HEAD, []));
  const start = performance.now();
  const fins = [0];
  const restarts: number[] = []; // Of A's timer.
  let before: { left: number; again: number } | undefined;
  let showWait = () => {}; // Of the last look, if nothing new was seen then.
  for (; performance.now() < start + 30_000; await delay(20)) {
    const again = socket.retransmits();
    const rows = await readTcpTable(); // One reading for both ends.
    const endA = endOf(rows, a);
    const endB = endOf(rows, b);
    if (endA?.state !== "TIME-WAIT") continue;
    if (socket.retransmits() !== again) continue; // Before the reading, or after?

    const time = (performance.now() - start) / 1000;
    const left = endA.timer!.milliseconds;
    const isFin = again > (before?.again ?? 0);
    const isRestarted = before !== undefined && left > before.left;
    if (isFin) fins.push(time);
    if (isRestarted) restarts.push(time);
    const cells = [
      time.toFixed(2),
      endB?.state ?? "gone",
      again,
      endB ? seconds(endB.timer?.milliseconds ?? 0) : "",
      endA.state,
      seconds(left),
    ];
    const row = (meaning: string) =>
      print(formatTable(HEAD, [[...cells, meaning]], { hasHead: false }));
    const show = (meaning: string) => {
      showWait();
      showWait = () => {};
      row(meaning);
    };
    if (!endB) {
      show(isRestarted ? "B has its ACK" : "B has given up");
      return lostAck(fins, restarts, isRestarted);
    }
    if (before === undefined) show("A's ACK is lost");
    else if (isRestarted) show("A's timer restarts");
    else if (isFin) show("FIN sent again");
    else showWait = () => row("A waits");
    before = { left, again };
    if (again >= LOST) passIncoming(b);
  }
  throw new Error("B did not get its ACK");
}

/** What was seen: when B sent its FIN, and A's timer began anew, in seconds. */
function lostAck(fins: number[], restarts: number[], isAcked: boolean): string {
  const times = fins.slice(1).map((time) => time.toFixed(2)).join(", ");
  const marks = (times: number[], text: string) =>
    times.map((at): [number, string] => [at, text]);
  const rows = [
    { label: "B sends its FIN", marks: marks(fins, "F") },
    { label: "A's timer restarts", marks: marks(restarts, "R") },
  ];
  return `
${["LAST-ACK", "TIME-WAIT"].map(explainState).join("\n")}

B had no answer to its FIN, and sent it again after
${times} s. Then it ${isAcked ? "had its ACK" : "gave up"}.
A still knew the connection: ${restarts.length} times its timer was seen to begin anew.

${drawTimeline("seconds", rows)}`;
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
  const wait = { default: false, help: "wait until the kernel lets a port go" };

  await runLesson(import.meta.url, {
    demo: {
      help: "servers that close first, and start again",
      options: { wait },
      show: "table",
      run: demo,
    },
  });
}
