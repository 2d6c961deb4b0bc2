/**
 * @title Production echo: the server to take along
 * @difficulty advanced
 * @tags tcp, server, client, backpressure, fairness, TCP_NODELAY, EMFILE, load
 * @run deno run --allow-net --allow-ffi lessons/17_production.ts
 * @run deno run --allow-net lessons/17_production.ts server
 * @run deno run --allow-net lessons/17_production.ts client
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2): EMFILE, ECONNABORTED
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.7.4} RFC 9293, 3.7.4: Nagle's algorithm
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.6.3} RFC 9293, 3.8.6.3: delayed acknowledgments
 * @see 11_deadlines.ts
 * @see 12_concurrent_echo.ts
 * @see README.md, "17 Production echo"
 *
 * The server of lesson 12 works as long as its clients are few and kind. This
 * one also works if they are not, because `serve` in `lib/serve.ts` does what a
 * server for many clients needs. The demo measures six of these things: what
 * happens with them, and what happens without.
 *
 * What to look at: `server()` is a handler for one client, and knows nothing of
 * the others. The numbered comments in `lib/serve.ts` explain the nine needs.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { counted } from "../lib/counted.ts";
import { encode } from "../lib/encode.ts";
import { outcomeOf } from "../lib/error_text.ts";
import {
  type Reader,
  readFull,
  writeFull,
  type Writer,
} from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { common, type Io } from "../lib/harness/command_line.ts";
import { Progress } from "../lib/harness/progress.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { leaveDescriptors } from "../lib/lab/few_descriptors.ts";
import { openLibc, SOCK_STREAM } from "../lib/lab/libc_socket.ts";
import { describeLoad, type LoadOptions, putLoad } from "../lib/lab/load.ts";
import { serve, type ServedConn, type ServeOptions } from "../lib/serve.ts";

// Not powers of two. The length of a message often is one. It would fill the
// buffer to the last byte, as if there were more.
const FIRST_BUFFER = 1536;
const LARGEST_BUFFER = 384 * 1024;

type ServerOptions = ServeOptions & {
  /** Bytes, or 0: as many as come. */
  bufferSize?: number;
  print?: (line: string) => unknown;
};

/** Echoes all clients at once, until `signal` is aborted. */
export async function server({
  drainTimeout = 5000,
  bufferSize = 0,
  signal = new AbortController().signal,
  print = console.log,
  ...options
}: ServerOptions = {}) {
  let bytes = 0;
  const { connections } = await serve(echo, {
    ...options,
    signal,
    drainTimeout,
    onDrain(clients) {
      const most = `${drainTimeout} ms at most`;
      print(`waiting for clients to finish: ${clients}, ${most}`);
    },
  });
  const served = counted(connections, "connection");
  print(`served ${served}, ${counted(bytes, "byte")}`);

  async function echo(conn: ServedConn) {
    let buffer = new Uint8Array(bufferSize || FIRST_BUFFER);
    while (true) {
      const count = await conn.read(buffer);
      if (count === null) break; // The client has closed its side.
      await writeFull(conn, buffer.subarray(0, count));
      bytes += count;

      // A full buffer: there may be more, so make it larger. It never shrinks.
      // A client that once sent much keeps up to 384 KiB while it is connected.
      if (count === buffer.length && !bufferSize && count < LARGEST_BUFFER) {
        buffer = new Uint8Array(count * 4);
      }
    }
  }
}

/** Measures what six of the needs are about: a server that has it, one without. */
export async function demo({ clients, print }: { clients: number } & Io) {
  using progress = new Progress("measuring", NEEDS.length);
  const rows: (string | number)[][] = [];
  // From the last one to the first: Deno itself opens files when it starts, and
  // should have done so before there are no descriptors.
  for (const [what, measure] of NEEDS.toReversed()) {
    progress.update(rows.length);
    const having = await measure(true, clients);
    rows.unshift([what, having, await measure(false, clients)]);
  }
  progress[Symbol.dispose]();
  await print(formatTable(["need", "with it", "without"], rows));
}

type Measure = (isWith: boolean, clients: number) => Promise<string>;

