/**
 * @title Framing: messages over a stream of bytes
 * @difficulty intermediate
 * @tags tcp, framing, readFrame, writeFrame, pipelining
 * @run deno run --allow-net --allow-run=deno lessons/10_framing.ts
 * @run deno run --allow-net lessons/10_framing.ts server
 * @run deno run --allow-net lessons/10_framing.ts client
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8} RFC 9293, 3.8: TCP carries bytes, and knows no messages
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.7.4} RFC 9293, 3.7.4: Nagle's algorithm
 * @resource {https://www.rfc-editor.org/rfc/rfc1006#section-6} RFC 1006, 6: an early protocol that puts the length in front
 * @see 02_tcp_echo.ts
 * @see 11_deadlines.ts
 *
 * TCP delivers bytes in order, and knows nothing of messages. So each message
 * is sent with its length in front: four bytes, the most significant first. That
 * is a frame. The server reads whole messages, and answers each one. The demo
 * first sends three messages without frames, and shows what a reader makes of
 * them. Then it runs the server as a process of its own, and a client.
 *
 * A request is one byte that says what to do, and data: `e` sends the data back,
 * `r` sends its characters back in reverse order. An answer is one byte that
 * says how it went, and data. `+` means done. `-` means an error, and the data
 * is the reason.
 *
 * What to look at:
 * - `writeFrame` sends length and message in one write. With two writes, the
 *   second one would wait until the first is acknowledged (Nagle's algorithm).
 *   That can take 40 ms.
 * - `readFrame` believes a length only up to a limit. The length comes from the
 *   other side, and the reader needs memory for that many bytes.
 * - The client does not wait for an answer before it sends the next request.
 *   Many requests are under way at once. The answers come in the same order, so
 *   both sides know which answer belongs to which request.
 * - A request that cannot be carried out gets an error, and the connection goes
 *   on. Only a frame that is too long, or cut off, ends the connection.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `writeFrame` | one `sendto`, if the kernel takes all of it |
 * | `readFrame` | `recvfrom` for the length, `recvfrom` for the message |
 * | `conn.closeWrite` | `shutdown(SHUT_WR)` |
 *
 * Try it:
 * - `deno task framing server`, and in another terminal
 *   `printf 'one\ntwo\n你好\n' | deno task framing client --reverse`. The trace
 *   shows that the client writes the second request before it reads the first
 *   answer.
 * - In bash, a frame by hand:
 *   `(printf '\0\0\0\3ehi' >&3; head -c 7 <&3 | od -c) 3<>/dev/tcp/127.0.0.1/9527`
 * - In bash, 4 GiB announced, and refused before any memory is taken:
 *   `(printf '\377\377\377\377' >&3; od -c <&3) 3<>/dev/tcp/127.0.0.1/9527`
 * - `diff -I '^ \*' lessons/02_tcp_echo.ts lessons/10_framing.ts`: `writeFrame` and
 *   `readFrame` stand where lesson 02 has `writeFull` and `readFull`.
 *
 * Beyond the tutorial: its programs treat what one `read` brings as one
 * message. Lesson 01 shows why that goes wrong. Frames are the cure.
 *
 * What is still missing: a client that sends half a frame makes all others wait
 * as long as it likes. Lesson 11 gives up in time.
 *
 * @module
 */

import { isUtf8 } from "node:buffer";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { announce, quoteBytes } from "../lib/describe.ts";
import {
  type Reader,
  readFull,
  UnexpectedEofError,
  writeFull,
  type Writer,
} from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { askLines, hasInput, type Lines } from "../lib/lines.ts";
import { connectPair } from "../lib/tcp_pair.ts";

const encode = (text: string) => new TextEncoder().encode(text);

const HEADER_SIZE = 4;
const MAX_FRAME = 1024 * 1024;
const NEWLINE = 0x0a;
const PROMPT = "Input message(Q to quit):";
const [ECHO, REVERSE, DONE, ERROR] = [0x65, 0x72, 0x2b, 0x2d]; // e r + -

