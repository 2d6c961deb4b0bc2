/**
 * @title Deadlines: giving up in time, and trying again
 * @difficulty advanced
 * @tags tcp, udp, timeout, AbortSignal, retry, backoff
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/11_deadlines.ts
 * @run deno run --allow-net --unstable-net lessons/11_deadlines.ts server
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7): how long the kernel itself tries
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8.3} RFC 9293, 3.8.3: R1 and R2, when TCP gives up
 * @resource {https://www.rfc-editor.org/rfc/rfc8085#section-3.1.1} RFC 8085, 3.1.1: retries of UDP, and backing off
 * @see 10_framing.ts
 * @see 12_concurrent_echo.ts
 *
 * A wait may have no end, or one after minutes. A full queue does not answer a
 * connect. A silent peer never ends a read. A peer that does not read never
 * takes a write. The first part gives up each of these waits in time. The
 * second part sends requests over UDP, through a relay that loses, delays and
 * doubles datagrams. Each request gets one answer, or a clear failure.
 *
 * What to look at:
 * - `withDeadline` waits for a promise, but not for ever. Deno's `read` and
 *   `write` cannot be cancelled. Only closing the connection ends them. They
 *   throw `Interrupted` then, which is true but does not give the reason.
 *   `withDeadline` throws `TimedOut`.
 * - After that the connection is gone. Half a message may have been read or
 *   written, so there is no way to go on.
 * - `ask` gives each request an id, and the answer has the same id. So `ask`
 *   recognizes an answer that comes late or twice. Lesson 06 could not do that.
 *   When no answer comes, `ask` sends the request again, and waits twice as
 *   long.
 * - A request that comes twice must not be carried out twice: it might be a
 *   payment. The server keeps its answers for a minute, and sends the same one
 *   again. It counts what it carries out, and the table shows the count.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.connect` with a `signal` | `connect`, `epoll_wait`; `close` when it is aborted |
 * | `withDeadline` | none: a timer of the event loop |
 * | `giveUp`: `conn[Symbol.dispose]` | `shutdown(SHUT_WR)`, `close` |
 * | `receiveFrom` | `recvfrom`, until one comes from the server or the time is over |
 * | `socket.send` | `sendto` |
 *
 * Try it:
 * - `deno task deadlines --seed 7`: the relay loses the same datagrams each
 *   time. In the diagram their arrows end in an `x`, where the relay is.
 * - `deno task deadlines --loss 50 --tries 5 --requests 9 --quiet`: more
 *   retries, and most often a failure, with exit code 1.
 * - `deno run --allow-net --unstable-net lessons/11_deadlines.ts server`, and in
 *   another terminal `printf '\0\0\0\1hello' | nc -u -w1 127.0.0.1 9527 | od -c`,
 *   with any `nc`. Then press Ctrl+Z in the server's terminal, and ask again: no
 *   answer comes, and no error either. `fg` lets the server go on.
 *
 * The tutorial has nothing like this: its programs wait for ever. Its UDP
 * client does that after the first lost reply.
 *
 * What can still go wrong: "once" is true only while the server remembers. A
 * request that comes again after that is carried out again. So `--remember` must
 * be longer than a client tries, which is 8 s here. When `--memory` is full,
 * new requests are not carried out: if the server forgot an old one early, it
 * might carry out that one again. And after a restart the server remembers
 * nothing. A server that must never do a request twice writes its answers to a
 * disk.
 *
 * What is still missing: all of this serves one client at a time. Lesson 12
 * serves many, and has a deadline for silent clients.
 *
 * @module
 */

import { withDeadline } from "../lib/deadline.ts";
import { announce, formatAddress } from "../lib/describe.ts";
import { writeFull } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { receiveFrom } from "../lib/receive_from.ts";
import { Relay } from "../lib/relay.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

const LOOPBACK = "127.0.0.1";
const ID_SIZE = 4;
/** The server does not answer longer requests, as it has to remember each. */
const MAX_REQUEST = 1024;

