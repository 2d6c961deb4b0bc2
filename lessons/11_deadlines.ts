/**
 * @title Deadlines: giving up in time, and trying again
 * @difficulty advanced
 * @tags tcp, udp, timeout, AbortSignal, retry, backoff
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/11_deadlines.ts
 * @run deno run --allow-net --unstable-net lessons/11_deadlines.ts server
 * @resource {https://www.rfc-editor.org/rfc/rfc8085#section-3.1.1} RFC 8085, 3.1.1: retries of UDP, and backing off
 * @see 06_udp_echo.ts
 * @see README.md, "11 Deadlines"
 *
 * A wait may have no end: a full queue does not answer a connect, a silent peer
 * never ends a read, and a peer that does not read never takes a write. Deno's
 * `read` and `write` cannot be cancelled, so the calls of
 * `lib/conn_deadline.ts` close the connection, and throw `TimedOut`. There is
 * no way to go on, since half a message may have been read.
 *
 * The second part sends requests over UDP, through a relay that loses, delays
 * and doubles datagrams. When no answer comes, `ask()` sends the request again,
 * and waits twice as long (backoff), to spare a network that is busy. Request
 * and answer have an id, so `ask()` recognizes an answer that comes late or
 * twice. A request that comes twice must not be carried out twice, because it
 * might be a payment. So the server keeps each answer, and repeats it.
 *
 * @module
 */

import {
  connectWithDeadline,
  readWithDeadline,
  writeFullWithDeadline,
} from "../lib/conn_deadline.ts";
import { announce, formatAddress } from "../lib/address.ts";
import { encode } from "../lib/encode.ts";
import { writeFull } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { drawTries } from "../lib/harness/timeline.ts";
import { isOwnAddress } from "../lib/own_address.ts";
import { receiveFrom } from "../lib/receive_from.ts";
import { Relay } from "../lib/lab/relay.ts";
import { resolveHost } from "../lib/resolve_host.ts";
import { isSystemError } from "../lib/system_error.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

const ID_SIZE = 4;
/** The server does not answer longer requests, as it has to remember each. */
const MAX_REQUEST = 1024;

