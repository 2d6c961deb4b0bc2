/**
 * @title Framing: messages over a stream of bytes
 * @difficulty intermediate
 * @tags tcp, framing, readFrame, writeFrame, pipelining
 * @run deno run --allow-net --allow-run=deno lessons/10_framing.ts
 * @run deno run --allow-net lessons/10_framing.ts server
 * @run deno run --allow-net lessons/10_framing.ts client
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8} RFC 9293, 3.8: TCP carries bytes, and knows no messages
 * @resource {https://www.rfc-editor.org/rfc/rfc1006#section-6} RFC 1006, 6: an early protocol that puts the length in front
 * @see 09_time_wait.ts
 * @see 11_deadlines.ts
 *
 * TCP delivers bytes in order, and knows nothing of messages. So say how long
 * each message is: four bytes of length, the most significant first, then the
 * message. `readFrame` and `writeFrame` do that, on top of `readFull` and
 * `writeFull`. With them the server answers requests of any content, many under
 * way at once, in their order.
 *
 * A request is one byte that says what to do (`e` echo, `r` reverse the text by
 * Unicode code points) and data. An answer is one byte that says how it went
 * (`+` done, `-` an error) and data, or in an error the reason. A request that
 * cannot be carried out gets its error, and the connection goes on; only what
 * is no frame ends it.
 *
 * Beyond the tutorial: this is the cure for lesson 01, where one `read` was
 * hoped to be one message.
 *
 * What goes wrong without it: `demo` first sends three messages without
 * frames, and shows what the reader makes of them.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `writeFrame` | one `sendto`, if the kernel takes it all |
 * | `readFrame` | `recvfrom` for the length, `recvfrom` for the message |
 * | `conn.closeWrite` | `shutdown(SHUT_WR)` |
 *
 * `writeFrame` copies length and message into one buffer. Written one after the
 * other, the second would wait for the acknowledgement of the first (Nagle's
 * algorithm, RFC 9293, 3.7.4), and that may be delayed.
 *
 * Try it:
 * - `server`, then `printf 'one\ntwo\n' | ... client --op reverse`.
 * - `printf '\0\0\0\3ehi' | nc -N 127.0.0.1 9527 | xxd`: a frame by hand.
 * - `printf '\377\377\377\377' | nc -N 127.0.0.1 9527 | xxd`: 4 GiB announced,
 *   refused before a byte of memory is taken for it.
 *
 * What is still missing: a client that sends half a frame and stops makes the
 * server wait for as long as it likes. Lesson 11 gives up in time.
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
  textOption,
  UsageError,
} from "../lib/command_line.ts";
import { abortable } from "../lib/deadline.ts";
import { readFull, UnexpectedEofError, writeFull } from "../lib/full_io.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import { formatTable } from "../lib/table.ts";
import {
  formatAddress,
  quoteBytes,
  type Trace,
  traceTo,
} from "../lib/trace.ts";

const HEADER_SIZE = 4;
const MAX_FRAME = 1024 * 1024;
/** The longest reason for an error that a client expects, in bytes. */
const MAX_REASON = 1024;
const NEWLINE = 0x0a;
const ECHO = 0x65; // e
const REVERSE = 0x72; // r
const DONE = 0x2b; // +
const ERROR = 0x2d; // -

const encode = (text: string) => new TextEncoder().encode(text);

/**
 * Writes one message with its length in front. Wait for it before the next
 * one: two at once on one connection may interleave (lesson 04).
 *
 * @param writer Where it goes.
 * @param message Up to 4294967295 bytes.
 * @throws {RangeError} If it is longer.
 * @throws The errors of {@linkcode writeFull}.
 */
export async function writeFrame(
  writer: { write(p: Uint8Array): Promise<number> },
  message: Uint8Array,
): Promise<void> {
  if (message.length > 0xffffffff) throw new RangeError("Message too long");
  const frame = new Uint8Array(HEADER_SIZE + message.length);
  new DataView(frame.buffer).setUint32(0, message.length);
  frame.set(message, HEADER_SIZE);
  await writeFull(writer, frame);
}

/**
 * Reads one message. Its length is believed only up to `maxLength`: it comes
 * from the other side, and memory is taken for it.
 *
 * @param reader Where it comes from.
 * @param maxLength The greatest length in bytes that is accepted, or a function
 * that says it when a length has come.
 * @returns The message, or `null` if the stream ends between two of them.
 * @throws {RangeError} If it is longer.
 * @throws {UnexpectedEofError} If the stream ends in the length or the message.
 */
