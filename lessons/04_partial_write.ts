/**
 * @title Partial writes: what write() returns
 * @difficulty intermediate
 * @tags tcp, write, writeFull, backpressure, EPIPE
 * @run deno run --allow-net lessons/04_partial_write.ts
 * @resource {https://man7.org/linux/man-pages/man2/write.2.html} write(2)
 * @see 02_tcp_echo.ts
 * @see README.md, "04 Partial writes"
 *
 * `write` copies bytes into the socket's send buffer, and returns how many it
 * has taken. While nobody reads, the buffers of both sides fill up, so it takes
 * only a part of 64 MiB, and the next `write` waits. This is backpressure: a
 * slow reader holds the writer back. The rest must be sent again, as
 * `shortWrites` does, and `writeFull`.
 *
 * `ignoredCount` forgets the rest, and loses most of its data without an error.
 * `lockUp` writes all of its message before it reads the echo, and soon neither
 * side can write, because neither reads: a deadlock. `boundaries` shows that
 * reads do not end where writes did, and `twoWriters` that two writers at once
 * mix their data, unless each waits for its turn. In `closedPeer` the first
 * write to a peer that has closed succeeds, because it only fills the buffer.
 * The error comes with the next one, when the peer has answered with a reset.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { encode } from "../lib/encode.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { readFull, writeFull } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { stackedBars } from "../lib/harness/stacked_bars.ts";
import { formatTable } from "../lib/harness/table.ts";

const MIB = 1024 * 1024;
/** How long no byte moves before we call it stuck, in milliseconds. */
const PATIENCE = 300;

type Conn = Deno.TcpConn;
type Bytes = Uint8Array<ArrayBuffer>;

/** Each has a connection of its own. It writes at `conn`, and reads at `peer`. */
const EXPERIMENTS = {
  "Nobody reads. How much of 64 MiB does a write accept?": shortWrites,
  "The same write, its return value ignored, and close:": ignoredCount,
  "All of it written to an echo server, before its echo is read:": lockUp,
  "Where does a write end, for the one who reads?": boundaries,
  "Two writers at once on one connection, 8 MiB each:": twoWriters,
  "Writes to a peer that has closed, and writes of 0 bytes:": closedPeer,
};