/**
 * Carries each request out once, as long as it remembers it. A request is an id
 * of four bytes and any others. The answer is the same, and then in text how many
 * requests were carried out so far.
 */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  remember = 60_000,
  memory = 10_000,
  onListen = announce,
  report = console.error,
} = {}): Promise<void> {
  needUnstableNet();
  const socket = Deno.listenDatagram({ hostname, port, transport: "udp" });
  const answers = new Map<string, { answer: Uint8Array; until: number }>();
  let carriedOut = 0;
  try {
    const address = socket.addr as Deno.NetAddr;
    onListen(address);

    const buffer = new Uint8Array(MAX_REQUEST + 1);
    while (true) {
      const [request, from] = await socket.receive(buffer);
      const sender = from as Deno.NetAddr;
      if (sender.port === address.port && isOwnAddress(sender.hostname)) {
        continue; // See lesson 06.
      }
      if (request.length < ID_SIZE || request.length > MAX_REQUEST) continue;

      const now = performance.now();
      for (const [key, { until }] of answers) {
        if (until > now) break; // A Map has its oldest entries first.
        answers.delete(key);
      }
      // An id alone is not enough: a sender that starts again may use it again.
      const key = `${formatAddress(sender)} ${request.toHex()}`;
      let known = answers.get(key);
      if (known === undefined) {
        // If an answer is forgotten now, its request may be carried out twice.
        // If nothing is done, this request looks lost: the client tries again.
        if (answers.size >= memory) continue;
        const answer = concat(request, encode(` #${++carriedOut}`));
        known = { answer, until: now + remember };
        answers.set(key, known);
      }
      try {
        await socket.send(known.answer, sender);
      } catch (error) {
        if (!isSystemError(error)) report(error); // See lesson 06.
      }
    }
  } finally {
    socket.close();
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** An unsigned number of 32 bits, which nobody can guess. */
const randomNumber = () => crypto.getRandomValues(new Uint32Array(1))[0]!;

const idOf = ({ buffer, byteOffset }: Uint8Array) =>
  new DataView(buffer, byteOffset).getUint32(0);

function toRequest(id: number, text: string): Uint8Array<ArrayBuffer> {
  const idBytes = new Uint8Array(ID_SIZE);
  new DataView(idBytes.buffer).setUint32(0, id);
  return concat(idBytes, encode(text));
}

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
 * @returns The server's text, or `null`; and how long it has waited each time
 * that the request was sent, in milliseconds.
 */
export async function ask(
  socket: Deno.DatagramConn,
  server: Deno.NetAddr,
  text: string,
  options: { id?: number; timeout?: number; tries?: number } = {},
): Promise<{ answer: string | null; waits: number[] }> {
  const { id = randomNumber(), timeout = 30, tries = 8 } = options;
  const request = toRequest(id, text);
  const waits: number[] = [];
  for (let wait = timeout; waits.length < tries; wait *= 2) {
    await socket.send(request, server);
    const start = performance.now();
    const waited = () => performance.now() - start;
    do {
      const answer = await receiveFrom(socket, server, wait - waited());
      if (answer === null) break;
      if (answer.length < ID_SIZE || idOf(answer) !== id) continue; // Late.
      return { answer: textOf(answer), waits: [...waits, waited()] };
    } while (waited() < wait);
    waits.push(waited());
  }
  return { answer: null, waits };
}

/** Gives up in time. Then it asks a server that is hard to reach. */
export async function demo(
  { hostname, port, loss, seed, requests, timeout, tries, ...io }:
    & Values<typeof common.demo>
    & Record<"loss" | "seed" | "requests" | "timeout" | "tries", number>
    & Io,
) {
  needUnstableNet();
  const { print } = io;
  await print("Waiting, with a deadline of 100 ms:");
  await print(await giveUps(100) + "\n");

  if (seed === 0) seed = randomNumber();
  const args = { host: hostname, port };
  let status = 0;
  const talk = async (port: number, stop: () => void) => {
    const address = await resolveHost(hostname);
    const server = { hostname: address, port, transport: "udp" as const };
    const relay = new Relay(server, { loss, seed });
    const asked = await askAll(relay.address, requests, { timeout, tries });
    await relay.close();
    if (asked.some(({ answer }) => answer === null)) status = 1;

    const { lost, passed, doubled } = relay;
    await print(`Requests through a relay, seed ${seed}: of its datagrams it`);
    await print(`lost ${lost} and passed ${passed}, ${doubled} of them twice.`);
    const head = ["request", "sent", "ms", "answer #carried out"];
    await print(formatTable(head, asked.map(rowOf)) + "\n");
    const byTries = asked.toSorted((a, b) => b.waits.length - a.waits.length);
    const { id, waits, answer } = byTries[0]!;
    await print(drawTries(`request ${id}`, waits, answer !== null) + "\n");
    stop();
  };
  const server = { ...io, url: import.meta.url, args };
  return Math.max(await forkServer(server, talk), status);
}

const LOOPBACK = "127.0.0.1";

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
  await measure(
    "read, from the same connection again",
    () => reader.read(buffer),
  );
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
    while (true) {
      const count = await read(served);
      if (count === null) break;
      await writeFull(served, buffer.subarray(0, count));
    }
  })().catch(() => {}); // The deadline: the connection is closed.
  await measure("3 echoes, 40 ms apart, with an idle timeout", async () => {
    let echoed = 0;
    for (let i = 0; i < 3; i++) {
      await writeFull(client, new Uint8Array(1));
      echoed += await client.read(new Uint8Array(1)) ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
    return echoed;
  });
  await measure(
    "the next read, while the client stays silent",
    () => client.read(buffer),
  );
  await serving;
  return formatTable(["waiting for", "result", "ms"], rows);
}

/** A request, and what came of it. */
type Asked = { id: number } & Awaited<ReturnType<typeof ask>>;

/** Sends requests, one after the other. */
async function askAll(
  server: Deno.NetAddr,
  requests: number,
  options: { timeout: number; tries: number },
): Promise<Asked[]> {
  const asked: Asked[] = [];
  const socket = Deno.listenDatagram({ ...server, transport: "udp", port: 0 });
  for (let id = 1; id <= requests; id++) {
    const text = `request ${id}`;
    asked.push({ id, ...await ask(socket, server, text, { id, ...options }) });
  }
  socket.close();
  return asked;
}

function rowOf({ id, waits, answer }: Asked): (string | number)[] {
  const ms = waits.reduce((sum, wait) => sum + wait, 0);
  const text = answer ?? "TimedOut: none in time";
  return [id, waits.length, grouped(Math.round(ms)), text];
}

if (import.meta.main) {
  const remember = { default: 60_000, help: "milliseconds for an answer" };
  const memory = { default: 10_000, min: 1, help: "answers, at most so many" };
  const loss = { default: 25, max: 100, help: "datagrams of 100 lost" };
  // This seed loses request 1 twice, and its answer once.
  const seed = { default: 4723, max: 2 ** 32 - 1, help: "of losses, 0: any" };
  const requests = { default: 3, min: 1, max: 1000, help: "how many to send" };
  const timeout = { default: 30, min: 1, help: "first wait, in milliseconds" };
  const tries = { default: 8, min: 1, max: 16, help: "how often to send each" };

  await runLesson(import.meta.url, {
    demo: {
      help: "deadlines, then requests over a bad network",
      options: { ...common.demo, loss, seed, requests, timeout, tries },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "answers each request, and carries it out once",
      options: { ...common.server, remember, memory },
      show: "trace",
      run: server,
    },
  });
}
