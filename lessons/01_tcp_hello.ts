/**
 * @title TCP hello: one message, one reply
 * @difficulty beginner
 * @tags tcp, server, client
 * @run deno run --allow-net --allow-run=deno lessons/01_tcp_hello.ts
 * @run deno run --allow-net lessons/01_tcp_hello.ts server
 * @run deno run --allow-net lessons/01_tcp_hello.ts client
 * @resource {https://man7.org/linux/man-pages/man2/listen.2.html} listen(2): what the backlog is
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2)
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7)
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.5} RFC 9293, 3.5: how a connection is opened
 * @see 02_tcp_echo.ts
 *
 * The smallest client and server. The client connects, sends a line, reads the
 * reply and closes; the server accepts one client after the other, reads once,
 * and sends back what it read. `demo` runs the server in a process of its own
 * and the client twice, and draws what both of them did.
 *
 * In the tutorial: `run_client` is `client()`, `lession63_` is `server()`,
 * `lession63` is `demo()` (there the client is the child). Its steps, "TCP连接客户端的流程" and
 * "TCP连接服务器的流程", are the two lanes of the diagram.
 *
 * What the tutorial's program gets wrong:
 * - The client sends `sizeof(buffer)`, 256 bytes for a text of 12: the rest of
 *   the buffer goes along as 244 NULs. Here a message is as long as it is.
 * - The server answers `strlen(buffer)` bytes: a NUL in the message cuts the
 *   reply, and a message that fills the buffer has no NUL to stop at.
 * - `accept` gets a `cliaddrlen` that was never set: it says how large the
 *   address buffer is. Deno asks for the address itself.
 * - One failed write ends the whole server. In Deno a reset would do, with the
 *   obvious `for await (const conn of listener)`: see the ENOTCONN below.
 * - The child sleeps for a second and hopes that the server is up by then. The
 *   parent serves for ever, and never gets to its `wait`.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername` |
 * | `Deno.connect` | `socket`, `connect`, `getsockopt(SO_ERROR)`, `getsockname`, `getpeername` |
 * | `conn.read` | `recvfrom` |
 * | `conn.write` | `sendto(MSG_NOSIGNAL)`: an error instead of a SIGPIPE |
 * | `conn.close` | `shutdown(SHUT_WR)`, `close` |
 *
 * The 3 in `listen(server, 3)` is not a limit on clients. It is the length of
 * the queue of connections that the kernel has completed and nobody has
 * accepted yet: while the server does not accept, four clients connect (Linux
 * takes one more than it is told) and the fifth waits.
 *
 * Try it:
 * - `server`, and in another terminal `client --message 'how are you?'`; or
 *   `nc 127.0.0.1 9527`, and type a line: the reply comes. Ctrl+D ends nc.
 * - `server`, one `nc 127.0.0.1 9527` that types nothing, then `client`: it
 *   waits until nc is gone, for the server reads from nc. But it is connected.
 * - `(printf hel; sleep 1; printf lo) | nc 127.0.0.1 9527` answers `hel`.
 *
 * What is still missing: that last reply. A TCP connection carries bytes, not
 * messages; one `read` returns what has arrived by then, which may be half of
 * what was sent in one `write`, or two of them at once. Here both sides hope
 * that one `read` is one message. Lesson 02 reads until it has all of it.
 *
 * @module
 */

import { forkServer } from "../lib/child.ts";
import {
  clientOptions,
  demoOptions,
  describeError,
  failed,
  integerOption,
  mode,
  runLesson,
  serverOptions,
  textOption,
} from "../lib/command_line.ts";
import { writeFull } from "../lib/full_io.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import {
  formatAddress,
  quoteBytes,
  type Trace,
  traceTo,
} from "../lib/trace.ts";

