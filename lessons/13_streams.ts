/**
 * @title Streams: readable and writable, or read and write?
 * @difficulty intermediate
 * @tags tcp, ReadableStream, pipeTo, half-close, backpressure
 * @run deno run --allow-net --allow-run=deno,cat lessons/13_streams.ts
 * @resource {https://docs.deno.com/api/deno/~/Deno.Conn} Deno.Conn: read, write, closeWrite, readable, writable
 * @resource {https://streams.spec.whatwg.org/#rs-pipe-to} Streams: pipeTo, with preventClose, preventAbort, preventCancel
 * @resource {https://github.com/denoland/deno/issues/22258} Deno's tracker: why the end of `readable` closes the connection
 * @resource {https://man7.org/linux/man-pages/man2/shutdown.2.html} shutdown(2): the end of one direction
 * @resource {https://man7.org/linux/man-pages/man5/proc_net.5.html} proc_net(5): the state and the queues of a socket
 * @see 02_tcp_echo.ts
 * @see 12_concurrent_echo.ts
 * @see 14_dead_peers.ts
 *
 * Deno gives each connection two faces: `read` and `write`, as in C, and the
 * streams `readable` and `writable`, as on the Web. This lesson writes lesson
 * 02's echo server with both, in three forms. It runs each form with the same
 * clients, and asks the kernel what has become of the connection.
 *
 * What to look at:
 * - The three forms stand at the top of the code. The shortest one is not the
 *   simplest one.
 * - The end of `conn.readable` closes the whole connection. The client has ended
 *   only its own direction, and waits for an answer. It gets none. In an echo
 *   server one does not notice this, because it has already answered. No option
 *   of `pipeTo` changes this. The cure is a stream made of `read`: see
 *   `lib/open_readable.ts`.
 * - `conn.readable.cancel()` also closes the connection, and `break` in a
 *   `for await` calls it. Here an option helps:
 *   `for await (const chunk of conn.readable.values({ preventCancel: true }))`.
 * - When a stream that is piped into `conn.writable` ends, the connection is
 *   closed. Here `preventClose` helps. After that, `conn.closeWrite()` ends
 *   this one direction.
 * - `pipeTo` rejects when the client resets. A promise that rejects while
 *   nobody waits for it ends the process, and all other clients with it. A loop
 *   of `read` that nobody waits for does the same. The cure for both is a
 *   `catch`.
 * - When the other side stops reading, the kernel fills its buffers, and the
 *   server waits. Each form keeps no more than one chunk. But `writer.write`
 *   without `await` does not wait: then the program keeps everything.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `conn.read`, a chunk of `conn.readable` | `recvfrom` |
 * | the end of `conn.readable` | `recvfrom` returns 0, then `shutdown(SHUT_WR)`, `close` |
 * | `conn.readable.cancel()` | `shutdown(SHUT_WR)`, `close` |
 * | a chunk for `conn.writable` | `sendto`, as often as it takes |
 * | the end of `pipeTo(conn.writable)` | `shutdown(SHUT_WR)`, `close` |
 * | `conn.closeWrite()` | `shutdown(SHUT_WR)` |
 *
 * Try it:
 * - `deno task streams`: four tables of what was seen, and one of what to use.
 * - `deno task copy open_readable ../open_readable.ts`: the cure, to take along.
 * - `deno task bench messages`: the same forms as servers in processes of their
 *   own, beside Node's.
 *
 * It is beyond the tutorial: C has `read` and `write` only.
 *
 * What the tables do not say: they measure small messages, in this run, and the
 * costs of server and clients together. Streams cost a new buffer and some
 * promises for each chunk. With larger chunks this matters less.
 *
 * What is still missing: all these clients say that they leave, by a FIN or a
 * RST. Lesson 14 is about those that say nothing.
 *
 * @module
 */

import { cpuUsage } from "node:process";
import { setTimeout as delay } from "node:timers/promises";
import { writeFull } from "../lib/full_io.ts";
import { spawnDeno, textLines } from "../lib/harness/child.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { putLoad } from "../lib/load.ts";
import { openReadable } from "../lib/open_readable.ts";
import { connectAndReset } from "../lib/reset_client.ts";
import { connectPair } from "../lib/tcp_pair.ts";
import { endOf, readTcpTable } from "../lib/tcp_table.ts";

/** How much a client that reads nothing sends: 32 MiB. */
const MOST = 32 * 1024 * 1024;

type Uses = Record<string, (conn: Deno.TcpConn) => Promise<void>>;

/** Form 1: one buffer for all reads. */
export async function echoByRead(conn: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(16 * 1024);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    await writeFull(conn, buffer.subarray(0, count));
  }
}

/** Form 2: each chunk is a buffer of its own. */
export async function echoByForAwait(conn: Deno.TcpConn): Promise<void> {
  for await (const chunk of conn.readable) await writeFull(conn, chunk);
}

/** Form 3: from the connection into itself. */
export async function echoByPipeTo(conn: Deno.TcpConn): Promise<void> {
  await conn.readable.pipeTo(conn.writable);
}

/** Form 3, cured: at the end of the stream the connection stays open. */
export async function echoCured(conn: Deno.TcpConn): Promise<void> {
  await openReadable(conn).pipeTo(conn.writable, { preventClose: true });
}

/** A mistake: it writes as fast as it reads, and never waits. */
async function echoNoAwait(conn: Deno.TcpConn): Promise<void> {
  const writer = conn.writable.getWriter();
  for await (const it of conn.readable) writer.write(it).catch(() => {});
}