/** What is measured, with the numbers of `lib/serve.ts`. */
const NEEDS: [what: string, measure: Measure][] = [
  ["2. 40 clients, descriptors for 8", descriptors],
  ["3. 5 clients, a limit of 3", limit],
  ["4. a message after the end began", end],
  ["5. messages of 64 KiB, no Nagle", nagle],
  ["8. a crowd, when one client is done", fairness],
  ["9. a silent client, 200 ms at most", silence],
];

const hostname = "127.0.0.1";
/** How long the demo waits for what may never come, in milliseconds. */
const PATIENCE = 400;

async function descriptors(isWith: boolean) {
  let served = 0;
  let outcome = "";
  const readToEnd = async (conn: Reader) => {
    served++;
    await conn.read(new Uint8Array(1));
  };
  const run = (options: ServeOptions) =>
    isWith
      ? serve(readToEnd, options)
      : plainServer(readToEnd, options).catch(({ code }) =>
        outcome = `, ${code}`
      );
  await withServer({}, async (port) => {
    using libc = openLibc();
    const clients = Array.from({ length: 40 }, () => libc.socket(SOCK_STREAM));
    // These calls block, so the server accepts nobody yet.
    for (const client of clients) client.connect({ hostname, port });
    using _few = leaveDescriptors(8);
    for (const client of clients) {
      await delay(5);
      client.close();
    }
    await delay(PATIENCE / 2);
  }, run);
  return `${served} served${outcome}`;
}

/** The server of lesson 12: the first error of `accept` ends it. */
async function plainServer(
  handler: (conn: Deno.TcpConn) => Promise<void>,
  { onListen, signal }: ServeOptions,
) {
  using listener = Deno.listen({ hostname, port: 0 });
  signal?.addEventListener("abort", () => listener[Symbol.dispose]());
  onListen?.(listener.addr);
  while (true) {
    const conn = await listener.accept();
    handler(conn).finally(() => conn.close());
  }
}

async function limit(isWith: boolean) {
  const options = { maxConnections: isWith ? 3 : 0 };
  return await withServer(options, async (port) => {
    using conns = new DisposableStack();
    let served = 0;
    const ask = async () => {
      const conn = conns.use(await Deno.connect({ hostname, port }));
      await writeFull(conn, new Uint8Array(1));
      if (await conn.read(new Uint8Array(1)) !== null) served++;
    };
    for (let i = 0; i < 5; i++) ask().catch(() => {}); // Some wait to the end.
    // All stay connected, until nobody else has been served for a while.
    for (let before = -1; before !== served || served === 0;) {
      before = served;
      await delay(PATIENCE);
    }
    return `${served} served at once`;
  });
}

async function end(isWith: boolean) {
  const options = { drainTimeout: isWith ? 1000 : 0 };
  return await withServer(options, async (port, stop) => {
    using conn = await Deno.connect({ hostname, port });
    const byte = new Uint8Array(1);
    await writeFull(conn, byte);
    await readFull(conn, byte); // It is being served.
    stop();
    await delay(PATIENCE / 4);
    return await outcomeOf(async () => {
      await writeFull(conn, byte);
      return await conn.read(byte) === null ? "end of stream" : "echoed";
    });
  });
}

async function nagle(isWith: boolean) {
  // Each message takes the server several reads and writes.
  const options = { bufferSize: 16 * 1024, nagle: !isWith };
  const load = { clients: 1, size: 64 * 1024, duration: PATIENCE };
  const { rate } = await putLoadOn(options, load);
  return `${grouped(Math.round(rate))} messages/s`;
}

async function fairness(isWith: boolean, clients: number) {
  const counts: number[] = [];
  const begin = Promise.withResolvers<void>();
  const firstIsDone = Promise.withResolvers<number[]>();
  const countReads = async (conn: ServedConn) => {
    const number = counts.push(0) - 1;
    const message = new Uint8Array(64);
    await begin.promise;
    while (await readFull(conn, message) !== null) {
      if (++counts[number]! === 50) firstIsDone.resolve(counts.slice());
    }
  };
  const options = { noGate: !isWith, drainTimeout: 0 };
  const reads = await withServer(options, async (port) => {
    using conns = new DisposableStack();
    for (let i = 0; i < clients; i++) {
      const conn = conns.use(await Deno.connect({ hostname, port }));
      await writeFull(conn, new Uint8Array(50 * 64));
    }
    // Now there is something to read from each of them.
    while (counts.length < clients) await delay(1);
    begin.resolve();
    return await firstIsDone.promise;
  }, (options) => serve(countReads, options));
  const waiting = reads.filter((count) => count === 0).length;
  return `${waiting} had no turn`;
}

