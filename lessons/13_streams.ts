/**
 * @title Streams: readable and writable, or read and write?
 * @difficulty intermediate
 * @tags tcp, ReadableStream, pipeTo, half-close, backpressure
 * @run deno run --allow-net --allow-run=deno,cat lessons/13_streams.ts
 * @run deno run --allow-net lessons/13_streams.ts server
 * @resource {https://docs.deno.com/api/deno/~/Deno.Conn} Deno.Conn: read, write, closeWrite, readable, writable
 * @see 02_tcp_echo.ts
 * @see README.md, "13 Streams"
 *
 * Deno gives each connection two faces: `read` and `write`, as in C, and the
 * streams `readable` and `writable`, as on the Web. Lesson 02's echo server is
 * written in three forms here, at the top of the code. The same clients come to
 * each, and the kernel is asked what becomes of the connection.
 *
 * The shortest form is not the simplest one, because the end of `readable`
 * closes the whole connection. So a client that has ended only its own
 * direction (a half-close) gets no answer. The cure is a stream made of `read`,
 * in `lib/open_readable.ts`. `pipeTo` rejects when the client resets, and a
 * rejection that nobody waits for ends the process, so each form needs a
 * `catch`. When a client stops reading, each form waits (backpressure). But
 * `echoNoAwait()` does not wait for its writes: it keeps all in memory.
 *
 * @module
 */

import { cpuUsage } from "node:process";
import { setTimeout as delay } from "node:timers/promises";
import { announce } from "../lib/address.ts";
import { afterReads } from "../lib/after_reads.ts";
import { forward } from "../lib/forward.ts";
import { writeFull } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { spawnDeno } from "../lib/harness/child.ts";
import { textLines } from "../lib/harness/text_lines.ts";
import { common, type Io } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { putLoad } from "../lib/lab/load.ts";
import { openReadable } from "../lib/open_readable.ts";
import { connectAndReset } from "../lib/lab/reset_client.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import { endOf, readTcpTable } from "../lib/lab/tcp_table.ts";

/** How much a client that reads nothing sends: 32 MiB. */
const MOST = 32 * 1024 * 1024;

type Uses = Record<string, (conn: Deno.TcpConn) => Promise<void>>;

/** Form 1: one buffer for all reads. */
export async function echoByRead(conn: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(16 * 1024);
  while (true) {
    const count = await conn.read(buffer);
    if (count === null) break;
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
    new Blob(["file"]).stream().pipeTo(conn.writable, { preventClose: true }),
};

/** What joins a client with a server, as a proxy does. */
const PROXIES = {
  async "pipeTo, both ways"(one: Deno.TcpConn, other: Deno.TcpConn) {
    await Promise.all([
      one.readable.pipeTo(other.writable),
      other.readable.pipeTo(one.writable),
    ]);
  },
  forward,
};

/** Runs the forms with the same clients. */
export async function demo({ print }: Io) {
  print("The client sends 5 bytes and a FIN. Can the server still answer?");
  print(await afterwards({ ...ECHOES, ...OTHERS }));
  print("\nThe same through a proxy. Does the server's answer get back?");
  print(await throughProxies());
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
    ["a proxy between two connections", "forward (lib/forward.ts)"],
    ["gzip in between", "openReadable, pipeTo, preventClose"],
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

/** What a client gets that has ended its side, from a server behind a proxy. */
async function throughProxies(): Promise<string> {
  const rows = Object.entries(PROXIES).map(async ([name, join]) => {
    using one = await connectPair();
    using other = await connectPair();
    const joining = join(one.server, other.client).catch(() => {});
    await one.client.write(new Uint8Array(5));
    await one.client.closeWrite();
    const buffer = new Uint8Array(5);
    while (await other.server.read(buffer) !== null);
    await other.server.write(new Uint8Array(1));
    other.server.close();
    await joining;
    const count = await one.client.read(buffer);
    return [name, count === null ? "end of stream" : `${count} byte`];
  });
  return formatTable(["proxy", "answer"], await Promise.all(rows));
}

/** What a server may call for each client, as it is written. */
const CALLS: [text: string, call: (conn: Deno.TcpConn) => unknown][] = [
  ["echoByPipeTo(conn)", (conn) => echoByPipeTo(conn)],
  [
    "echoByPipeTo(conn).catch(() => {})",
    (conn) => echoByPipeTo(conn).catch(() => {}),
  ],
  ["echoByRead(conn)", (conn) => echoByRead(conn)],
];

/** A server that does not wait for what it calls, so it catches no error. */
async function server({
  hostname = "127.0.0.1",
  port = 0,
  call = 0,
  onListen = announce,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname, port });
  onListen(listener.addr);
  const [, echo] = CALLS[call]!;
  for await (const conn of listener) echo(conn);
}

/** Servers in processes of their own, because a server may end its process. */
async function afterReset(): Promise<string> {
  const rows = CALLS.map(async ([text], i) => {
    const options = ["--child", "--host=127.0.0.1", "--port=0", `--call=${i}`];
    const args = [import.meta.url, "server", ...options];
    const child = spawnDeno(args, "null");
    const { value: ready } = await textLines(child.stdout).next();
    const port = Number(ready?.split(":").at(-1));
    await connectAndReset(port);
    await Promise.race([child.status, delay(500)]); // It has time to end.
    const load = await putLoad({ port, clients: 1, messages: 20 });
    await child.stdin.close().catch(() => {}); // It may have ended already.
    return [text, load.messages - load.lost, (await child.status).code];
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
      await delay(300);
      await new Promise<void>((resolve) => afterReads(resolve));
    }
    const table = await readTcpTable(); // One reading for both ends.
    const client = endOf(table, pair.client)!;
    const server = endOf(table, pair.server)!;
    const request = client.sendQueue + server.receiveQueue;
    const echo = server.sendQueue + client.receiveQueue;
    const places = [request, sent - request - echo, echo];
    return [name, ...places.map(grouped)];
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
    const time = (user + system) / messages;
    rows.push([name, grouped(Math.round(rate)), Math.round(time)]);
  }
  return formatTable(["server", "messages/s", "us of CPU each"], rows);
}

if (import.meta.main) {
  const max = CALLS.length - 1;
  const call = { default: 0, max, help: "which one of the demo's third table" };

  await runLesson(import.meta.url, {
    demo: {
      help: "three forms of an echo server, and what comes of each",
      options: {},
      show: "table",
      run: demo,
    },
    server: {
      help: "one that ends by an error, or not, as demo runs it",
      options: { ...common.server, call },
      show: "trace",
      run: server,
    },
  });
}