/**
 * Connects, or gives up: a full queue gives no answer.
 *
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export async function connectWithDeadline(
  address: { hostname: string; port: number },
  milliseconds: number,
): Promise<Deno.TcpConn> {
  const giveUp = new AbortController();
  const connecting = Deno.connect({ ...address, signal: giveUp.signal });
  return await withDeadline(connecting, milliseconds, () => {
    giveUp.abort();
    // It may have connected just now.
    connecting.then((conn) => conn[Symbol.dispose](), () => {});
  });
}

/**
 * Reads, or closes the connection: then there is nothing left to read from, and
 * another call that waits on it is `Interrupted`.
 *
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export function readWithDeadline(
  conn: Deno.Conn,
  buffer: Uint8Array,
  milliseconds: number,
): Promise<number | null> {
  const giveUp = () => conn[Symbol.dispose](); // Unlike close(), never throws.
  return withDeadline(conn.read(buffer), milliseconds, giveUp);
}

/**
 * Writes all of it, or closes the connection: a part may have been sent.
 *
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export function writeFullWithDeadline(
  conn: Deno.Conn,
  data: Uint8Array,
  milliseconds: number,
): Promise<number> {
  const giveUp = () => conn[Symbol.dispose]();
  return withDeadline(writeFull(conn, data), milliseconds, giveUp);
}

/**
 * Carries each request out once, as long as it remembers it. A request is an id
 * of four bytes and text. The answer is the id, the text, and how many requests
 * were carried out so far.
 */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  remember = 60_000,
  memory = 10_000,
  onListen = announce,
} = {}): Promise<void> {
  needUnstableNet();
  const socket = Deno.listenDatagram({ hostname, port, transport: "udp" });
  const answers = new Map<string, { answer: Uint8Array; until: number }>();
  let carriedOut = 0;
  try {
    const address = socket.addr as Deno.NetAddr;
    onListen(address);

    const buffer = new Uint8Array(MAX_REQUEST + 1);
    for (;;) {
      const [request, from] = await socket.receive(buffer);
      const sender = from as Deno.NetAddr;
      if (sender.port === address.port) continue; // See lesson 06.
      if (request.length < ID_SIZE || request.length > MAX_REQUEST) continue;

      const now = performance.now();
      for (const [key, { until }] of answers) {
        if (until > now) break; // A Map has its oldest entries first.
        answers.delete(key);
      }
      const id = idOf(request);
      const text = textOf(request);
      // An id alone is not enough: a sender that starts again may use it again.
      const key = `${formatAddress(sender)} ${id} ${text}`;
      let known = answers.get(key);
      if (known === undefined) {
        // If an answer is forgotten now, its request may be carried out twice.
        // If nothing is done, this request looks lost: the client tries again.
        if (answers.size >= memory) continue;
        const answer = toDatagram(id, `${text} #${++carriedOut}`);
        known = { answer, until: now + remember };
        answers.set(key, known);
      }
      await socket.send(known.answer, sender).catch(() => {});
    }
  } finally {
    socket.close();
  }
}

function toDatagram(id: number, text: string): Uint8Array<ArrayBuffer> {
  const encoded = new TextEncoder().encode(text);
  const datagram = new Uint8Array(ID_SIZE + encoded.length);
  new DataView(datagram.buffer).setUint32(0, id);
  datagram.set(encoded, ID_SIZE);
  return datagram;
}

/** An unsigned number of 32 bits, which nobody can guess. */
const randomNumber = () => crypto.getRandomValues(new Uint32Array(1))[0]!;

const idOf = ({ buffer, byteOffset }: Uint8Array) =>
  new DataView(buffer, byteOffset).getUint32(0);

const textOf = (datagram: Uint8Array) =>
  new TextDecoder().decode(datagram.subarray(ID_SIZE));

/**
 * Sends a request until its answer comes, or until it has been sent `tries`
 * times. After each time it waits twice as long. Only one request at a time may
 * use a socket.
 *
 * @param options By default its id is random, so that an answer to a program
 * that had this port before is not taken for ours. `timeout` is the first wait,
 * in milliseconds.
 * @returns The server's text, or `null`; and how often the request was sent.
 */
export async function ask(
  socket: Deno.DatagramConn,
  server: Deno.NetAddr,
  text: string,
  options: { id?: number; timeout?: number; tries?: number } = {},
): Promise<{ answer: string | null; sent: number }> {
  const { id = randomNumber(), timeout = 30, tries = 8 } = options;
  const request = toDatagram(id, text);
  for (let sent = 1, wait = timeout; sent <= tries; sent++, wait *= 2) {
    await socket.send(request, server);
    const end = performance.now() + wait;
    do {
      const left = end - performance.now();
      const answer = await receiveFrom(socket, server, left);
      if (answer === null) break;
      if (answer.length < ID_SIZE || idOf(answer) !== id) continue; // Late.
      return { answer: textOf(answer), sent };
    } while (performance.now() < end);
  }
  return { answer: null, sent: tries };
}