/** `char buffer[1024]` in the tutorial's server. */
const BUFFER_SIZE = 1024;
const NEWLINE = 0x0a;

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to listen on; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** The queue length for listen(2), 3 by default; Linux lets one more in. */
  backlog?: number;
  /** How many clients to serve, 0 by default: no limit. */
  connections?: number;
  /** Ends the server, and the connection that is open. */
  signal?: AbortSignal;
  /** Gets the address when the server listens. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Serves one client after the other. Resolves when it has closed, by itself or
 * because of the signal.
 *
 * @throws {Error} `listen HOST:PORT`, with the system's error as its `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<void> {
  const { hostname = "0.0.0.0", port = 9527, backlog = 3, connections = 0 } =
    options;
  const { signal, onListen, trace = () => {} } = options;
  signal?.throwIfAborted();

  // Create a socket, give it its address, and tell the kernel to complete
  // connections that come in for it: one call in Deno, three in C.
  using listener = await Promise.try(() =>
    Deno.listen({ hostname, port, tcpBacklog: backlog })
  ).catch(failed(`listen ${formatAddress({ hostname, port })}`));
  trace(`socket, bind, listen ${formatAddress(listener.addr)}`);

  let conn: Deno.TcpConn | undefined;
  const hangUp = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  // Closing makes a waiting accept() or read() reject, so the loop ends.
  const stop = () => {
    listener[Symbol.dispose]();
    hangUp();
  };
  signal?.addEventListener("abort", stop);
  onListen?.(listener.addr);

  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      conn = await listener.accept();
      signal?.throwIfAborted(); // Both may have come at once.
      trace(`accept ${formatAddress(conn.remoteAddr)}`);
      await answer(conn, trace);
    } catch (error) {
      if (signal?.aborted) break;
      // Without a connection, accept() has failed. That is the end, unless it
      // is about one client that is gone already: reset before its turn came,
      // accept4(2) succeeds, but then Deno's getpeername(2) says ENOTCONN.
      // (Other systems, and accept(2), have ECONNABORTED for it.)
      const isGone = error instanceof Deno.errors.NotConnected ||
        error instanceof Deno.errors.ConnectionAborted;
      if (!conn && !isGone) failed("accept")(error);
      trace(`client is gone: ${describeError(error)}`);
    } finally {
      hangUp();
    }
  }
  signal?.removeEventListener("abort", stop);
  trace("close listener");
}

/** One read, in the hope that it is one message, and its reply. */
async function answer(conn: Deno.TcpConn, trace: Trace): Promise<void> {
  const buffer = new Uint8Array(BUFFER_SIZE);
  const count = await conn.read(buffer);
  if (count === null) return trace("read: end of stream");

  const message = buffer.subarray(0, count);
  trace(`read ${count} bytes ${quoteBytes(message)}`);
  trace(`write ${count} bytes`, "to peer");
  await writeFull(conn, message); // A write may take less than all of it.
}

/** Options of {@linkcode client}. */
export interface ClientOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** What to send; a newline is added. */
  message?: string;
  /** Where the reply goes, byte for byte. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Ends the client, which rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Sends one message, and reads once for the reply.
 *
 * @throws {Error} `connect HOST:PORT`, `write failed!` or `read failed!`, with
 * the system's error as its `cause`.
 */
export async function client(options: ClientOptions): Promise<void> {
  const { hostname = "127.0.0.1", port = 9527, message = "hello,hello" } =
    options;
  const { output, signal, trace = () => {} } = options;
  const address = formatAddress({ hostname, port });
  const encoder = new TextEncoder();
  let conn: Deno.TcpConn | undefined;
  const hangUp = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  signal?.addEventListener("abort", hangUp);
  try {
    // Create a socket and connect it to the server's address. The kernel
    // chooses the address and port of this side.
    trace(`socket, connect ${address}`, "to peer");
    conn = await Deno.connect({ hostname, port, signal })
      .catch(failed(`connect ${address}`));
    signal?.throwIfAborted(); // Both may have come at once.

    const data = encoder.encode(message + "\n");
    trace(`write ${data.length} bytes ${quoteBytes(data)}`, "to peer");
    await writeFull(conn, data).catch(failed("write failed!"));

    const buffer = new Uint8Array(BUFFER_SIZE);
    const count = await conn.read(buffer).catch(failed("read failed!"));
    if (count === null) throw new Error("read failed!: End of stream");
    trace(`read ${count} bytes`);
    const reply = buffer.subarray(0, count);
    await writeFull(output, reply);
    if (reply.at(-1) !== NEWLINE) await writeFull(output, encoder.encode("\n"));
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", hangUp);
    hangUp();
    // Where nobody reads it, what ended us is the error that matters.
    await writeFull(output, encoder.encode("client done!!\n")).catch(() => {});
  }
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions, ClientOptions {
  /** Leaves out the diagram. */
  quiet?: boolean;
  /** Prints a line. */
  print: (line: string) => Promise<void>;
  /** Gets the error of a client that failed. */
  report: (error: unknown) => void;
}

/** Forks the server, runs the client twice; resolves to the worst status. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, backlog = 3, connections = 2 } =
    options;
  const { quiet, print } = options;
  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));

  // After fork(), the client runs when the server says that it listens.
  const status = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port, backlog, connections },
    onEvent: diagram.lane("server"),
  }, async (port) => {
    for (let i = 0; i < connections; i++) {
      await client({ ...options, hostname, port, trace });
    }
  });
  if (!quiet) await print(diagram.draw());
  return status;
}

const SERVER_FLAGS = ["--allow-net"];

if (import.meta.main) {
  const backlog = integerOption(
    "length of listen(2)'s queue",
    3,
    0,
    2 ** 31 - 1,
  );
  const connections = integerOption("how many to serve, 0: no limit", 0);
  const clients = integerOption("how many clients, in turn", 2, 1);
  const message = textOption("what to send, with a newline", "hello,hello");

  await runLesson({
    url: import.meta.url,
    title: "TCP hello: one message, one reply",
    modes: {
      demo: mode({
        help: "a server process, and two clients in turn",
        flags: ["--allow-net", "--allow-run=deno"],
        options: { ...demoOptions, backlog, connections: clients, message },
        run: demo,
      }),
      server: mode({
        help: "answers each client's first read, one client at a time",
        flags: SERVER_FLAGS,
        options: { ...serverOptions, backlog, connections },
        run: server,
      }),
      client: mode({
        help: "sends one message, and reads once",
        flags: ["--allow-net"],
        options: { ...clientOptions, message },
        run: client,
      }),
    },
  });
}