const ECHOES: Uses = { echoByRead, echoByForAwait, echoByPipeTo, echoCured };

/** All options of streams that keep something open. */
const PREVENT = { preventClose: true, preventAbort: true, preventCancel: true };

const OTHERS: Uses = {
  "pipeTo, prevent...": (conn) => conn.readable.pipeTo(conn.writable, PREVENT),
  "readable.cancel": (conn) => conn.readable.cancel(),
  "file.pipeTo": (conn) => new Blob(["file"]).stream().pipeTo(conn.writable),
  "file.pipeTo, preventClose": (conn) =>
    new Blob(["file"]).stream().pipeTo(conn.writable, PREVENT),
};

/** Runs the forms with the same clients. */
export async function demo({
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  print("The client sends 5 bytes and a FIN. Can the server still answer?");
  print(await afterwards({ ...ECHOES, ...OTHERS }));
  print("\nA client sends a RST. Then another one comes, with 20 messages:");
  print(await afterReset());
  print("\nThe client sends 32 MiB and reads nothing. Where are the bytes?");
  print(await backpressure({ ...ECHOES, echoNoAwait }));
  print("\nMessages of 64 bytes, from 100 clients in the same process:");
  print(await costs(ECHOES));
  print("\nWhen to use which:");
  print(formatTable(["for", "use"], [
    ["frames, full reads, many small messages", "read, write"],
    ["an answer behind the other side's end", "read, write, closeWrite"],
    ["all up to the end, and no answer", "for await"],
    ["a file to a connection", "pipeTo, preventClose; closeWrite"],
    ["a relay, or gzip in between", "openReadable, pipeTo, preventClose"],
  ]));
}

/** Whether a connection is still open for writing. */
async function afterwards(uses: Uses): Promise<string> {
  const rows = Object.entries(uses).map(async ([name, use]) => {
    using pair = await connectPair();
    await pair.client.write(new Uint8Array(5));
    await pair.client.closeWrite();
    await use(pair.server);
    const state = endOf(await readTcpTable(), pair.server)?.state ?? "closed";
    const answer = await pair.server.write(new Uint8Array(1))
      .then((count) => `${count} byte`, (error) => error.name);
    return [name, state, answer];
  });
  return formatTable(["server", "socket", "answer"], await Promise.all(rows));
}

/** Servers in processes of their own, because a server may end its process. */
async function afterReset(): Promise<string> {
  const rows = [
    "echoByPipeTo(conn)",
    "echoByPipeTo(conn).catch(() => {})",
    "echoByRead(conn)",
  ].map(async (call) => {
    const program = `
      Deno.stdin.read(new Uint8Array(1)).then(() => Deno.exit());
      const writeFull = (conn, data) => conn.write(data);
      ${echoByRead} ${echoByPipeTo}
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      console.log(String(listener.addr.port)); // Numbers may be in color.
      for await (const conn of listener) ${call};`;
    const url = `data:text/javascript,${encodeURIComponent(program)}`;
    const child = spawnDeno([url], "null");
    const port = Number((await textLines(child.stdout).next()).value);
    await connectAndReset(port);
    const load = await putLoad({ port, clients: 1, messages: 20 });
    await child.stdin.close().catch(() => {}); // It may have ended already.
    return [call, load.messages - load.lost, (await child.status).code];
  });
  const head = ["for await (const conn of listener)", "echoes", "exit code"];
  return formatTable(head, await Promise.all(rows));
}

/** Sends until nothing moves any more. */
async function backpressure(uses: Uses): Promise<string> {
  const data = new Uint8Array(MOST);
  const rows = Object.entries(uses).map(async ([name, use]) => {
    using pair = await connectPair();
    let sent = 0;
    const send = async () => {
      while (sent < MOST) sent += await pair.client.write(data.subarray(sent));
    };
    Promise.allSettled([use(pair.server), send()]); // They end with the pair.
    for (let before = -1; before < sent;) {
      before = sent;
      // In three parts. After a stop, a process may find a timer that is due
      // and bytes that have come. Deno runs the timer first.
      for (let part = 0; part < 3; part++) await delay(100);
    }
    const table = await readTcpTable(); // One reading for both ends.
    const client = endOf(table, pair.client)!;
    const server = endOf(table, pair.server)!;
    const request = client.sendQueue + server.receiveQueue;
    const echo = server.sendQueue + client.receiveQueue;
    return [name, request, sent - request - echo, echo];
  });
  const head = ["server", "kernel: requests", "its memory", "kernel: echoes"];
  return formatTable(head, await Promise.all(rows));
}

/** A benchmark; the time of the CPU is that of the server and its clients. */
async function costs(echoes: Uses): Promise<string> {
  const rows: (string | number)[][] = [];
  for (const [name, echo] of Object.entries(echoes)) {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    (async () => {
      for await (const conn of listener) {
        echo(conn).catch(() => {}).finally(() => conn[Symbol.dispose]());
      }
    })();
    const start = cpuUsage();
    const { rate, messages } = await putLoad({ port, duration: 400 });
    const { user, system } = cpuUsage(start);
    rows.push([name, Math.round(rate), Math.round((user + system) / messages)]);
  }
  return formatTable(["server", "messages/s", "us of CPU each"], rows);
}

if (import.meta.main) {
  const title = "Streams: readable and writable, or read and write?";

  await runLesson(import.meta.url, title, {
    demo: {
      help: "three forms of an echo server, and what comes of each",
      flags: ["--allow-net", "--allow-run=deno,cat"],
      options: {},
      run: demo,
    },
  });
}
