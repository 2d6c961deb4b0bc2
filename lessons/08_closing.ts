/**
 * @title Closing: who sends FIN first, and who finds out
 * @difficulty intermediate
 * @tags tcp, close, closeWrite, FIN, RST, SO_LINGER, SIGINT, libc
 * @run deno run --allow-net --allow-ffi --allow-run=deno,cat lessons/08_closing.ts
 * @run deno run --allow-net --allow-run=cat lessons/08_closing.ts peer
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.6} RFC 9293, 3.6: closing a connection
 * @see 09_time_wait.ts
 * @see README.md, "08 Closing"
 *
 * A TCP connection is two streams, one in each direction. Each side ends its
 * own: it sends a FIN, which the other side acknowledges. These are four
 * segments, the "four-way close". A FIN says "no more from me", and not "I am
 * gone", so a client can still read its answer after `closeWrite`: the
 * connection is half-closed.
 *
 * The demo starts two processes of `peer()`, tells each what to call
 * (`SCENES`), and asks the kernel for the states of both ends each time. Look
 * who closes first, because that end waits in TIME-WAIT. The other end stays in
 * CLOSE-WAIT until its program closes, because nothing closes by itself. At
 * last a server ends with data unread. Its kernel sends a reset (RST), an error
 * for the client. Deno's own `close` hides that, because it sends a FIN first.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { formatAddress } from "../lib/address.ts";
import { counted } from "../lib/counted.ts";
import { encode } from "../lib/encode.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { quoteBytes } from "../lib/quote_bytes.ts";
import { writeFull } from "../lib/full_io.ts";
import { CalledProcess } from "../lib/harness/called_process.ts";
import {
  answerPipedCalls,
  type Calls,
  promptForCalls,
} from "../lib/harness/call_prompt.ts";
import { describeSockets } from "../lib/harness/describe_sockets.ts";
import type { Io } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { SequenceDiagram, type Side } from "../lib/harness/sequence_diagram.ts";
import { formatTable } from "../lib/harness/table.ts";
import { drawStates, TcpStates } from "../lib/harness/tcp_states.ts";
import {
  type Libc,
  openLibc,
  SIGINT,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import { dropIncoming, passIncoming } from "../lib/lab/packet_loss.ts";
import { PendingCalls, untilGivenUp } from "../lib/lab/pending_calls.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { endOf, readTcpTable, type TcpRow } from "../lib/lab/tcp_table.ts";

const LOOPBACK = "127.0.0.1";

/** What can be called at the prompt. */
const HELP = {
  listen: "[PORT]: makes a listener, by default on a free port",
  accept: "takes a connection from the queue, in the place of the last one",
  connect: "PORT: makes a connection, in the place of the last one",
  read: "takes what has come, at most 1024 bytes",
  write: "TEXT: gives it to the kernel, which sends it; \\n is a new line",
  closeWrite: "sends a FIN, and can still read",
  close: "closes the connection",
  unlisten: "closes the listener",
  pid: "the number of this process",
  exit: "ends this process, even with open sockets",
};

/** A listener, a connection, and the calls that somebody types. */
export async function peer(
  { piped = false, ...io }: { piped?: boolean } & Io,
): Promise<void> {
  let listener: Deno.TcpListener | undefined;
  let conn: Deno.TcpConn | undefined;
  /** The last connection: the kernel may still have what is closed. */
  let last: Deno.TcpConn | undefined;
  const accepts = new PendingCalls((it: Deno.TcpListener) => it.accept());
  const reads = new PendingCalls(readSome);
  const listening = () => {
    if (listener) return listener;
    throw new Error("Nothing listens: listen first");
  };
  const connected = () => {
    if (conn) return conn;
    throw new Error("No connection: listen and accept, or connect");
  };
  const replaceBy = (other: Deno.TcpConn) => {
    conn?.close();
    return last = conn = other;
  };
  const unlisten = async () => {
    const closed = listening();
    listener = undefined;
    closed.close();
    // The port is free when the accept() that was given up has ended, too.
    await accepts.on(closed)?.then((conn) => conn.close(), () => {});
  };
  const calls: Calls<keyof typeof HELP> = {
    async listen(text) {
      const port = toPort(text || "0");
      if (listener) await unlisten();
      listener = Deno.listen({ hostname: LOOPBACK, port });
      return formatAddress(listener.addr);
    },
    async accept(_, signal) {
      const other = replaceBy(await accepts.wait(listening(), signal));
      return formatAddress(other.remoteAddr);
    },
    async connect(text, signal) {
      const server = { hostname: LOOPBACK, port: toPort(text), signal };
      const { localAddr } = replaceBy(await Deno.connect(server));
      return `as ${formatAddress(localAddr)}`;
    },
    read: (_, signal) => reads.wait(connected(), signal),
    // A write that is given up goes on when there is room, and nobody is told how
    // much of it was written. But what comes later, the FIN too, stands behind it.
    async write(text, signal) {
      const data = encode(text.replaceAll("\\n", "\n"));
      const count = await untilGivenUp(connected().write(data), signal);
      const all = count < data.length ? `${count} of ` : "";
      return all + counted(data.length, "byte");
    },
    closeWrite: (_, signal) => untilGivenUp(connected().closeWrite(), signal),
    close() {
      connected().close();
      conn = undefined;
    },
    unlisten,
    pid: () => Deno.pid,
    exit: () => Deno.exit(0),
  };
  if (piped) return await answerPipedCalls(calls, io);
  const show = () => describeSockets(listener, last);
  await promptForCalls(calls, { help: HELP, show, ...io });
}

