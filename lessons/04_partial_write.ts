/**
 * @title Partial writes: what write() returns
 * @difficulty intermediate
 * @tags tcp, write, writeFull, backpressure, EPIPE
 * @run deno run --allow-net lessons/04_partial_write.ts
 * @resource {https://man7.org/linux/man-pages/man2/write.2.html} write(2)
 * @resource {https://man7.org/linux/man-pages/man2/send.2.html} send(2): EPIPE, MSG_NOSIGNAL
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.6} RFC 9293, 3.8.6: the window that a reader opens and closes
 * @see 03_addresses.ts
 * @see 05_byte_order.ts
 *
 * `write` copies bytes into the socket's send buffer, and returns how many went
 * in. The rest is yours to send again. That they were accepted does not say
 * that anybody has read them, or ever will. This lesson writes 64 MiB to a
 * reader that does not read, and looks at what it has to do with that.
 *
 * In the tutorial: the section "write函数", which says that the return value may
 * be less than asked for. Its echo client loops over `write` and is right; its
 * servers call a short write an error and end.
 *
 * What the tutorial leaves out:
 * - A return value of 0 is nothing strange for a write of 0 bytes.
 * - An error comes late: the first write to a peer that has closed succeeds.
 * - Its client writes all of a message before it reads the echo. With a message
 *   larger than the buffers of both sides that never ends.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `conn.write` | `sendto(MSG_NOSIGNAL)`; EAGAIN, then `epoll_wait`, when the buffer is full |
 * | `writeFull` | the same, until all is accepted |
 * | `conn.write` of 0 bytes | `sendto` of 0 bytes: nothing is sent |
 *
 * Try it:
 * - `strace -f -e trace=sendto,recvfrom deno run ...`: each write and its
 *   return value.
 * - On a terminal: the bar stands still until the reader starts.
 * - `sysctl net.ipv4.tcp_wmem net.ipv4.tcp_rmem`: least, usual and greatest
 *   size of the two buffers, the writer's and the reader's. What the first
 *   write accepts is in one of them.
 *
 * What is still missing: `writeFull` waits for as long as the reader likes, and
 * lesson 11 gives up in time. How large the buffers are, and how to change
 * that, is lesson 07.
 *
 * @module
 */

import { mode, quietOption, runLesson } from "../lib/command_line.ts";
import { readFull, writeFull } from "../lib/full_io.ts";
import { Progress } from "../lib/progress.ts";
import { formatTable } from "../lib/table.ts";

const MIB = 1024 * 1024;
/** How long no byte must move until we call it stuck, in milliseconds. */
const PATIENCE = 300;

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** Gets each table. */
  print: (text: string) => void;
  /** Gives up. */
  signal?: AbortSignal;
}

type Pair = [Deno.TcpConn, Deno.TcpConn];
type Bytes = Uint8Array<ArrayBuffer>;

