/**
 * @title Chat: one message to many
 * @difficulty advanced
 * @tags tcp, server, client, broadcast, backpressure, SendQueue
 * @run deno run --allow-net lessons/18_chat.ts
 * @run deno run --allow-net lessons/18_chat.ts server
 * @run deno run --allow-net lessons/18_chat.ts client
 * @resource {https://protohackers.com/problem/3} Protohackers, problem 3: the rules of this chat
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.6} RFC 9293, 3.8.6: a receiver's window, and what a closed one means
 * @see 04_partial_write.ts
 * @see 17_production.ts
 * @see README.md, "18 Chat"
 *
 * A chat: a client's first line is its name, and each other line goes to all
 * others. One of them does not read, so sooner or later a write to it waits. If
 * the server waits too, everybody waits. If it does not, more and more bytes are
 * held for this one, and writes at the same time mix theirs. The demo measures
 * both, and the cure: a queue for each client, in order and bounded. Who does not
 * keep up is dropped, because a client could not see that a line was left out.
 *
 * What to look at: `chat()` waits for the client's next line and for the end of
 * its queue, both at once. `tellOthers()` waits for nothing.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { askLines } from "../lib/ask_lines.ts";
import { withDeadline } from "../lib/deadline.ts";
import { encode } from "../lib/encode.ts";
import { describeError } from "../lib/error_text.ts";
import { readExactly, writeFull, type Writer } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { common, type Io } from "../lib/harness/command_line.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { LineTooLongError, readLines } from "../lib/lines.ts";
import { SendQueue, SlowReaderError } from "../lib/send_queue.ts";
import { serve, type ServedConn, type ServeOptions } from "../lib/serve.ts";

/** The longest line that a client may send, in bytes. */
const LONGEST_LINE = 4 * 1024;
/** How long a client that leaves may take for its last lines, in ms. */
const LAST_LINES = 1000;

const stdout: Writer = Deno.stdout;

type ServerOptions = ServeOptions & {
  /** How many bytes may wait for a client. */
  maxQueue?: number;
};

/** Passes each client's lines on to all others, until `signal` is aborted. */
export async function server({
  maxQueue = 256 * 1024,
  signal = new AbortController().signal,
  report = (error) => console.error(describeError(error)),
  ...options
}: ServerOptions = {}) {
  const room = new Map<string, SendQueue>();
  // A conversation has no end that a server could wait for.
  await serve(chat, { ...options, signal, report, drainTimeout: 0 });

  async function chat(conn: ServedConn) {
    const queue = new SendQueue(conn, { maxBytes: maxQueue });
    const lines = readLines(conn, { maxLength: LONGEST_LINE });
    let name = "";
    try {
      queue.send(encode("Welcome! What shall I call you?\n"));
      const { value: answer } = await lines.next();
      if (answer === undefined) return;
      if (!isFree(textOf(answer))) {
        queue.send(encode("* A name is 1 to 32 letters or digits, and free\n"));
        return await queue.flush();
      }
      name = textOf(answer);
      const others = [...room.keys()].join(", ") || "nobody else";
      queue.send(encode(`* In the room: ${others}\n`));
      tellOthers(name, `* ${name} has come`);
      room.set(name, queue);
      // Whatever comes first: the client's end, or that of its queue.
      await Promise.race([passOn(lines, name), queue.lost]);
    } catch (error) {
      const isDropped = error instanceof SlowReaderError ||
        error instanceof LineTooLongError;
      if (!isDropped) throw error;
      report(new Error(`${name || "somebody"} is dropped`, { cause: error }));
    } finally {
      if (room.delete(name)) tellOthers(name, `* ${name} has left`);
    }
    // It has ended its side, and may still read. But not for ever.
    await withDeadline(queue.flush(), LAST_LINES).catch(() => {});
  }

  function isFree(name: string): boolean {
    return /^[a-z\d]{1,32}$/i.test(name) && !room.has(name);
  }

  async function passOn(lines: AsyncIterable<Uint8Array>, name: string) {
    for await (const line of lines) {
      tellOthers(name, `[${name}] ${textOf(line)}`);
    }
  }

  function tellOthers(name: string, text: string) {
    const line = encode(`${text}\n`);
    for (const [other, queue] of room) {
      if (other !== name) queue.send(line); // Waits for nobody.
    }
  }
}

/** A line as text, without its end: some clients send a CR before the newline. */
function textOf(line: Uint8Array): string {
  return new TextDecoder().decode(line).trimEnd();
}

/** Sends line after line, and prints what comes meanwhile. */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  lines = askLines(""),
  output = stdout,
} = {}) {
  using conn = await Deno.connect({ hostname, port });
  let hasEnded = false;
  const printing = print();
  // Both at once: what comes does not wait for what is typed.
  await Promise.race([printing, send().then(() => printing)]);

  async function send() {
    for await (const line of lines) await writeFull(conn, line);
    hasEnded = true;
    await conn.closeWrite();
  }

  async function print() {
    const buffer = new Uint8Array(16 * 1024);
    while (true) {
      const count = await conn.read(buffer);
      if (count === null) break;
      await writeFull(output, buffer.subarray(0, count));
    }
    if (!hasEnded) throw new Error("The server has closed the connection");
  }
}

