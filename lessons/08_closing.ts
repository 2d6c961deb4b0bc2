/**
 * @title Closing: who sends FIN first, and who finds out
 * @difficulty intermediate
 * @tags tcp, close, closeWrite, FIN, RST, SO_LINGER, SIGINT, libc
 * @run deno run --allow-net --allow-ffi --allow-run=deno,cat lessons/08_closing.ts
 * @run deno run --allow-net lessons/08_closing.ts peer
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

import { encode } from "../lib/encode.ts";
import { setTimeout as delay } from "node:timers/promises";
import { formatAddress } from "../lib/address.ts";
import { describeError, outcomeOf } from "../lib/error_text.ts";
import { quoteBytes } from "../lib/quote_bytes.ts";
import { writeFull } from "../lib/full_io.ts";
import { spawnDeno } from "../lib/harness/child.ts";
import { textLines } from "../lib/harness/text_lines.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { SequenceDiagram, type Side } from "../lib/harness/sequence_diagram.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  type Libc,
  openLibc,
  SIGINT,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import { askLines } from "../lib/ask_lines.ts";
import { dropIncoming, passIncoming } from "../lib/lab/packet_loss.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { endOf, readTcpTable } from "../lib/lab/tcp_table.ts";

const LOOPBACK = "127.0.0.1";

/** One socket, and the calls that somebody types. */
export async function peer({
  lines = askLines("call> "),
  piped = false,
  print = console.log,
} = {}): Promise<void> {
  let listener: Deno.TcpListener | undefined;
  let conn: Deno.TcpConn | undefined;
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
    return conn = other;
  };
  const calls: Record<string, (operand: string) => unknown> = {
    listen(port) {
      listener?.close();
      listener = undefined;
      listener = Deno.listen({ hostname: LOOPBACK, port: toPort(port || "0") });
      return formatAddress(listener.addr);
    },
    accept: async () =>
      formatAddress(replaceBy(await listening().accept()).remoteAddr),
    async connect(text) {
      const server = { hostname: LOOPBACK, port: toPort(text) };
      const { localAddr } = replaceBy(await Deno.connect(server));
      return `as ${formatAddress(localAddr)}`;
    },
    async read() {
      const buffer = new Uint8Array(1024);
      const count = await connected().read(buffer);
      if (count === null) return "end of stream";
      return `${count} bytes ${quoteBytes(buffer.subarray(0, count))}`;
    },
    write: async (text) =>
      `${await writeFull(connected(), encode(text))} bytes`,
    closeWrite: () => connected().closeWrite(),
    close() {
      connected().close();
      conn = undefined;
    },
    unlisten() {
      listening().close();
      listener = undefined;
    },
    pid: () => Deno.pid,
    exit: () => Deno.exit(0), // Even with open sockets.
  };
  // As a child it reads ahead, and ends with its input whatever it waits for: an
  // accept() would outlive the demo otherwise.
  const end = { flush: () => Deno.exit(0) };
  const ahead = new TransformStream(end, undefined, {
    highWaterMark: Infinity,
  });
  const input = piped ? ReadableStream.from(lines).pipeThrough(ahead) : lines;
  for await (const line of input) {
    const [, name = "", operand = ""] = new TextDecoder().decode(line).trim()
      .match(/^(\S*) ?(.*)$/s)!;
    try {
      const call = Object.hasOwn(calls, name) && calls[name];
      if (!call) {
        throw new Error(`one of ${Object.keys(calls).join(", ")}`);
      }
      print(`${name} ${await call(operand) ?? ""}`.trimEnd());
    } catch (error) {
      print(`${name}: ${describeError(error)}`);
    }
  }
}

function toPort(text: string): number {
  if (/^\d+$/.test(text) && Number(text) <= 65535) return Number(text);
  throw new Error(`Not a port: ${JSON.stringify(text)}`);
}

/** A `peer` in a process of its own, told over a pipe what to call. */
class RemotePeer implements AsyncDisposable {
  #child = spawnDeno([import.meta.url, "peer", "--piped"]);
  #input = this.#child.stdin.getWriter();
  #output = textLines(this.#child.stdout);

  /** Makes a call, and returns what came out: of `exit` nothing does. */
  async call(line: string): Promise<string> {
    await this.#input.write(encode(line + "\n")).catch(() => {}); // See below.
    const { value = "" } = await this.#output.next();
    if (value === "" && line !== "exit") {
      throw new Error(`${line}: the process has ended`);
    }
    return value;
  }

  /** Makes a call that returns a port. */
  async callForPort(line: string): Promise<{ text: string; port: number }> {
    const text = await this.call(line);
    const port = Number(text.match(/:(\d+)$/)?.[1]);
    if (!port) throw new Error(text);
    return { text, port };
  }

  /** Starts to listen, and returns the port. */
  async listen(): Promise<number> {
    return (await this.callForPort("listen")).port;
  }

