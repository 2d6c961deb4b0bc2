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
 * Without a deadline, waiting has no end: a full queue never answers a connect,
 * a silent peer never ends a read, a peer that does not read never takes a
 * write. The first part gives each of them up in time. The second part sends
 * requests over UDP, through a relay that loses, delays and doubles datagrams,
 * and sees to it that each request has one answer or a clear failure.
 *
 * Beyond the tutorial: its programs wait for ever, and its UDP client does so
 * after the first lost reply.
 *
 * How the second part works: each request has an id, and the answer has it too,
 * so an answer that comes late or twice is known for what it is. When none
 * comes, the client sends the request again, and waits twice as long each time.
 * The server remembers what it has answered: a request that comes twice gets
 * the same answer again, but is carried out once. It counts them, and the table
 * shows the count.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.connect` with a `signal` | `connect`, `epoll_wait`; `close` when it is aborted |
 * | `withDeadline` | none: a timer of the event loop |
 * | `giveUp`: `conn.close` | `shutdown(SHUT_WR)`, `close` |
 *
 * Deno's `read` and `write` take no signal. What ends them is to close the
 * connection, and then they say `Interrupted`, which is the truth and not the
 * reason. `withDeadline` says `TimedOut`. Then the connection is gone: where
 * half a message may have been read or written, there is no way to go on.
 *
 * Try it:
 * - `--loss 60 --requests 10`: more retries, and perhaps a failure.
 * - `--seed 7` twice: the same datagrams are lost.
 * - `server`, and `printf '\0\0\0\1hello' | nc -u -w1 127.0.0.1 9527 | xxd`. After
 *   `kill -STOP` of the server: nothing comes, and nobody is told.
 *
 * What is still missing: all of this serves one client at a time. Lesson 12
 * serves many, and uses a deadline for those that fall silent.
 *
 * @module
 */

import { forkServer } from "../lib/child.ts";
import {
  demoOptions,
  describeError,
  failed,
  integerOption,
  mode,
  needUnstableNet,
  runLesson,
  serverOptions,
} from "../lib/command_line.ts";
import { withDeadline } from "../lib/deadline.ts";
import { writeFull } from "../lib/full_io.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import { formatTable } from "../lib/table.ts";
import { formatAddress, type Trace, traceTo } from "../lib/trace.ts";

const LOOPBACK = "127.0.0.1";
const ID_SIZE = 4;
/** How many answers the server remembers, for requests that come again. */
const MAX_REMEMBERED = 1000;
/** The longest that the relay holds a datagram back, in milliseconds. */
const MAX_DELAY = 30;

/**
 * Connects, or gives up: a queue that is full does not say no.
 *
 * @param milliseconds How long to try.
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export async function connectWithDeadline(
  address: { hostname: string; port: number },
  milliseconds: number,
): Promise<Deno.TcpConn> {
  const giveUp = new AbortController();
  const connecting = Deno.connect({ ...address, signal: giveUp.signal });
  return await withDeadline(connecting, milliseconds, () => giveUp.abort());
}

/**
 * Reads, or closes the connection: then there is nothing left to read from, and
 * another call that waits on it is `Interrupted`.
 *
 * @param milliseconds How long to wait for the first byte.
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
 * Writes all of it, or closes the connection: part of it may have gone out.
 *
 * @param milliseconds How long all of it may take.
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

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to bind to; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** Ends the server. */
  signal?: AbortSignal;
  /** Gets the address when datagrams can be sent to it. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Carries each request out once, however often it comes: an id of four bytes
 * and text, answered by the id, the text, and how many were carried out so far.
 *
 * @throws {Error} `bind HOST:PORT`, with the system's error as its `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<void> {
  const { hostname = "0.0.0.0", port = 9527, signal, onListen } = options;
  const { trace = () => {} } = options;
  needUnstableNet();
  signal?.throwIfAborted();
  const socket = await Promise.try(() =>
    Deno.listenDatagram({ hostname, port, transport: "udp" })
  ).catch(failed(`bind ${formatAddress({ hostname, port })}`));
  const close = () => socket.close();
  signal?.addEventListener("abort", close, { once: true });

  const answers = new Map<string, Uint8Array>();
  let carriedOut = 0;
  try {
    const address = socket.addr as Deno.NetAddr;
    trace(`socket, bind ${formatAddress(address)}`);
    onListen?.(address);
    const buffer = new Uint8Array(65535);
    for (;;) {
      const [request, sender] = await socket.receive(buffer);
      if (request.length < ID_SIZE) continue;
      const id = idOf(request);
      const text = new TextDecoder().decode(request.subarray(ID_SIZE));
      // An id alone is not enough: a sender that starts anew may use it again.
      const key = `${formatAddress(sender as Deno.NetAddr)} ${id} ${text}`;
      let answer = answers.get(key);
      trace(`recvfrom request ${id}${answer ? ", again" : ""}`);
      if (answer === undefined) {
        answer = toDatagram(id, `${text} #${++carriedOut}`);
        answers.set(key, answer);
        // A Map keeps the order of insertion: the first is the oldest.
        if (answers.size > MAX_REMEMBERED) {
          answers.delete(answers.keys().next().value!);
        }
      }
      trace(`sendto answer ${id}`, "to peer");
      await socket.send(answer, sender).catch((error) =>
        trace(`not answered: ${describeError(error)}`)
      );
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    trace("close");
    signal?.removeEventListener("abort", close);
    if (!signal?.aborted) close();
  }
}

function toDatagram(id: number, text: string): Uint8Array<ArrayBuffer> {
  const encoded = new TextEncoder().encode(text);
  const datagram = new Uint8Array(ID_SIZE + encoded.length);
  new DataView(datagram.buffer).setUint32(0, id);
  datagram.set(encoded, ID_SIZE);
  return datagram;
}

function idOf({ buffer, byteOffset }: Uint8Array): number {
  return new DataView(buffer, byteOffset).getUint32(0);
}

/** What came of a request. */
export interface Answer {
  /** The server's text, or `null` if there was none in time. */
  text: string | null;
  /** How many times the request was sent. */
  tries: number;
}

/** Options of {@linkcode Requester}. */
export interface RequesterOptions {
  /** How long to wait at first, in milliseconds; then twice as long. */
  timeout: number;
  /** How many times to send a request. */
  tries: number;
  /**
   * The id of the first request. By default it is any: so an answer to whoever
   * had this port before is none to ours.
   */
  firstId?: number;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/** Sends requests, one after the other, until each is answered or given up. */
export class Requester {
  #socket: Deno.DatagramConn;
  #server: Deno.NetAddr;
  #options: RequesterOptions;
  #nextId: number;
  /** A receive() that was given up goes on, for the next try or request. */
  #receiving: Promise<[Uint8Array, Deno.Addr]> | undefined;

  /** Sends them from `socket` to `server`. */
  constructor(
    socket: Deno.DatagramConn,
    server: Deno.NetAddr,
    options: RequesterOptions,
  ) {
    this.#socket = socket;
    this.#server = server;
    this.#options = options;
    const [anyId] = crypto.getRandomValues(new Uint32Array(1));
    this.#nextId = options.firstId ?? anyId;
  }

  /**
   * Sends a request until there is its answer, or it has been tried enough.
   * Wait for it before the next one.
   *
   * @throws The errors of the socket: `EMSGSIZE`, or that it has been closed.
   */
  async request(text: string): Promise<Answer> {
    const { timeout, tries, trace = () => {} } = this.#options;
    const id = this.#nextId;
    this.#nextId = (id + 1) >>> 0;
    for (let sent = 1, wait = timeout; sent <= tries; sent++, wait *= 2) {
      const again = sent > 1 ? `, try ${sent}` : "";
      trace(`sendto request ${id}${again}`, "to peer");
      await this.#socket.send(toDatagram(id, text), this.#server);
      const end = performance.now() + wait;
      try {
        for (;;) {
          const [answer, from] = await this.#receive(end - performance.now());
          const isServer = from.hostname === this.#server.hostname &&
            from.port === this.#server.port;
          if (isServer && answer.length >= ID_SIZE && idOf(answer) === id) {
            trace(`recvfrom answer ${id}`);
            const text = new TextDecoder().decode(answer.subarray(ID_SIZE));
            return { text, tries: sent };
          }
          trace("recvfrom: late, twice, or a stranger's");
        }
      } catch (error) {
        if (!(error instanceof Deno.errors.TimedOut)) throw error;
        trace(`no answer ${id} in ${wait} ms`);
      }
    }
    return { text: null, tries };
  }

  async #receive(milliseconds: number): Promise<[Uint8Array, Deno.NetAddr]> {
    this.#receiving ??= this.#socket.receive(new Uint8Array(65535));
    const [data, from] = await withDeadline(this.#receiving, milliseconds);
    this.#receiving = undefined;
    return [data, from as Deno.NetAddr];
  }
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions {
  /** How many datagrams of 100 the relay loses; of the others as many double. */
  loss?: number;
  /** What the relay's choices depend on; 0 takes another each time. */
  seed?: number;
  /** How many requests to send. */
  requests?: number;
  /** How long to wait for the first answer, in milliseconds. */
  timeout?: number;
  /** How many times to send a request. */
  tries?: number;
  /** Leaves out the diagram. */
  quiet?: boolean;
  /** Prints a line. */
  print: (line: string) => Promise<void>;
  /** Gets the error that ended the requests. */
  report: (error: unknown) => void;
}

/** Gives up in time; then asks a server that is hard to reach. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = LOOPBACK, port = 0, requests = 5, print, quiet } = options;
  const { timeout = 50, tries = 8, loss = 25, signal } = options;
  const seed = options.seed || crypto.getRandomValues(new Uint32Array(1))[0];
  needUnstableNet();
  await print("Waiting, with a deadline of 200 ms:");
  await print(await giveUps(200) + "\n");
  signal?.throwIfAborted();

  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));
  const rows: (string | number)[][] = [];
  let failures = 0;
  const status = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port },
    onEvent: diagram.lane("server"),
  }, async (port, stop) => {
    const server = { hostname, port, transport: "udp" as const };
    const relay = new Relay(server, seed, loss);
    const socket = Deno.listenDatagram({
      hostname: LOOPBACK,
      port: 0,
      transport: "udp",
    });
    const requester = new Requester(socket, relay.address, {
      timeout,
      tries,
      firstId: 1,
      trace,
    });
    const close = () => socket.close();
    signal?.addEventListener("abort", close, { once: true });
    try {
      for (let id = 1; id <= requests; id++) {
        const start = performance.now();
        const answer = await requester.request(`request ${id}`);
        const { text, tries: sent } = answer;
        if (text === null) failures++;
        const ms = Math.round(performance.now() - start);
        rows.push([id, sent, ms, text ?? "TimedOut: none in time"]);
      }
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", close);
      if (!signal?.aborted) close();
      relay.close();
      stop();
    }
    await print(`Requests through a relay, seed ${seed}: of its datagrams it`);
    await print(`${relay.summary()}.`);
    await print(
      formatTable(["request", "sent", "ms", "answer #carried out"], rows) +
        "\n",
    );
  });
  if (!quiet) await print(diagram.draw());
  return Math.max(status, failures > 0 ? 1 : 0);
}

/** What a wait that nobody ends comes to. */
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
  const address = { hostname: LOOPBACK, port: listener.addr.port };
  const connect = () => connectWithDeadline(address, deadline);
  const buffer = new Uint8Array(64);

  using reader = await connect();
  await measure("connect, to a queue that is full", connect);
  using peer = await listener.accept();
  await measure(
    "read, from a peer that says nothing",
    () => readWithDeadline(reader, buffer, deadline),
  );
  await measure(
    "read, from the same connection again",
    () => reader.read(buffer),
  );
  await measure("the peer's read", () => peer.read(buffer));

  using writer = await connect();
  using _deaf = await listener.accept();
  await measure(
    "write of 64 MiB, to a peer that does not read",
    () => writeFullWithDeadline(writer, new Uint8Array(1 << 26), deadline),
  );

  // An idle timeout is a deadline for each read.
  using client = await connect();
  using served = await listener.accept();
  const serving = (async () => {
    for (let n; (n = await readWithDeadline(served, buffer, deadline));) {
      await writeFull(served, buffer.subarray(0, n));
    }
  })().catch(() => {}); // The deadline: the connection is closed.
  await measure("client of an idle timeout: 3 x 80 ms, talking", async () => {
    let echoed = 0;
    for (let i = 0; i < 3; i++) {
      await writeFull(client, new Uint8Array(1));
      echoed += await client.read(new Uint8Array(1)) ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 80));
    }
    return echoed;
  });
  await measure("the same client, silent", () => client.read(buffer));
  await serving;
  return formatTable(["waiting for", "result", "ms"], rows);
}

