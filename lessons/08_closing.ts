/**
 * @title Closing: who sends FIN first, and who finds out
 * @difficulty intermediate
 * @tags tcp, close, closeWrite, FIN, RST, SO_LINGER, SIGINT, libc
 * @run deno run --allow-net --allow-ffi --allow-run=deno,cat lessons/08_closing.ts
 * @run deno run --allow-net lessons/08_closing.ts peer
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.6} RFC 9293, 3.6: closing a connection
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.3.2} RFC 9293, 3.3.2: the states
 * @resource {https://man7.org/linux/man-pages/man2/shutdown.2.html} shutdown(2): what closeWrite calls
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_LINGER
 * @see 07_socket_options.ts
 * @see 09_time_wait.ts
 *
 * A TCP connection is two streams, and each side ends its own: it sends a FIN,
 * which the other side acknowledges. That is four segments, the "four-way
 * close", and two ends that pass through several states. The one that sends its
 * FIN first ends in TIME-WAIT. `demo` starts a client and a server as processes
 * of their own, tells them call by call what to do, and after each asks the
 * kernel for the state of both ends: `/proc/net/tcp`, where lists of sockets
 * like those of `ss` and `netstat` come from.
 *
 * In the tutorial: "在客户端控制台输入Q消息,或通过CTRL+C终止程序" and the four-way
 * close behind it ("四次挥手"), which it tells and does not show.
 *
 * What the tutorial gets wrong:
 * - "服务关闭的时候,客户端自动关闭" (the server closes, so the client closes by
 *   itself): nothing closes by itself. The client's next read says that the
 *   stream has ended, and its own end stays in CLOSE-WAIT until it closes it.
 * - "close(client); // 可以注释" (may be commented out): then the client waits
 *   for an end that does not come before the server's process ends.
 * - Ctrl+C is no other way of closing: the kernel closes what a process leaves
 *   open. All that counts is who is first, as the tutorial says itself, and
 *   whether anything has been left unread: then it is a reset.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `conn.close` | `shutdown(SHUT_WR)`, `close` |
 * | `conn.closeWrite` | `shutdown(SHUT_WR)` |
 * | `listener.close` | `close` |
 * | `LibcSocket.close` | `close` |
 * | the end of the process | none: the kernel closes all that is open |
 *
 * Deno's own `close` always calls `shutdown` first, so its peer reads a clean
 * end even where data was thrown away unread, which `close` alone answers by a
 * reset. The last table shows it.
 *
 * Try it:
 * - `peer` in two terminals. In one `listen 9527`, in the other `connect 9527`,
 *   then `accept`, `write hello`, `read`, `closeWrite`, `close` in any order.
 * - In a third, `watch -n 0.2 'ss -tan | grep 9527'`: the same states.
 * - `pid` in one of them, and `kill -9` that: the other one's `read` says what
 *   the kernel did. `unlisten` and `exit` are there as well.
 *
 * What is still missing: why TIME-WAIT is there, and what it does to a server
 * that wants to start again. That is lesson 09.
 *
 * @module
 */

import { spawnDeno, textLines } from "../lib/child.ts";
import {
  describeError,
  mode,
  quietOption,
  runLesson,
} from "../lib/command_line.ts";
import { abortable } from "../lib/deadline.ts";
import { writeFull } from "../lib/full_io.ts";
import {
  type Libc,
  openLibc,
  SIGINT,
  SOCK_STREAM,
} from "../lib/libc_socket.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import { formatTable } from "../lib/table.ts";
import { readTcpTable } from "../lib/tcp_table.ts";
import { formatAddress, quoteBytes } from "../lib/trace.ts";

const LOOPBACK = "127.0.0.1";
const encode = (text: string) => new TextEncoder().encode(text);

/** Options of {@linkcode peer}. */
export interface PeerOptions {
  /** Gets the next call to make; `null` is the end. */
  ask: (prompt: string) => Promise<Uint8Array | null>;
  /** Gets what each call returned. */
  print: (text: string) => void;
  /** Ends it, whatever it waits for. */
  signal?: AbortSignal;
}