async function readSome(conn: Deno.TcpConn): Promise<string> {
  const buffer = new Uint8Array(1024);
  const count = await conn.read(buffer);
  if (count === null) return "end of stream";
  return `${counted(count, "byte")} ${quoteBytes(buffer.subarray(0, count))}`;
}

function toPort(text: string): number {
  if (/^\d+$/.test(text) && Number(text) <= 65535) return Number(text);
  throw new Error(`Not a port: ${JSON.stringify(text)}`);
}

/** A `peer` in a process of its own, told over a pipe what to call. */
const startPeer = () => new CalledProcess([import.meta.url, "peer", "--piped"]);

/** The port in what came of `listen` or `connect`. */
function portIn(text: string): number {
  const port = Number(text.match(/:(\d+)$/)?.[1]);
  if (!port) throw new Error(text);
  return port;
}

/** Which side calls what. An arrow: the other side notices the call. */
type Step = [who: Side, call: string, arrow?: "->"];

const OPEN: Step[] = [["client", "connect", "->"], ["server", "accept"]];
const inTurn = (first: Side, end: string, second: Side): Step[] => [
  ...OPEN,
  [first, end, "->"],
  [second, "read"],
  [second, "close", "->"],
];
const SCENES: Record<string, Step[]> = {
  "The client closes first (Q):": inTurn("client", "close", "server"),
  "The client gets Ctrl+C:": inTurn("client", "SIGINT", "server"),
  "The server gets Ctrl+C:": inTurn("server", "SIGINT", "client"),
  "The client ends its side only, and the server still answers:": [
    ...OPEN,
    ["client", "write question", "->"],
    ["client", "closeWrite", "->"],
    ["server", "read"],
    ["server", "read"],
    ["server", "write answer", "->"],
    ["client", "read"],
    ["server", "close", "->"],
    ["client", "read"],
    ["client", "close"],
  ],
};

/** Closes connections in all these ways. */
export async function demo({
  mermaid = false,
  print = console.log,
} = {}): Promise<void> {
  using libc = openLibc();
  const states = new TcpStates();
  const show = (title: string, diagram: SequenceDiagram) => {
    const explained = states.explain(diagram.paths());
    const drawn = `${diagram.draw()}\n\n${explained}`;
    print(`${title}\n${mermaid ? diagram.mermaid() : drawn}\n`);
  };
  for (const [title, steps] of Object.entries(SCENES)) {
    show(title, await play(libc, steps));
  }
  show("Both close at once, and the network is slow:", await closeAtOnce());
  if (mermaid) print(`How often each end went there:\n${states.mermaid()}\n`);
  print('Is it so? "When the server closes, the client closes by itself."');
  print(formatTable(["", "", "observed"], await claims()) + "\n");
  print("Deno's own close(), and abrupt ends:");
  const head = ["the server", "the client's read", "its next write"];
  print(formatTable(head, await abruptEnds(libc)));
}

/** Plays a scene with two processes, and asks the kernel after each step. */
async function play(libc: Libc, steps: Step[]): Promise<SequenceDiagram> {
  await using client = startPeer();
  await using server = startPeer();
  const peers = { client, server };
  const diagram = new SequenceDiagram();
  const port = portIn(await server.call("listen"));
  let clientPort = 0;

  for (const [who, call, arrow] of steps) {
    const at = performance.now();
    let what = call;
    if (call === "SIGINT") {
      const [, pid] = (await peers[who].call("pid")).split(" ");
      libc.call("kill", Number(pid), SIGINT); // What Ctrl+C does.
      await peers[who].ended();
    } else if (call === "connect") {
      what = await client.call(`connect ${port}`);
      clientPort = portIn(what);
    } else what = await peers[who].call(call);

    const end = {
      localAddr: { hostname: LOOPBACK, port: clientPort },
      remoteAddr: { hostname: LOOPBACK, port },
    };
    const event = { at, what, toPeer: arrow !== undefined };
    await drawStates(diagram.lane(who), event, end);
  }
  return diagram;
}