/** Passes datagrams on in both directions, but not all, and not at once. */
class Relay {
  readonly address: Deno.NetAddr;
  #front = Deno.listenDatagram({
    hostname: LOOPBACK,
    port: 0,
    transport: "udp",
  });
  #back: Deno.DatagramConn;
  #client: Deno.NetAddr | undefined;
  #timers = new Set<ReturnType<typeof setTimeout>>();
  #seen = new Map<string, number>();
  #counts = { passed: 0, lost: 0, doubled: 0 };

  constructor(server: Deno.NetAddr, seed: number, loss: number) {
    this.address = this.#front.addr as Deno.NetAddr;
    this.#back = Deno.listenDatagram({
      hostname: server.hostname.includes(":") ? "::" : "0.0.0.0",
      port: 0,
      transport: "udp",
    });
    this.#pass(this.#front, this.#back, () => server, seed, loss);
    this.#pass(this.#back, this.#front, () => this.#client!, seed + 1, loss);
  }

  async #pass(
    from: Deno.DatagramConn,
    to: Deno.DatagramConn,
    target: () => Deno.NetAddr,
    seed: number,
    loss: number,
  ) {
    // The sockets are closed when it is over, and receive() rejects.
    for (;;) {
      const received = await from.receive(new Uint8Array(65535))
        .catch(() => null);
      if (received === null) return;
      const [data, sender] = received;
      if (from === this.#front) this.#client = sender as Deno.NetAddr;
      const send = (delay: number) => {
        const timer = setTimeout(() => {
          this.#timers.delete(timer);
          to.send(data, target()).catch(() => this.#counts.lost++);
        }, delay);
        this.#timers.add(timer);
      };
      // Depends on which datagram it is, and not on when it comes.
      const id = idOf(data);
      const key = `${seed} ${id}`;
      const nth = this.#seen.get(key) ?? 0;
      this.#seen.set(key, nth + 1);
      const random = randomNumbers(seed + id * 1009 + nth * 9176);
      if (random() * 100 < loss) this.#counts.lost++;
      else {
        this.#counts.passed++;
        send(random() * MAX_DELAY);
        if (random() * 100 < loss) {
          this.#counts.doubled++;
          send(random() * MAX_DELAY);
        }
      }
    }
  }

  summary(): string {
    const { passed, lost, doubled } = this.#counts;
    return `lost ${lost} and passed ${passed}, ${doubled} of them twice`;
  }

  close() {
    this.#timers.forEach(clearTimeout);
    this.#front.close();
    this.#back.close();
  }
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const SERVER_FLAGS = ["--allow-net", "--unstable-net"];

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Deadlines: giving up in time, and trying again",
    modes: {
      demo: mode({
        help: "deadlines, then requests over a bad network",
        flags: ["--allow-net", "--allow-run=deno", "--unstable-net"],
        options: {
          ...demoOptions,
          loss: integerOption("datagrams of 100 lost", 25, 0, 100),
          seed: integerOption("of the relay, 0: any", 0, 0, 2 ** 32 - 1),
          requests: integerOption("how many to send", 5, 1, 1000),
          timeout: integerOption("first wait, in milliseconds", 50, 1, 60_000),
          tries: integerOption("how often to send each", 8, 1, 16),
        },
        run: demo,
      }),
      server: mode({
        help: "answers each request once",
        flags: SERVER_FLAGS,
        options: serverOptions,
        run: server,
      }),
    },
  });
}
