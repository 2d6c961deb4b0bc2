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
 * `lession63` is `demo()`. Its steps, "TCP连接客户端的流程" and
 * "TCP连接服务器的流程", are the two lanes of the diagram.
 *
 * What the tutorial's program gets wrong:
 * - The client sends `sizeof(buffer)`, 256 bytes for a text of 12: the rest of
 *   the buffer goes along as 244 NULs. Here a message is as long as it is.
 * - The server answers `strlen(buffer)` bytes: a NUL in the message cuts the
 *   reply, and a message that fills the buffer has no NUL to stop at.
 * - `accept` gets a `cliaddrlen` that was never set: it says how large the
 *   address buffer is. Deno asks for the address itself.
 * - One failed write ends the whole server. So does, in Deno, the obvious
 *   `for await (const conn of listener)`: see the ENOTCONN below.
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
 *   `nc 127.0.0.1 9527`, and type a line: the reply comes, then nc ends.
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

/** Options of {@linkcode server}. */
export interface ServerOptions {
  hostname?: string;
  port?: number;
  /** How many completed connections may wait for `accept`, less one. */
  backlog?: number;
  /** How many to serve before it ends; 0 is no limit. */
  connections?: number;
  /** Ends the server and the connection that is open. */
  signal?: AbortSignal;
  onListen?: (address: Deno.NetAddr) => void;
  trace?: Trace;
}

/** Serves one client after the other; resolves when it has closed. */
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
  const close = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  // Closing makes a waiting accept() or read() reject, so the loop ends.
  signal?.addEventListener("abort", () => {
    listener[Symbol.dispose]();
    close();
  }, { once: true });
  onListen?.(listener.addr);

  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      conn = await listener.accept();
      trace(`accept ${formatAddress(conn.remoteAddr)}`);
      await answer(conn, trace);
    } catch (error) {
      if (signal?.aborted) break;
      // Without a connection, accept() has failed. That is the end, but for one
      // case: a client that connected and reset the connection before its turn
      // came. accept4(2) succeeds, and then Deno's getpeername(2) says
      // ENOTCONN. This client is gone; the others are not.
      if (!conn && !(error instanceof Deno.errors.NotConnected)) throw error;
      trace(`client is gone: ${describeError(error)}`);
    }
    close();
  }
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
  hostname?: string;
  port?: number;
  /** What to send; a newline is added. */
  message?: string;
  /** Where the reply goes, byte for byte. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Gives up. */
  signal?: AbortSignal;
  trace?: Trace;
}

/** Sends one message, and reads once for the reply. */
export async function client(options: ClientOptions): Promise<void> {
  const { hostname = "127.0.0.1", port = 9527, message = "hello,hello" } =
    options;
  const { output, signal, trace = () => {} } = options;
  const address = formatAddress({ hostname, port });
  const encoder = new TextEncoder();
  let conn: Deno.TcpConn | undefined;
  const close = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  signal?.addEventListener("abort", close);
  try {
    // Create a socket and connect it to the server's address. The kernel
    // chooses the address and port of this side.
    trace(`socket, connect ${address}`, "to peer");
    conn = await Deno.connect({ hostname, port, signal })
      .catch(failed(`connect ${address}`));

    const data = encoder.encode(message + "\n");
    trace(`write ${data.length} bytes ${quoteBytes(data)}`, "to peer");
    await writeFull(conn, data).catch(failed("write failed!"));

    const buffer = new Uint8Array(BUFFER_SIZE);
    const count = await conn.read(buffer).catch(failed("read failed!"));
    if (count === null) throw new Error("read failed!: End of stream");
    trace(`read ${count} bytes`);
    await writeFull(output, buffer.subarray(0, count));
  } finally {
    signal?.removeEventListener("abort", close);
    close();
    await writeFull(output, encoder.encode("client done!!\n"));
  }
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions, ClientOptions {
  /** Leaves out the diagram. */
  quiet?: boolean;
  /** Prints a line. */
  print: (line: string) => void;
  /** Gets the error of a client that failed. */
  report: (error: unknown) => void;
}

/** Forks the server, runs the client twice; resolves to the worst status. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, backlog = 3, quiet, print } =
    options;
  const connections = options.connections || 2;
  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));

  // After fork() the tutorial's client sleeps for a second and hopes that the
  // server is up by then. This one waits until the server says so.
  const status = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port, backlog, connections },
    onEvent: diagram.lane("server"),
  }, async (port) => {
    for (let i = 0; i < connections; i++) {
      await client({ ...options, port, trace });
    }
  });
  if (!quiet) print(diagram.draw());
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
  const message = textOption("what to send, with a newline", "hello,hello");

  await runLesson({
    url: import.meta.url,
    title: "TCP hello: one message, one reply",
    modes: {
      demo: mode({
        help: "a server process, and two clients in turn",
        flags: ["--allow-net", "--allow-run=deno"],
        options: { ...demoOptions, backlog, connections, message },
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