/** One socket, and the calls that somebody types. */
export async function peer({ ask, print, signal }: PeerOptions): Promise<void> {
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
  const calls: Record<string, (operand: string) => Promise<string> | string> = {
    listen(port) {
      listener?.close();
      listener = undefined;
      listener = Deno.listen({ hostname: LOOPBACK, port: toPort(port || "0") });
      return formatAddress(listener.addr);
    },
    async accept() {
      const accepted = await listening().accept();
      conn?.close();
      conn = accepted;
      return formatAddress(conn.remoteAddr);
    },
    async connect(port) {
      const connected = await Deno.connect({
        hostname: LOOPBACK,
        port: toPort(port),
      });
      conn?.close();
      conn = connected;
      return `as ${formatAddress(conn.localAddr)}`;
    },
    async read() {
      const buffer = new Uint8Array(1024);
      const count = await connected().read(buffer);
      if (count === null) return "end of stream";
      return `${count} bytes ${quoteBytes(buffer.subarray(0, count))}`;
    },
    async write(text) {
      return `${await writeFull(connected(), encode(text))} bytes`;
    },
    closeWrite: () => connected().closeWrite().then(() => ""),
    close() {
      connected().close();
      conn = undefined;
      return "";
    },
    unlisten() {
      listening().close();
      listener = undefined;
      return "";
    },
    pid: () => String(Deno.pid),
    exit: () => Deno.exit(0), // Whatever is open.
  };
  const names = Object.keys(calls).join(", ");
  for (let line; (line = await ask("call> ")) !== null;) {
    const [, name, operand] = new TextDecoder().decode(line).trim()
      .match(/^(\S*) ?(.*)$/)!;
    try {
      if (!Object.hasOwn(calls, name)) throw new Error(`one of ${names}`);
      const result = Promise.try(calls[name], operand);
      print(`${name} ${await abortable(result, signal)}`.trimEnd());
    } catch (error) {
      signal?.throwIfAborted();
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
  #child = spawnDeno(["--allow-net", import.meta.url, "peer"]);
  #input = this.#child.stdin.getWriter();
  #output = textLines(this.#child.stdout);
  #errors = (async () => {
    for await (const line of textLines(this.#child.stderr)) console.error(line);
  })();

  /** Makes a call, and returns what came out. */
  async call(line: string): Promise<string> {
    await this.#input.write(encode(line + "\n"));
    return (await this.#output.next()).value ?? "the process has ended";
  }

  /** Waits until the process has ended. */
  async ended(): Promise<void> {
    while (!(await this.#output.next()).done);
    await this.#errors;
    await this.#child.status;
  }

  async [Symbol.asyncDispose]() {
    await this.#input.close().catch(() => {}); // It may have ended before.
    await this.ended();
  }
}

/** Who does what; a call that the other side notices has an arrow. */
type Step = [who: "client" | "server", call: string, arrow?: "->"];

const OPEN: Step[] = [["client", "connect", "->"], ["server", "accept"]];
const SCENES: Record<string, Step[]> = {
  "The client closes first (Q):": [
    ...OPEN,
    ["client", "close", "->"],
    ["server", "read"],
    ["server", "close", "->"],
  ],
  "The client gets Ctrl+C:": [
    ...OPEN,
    ["client", "SIGINT", "->"],
    ["server", "read"],
    ["server", "close", "->"],
  ],
  "The server gets Ctrl+C:": [
    ...OPEN,
    ["server", "SIGINT", "->"],
    ["client", "read"],
    ["client", "close", "->"],
  ],
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

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** Gets each diagram and table. */
  print: (text: string) => void;
  /** Leaves out the diagrams. */
  quiet?: boolean;
  /** Gives up. */
  signal?: AbortSignal;
}

/** Closes connections in every way there is. */
export async function demo(options: DemoOptions): Promise<void> {
  const { print, quiet, signal } = options;
  using libc = openLibc();
  try {
    for (const [title, steps] of Object.entries(SCENES)) {
      signal?.throwIfAborted();
      const diagram = await play(libc, steps, signal);
      if (!quiet) print(`${title}\n${diagram.draw()}\n`);
    }
    signal?.throwIfAborted();
    print('"When the server closes, the client closes by itself":');
    print(formatTable(["", "", "observed"], await claims()) + "\n");
    signal?.throwIfAborted();
    print("Abrupt ends, and Deno's own close():");
    print(formatTable(
      ["the server", "the client's read", "its next write"],
      await abruptEnds(libc),
    ));
  } catch (error) {
    // On a terminal Ctrl+C reaches the peers as well, and ends them.
    throw signal?.aborted ? signal.reason : error;
  }
}

/** Plays a scene with two processes, and asks the kernel after each step. */
async function play(
  libc: Libc,
  steps: Step[],
  signal?: AbortSignal,
): Promise<SequenceDiagram> {
  await using client = new RemotePeer();
  await using server = new RemotePeer();
  const peers = { client, server };
  const diagram = new SequenceDiagram();
  const port = (await server.call("listen 0")).split(":").at(-1)!;
  let clientPort = "";

  for (const [who, call, arrow] of steps) {
    signal?.throwIfAborted();
    const at = performance.now();
    let what = call;
    if (call === "SIGINT") {
      const [, pid] = (await peers[who].call("pid")).split(" ");
      libc.kill(Number(pid), SIGINT); // What Ctrl+C does.
      await peers[who].ended();
      what = "SIGINT";
    } else if (call === "connect") {
      what = await client.call(`connect ${port}`);
      clientPort = what.split(":").at(-1)!;
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
const PASSING = [
  "SYN-SENT",
  "SYN-RECEIVED",
  "FIN-WAIT-1",
  "LAST-ACK",
  "CLOSING",
];

/** The states of both ends, each pair that is seen, until they stay. */
async function* statesUntilSettled(client: string, server: string) {
  let seen = "";
  for (const end = performance.now() + 1000; performance.now() < end;) {
    const states = {
      client: await stateOf(client, server),
      server: await stateOf(server, client),
    };
    const pair = `${states.client} ${states.server}`;
    if (pair !== seen) yield states;
    seen = pair;
    if (!PASSING.some((name) => pair.includes(name))) return;
  }
}

/** The state of one end of a connection, as the kernel lists it. */
async function stateOf(own: string, other: string): Promise<string> {
  const row = (await readTcpTable()).find(({ local, remote }) =>
    local.port === Number(own) && remote.port === Number(other)
  );
  return row?.state ?? "gone";
}

/** What happens to a client whose server closes, or does not. */
async function claims(): Promise<string[][]> {
  await using server = new RemotePeer();
  const port = (await server.call("listen 0")).split(":").at(-1)!;
  const address = { hostname: LOOPBACK, port: Number(port) };
  using conn = await Deno.connect(address);
  const own = String(conn.localAddr.port);
  await server.call("accept");
  const rows: string[][] = [];

  await server.call("unlisten");
  rows.push(
    ["the listener closes", "the client is in", await stateOf(own, port)],
  );
  await writeFull(conn, encode("hello"));
  rows.push(["", "the server", await server.call("read")]);
  rows.push(["", "a new client", await outcome(() => Deno.connect(address))]);

  const reading = outcome(() => conn.read(new Uint8Array(64)));
  const waiting = new Promise<string>((resolve) =>
    setTimeout(() => resolve("waits, after 200 ms"), 200)
  );
  rows.push([
    "the connection is left open",
    "the client's read",
    await Promise.race([reading, waiting]),
  ]);
  await server.call("exit");
  await server.ended();
  rows.push(["the server's process ends", "that read", await reading]);
  rows.push(["", "the client is in", await stateOf(own, port)]);
  conn.close();
  rows.push(
    ["the client closes as well", "the client is in", await stateOf(own, port)],
  );
  return rows;
}

/** What a client finds out about a server that ends without reading. */
async function abruptEnds(libc: Libc): Promise<string[][]> {
  const rows: string[][] = [];
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
    rows.push([
      how,
      await outcome(() => conn.read(new Uint8Array(64))),
      await outcome(() => conn.write(encode("more"))),
    ]);
  };

  using listener = libc.socket(SOCK_STREAM);
  listener.bind({ hostname: LOOPBACK, port: 0 });
  listener.listen(1);
  const { port } = listener.getsockname();
  await observe("close(2), data unread", port, "data", () => {
    using _socket = listener.accept();
  });
  await observe("close(2), SO_LINGER 0", port, "", () => {
    using socket = listener.accept();
    socket.setLinger({ on: true, seconds: 0 });
  });

  await using process = new RemotePeer();
  const address = await process.call("listen 0");
  const processPort = Number(address.split(":").at(-1));
  await observe("process ends, data unread", processPort, "data", async () => {
    await process.call("accept");
    await process.call("exit");
    await process.ended();
  });

  using deno = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const denoPort = deno.addr.port;
  await observe("Deno's close(), data unread", denoPort, "data", async () => {
    (await deno.accept()).close();
  });
  return rows;
}

/** What came of a call, in a word or two. */
async function outcome(
  call: () => Promise<number | null | Deno.TcpConn>,
): Promise<string> {
  try {
    const result = await call();
    if (result === null) return "end of stream";
    return typeof result === "number" ? `${result} bytes` : "connected";
  } catch (error) {
    return describeError(error).split(" ")[0];
  }
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Closing: who sends FIN first, and who finds out",
    modes: {
      demo: mode({
        help: "two processes that close in every way, and their states",
        flags: ["--allow-net", "--allow-ffi", "--allow-run=deno,cat"],
        options: quietOption,
        run: demo,
      }),
      peer: mode({
        help: "one socket, and the calls that you type",
        flags: ["--allow-net"],
        options: quietOption,
        run: peer,
      }),
    },
  });
}