async function silence(isWith: boolean) {
  const options = { idleTimeout: isWith ? 200 : 0 };
  return await withServer(options, async (port) => {
    using conn = await Deno.connect({ hostname, port });
    const start = performance.now();
    const reading = conn.read(new Uint8Array(1));
    const count = await Promise.race([reading, delay(PATIENCE)]);
    const time = Math.round(performance.now() - start);
    return `${count === null ? "closed" : "open"} after ${time} ms`;
  });
}

/** Runs a server in this process while it is used. */
async function withServer<T>(
  options: ServerOptions,
  use: (port: number, stop: () => void) => Promise<T>,
  run: (options: ServerOptions) => Promise<unknown> = server,
): Promise<T> {
  const { promise, resolve: onListen } = Promise.withResolvers<Deno.NetAddr>();
  const stop = new AbortController();
  const { signal } = stop;
  const silent = { hostname, port: 0, print: () => {}, signal, onListen };
  const serving = run({ ...silent, ...options });
  try {
    return await use((await promise).port, () => stop.abort());
  } finally {
    stop.abort();
    await serving;
  }
}

/** Puts a load on a server in this process. */
async function putLoadOn(options: ServerOptions, load: LoadOptions) {
  const report = await withServer(
    options,
    (port) => putLoad({ ...load, hostname, port }),
  );
  if (report.error !== undefined) throw report.error;
  return report;
}

/** Puts a load on an echo server, and prints the result. */
export async function client({
  output = Deno.stdout,
  ...load
}: LoadOptions & { output?: Writer } = {}) {
  const report = await putLoad(load);
  await writeFull(output, encode(`${describeLoad(report)}\n`));
  if (report.error !== undefined) throw report.error;
  if (report.corrupted > 0) throw new Error("An echo is not what was sent");
}

/** The client, and how far it has come: the bar goes before the result comes. */
async function clientWithProgress({ output, ...load }: LoadOptions & Io) {
  using progress = new Progress("messages", 1);
  const write = (p: Uint8Array) => {
    progress[Symbol.dispose]();
    return output.write(p);
  };
  const onProgress = (part: number) => progress.update(part);
  await client({ ...load, onProgress, output: { write } });
}

if (import.meta.main) {
  const max = 2 ** 31 - 1;
  const noGate = { default: false, help: "let Deno's loop say who is next" };
  const clients = { min: 1, max: 5000, help: "how many at once" };

  await runLesson(import.meta.url, {
    demo: {
      help: "what happens with and without: measured",
      options: {
        clients: { ...clients, default: 1000, help: "how many are a crowd" },
      },
      show: "table",
      run: demo,
    },
    server: {
      help: "echoes what clients send, all at once",
      options: {
        ...common.server,
        backlog: { default: 1024, max, help: "length of listen(2)'s queue" },
        maxConnections: { default: 0, help: "clients at once, 0: no limit" },
        idleTimeout: { default: 0, max, help: "ms of silence, 0: no limit" },
        drainTimeout: { default: 5000, max, help: "ms for clients to finish" },
        bufferSize: { default: 0, max: 2 ** 26, help: "0: as bytes come" },
        nagle: { default: false, help: "leave Nagle's algorithm on" },
        noGate,
      },
      show: "trace",
      endsOnSignal: true,
      run: server,
    },
    client: {
      help: "puts a load on an echo server, and compares every byte",
      options: {
        ...common.client,
        clients: { ...clients, default: 100 },
        messages: { default: 100, min: 1, max: 1_000_000, help: "of each" },
        duration: { default: 0, max, help: "ms, instead of messages" },
        size: { default: 64, min: 1, max: 2 ** 26, help: "bytes of a message" },
        timeout: { default: 5000, min: 1, max, help: "ms without any echo" },
        noGate,
      },
      show: "table",
      last: "client done!!",
      run: clientWithProgress,
    },
  });
}