/** Writes in every wrong way, and in the right one. */
export async function demo({
  print = console.log,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  // Each word is another number: none could be lost or swapped unnoticed.
  const words = new Uint32Array(16 * MIB);
  for (let i = 0; i < words.length; i++) words[i] = i;
  const data = new Uint8Array(words.buffer);
  for (const [title, experiment] of Object.entries(EXPERIMENTS)) {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    using peer = await listener.accept();
    if (experiment !== shortWrites) print("");
    print(title);
    print(await experiment(conn, peer, data));
  }
}

async function shortWrites(conn: Conn, peer: Conn, data: Bytes) {
  const rows: (string | number)[][] = [];
  const moments: [string, ...number[]][] = [];
  let [left, read] = [data.length, 0];
  const look = (when: string) => {
    const parts = [left, data.length - left - read, read];
    moments.push([when, ...parts.map((bytes) => bytes / MIB)]);
  };
  look("at first");
  const writing = (async () => {
    while (left > 0) { // This is what writeFull does.
      const accepted = await conn.write(data.subarray(-left));
      rows.push([rows.length + 1, grouped(left), grouped(accepted)]);
      left -= accepted;
    }
  })();
  await standstill(() => left);
  if (left > 0) {
    const result = `still waiting after ${PATIENCE} ms`;
    rows.push([rows.length + 1, grouped(left), result]);
  }
  const writes = formatTable(["write", "offered", "accepted"], rows);
  look("nobody reads");

  // Now the peer reads. There is room again, and the write goes on.
  const received = new Uint8Array(data.length);
  for (const half of [received.subarray(0, 32 * MIB), received]) {
    await readFull(peer, half.subarray(read));
    read = half.length;
    await standstill(() => left);
    look(`the reader has ${read / MIB} MiB`);
  }
  await writing;
  return `${writes}

Where the 64 MiB are: still in the program, in the kernel's buffers of both
sides, or read by the reader (in MiB):
${stackedBars(["program", "buffers", "read"], moments)}

${grouped(read)} bytes came, ${comparison(received, data)} as were sent.`;
}

async function ignoredCount(conn: Conn, peer: Conn, data: Bytes) {
  await conn.write(data); // The bug: it returns a number.
  conn.close();
  let received = 0;
  const buffer = new Uint8Array(MIB);
  while (true) {
    const count = await peer.read(buffer);
    if (count === null) break;
    received += count;
  }
  return formatTable(["", "bytes"], [
    ["the program believes it has sent", grouped(data.length)],
    ["the reader gets, and then a clean end", grouped(received)],
    ["the reader never gets", grouped(data.length - received)],
  ]);
}

async function lockUp(conn: Conn, peer: Conn, data: Bytes) {
  let written = 0;
  const writing = (async () => {
    while (written < data.length) {
      written += await conn.write(data.subarray(written));
    }
  })();
  let echoed = 0;
  const echoing = (async () => {
    const buffer = new Uint8Array(16 * 1024);
    while (true) {
      const count = await peer.read(buffer);
      if (count === null) break;
      echoed += await writeFull(peer, buffer.subarray(0, count));
    }
  })();
  await standstill(() => written + echoed);
  const result = written < data.length
    ? `locked up: no byte moved for ${PATIENCE} ms`
    : "no lock-up: the buffers of this host are large enough";
  const stuck = [result, grouped(written), grouped(echoed)];

  // What the client should have done from the start: read at the same time.
  const echo = await readFull(conn, new Uint8Array(data.length));
  await conn.closeWrite();
  await Promise.all([writing, echoing]);
  const freed = `it reads as well: ${comparison(echo!, data)} bytes`;
  return formatTable(["", "written", "echoed"], [
    stuck,
    [freed, grouped(written), grouped(echoed)],
  ]);
}

async function boundaries(conn: Conn, peer: Conn) {
  const rows: string[][] = [];
  const cases = [["one two three", 100], ["123456789", 4]] as const;
  for (const [text, size] of cases) {
    const words = text.split(" ");
    for (const word of words) await writeFull(conn, encode(word));
    const buffer = new Uint8Array(size);
    const pieces: string[] = [];
    while (pieces.join("") !== words.join("")) {
      const count = await peer.read(buffer);
      pieces.push(new TextDecoder().decode(buffer.subarray(0, count!)));
    }
    rows.push([text, pieces.join(" ")]);
  }
  return formatTable(["writes, one a word", "reads, one a word"], rows);
}

async function twoWriters(conn: Conn, peer: Conn) {
  const run = async (write: (data: Bytes) => Promise<number>) => {
    const [received] = await Promise.all([
      readFull(peer, new Uint8Array(16 * MIB)),
      write(new Uint8Array(8 * MIB).fill(1)),
      write(new Uint8Array(8 * MIB).fill(2)),
    ]);
    let pieces = 0;
    for (let i = 0; i < received!.length; i++) {
      if (received![i] !== received![i - 1]) pieces++;
    }
    return pieces;
  };
  const raced = await run((data) => writeFull(conn, data));
  // A queue is a promise that each writer chains its turn to.
  let queue = Promise.resolve(0);
  const inTurn = await run((data) =>
    queue = queue.then(() => writeFull(conn, data))
  );
  const pieces = formatTable(["", "pieces that arrive"], [
    ["each writes when it can", raced],
    ["each waits for its turn", inTurn],
  ]);
  return `${pieces}

A piece ends where the other writer's bytes begin. So 2 pieces are right: all
the bytes of one writer, and then all those of the other.`;
}

async function closedPeer(conn: Conn, peer: Conn) {
  const write = (size: number) =>
    outcomeOf(async () => `${await conn.write(new Uint8Array(size))} accepted`);
  const rows = [["0 bytes, the peer is there", await write(0)]];
  peer.close();
  rows.push(["5 bytes, the peer has closed", await write(5)]);
  rows.push(["5 more bytes", await write(5)]);
  rows.push(["0 bytes", await write(0)]);
  return formatTable(["write", "result"], rows);
}

/** Waits until `count` stands still. */
async function standstill(count: () => number): Promise<void> {
  for (let before = -1; before !== count();) {
    before = count();
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
  }
}

const comparison = (received: Bytes, sent: Bytes) =>
  Buffer.compare(received, sent) === 0 ? "the same" : "not the same";

if (import.meta.main) {
  await runLesson(import.meta.url, {
    demo: {
      help: "one experiment after the other",
      options: {},
      show: "table",
      run: demo,
    },
  });
}