/** Each side closes before the other one's FIN has come: RFC 9293, 3.6, case 3. */
async function closeAtOnce(): Promise<SequenceDiagram> {
  using pair = await connectPair();
  const { client, server } = pair;
  const diagram = new SequenceDiagram();
  // Both FINs are lost, so that each side sends its own before the other's comes.
  for (const conn of [client, server]) dropIncoming(conn);
  for (const who of ["client", "server"] as const) {
    const at = performance.now();
    await pair[who].closeWrite();
    const lost = { at, what: "closeWrite", toPeer: true, isLost: true };
    await drawStates(diagram.lane(who), lost, client, () => false);
  }
  for (const conn of [client, server]) passIncoming(conn);
  const what = "each sends its FIN again";
  const sent = { at: performance.now(), what, toPeer: false };
  const isOpen = ({ state }: TcpRow) => state !== "TIME-WAIT";
  await drawStates(diagram.lane("client"), sent, client, isOpen);
  return diagram;
}

/** What happens to a client whose server closes, or does not. */
async function claims(): Promise<(string | number)[][]> {
  await using server = startPeer();
  const port = portIn(await server.call("listen"));
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  await server.call("accept");
  const state = async () => endOf(await readTcpTable(), conn)?.state ?? "gone";
  const rows: (string | number)[][] = [];

  await server.call("unlisten");
  rows.push(["the listener closes", "the client's end is", await state()]);
  await writeFull(conn, encode("hello"));
  rows.push(["", "the server", await server.call("read")]);
  const connect = async () =>
    (await Deno.connect({ hostname: LOOPBACK, port })).close();
  rows.push(["", "a new client", `${await outcomeOf(connect)}`]);

  const reading = readOnce(conn);
  const waiting = delay(200).then(() => "waits, after 200 ms");
  const first = await Promise.race([reading, waiting]);
  rows.push(["the connection is left open", "the client's read", first]);
  await server.call("exit");
  await server.ended();
  rows.push(["the server's process ends", "that read", await reading]);
  rows.push(["", "the client's end is", await state()]);
  conn.close();
  rows.push([
    "the client closes as well",
    "the client's end is",
    await state(),
  ]);
  return rows;
}

/** What a client finds out about a server that ends without reading. */
async function abruptEnds(libc: Libc): Promise<(string | number)[][]> {
  const rows: (string | number)[][] = [];
  /** Sends the server something, lets it end, then reads and writes. */
  const observe = async (
    how: string,
    port: number,
    unread: string,
    end: () => unknown,
  ) => {
    using conn = await Deno.connect({ hostname: LOOPBACK, port });
    await writeFull(conn, encode(unread));
    await end();
    const read = await readOnce(conn);
    const written = await outcomeOf(() => conn.write(encode("more")));
    rows.push([how, read, written]);
  };

  await using server = startPeer();
  const port = portIn(await server.call("listen"));
  await observe("Deno's close(), data unread", port, "data", async () => {
    await server.call("accept");
    await server.call("close");
  });
  await observe("process ends, data unread", port, "data", async () => {
    await server.call("accept");
    await server.call("exit");
    await server.ended();
  });

  using listener = libc.socket(SOCK_STREAM);
  listener.bind({ hostname: LOOPBACK, port: 0 });
  listener.listen(1);
  const libcPort = listener.getsockname().port;
  await observe("close(2), data unread", libcPort, "data", () => {
    listener.accept().close();
  });
  await observe("close(2), SO_LINGER 0", libcPort, "", () => {
    using socket = listener.accept();
    socket.setsockopt("SO_LINGER", 1, 0); // On, for 0 seconds.
  });
  return rows;
}

/** What one read brings, or its error. */
async function readOnce(conn: Deno.TcpConn): Promise<string | number> {
  const count = await outcomeOf(() => conn.read(new Uint8Array(64)));
  return count ?? "end of stream";
}

if (import.meta.main) {
  await runLesson(import.meta.url, {
    demo: {
      help: "two processes that close in every way, and their states",
      options: {
        mermaid: { default: false, help: "the diagrams for Mermaid" },
      },
      show: "table",
      run: demo,
    },
    peer: {
      help: "a prompt for the calls of a socket, and their states",
      options: {
        piped: { default: false, help: "as demo runs it: ends with its input" },
      },
      run: peer,
    },
  });
}
