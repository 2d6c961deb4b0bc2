/**
 * @title TCP echo: full reads and full writes
 * @difficulty beginner
 * @tags tcp, server, client, readFull, writeFull
 * @run deno run --allow-net --allow-run=deno lessons/02_tcp_echo.ts
 * @run deno run --allow-net lessons/02_tcp_echo.ts server
 * @run deno run --allow-net lessons/02_tcp_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man2/read.2.html} read(2): fewer bytes than asked for are no error
 * @resource {https://man7.org/linux/man-pages/man2/write.2.html} write(2): the same for writing
 * @resource {https://www.rfc-editor.org/rfc/rfc862} RFC 862: the echo protocol
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8} RFC 9293, 3.8: data communication
 * @see 01_tcp_hello.ts
 * @see 03_addresses.ts
 *
 * An echo server: what a client sends comes back. The client sends the lines of
 * its standard input one by one, each one whole, and reads until as many bytes
 * are back. `demo` runs the server in a process of its own, and two clients in
 * turn on the same input: the first takes the lines up to its `q`, the second
 * goes on from there.
 *
 * In the tutorial: `run_client64` is `client()`, `server64` is `server()`,
 * `lession64` is `demo()`.
 *
 * What the tutorial's program gets wrong:
 * - The server compares what it wrote with `strlen` of its buffer. That buffer
 *   has no NUL behind a full read, and may have one anywhere before: the server
 *   calls a correct write failed, and ends. The line that is commented out
 *   below it would write everything twice.
 * - It takes the end of a client's stream for an error ("read failed!") and
 *   ends, so its loop over two clients never gets to the second.
 * - The client loops for ever at the end of its input: `fgets` then leaves the
 *   buffer empty, nothing is sent, and it prompts again, and again.
 * - `fgets` cuts lines at 255 bytes, and `strlen` cuts them at the first NUL.
 * - The client writes all of a line before it reads. That goes well because its
 *   lines are short: once one outgrows the socket buffers, each side waits for
 *   the other to read. Here writing and reading go on at the same time; lesson
 *   04 shows the lock-up.
 * - Nothing makes its first client wait until the server listens (`sleep` is
 *   commented out), and a connect that is refused says nothing.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername` |
 * | `Deno.connect` | `socket`, `connect`, `getsockopt(SO_ERROR)`, `getsockname`, `getpeername` |
 * | `conn.read` returns `null` | `recvfrom` returns 0: the other side has sent its FIN |
 * | `writeFull` | `sendto`, as often as it takes |
 * | `readFull` | `recvfrom`, as often as it takes |
 * | `conn.close` | `shutdown(SHUT_WR)`, `close` |
 *
 * Try it:
 * - `server`, and in another terminal `client`: type lines, and `Q` to quit. It
 *   ends after two clients, as the tutorial's does; `--connections 0` goes on.
 *   Or `nc -N 127.0.0.1 9527`: any client will do, and Ctrl+D ends its side.
 * - `server --connections 0`, then `client < /usr/bin/env > copy`: a file that
 *   is no text. `head -c 12 copy` shows `from server ` before its first line.
 * - `client`, and `kill -9` the server (its pid: `ss -tlnp | grep 9527`) between
 *   two lines: `read failed!`. The write before it still went well, for it only
 *   fills this side's buffer.
 *
 * What is still missing: the client knows how much to read because the server
 * sends back what it got. Messages whose length the reader does not know need
 * framing (lesson 10). A client that says nothing makes every other one wait,
 * for as long as it likes: lesson 11 gives up in time, and lesson 12 serves
 * many at once.
 *
 * @module
 */

import { forkServer } from "../lib/child.ts";
import {
  clientOptions,
  demoOptions,
  describeError,
  failed,
  flagOption,
  integerOption,
  type Io,
  mode,
  runLesson,
  serverOptions,
} from "../lib/command_line.ts";
import { abortable } from "../lib/deadline.ts";
import { readFull, writeFull } from "../lib/full_io.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import {
  formatAddress,
  quoteBytes,
  type Trace,
  traceTo,
} from "../lib/trace.ts";

/** Larger than the tutorial's 1024: long lines take fewer system calls. */
const BUFFER_SIZE = 16 * 1024;
const NEWLINE = 0x0a;

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to listen on; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** The queue length for listen(2), 3 by default; Linux lets one more in. */
  backlog?: number;
  /** How many clients to serve, 2 by default; 0 is no limit. */
  connections?: number;
  /** Ends the server, and the connection that is open. */
  signal?: AbortSignal;
  /** Gets the address when the server listens. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Echoes one client after the other. Resolves when it has closed, by itself or
 * because of the signal.
 *
 * @throws {Error} `listen HOST:PORT`, with the system's error as its `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<void> {
  const { hostname = "0.0.0.0", port = 9527, backlog = 3, connections = 2 } =
    options;
  const { signal, onListen, trace = () => {} } = options;
  signal?.throwIfAborted();

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
      await echo(conn, trace);
    } catch (error) {
      if (signal?.aborted) break;
      // A reset ends this client only, also one before its turn (lesson 01).
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

/** Sends back what comes, until the client has ended its side. */
async function echo(conn: Deno.TcpConn, trace: Trace): Promise<void> {
  const buffer = new Uint8Array(BUFFER_SIZE);
  for (;;) {
    const count = await conn.read(buffer);
    if (count === null) break;
    const data = buffer.subarray(0, count);
    trace(`read ${count} bytes ${quoteBytes(data)}`);
    trace(`write ${count} bytes`, "to peer");
    await writeFull(conn, data);
  }
  trace("read: end of stream"); // No error: so a client says that it is done.
}