/** How each wait without an end is given up. */
async function giveUps(deadline: number): Promise<string> {
  const rows: (string | number)[][] = [];
  const measure = async (what: string, wait: () => Promise<unknown>) => {
    const start = performance.now();
    const result = await wait().then(
      (value) => value === null ? "end of stream" : `${value} bytes`,
      (error) => error.name,
    );
    rows.push([what, result, Math.round(performance.now() - start)]);
  };
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0, tcpBacklog: 0 });
  const buffer = new Uint8Array(64);
  const connect = () => connectWithDeadline(listener.addr, deadline);
  const read = (conn: Deno.Conn) => readWithDeadline(conn, buffer, deadline);

  using reader = await connect();
  await measure("connect, to a queue that is full", connect);
  using peer = await listener.accept();
  await measure("read, from a peer that says nothing", () => read(reader));
  await measure("read, from the same peer again", () => reader.read(buffer));
  await measure("the peer's read", () => peer.read(buffer));

  using writer = await connect();
  using _deaf = await listener.accept();
  const data = new Uint8Array(64 * 1024 * 1024);
  const write = () => writeFullWithDeadline(writer, data, deadline);
  await measure("write of 64 MiB, to a peer that does not read", write);

  // An idle timeout is a deadline for each read.
  using client = await connect();
  using served = await listener.accept();
  const serving = (async () => {
    for (let count; (count = await read(served)) !== null;) {
      await writeFull(served, buffer.subarray(0, count));
    }
  })().catch(() => {}); // The deadline: the connection is closed.
  await measure("client of an idle timeout: 3 x 40 ms, talking", async () => {
    let echoed = 0;
    for (let i = 0; i < 3; i++) {
      await writeFull(client, new Uint8Array(1));
      echoed += await client.read(new Uint8Array(1)) ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
    return echoed;
  });
  await measure("the same client, silent", () => client.read(buffer));
  await serving;
  return formatTable(["waiting for", "result", "ms"], rows);
}

const NONE = "TimedOut: none in time";

/** Sends requests, one after the other. Each has a row of the table. */
async function askAll(
  server: Deno.NetAddr,
  requests: number,
  options: { timeout: number; tries: number },
): Promise<(string | number)[][]> {
  const rows: (string | number)[][] = [];
  const socket = Deno.listenDatagram({ ...server, transport: "udp", port: 0 });
  for (let id = 1; id <= requests; id++) {
    const start = performance.now();
    const text = `request ${id}`;
    const asked = await ask(socket, server, text, { id, ...options });
    const ms = Math.round(performance.now() - start);
    rows.push([id, asked.sent, ms, asked.answer ?? NONE]);
  }
  socket.close();
  return rows;
}

/** Gives up in time. Then it asks a server that is hard to reach. */
export async function demo({
  hostname = LOOPBACK,
  port = 0,
  loss = 25,
  seed = 0,
  requests = 5,
  timeout = 30,
  tries = 8,
  print = console.log as (line: string) => unknown,
} = {}): Promise<number> {
  needUnstableNet();
  await print("Waiting, with a deadline of 100 ms:");
  await print(await giveUps(100) + "\n");

  if (seed === 0) seed = randomNumber();
  const args = { host: hostname, port };
  const { url } = import.meta;
  let status = 0;
  const talk = async (port: number, stop: () => void) => {
    const server = { hostname, port, transport: "udp" as const };
    const relay = new Relay(server, { loss, seed });
    const rows = await askAll(relay.address, requests, { timeout, tries });
    await relay.close();
    if (rows.some((row) => row.includes(NONE))) status = 1;

    const { lost, passed, doubled } = relay;
    await print(`Requests through a relay, seed ${seed}: of its datagrams it`);
    await print(`lost ${lost} and passed ${passed}, ${doubled} of them twice.`);
    const head = ["request", "sent", "ms", "answer #carried out"];
    await print(formatTable(head, rows) + "\n");
    stop();
  };
  const forked = await forkServer({ url, args, print }, talk);
  return Math.max(status, forked);
}

if (import.meta.main) {
  const remember = { default: 60_000, help: "milliseconds for an answer" };
  const memory = { default: 10_000, min: 1, help: "answers, at most so many" };
  const loss = { default: 25, max: 100, help: "datagrams of 100 lost" };
  const seed = { default: 0, max: 2 ** 32 - 1, help: "of the relay, 0: any" };
  const requests = { default: 5, min: 1, max: 1000, help: "how many to send" };
  const timeout = { default: 30, min: 1, help: "first wait, in milliseconds" };
  const tries = { default: 8, min: 1, max: 16, help: "how often to send each" };

  const title = "Deadlines: giving up in time, and trying again";

  await runLesson(import.meta.url, title, {
    demo: {
      help: "deadlines, then requests over a bad network",
      flags: ["--allow-net", "--allow-run=deno", "--unstable-net"],
      options: { ...common.demo, loss, seed, requests, timeout, tries },
      show: "diagram", // stage
      run: demo,
    },
    server: {
      help: "answers each request, and carries it out once",
      flags: ["--allow-net", "--unstable-net"],
      options: { ...common.server, remember, memory },
      show: "trace", // stage
      run: server,
    },
  });
}