export async function readFrame(
  reader: { read(p: Uint8Array): Promise<number | null> },
  maxLength: number | (() => number) = MAX_FRAME,
): Promise<Uint8Array<ArrayBuffer> | null> {
  const header = await readFull(reader, new Uint8Array(HEADER_SIZE));
  if (header === null) return null;
  const length = new DataView(header.buffer).getUint32(0);
  const limit = typeof maxLength === "number" ? maxLength : maxLength();
  if (!(length <= limit)) { // Also where the limit is no number.
    throw new RangeError(`Frame of ${length} bytes: at most ${limit}`);
  }
  const message = await readFull(reader, new Uint8Array(length));
  // After its length, the end is never where it belongs.
  if (message === null) throw new UnexpectedEofError(new Uint8Array(), length);
  return message;
}

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to listen on; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** How many clients to serve, 0 by default: no limit. */
  connections?: number;
  /** The longest request in bytes, 1048576 by default. */
  maxFrame?: number;
  /** Ends the server, and the connection that is open. */
  signal?: AbortSignal;
  /** Gets the address when the server listens. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Answers the requests of one client after the other. Resolves when it has
 * closed, by itself or because of the signal.
 *
 * @throws {Error} `listen HOST:PORT`, with the system's error as its `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<void> {
  const { hostname = "0.0.0.0", port = 9527, connections = 0 } = options;
  const { maxFrame = MAX_FRAME, signal, onListen, trace = () => {} } = options;
  signal?.throwIfAborted();

  using listener = await Promise.try(() => Deno.listen({ hostname, port }))
    .catch(failed(`listen ${formatAddress({ hostname, port })}`));
  trace(`socket, bind, listen ${formatAddress(listener.addr)}`);

  let conn: Deno.TcpConn | undefined;
  const hangUp = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
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
      await serve(conn, maxFrame, trace);
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

/** Answers one client's requests, until it has ended its side. */
async function serve(conn: Deno.TcpConn, maxFrame: number, trace: Trace) {
  try {
    for (;;) {
      const request = await readFrame(conn, maxFrame);
      if (request === null) break;
      trace(`read frame ${quoteBytes(request)}`);
      const answer = carryOut(request);
      trace(`write frame ${quoteBytes(answer)}`, "to peer");
      await writeFrame(conn, answer);
    }
    trace("read: end of stream");
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // Where the next frame would begin is not known without reading this one:
    // say why, and close.
    trace(`refused: ${error.message}`, "to peer");
    await writeFrame(conn, answerOf(ERROR, encode(error.message)));
  }
}

/** Does what a request asks for. */
function carryOut(request: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const [op, data] = [request[0], request.subarray(1)];
  if (op === ECHO) return answerOf(DONE, data);
  if (op !== REVERSE) {
    return answerOf(
      ERROR,
      encode(`Unknown op ${quoteBytes(request.slice(0, 1))}`),
    );
  }
  let text: string;
  try {
    // A BOM is a code point like any other here, and no mark to leave out.
    const options = { fatal: true, ignoreBOM: true };
    text = new TextDecoder("utf-8", options).decode(data);
  } catch {
    return answerOf(ERROR, encode("Not UTF-8"));
  }
  return answerOf(DONE, encode(Array.from(text).reverse().join("")));
}

function answerOf(status: number, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const answer = new Uint8Array(1 + data.length);
  answer[0] = status;
  answer.set(data, 1);
  return answer;
}

/** Options of {@linkcode client}. */
export interface ClientOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** What the server shall do with each line, `"echo"` by default. */
  op?: "echo" | "reverse";
  /** Gets the next line to send, with its newline; `null` is the end. */
  nextLine: () => Promise<Uint8Array | null>;
  /** Where the answers go, each with a newline. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Gets the errors that the server answers with. */
  report: (error: unknown) => void;
  /** Ends the client, which rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Sends every line as a request, while the answers come in.
 *
 * @returns 0, or 1 if there was an error among the answers.
 * @throws {Error} `connect HOST:PORT`, `write failed!` or `read failed!`, with
 * the system's error as its `cause`.
 * @throws The signal's reason, when it is aborted.
 */
export async function client(options: ClientOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 9527, op = "echo", nextLine, output } =
    options;
  const { report, signal, trace = () => {} } = options;
  const address = formatAddress({ hostname, port });
  let conn: Deno.TcpConn | undefined;
  const hangUp = () => {
    if (conn) trace("close", "to peer");
    conn?.[Symbol.dispose]();
    conn = undefined;
  };
  signal?.addEventListener("abort", hangUp);
  try {
    trace(`socket, connect ${address}`, "to peer");
    const open = await Deno.connect({ hostname, port, signal })
      .catch(failed(`connect ${address}`));
    conn = open;
    signal?.throwIfAborted(); // Both may have come at once.

    let sent = 0;
    let longest = 0;
    let hasEnded = false;
    const send = async () => {
      for (;; sent++) {
        let line = await abortable(nextLine(), signal);
        signal?.throwIfAborted();
        if (line === null) break;
        if (line.at(-1) === NEWLINE) line = line.subarray(0, -1);
        const request = answerOf(op === "echo" ? ECHO : REVERSE, line);
        longest = Math.max(longest, request.length);
        trace(`write frame ${quoteBytes(request)}`, "to peer");
        await writeFrame(open, request);
      }
      hasEnded = true;
      trace("closeWrite", "to peer");
      await open.closeWrite();
    };
    let received = 0;
    let status = 0;
    const receive = async () => {
      for (;; received++) {
        // An answer is as long as its request, or the reason for an error.
        const answer = await readFrame(open, () => longest + MAX_REASON)
          .catch(failed("read failed!"));
        if (answer === null) break;
        trace(`read frame ${quoteBytes(answer)}`);
        const data = answer.subarray(1);
        if (answer[0] === DONE) {
          await writeFull(output, data);
          await writeFull(output, encode("\n"));
        } else {
          status = 1;
          const reason = new TextDecoder().decode(data);
          report(new Error(`request ${received + 1}: ${reason}`));
        }
      }
      trace("read: end of stream");
      if (hasEnded && received === sent) return;
      // Also while send() waits for a line that nobody can answer any more.
      throw new Error(`read failed!: End of stream after ${received} answers`);
    };
    const receiving = receive();
    const sending = send().catch(async (error) => {
      signal?.throwIfAborted();
      // The server is gone, so this ends. What it said before comes first.
      await receiving.catch(() => {});
      failed("write failed!")(error);
    });
    try {
      await Promise.all([sending, receiving]);
    } catch (error) {
      hangUp();
      await receiving.catch(() => {}); // It may be in the middle of a line.
      throw error;
    }
    return status;
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", hangUp);
    hangUp();
    // Where nobody reads it, what ended us is the error that matters.
    await writeFull(output, encode("client done!!\n")).catch(() => {});
  }
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
}