/** Options of {@linkcode client}. */
export interface ClientOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** Gets the next line to send, with its newline; `null` is the end. */
  nextLine: () => Promise<Uint8Array | null>;
  /** Where the replies go, byte for byte. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Ends the client, which rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Sends line after line, and waits for each one's echo.
 *
 * @throws {Error} `connect HOST:PORT`, `write failed!` or `read failed!`, with
 * the system's error as its `cause`.
 */
export async function client(options: ClientOptions): Promise<void> {
  const { hostname = "127.0.0.1", port = 9527, nextLine, output } = options;
  const { signal, trace = () => {} } = options;
  const address = formatAddress({ hostname, port });
  const print = (text: string) =>
    writeFull(output, new TextEncoder().encode(text));

  let conn: Deno.TcpConn | undefined;
  const hangUp = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  signal?.addEventListener("abort", hangUp);
  try {
    trace(`socket, connect ${address}`, "to peer");
    conn = await Deno.connect({ hostname, port, signal })
      .catch(failed(`connect ${address}`));
    signal?.throwIfAborted(); // Both may have come at once.

    for (let line; (line = await abortable(nextLine(), signal)) !== null;) {
      signal?.throwIfAborted();
      // Both at once: a server that echoes while it reads stops reading when
      // nobody takes its echo, and then this side's writing would stop too.
      trace(`write ${line.length} bytes ${quoteBytes(line)}`, "to peer");
      const [, reply] = await Promise.all([
        writeFull(conn, line).catch(failed("write failed!")),
        readFull(conn, new Uint8Array(line.length)).then(orEnd)
          .catch(failed("read failed!")),
      ]);
      trace(`read ${reply.length} bytes`);

      await print("from server ");
      await writeFull(output, reply);
      if (reply.at(-1) !== NEWLINE) await print("\n");
    }
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", hangUp);
    hangUp();
    // Where nobody reads it, what ended us is the error that matters.
    await print("client done!!\n").catch(() => {});
  }
}

/** No reply at all is an error, as half of one is. */
function orEnd(reply: Uint8Array | null): Uint8Array {
  if (reply === null) throw new Deno.errors.UnexpectedEof("End of stream");
  return reply;
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions, ClientOptions {
  /** Leaves out the diagram. */
  quiet?: boolean;
  /** Sends built-in lines. */
  script?: boolean;
  /** Whether there is anything to read from standard input. */
  hasInput: () => Promise<boolean>;
  /** Prints a line. */
  print: (line: string) => Promise<void>;
  /** Gets the error of a client that failed. */
  report: (error: unknown) => void;
}

/** Forks the server, runs the clients in turn; resolves to the worst status. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, backlog = 3, connections = 2 } =
    options;
  const { quiet, print } = options;
  const nextLine = options.script || !await options.hasInput()
    ? builtInLines()
    : options.nextLine;
  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));

  const status = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port, backlog, connections },
    onEvent: diagram.lane("server"),
  }, async (port) => {
    for (let i = 0; i < connections; i++) {
      await client({ ...options, hostname, port, nextLine, trace });
    }
  });
  if (!quiet) await print(diagram.draw());
  return status;
}

/** What `demo` sends where nobody types; each client gets its own end. */
function builtInLines(): ClientOptions["nextLine"] {
  const lines = ["hello\n", "你好\n", null, "the second client\n", "goes on\n"]
    .map((line) => line === null ? null : new TextEncoder().encode(line));
  return () => Promise.resolve(lines.shift() ?? null);
}

/** The lines of standard input. */
function inputLines({ ask }: Pick<Io, "ask">): ClientOptions["nextLine"] {
  return () => ask("Input message(Q to quit):");
}

const SERVER_FLAGS = ["--allow-net"];

if (import.meta.main) {
  const backlog = integerOption(
    "length of listen(2)'s queue",
    3,
    0,
    2 ** 31 - 1,
  );
  const connections = integerOption("how many to serve, 0: no limit", 2);
  const clients = integerOption("how many clients, in turn", 2, 1);
  const script = flagOption("send built-in lines, and read no input");

  await runLesson({
    url: import.meta.url,
    title: "TCP echo: full reads and full writes",
    modes: {
      demo: mode({
        help: "a server process, and clients in turn on standard input",
        flags: ["--allow-net", "--allow-run=deno"],
        options: { ...demoOptions, backlog, connections: clients, script },
        run: (options) => demo({ ...options, nextLine: inputLines(options) }),
      }),
      server: mode({
        help: "echoes what clients send, one client at a time",
        flags: SERVER_FLAGS,
        options: { ...serverOptions, backlog, connections },
        run: server,
      }),
      client: mode({
        help: "sends the lines of standard input, up to q or Q",
        flags: ["--allow-net"],
        options: clientOptions,
        run: (options) => client({ ...options, nextLine: inputLines(options) }),
      }),
    },
  });
}