  /** Waits until the process has ended. */
  async ended(): Promise<void> {
    while (!(await this.#output.next()).done);
    await this.#child.status;
  }

  async [Symbol.asyncDispose]() {
    await this.#input.close().catch(() => {}); // It may have ended already.
    await this.ended();
  }
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
  for (const [title, steps] of Object.entries(SCENES)) {
    const diagram = await play(libc, steps);
    print(`${title}\n${mermaid ? diagram.mermaid() : diagram.draw()}\n`);
  }
  const both = await closeAtOnce();
  const title = "Both close at once, and the network is slow:";
  print(`${title}\n${mermaid ? both.mermaid() : both.draw()}\n`);
  print('"When the server closes, the client closes by itself":');
  print(formatTable(["", "", "observed"], await claims()) + "\n");
  print("Deno's own close(), and abrupt ends:");
  const head = ["the server", "the client's read", "its next write"];
  print(formatTable(head, await abruptEnds(libc)));
}

/** Plays a scene with two processes, and asks the kernel after each step. */
async function play(libc: Libc, steps: Step[]): Promise<SequenceDiagram> {
  await using client = new RemotePeer();
  await using server = new RemotePeer();
  const peers = { client, server };
  const diagram = new SequenceDiagram();
  const port = await server.listen();
  let clientPort = 0;

  for (const [who, call, arrow] of steps) {
    const at = performance.now();
    let what = call;
    if (call === "SIGINT") {
      const [, pid] = (await peers[who].call("pid")).split(" ");
      libc.call("kill", Number(pid), SIGINT); // What Ctrl+C does.
      await peers[who].ended();
    } else if (call === "connect") {
      const connected = await client.callForPort(`connect ${port}`);
      what = connected.text;
      clientPort = connected.port;
    } else what = await peers[who].call(call);

    let toPeer = arrow !== undefined;
    for await (const states of statesUntilSettled(clientPort, port)) {
      diagram.lane(who)({ at, what, toPeer, states });
      [what, toPeer] = ["", false];
    }
  }
  return diagram;
}

/** States that the kernel leaves by itself, as soon as an answer comes. */
const PASSING = /SYN-|FIN-WAIT-1|LAST-ACK|CLOSING/;
/** No state, where the answer is lost. */
const NONE = /^$/;

/** The states of both ends, each pair that is seen, until they stay. */
async function* statesUntilSettled(
  client: number,
  server: number,
  passing = PASSING,
) {
  let seen = "";
  for (const end = performance.now() + 5000; performance.now() < end;) {
    const rows = await readTcpTable(); // One reading for both ends.
    const stateOf = (own: number, other: number) =>
      rows.find(({ local, remote }) =>
        local.port === own && remote.port === other
      )?.state ?? "gone";
    const states = {
      client: stateOf(client, server),
      server: stateOf(server, client),
    };
    const pair = `${states.client} ${states.server}`;
    if (pair !== seen) yield states;
    seen = pair;
    if (!passing.test(pair)) return;
  }
}

/** Each side closes before the other one's FIN has come: RFC 9293, 3.6, case 3. */
async function closeAtOnce(): Promise<SequenceDiagram> {
  using pair = await connectPair();
  const diagram = new SequenceDiagram();
  const client = pair.client.localAddr.port;
  const server = pair.server.localAddr.port;
  const tell = async (who: Side, what: string, passing: RegExp) => {
    const at = performance.now();
    const isLost = what === "closeWrite";
    let event = { what, toPeer: isLost, isLost };
    for await (const states of statesUntilSettled(client, server, passing)) {
      diagram.lane(who)({ at, ...event, states });
      event = { what: "", toPeer: false, isLost: false };
    }
  };
  // Both FINs are lost, so that each side sends its own before the other's comes.
  for (const conn of [pair.client, pair.server]) dropIncoming(conn);
  await pair.client.closeWrite();
  await tell("client", "closeWrite", NONE);
  await pair.server.closeWrite();
  await tell("server", "closeWrite", NONE);
  for (const conn of [pair.client, pair.server]) passIncoming(conn);
  await tell("client", "each sends its FIN again", /FIN-WAIT|CLOSING/);
  return diagram;
}

/** What happens to a client whose server closes, or does not. */
async function claims(): Promise<(string | number)[][]> {
  await using server = new RemotePeer();
  const port = await server.listen();
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  await server.call("accept");
  const state = async () => endOf(await readTcpTable(), conn)?.state ?? "gone";
  const rows: (string | number)[][] = [];

  await server.call("unlisten");
  rows.push(["the listener closes", "the client is in", await state()]);
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
  rows.push(["", "the client is in", await state()]);
  conn.close();
  rows.push(["the client closes as well", "the client is in", await state()]);
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

  await using server = new RemotePeer();
  const port = await server.listen();
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
      run: demo,
    },
    peer: {
      help: "one socket, and the calls that you type",
      options: {
        piped: { default: false, help: "as demo runs it: ends with its input" },
      },
      run: peer,
    },
  });
}
