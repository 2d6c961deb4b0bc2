/**
 * @title Framing: messages over a stream of bytes
 * @difficulty intermediate
 * @tags tcp, framing, readFrame, writeFrame
 * @run deno run --allow-net --allow-run=deno lessons/10_framing.ts
 * @run deno run --allow-net lessons/10_framing.ts server
 * @run deno run --allow-net lessons/10_framing.ts client
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.9.1.2} RFC 9293, 3.9.1.2: a PUSH is no mark between messages
 * @see 02_tcp_echo.ts
 * @see README.md, "10 Framing"
 *
 * TCP delivers bytes in order, and knows nothing of messages, so a reader
 * cannot see where one ends. Therefore each message is sent with its length in
 * front: four bytes, the most significant first. That is a frame. The demo also
 * shows what a reader makes of messages without frames.
 *
 * `writeFrame` sends length and message in one write, because a second write
 * would wait until the first is acknowledged (Nagle's algorithm), which can
 * take 40 ms. `readFrame` believes a length only up to a limit, because it
 * comes from the other side, and the reader needs memory for that many bytes.
 * Half a frame ends the connection, and so does one that is too long, because
 * without reading it nobody finds the next one.
 *
 * @module
 */

import { announce } from "../lib/address.ts";
import { askLines } from "../lib/ask_lines.ts";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { encode } from "../lib/encode.ts";
import {
  type Reader,
  readExactly,
  readFull,
  UnexpectedEofError,
  writeFull,
  type Writer,
} from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";

const stdout: Writer = Deno.stdout;

/** A frame is longer than its reader accepts. */
export class FrameTooLongError extends Error {
  override name = "FrameTooLongError";
}

/**
 * Writes one message, with its length in front. Wait for its end before you
 * write the next one, because two writes at once on one connection may
 * interleave (lesson 04).
 */
export async function writeFrame(
  writer: Writer,
  message: Uint8Array,
): Promise<void> {
  if (message.length > 0xffffffff) throw new RangeError("Message too long");
  const frame = new Uint8Array(4 + message.length);
  new DataView(frame.buffer).setUint32(0, message.length);
  frame.set(message, 4);
  await writeFull(writer, frame);
}

/** Reads one message; `null` if the stream ends between two of them. */
export async function readFrame(
  reader: Reader,
  maxLength = 1024 * 1024,
): Promise<Uint8Array<ArrayBuffer> | null> {
  const header = await readFull(reader, new Uint8Array(4));
  if (header === null) return null;
  const length = new DataView(header.buffer).getUint32(0);
  if (!(length <= maxLength)) { // Also true if the limit is NaN.
    throw new FrameTooLongError(
      `Frame of ${length} bytes: at most ${maxLength}`,
    );
  }
  // After a length there must be a message: the stream must not end here.
  return await readExactly(reader, new Uint8Array(length));
}

/** Echoes one client after the other; 0 `connections` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 3,
  connections = 0,
  maxFrame = 1024 * 1024,
  onListen = announce,
} = {}) {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      using conn = await listener.accept();
      while (true) {
        const message = await readFrame(conn, maxFrame);
        if (message === null) break; // The client has closed its side.
        await writeFrame(conn, message);
      }
    } catch (error) {
      // A reset, or a frame that is too long or cut off, ends that client, and
      // not the server.
      if (!isConnectionLost(error) && !isBadFrame(error)) throw error;
    }
  }
}

/** Where a frame is bad, nobody knows where the next one begins. */
function isBadFrame(error: unknown): boolean {
  return error instanceof FrameTooLongError ||
    error instanceof UnexpectedEofError;
}

/** Sends line after line, and waits for the echo of each. */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  maxFrame = 1024 * 1024,
  lines = askLines("Input message(Q to quit):"),
  output = stdout,
} = {}) {
  using conn = await Deno.connect({ hostname, port });
  for await (const line of lines) {
    // Write and read at once: an echo server stops reading when nobody takes
    // its echo, and then this side's write would wait for ever.
    const [, echo] = await Promise.all([
      writeFrame(conn, line),
      readEcho(conn, maxFrame),
    ]);
    await writeFull(output, encode("from server "));
    await writeFull(output, echo);
    if (echo.at(-1) !== 0x0a) await writeFull(output, encode("\n"));
  }
}

/** Reads one message, where the stream must not end before it. */
async function readEcho(conn: Reader, maxFrame: number) {
  const echo = await readFrame(conn, maxFrame);
  if (echo !== null) return echo;
  throw new Error("The server has closed the connection");
}

/** Shows messages without frames. Then the same as in lesson 02. */
export async function demo(
  { hostname, port, backlog, connections, maxFrame, ask, ...io }:
    & Values<typeof common.demo>
    & { backlog: number; connections: number; maxFrame: number; ask: boolean }
    & Io,
) {
  await io.print(`Three messages, one read for each:\n${await compare()}\n`);
  const limits = { backlog, connections, "max-frame": maxFrame };
  const args = { host: hostname, port, ...limits };
  const server = { ...io, url: import.meta.url, args };
  return await forkServer(server, async (port) => {
    for (let i = 0; i < connections; i++) {
      const lines = ask ? undefined : BUILT_IN[i % 2]!.map(encode);
      await client({ hostname, port, maxFrame, lines, output: io.output });
      await io.print("client done!!");
    }
  });
}

const BUILT_IN = [["hello\n", "你好\n"], ["the second client\n", "goes on\n"]];

/** Reads the same messages as bytes and as frames. */
async function compare(): Promise<string> {
  const messages = ["one", "two", "three"];
  const rows = [
    ["sent", ...messages],
    ["read as bytes", ...await transfer(messages, writeFull, readOnce)],
    ["read as frames", ...await transfer(messages, writeFrame, readFrame)],
  ];
  return formatTable(["", "first", "second", "third"], rows);
}

/** Sends all of the messages, and then reads as often as there are messages. */
async function transfer(
  messages: string[],
  write: (conn: Deno.TcpConn, message: Uint8Array) => Promise<unknown>,
  read: (conn: Deno.TcpConn) => Promise<Uint8Array | null>,
): Promise<string[]> {
  using pair = await connectPair();
  for (const message of messages) await write(pair.client, encode(message));
  await pair.client.closeWrite();
  const got: string[] = [];
  for (const _ of messages) {
    const message = await read(pair.server);
    got.push(message ? new TextDecoder().decode(message) : "(the end)");
  }
  return got;
}

/** What one `read` brings. */
async function readOnce(conn: Deno.TcpConn): Promise<Uint8Array | null> {
  const buffer = new Uint8Array(100);
  const count = await conn.read(buffer);
  return count === null ? null : buffer.subarray(0, count);
}

if (import.meta.main) {
  const backlog = { default: 3, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const maxFrame = {
    default: 1024 * 1024,
    min: 1,
    max: 2 ** 30,
    help: "the longest message, in bytes",
  };
  const ask = { default: false, help: "send what you type, up to q or Q" };

  await runLesson(import.meta.url, {
    demo: {
      help: "without frames, then a server process and clients in turn",
      options: {
        ...common.demo,
        backlog,
        connections: clients,
        maxFrame,
        ask,
      },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes messages in frames, one client at a time",
      options: { ...common.server, backlog, connections, maxFrame },
      show: "trace",
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      options: { ...common.client, maxFrame },
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