/** Writes in every wrong way, and in the right one. */
export async function demo({ print, signal }: DemoOptions): Promise<void> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using open = new DisposableStack();
  signal?.throwIfAborted();
  const stop = () => open.dispose();
  signal?.addEventListener("abort", stop);
  const connect = async (): Promise<Pair> => {
    const { port } = listener.addr;
    const conn = open.use(await Deno.connect({ hostname: "127.0.0.1", port }));
    return [conn, open.use(await listener.accept())];
  };
  const data = noise(64 * MIB);
  try {
    print("Nobody reads. How much of 64 MiB does a write accept?");
    print(await shortWrites(await connect(), data) + "\n");
    print("The same write, its return value ignored, and close:");
    print(await ignoredCount(await connect(), data) + "\n");
    print("All of it written to an echo server, before its echo is read:");
    print(await lockUp(await connect(), data) + "\n");
    print("Where does a write end, for the one who reads?");
    print(await boundaries(await connect()) + "\n");
    print("Two writers at once on one connection, 8 MiB each:");
    print(await twoWriters(await connect(), await connect()) + "\n");
    print("Writing to a peer that has closed, and writing nothing:");
    print(await closedPeer(await connect()));
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

async function shortWrites([conn, peer]: Pair, data: Bytes) {
  const rows: (string | number)[][] = [];
  using progress = new Progress("reading", data.length);
  progress.update(0);
  let sent = 0;
  let waiting = Promise.resolve(0);
  while (sent < data.length) {
    waiting = conn.write(data.subarray(sent));
    const accepted = await Promise.race([waiting, pause(PATIENCE)]);
    const result = accepted ?? `still waiting after ${PATIENCE} ms`;
    rows.push([rows.length + 1, data.length - sent, result]);
    if (accepted === undefined) break;
    sent += accepted;
    waiting = Promise.resolve(0);
  }

  // Now somebody reads, so there is room again: the write that waits returns,
  // and writeFull() sends the rest.
  let got = 0;
  const reader = {
    async read(p: Uint8Array) {
      const count = await peer.read(p);
      progress.update(got += count ?? 0);
      return count;
    },
  };
  const [received] = await Promise.all([
    readFull(reader, new Uint8Array(data.length)),
    (async () => writeFull(conn, data.subarray(sent + await waiting)))(),
  ]);
  return formatTable(["write", "offered", "accepted"], rows) + "\n\n" +
    formatTable(["", "bytes", "SHA-256"], [
      ["sent", data.length, await sha256(data)],
      ["got", got, await sha256(received!)],
    ]);
}

async function ignoredCount([conn, peer]: Pair, data: Bytes) {
  await conn.write(data); // The bug: it returns a number.
  conn.close();
  let received = 0;
  const buffer = new Uint8Array(MIB);
  for (let n; (n = await peer.read(buffer)) !== null;) received += n;
  return formatTable(["", "bytes"], [
    ["the program believes it has sent", data.length],
    ["the reader gets, and then a clean end", received],
    ["the reader never gets", data.length - received],
  ]);
}

async function lockUp([conn, peer]: Pair, data: Bytes) {
  let written = 0;
  let echoed = 0;
  const echoing = (async () => {
    const buffer = new Uint8Array(16 * 1024);
    for (let n; (n = await peer.read(buffer)) !== null;) {
      await writeFull(peer, buffer.subarray(0, n));
      echoed += n;
    }
  })();
  echoing.catch(() => {}); // It is awaited below, but may fail before.
  const writing = writeFull({
    async write(p) {
      const count = await conn.write(p);
      written += count;
      return count;
    },
  }, data);

  let before = -1;
  while (before !== written + echoed && written < data.length) {
    before = written + echoed;
    await Promise.race([pause(PATIENCE), writing]);
  }
  const stuck = before === written + echoed
    ? [`no byte moved for ${PATIENCE} ms`, written, echoed]
    : ["it did not lock up here", written, echoed];

  // What the client should have done from the start: read at the same time.
  const [echo] = await Promise.all([
    readFull(conn, new Uint8Array(data.length)),
    writing,
  ]);
  await conn.closeWrite();
  await echoing;
  const same = await sha256(echo!) === await sha256(data);
  return formatTable(["", "written", "echoed"], [
    stuck,
    [`it reads as well: ${same ? "same" : "other"} bytes`, written, echoed],
  ]);
}

async function boundaries([conn, peer]: Pair) {
  const text = new TextEncoder();
  const buffer = new Uint8Array(100);
  const read = async (p: Uint8Array) =>
    new TextDecoder().decode(p.subarray(0, await peer.read(p) ?? 0));

  for (const word of ["one", "two", "three"]) {
    await writeFull(conn, text.encode(word));
  }
  const many = [await read(buffer)];
  while (many.join("").length < 11) many.push(await read(buffer));

  await writeFull(conn, text.encode("onetwothree"));
  const one: string[] = [];
  while (one.join("").length < 11) one.push(await read(buffer.subarray(0, 4)));
  return formatTable(["written", "read"], [
    ["one two three", many.join(" ")],
    ["onetwothree", one.join(" ")],
  ]);
}

async function twoWriters(plain: Pair, queued: Pair) {
  const a = new Uint8Array(8 * MIB).fill(1);
  const b = new Uint8Array(8 * MIB).fill(2);
  const [raced] = await Promise.all([
    countRuns(plain[1], a.length + b.length),
    writeFull(plain[0], a),
    writeFull(plain[0], b),
  ]);
  // A queue is a promise that each writer chains its turn to.
  let queue = Promise.resolve(0);
  const enqueue = (data: Uint8Array) =>
    queue = queue.then(() => writeFull(queued[0], data));
  const [inTurn] = await Promise.all([
    countRuns(queued[1], a.length + b.length),
    enqueue(a),
    enqueue(b),
  ]);
  return formatTable(["", "pieces that arrive"], [
    ["each writes when it can", raced],
    ["each waits for its turn", inTurn],
  ]);
}

/** Reads `total` bytes, and counts how often they change. */
async function countRuns(conn: Deno.TcpConn, total: number) {
  const data = await readFull(conn, new Uint8Array(total));
  let runs = 0;
  data!.forEach((byte, i) => runs += byte === data![i - 1] ? 0 : 1);
  return runs;
}

async function closedPeer([conn, peer]: Pair) {
  const rows: string[][] = [];
  const attempt = async (what: string, size: number) => {
    const result = await conn.write(new Uint8Array(size)).then(
      (count) => `${count} accepted`,
      (error) => error.code,
    );
    rows.push([what, result]);
  };
  await attempt("0 bytes, the peer is there", 0);
  peer.close();
  await attempt("5 bytes, the peer has closed", 5);
  await attempt("5 more bytes", 5);
  await attempt("0 bytes", 0);
  return formatTable(["write", "result"], rows);
}

/** Bytes in which none that are lost or swapped would go unnoticed. */
function noise(size: number): Bytes {
  const words = new Uint32Array(size / 4);
  let state = crypto.getRandomValues(new Uint32Array(1))[0];
  for (let i = 0; i < words.length; i++) {
    words[i] = state = Math.imul(state, 1664525) + 1013904223;
  }
  return new Uint8Array(words.buffer);
}

async function sha256(data: Bytes): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", data);
  return new Uint8Array(digest).toHex();
}

function pause(milliseconds: number): Promise<undefined> {
  return new Promise((resolve) =>
    setTimeout(() => resolve(undefined), milliseconds)
  );
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Partial writes: what write() returns",
    modes: {
      demo: mode({
        help: "one experiment after the other",
        flags: ["--allow-net"],
        options: quietOption,
        run: demo,
      }),
    },
  });
}