/** Shows messages without frames; then forks the server, runs the client. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, maxFrame = MAX_FRAME } = options;
  const { connections = 1, quiet, print } = options;
  await print("Three messages, one read for each:");
  await print(await withAndWithout() + "\n");

  const nextLine = options.script || !await options.hasInput()
    ? builtInLines()
    : options.nextLine;
  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));
  let status = 0;
  const forked = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port, connections, "max-frame": maxFrame },
    onEvent: diagram.lane("server"),
  }, async (port, stop) => {
    status = await client({ ...options, hostname, port, nextLine, trace });
    if (connections !== 1) stop();
  });
  if (!quiet) await print(diagram.draw());
  return Math.max(status, forked);
}

/** The same three messages, as bytes and as frames. */
async function withAndWithout(): Promise<string> {
  const messages = ["one", "two", "three"];
  const rows = [["sent", ...messages]];
  for (const framed of [false, true]) {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    using peer = await listener.accept();
    for (const message of messages) {
      if (framed) await writeFrame(conn, encode(message));
      else await writeFull(conn, encode(message));
    }
    await conn.closeWrite();
    const row = [framed ? "read as frames" : "read as bytes"];
    for (const _ of messages) {
      const buffer = new Uint8Array(100);
      const count = framed ? null : await peer.read(buffer);
      const message = framed
        ? await readFrame(peer)
        : count && buffer.subarray(0, count);
      row.push(message ? new TextDecoder().decode(message) : "(the end)");
    }
    rows.push(row);
  }
  return formatTable(["", "first", "second", "third"], rows);
}

/** What `demo` sends where nobody types. */
function builtInLines(): ClientOptions["nextLine"] {
  const lines = ["hello", "", "one and the same frame"].map(encode);
  return () => Promise.resolve(lines.shift() ?? null);
}

/** The lines of standard input. */
function inputLines({ ask }: Pick<Io, "ask">): ClientOptions["nextLine"] {
  return () => ask(""); // Answers come when they come: no prompt to spoil.
}

/** Checks `--op`. */
function toOp(op: string): "echo" | "reverse" {
  if (op === "echo" || op === "reverse") return op;
  throw new UsageError(
    `--op must be echo or reverse, got ${JSON.stringify(op)}`,
  );
}

const SERVER_FLAGS = ["--allow-net"];

if (import.meta.main) {
  const connections = integerOption("how many to serve, 0: no limit", 0);
  const maxFrame = integerOption(
    "the longest request, in bytes",
    MAX_FRAME,
    1,
    0xffffffff,
  );
  const serves = { connections, "max-frame": maxFrame };
  const op = textOption("echo or reverse", "echo");
  const script = flagOption("send built-in lines, and read no input");

  await runLesson({
    url: import.meta.url,
    title: "Framing: messages over a stream of bytes",
    modes: {
      demo: mode({
        help: "without frames, then a server process and a client",
        flags: ["--allow-net", "--allow-run=deno"],
        options: {
          ...demoOptions,
          ...serves,
          connections: { ...connections, default: 1 },
          op,
          script,
        },
        run: (options) =>
          demo({
            ...options,
            op: toOp(options.op),
            maxFrame: options["max-frame"],
            nextLine: inputLines(options),
          }),
      }),
      server: mode({
        help: "answers framed requests, one client at a time",
        flags: SERVER_FLAGS,
        options: { ...serverOptions, ...serves },
        run: (options) =>
          server({ ...options, maxFrame: options["max-frame"] }),
      }),
      client: mode({
        help: "sends the lines of standard input, up to q or Q",
        flags: ["--allow-net"],
        options: { ...clientOptions, op },
        run: (options) =>
          client({
            ...options,
            op: toOp(options.op),
            nextLine: inputLines(options),
          }),
      }),
    },
  });
}