/** A frame is longer than its reader accepts. */
export class FrameTooLongError extends Error {
  override name = "FrameTooLongError";
}

/**
 * Writes one message, with its length in front. Wait for its end before you
 * write the next one: two writes at once on one connection may interleave
 * (lesson 04).
 */
export async function writeFrame(
  writer: Writer,
  message: Uint8Array,
): Promise<void> {
  if (message.length > 0xffffffff) throw new RangeError("Message too long");
  const frame = new Uint8Array(HEADER_SIZE + message.length);
  new DataView(frame.buffer).setUint32(0, message.length);
  frame.set(message, HEADER_SIZE);
  await writeFull(writer, frame);
}

/** Reads one message; `null` if the stream ends between two of them. */
export async function readFrame(
  reader: Reader,
  maxLength = MAX_FRAME,
): Promise<Uint8Array<ArrayBuffer> | null> {
  const header = await readFull(reader, new Uint8Array(HEADER_SIZE));
  if (header === null) return null;
  const length = new DataView(header.buffer).getUint32(0);
  if (!(length <= maxLength)) { // Also true if the limit is NaN.
    throw new FrameTooLongError(
      `Frame of ${length} bytes: at most ${maxLength}`,
    );
  }
  const message = await readFull(reader, new Uint8Array(length));
  // After a length there must be a message: the stream must not end here.
  if (message === null) throw new UnexpectedEofError(new Uint8Array(), length);
  return message;
}

/** Answers one client after the other; 0 `connections` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  connections = 0,
  maxFrame = MAX_FRAME,
  onListen = announce,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname, port });
  onListen(listener.addr);

  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      using conn = await listener.accept();
      await serve(conn, maxFrame);
    } catch (error) {
      // A reset or half a frame ends that client, and not the server.
      if (error instanceof UnexpectedEofError) continue;
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Answers the requests of one client, in their order. */
async function serve(conn: Deno.TcpConn, maxFrame: number) {
  try {
    for (let request; (request = await readFrame(conn, maxFrame)) !== null;) {
      await writeFrame(conn, answerTo(request));
    }
  } catch (error) {
    if (!(error instanceof FrameTooLongError)) throw error;
    // The server would have to read this frame to find the next one. It ends
    // the connection instead, but tells the client why.
    await writeFrame(conn, toMessage(ERROR, encode(error.message)));
  }
}

/** Carries out a request. */
function answerTo(request: Uint8Array): Uint8Array {
  const data = request.subarray(1);
  switch (request[0]) {
    case ECHO:
      return toMessage(DONE, data);
    case REVERSE:
      if (!isUtf8(data)) return toMessage(ERROR, encode("Not UTF-8"));
      return toMessage(DONE, reversed(data));
    default: {
      const op = quoteBytes(request.subarray(0, 1));
      return toMessage(ERROR, encode(`Unknown op ${op}`));
    }
  }
}

/** A request or an answer: a byte that says which kind it is, and data. */
function toMessage(kind: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(1 + data.length);
  bytes[0] = kind;
  bytes.set(data, 1);
  return bytes;
}

/**
 * Reverses text by Unicode code points, each of which is one to four bytes. A
 * string with the same text could need many times the memory.
 */
function reversed(text: Uint8Array): Uint8Array {
  const result = new Uint8Array(text.length);
  let filled = 0;
  let end = text.length;
  for (let start = end - 1; start >= 0; start--) {
    if ((text[start]! & 0b1100_0000) === 0b1000_0000) continue; // Not the first.
    for (let i = start; i < end; i++) result[filled++] = text[i]!;
    end = start;
  }
  return result;
}