/** Measures each way with three clients, of which the first one does not read. */
export async function demo({ print }: Io) {
  using progress = new Progress("measuring", Object.keys(WAYS).length);
  const answers: string[][] = [];
  for (const way of Object.values(WAYS)) {
    progress.update(answers.length);
    answers.push(await measure(way));
  }
  progress[Symbol.dispose]();
  const rows = [
    "lines that the others have",
    "the longest wait for one of them",
    "bytes held for the deaf one, at most",
    "is the deaf one dropped?",
    "lines that it reads, late and slowly",
    "of these, mixed with other lines",
  ].map((about, i) => [about, ...answers.map((column) => column[i]!)]);
  await print(formatTable(["", ...Object.keys(WAYS)], rows));
}

/** So many lines are sent, more than the kernel's buffers hold of one client. */
const LINES = 6000;
/** How many bytes a line has. */
const SIZE = 3000;
/** How long the others wait for a line, in milliseconds. */
const PATIENCE = 1000;

/** Three ways to send a line to all. */
const WAYS: Record<string, (all: Closable[]) => Send> = {
  "await each write": (all) => async (line) => {
    for (const it of all) await writeFull(it, line);
  },
  "fire and forget": (all) => (line) => {
    for (const it of all) writeFull(it, line).catch(() => {});
  },
  "a queue for each": (all) => {
    const queues = all.map((it) => {
      const queue = new SendQueue(it);
      queue.lost.catch(() => it.close());
      return queue;
    });
    return (line) => queues.forEach((queue) => queue.send(line));
  },
};
type Closable = Writer & { close(): void };
type Send = (line: Uint8Array) => unknown;

async function measure(way: (all: Closable[]) => Send): Promise<string[]> {
  using deaf = await connectPair();
  using ada = await connectPair();
  using grace = await connectPair();
  let [sent, arrived, longest, accepted, held, end] = [0, 0, 0, 0, 0, 0];
  const toDeaf = {
    async write(p: Uint8Array) {
      const count = await deaf.server.write(p);
      accepted += count;
      return count;
    },
    close() {
      deaf.server.close();
      end = sent;
    },
  };
  const others = [ada, grace];
  const buffers = others.map(() => new Uint8Array(SIZE));
  const send = way([toDeaf, ...others.map(({ server }) => server)]);
  while (sent < LINES) {
    const start = performance.now();
    const sending = (async () => await send(lineOf(sent++)))();
    const arriving = buffers.map((buffer, i) =>
      readExactly(others[i]!.client, buffer)
    );
    const done = Promise.all([sending, ...arriving]);
    const isThere = await withDeadline(done, PATIENCE)
      .then(() => true, () => false);
    if (end === 0) held = Math.max(held, sent * SIZE - accepted);
    if (!isThere) break;
    arrived++;
    longest = Math.max(longest, performance.now() - start);
  }
  const { read, mixed } = await readLate(deaf.client, sent);
  return [
    `${grouped(arrived)} of ${grouped(LINES)}`,
    arrived === sent
      ? `${longest.toFixed(1)} ms`
      : `over ${grouped(PATIENCE)} ms`,
    grouped(held),
    end > 0 ? `at line ${grouped(end)}` : "no",
    `${grouped(read)} of ${grouped(end || sent)}`,
    grouped(mixed),
  ];
}

/** A line of one letter: where it is mixed with another one, it has two. */
function lineOf(number: number): Uint8Array {
  const line = new Uint8Array(SIZE).fill("a".charCodeAt(0) + number % 26);
  line[SIZE - 1] = "\n".charCodeAt(0);
  return line;
}

/** How many lines a client still gets, and how many of them are not whole. */
async function readLate(conn: Deno.TcpConn, sent: number) {
  let [read, mixed] = [0, 0];
  for await (const line of readLines(conn, { maxLength: Infinity })) {
    if (line.at(-1) !== 0x0a) break; // The stream has ended in the middle of it.
    const letters = line.subarray(0, -1);
    const isWhole = line.length === SIZE &&
      letters.every((letter) => letter === letters[0]);
    if (!isWhole) mixed++;
    if (++read === sent) break;
    // It is slow too, so the buffers are full again and again.
    if (read % 300 === 0) await delay(10);
  }
  return { read, mixed };
}

if (import.meta.main) {
  const max = 2 ** 31 - 1;

  await runLesson(import.meta.url, {
    demo: {
      help: "three ways to send to many, with one that does not read",
      options: {},
      show: "table",
      run: demo,
    },
    server: {
      help: "passes each client's lines on to all others",
      options: {
        ...common.server,
        maxConnections: { default: 0, help: "clients at once, 0: no limit" },
        idleTimeout: { default: 0, max, help: "ms of silence, 0: no limit" },
        maxQueue: {
          default: 256 * 1024,
          min: 8 * 1024,
          max,
          help: "bytes that may wait for a client",
        },
      },
      show: "trace",
      endsOnSignal: true,
      run: server,
    },
    client: {
      help: "sends lines up to q or Q, and prints what comes",
      options: common.client,
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