/** Sends each line as a request, while the answers come in. */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  maxFrame = MAX_FRAME,
  reverse = false,
  lines = undefined as Lines | undefined,
  output = Deno.stdout as Writer,
  report = console.error as (error: unknown) => unknown,
} = {}): Promise<number> {
  try {
    using conn = await Deno.connect({ hostname, port });
    let sent = 0;
    let isSending = true;
    let failure: unknown; // Is thrown after the last answer.
    let answered: PromiseWithResolvers<void> | undefined;
    const send = async () => {
      // The user sees the answer to a line before the next prompt.
      const ready = () => answered?.promise;
      try {
        for await (const line of lines ?? askLines(PROMPT, ready)) {
          const data = line.at(-1) === NEWLINE ? line.subarray(0, -1) : line;
          answered = Promise.withResolvers();
          sent++;
          await writeFrame(conn, toMessage(reverse ? REVERSE : ECHO, data));
        }
      } catch (error) {
        failure = error;
      }
      isSending = false;
      // Even after an error the server answers what it has got, and ends too.
      await conn.closeWrite().catch(() => {}); // Or it has ended already.
    };
    const sending = send();

    let status = 0;
    let received = 0;
    for (let answer; (answer = await readFrame(conn, maxFrame)) !== null;) {
      if (++received > sent) throw new Error("An answer to no request");
      const data = answer.subarray(1);
      if (answer[0] === DONE) {
        await writeFull(output, data);
        await writeFull(output, encode("\n"));
      } else if (answer[0] === ERROR) {
        const reason = new TextDecoder().decode(data);
        report(new Error(`request ${received}: ${reason}`));
        status = 1;
      } else {
        throw new Error(`Not an answer: ${quoteBytes(answer)}`);
      }
      answered?.resolve();
    }
    if (failure !== undefined) throw failure;
    if (isSending || received < sent) {
      throw new Deno.errors.UnexpectedEof(
        `read failed!: End of stream after ${received} answers`,
      );
    }
    await sending;
    return status;
  } finally {
    await writeFull(output, encode("client done!!\n"));
  }
}

const BUILT_IN = ["hello\n", "\n", "你好\n"];

/** Shows messages without frames; then forks the server, and runs the client. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  maxFrame = MAX_FRAME,
  reverse = false,
  script = false,
  output = Deno.stdout as Writer,
  print = console.log as (line: string) => unknown,
  report = console.error as (error: unknown) => unknown,
} = {}): Promise<number> {
  const messages = ["one", "two", "three"];
  const rows = [
    ["sent", ...messages],
    ["read as bytes", ...await transfer(messages, writeFull, readOnce)],
    ["read as frames", ...await transfer(messages, writeFrame, readFrame)],
  ];
  const table = formatTable(["", "first", "second", "third"], rows);
  await print(`Three messages, one read for each:\n${table}\n`);

  const lines = script || !await hasInput() ? BUILT_IN.map(encode) : undefined;
  const args = { host: hostname, port, connections: 1, "max-frame": maxFrame };
  const { url } = import.meta;
  let status = 0;
  const forked = await forkServer({ url, args, print }, async (port) => {
    const options = { hostname, port, maxFrame, reverse };
    status = await client({ ...options, lines, output, report });
  });
  return Math.max(status, forked);
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
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const maxFrame = {
    default: MAX_FRAME,
    min: 1,
    max: 64 * MAX_FRAME, // A request takes up to four times its length.
    help: "the longest message, in bytes",
  };
  const reverse = { default: false, help: "ask for each line in reverse" };
  const script = { default: false, help: "send built-in lines, read no input" };

  await runLesson(import.meta.url, "Framing: messages over a stream of bytes", {
    demo: {
      help: "without frames, then a server process and a client",
      flags: ["--allow-net", "--allow-run=deno"],
      options: { ...common.demo, maxFrame, reverse, script },
      show: "diagram", // stage
      last: "client done!!",
      run: demo,
    },
    server: {
      help: "answers framed requests, one client at a time",
      flags: ["--allow-net"],
      options: { ...common.server, connections, maxFrame },
      show: "trace", // stage
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      flags: ["--allow-net"],
      options: { ...common.client, maxFrame, reverse },
      show: "trace", // stage
      last: "client done!!",
      run: client,
    },
  });
}
