/**
 * @title UDP echo: datagrams, with no connection
 * @difficulty intermediate
 * @tags udp, server, client, datagram
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/06_udp_echo.ts
 * @run deno run --allow-net --unstable-net lessons/06_udp_echo.ts server
 * @run deno run --allow-net --unstable-net lessons/06_udp_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man7/udp.7.html} udp(7)
 * @resource {https://man7.org/linux/man-pages/man2/recv.2.html} recvfrom(2): what does not fit is thrown away
 * @resource {https://www.rfc-editor.org/rfc/rfc768} RFC 768: UDP
 * @see 05_byte_order.ts
 * @see 07_socket_options.ts
 *
 * A UDP socket is not connected to anybody. Each datagram carries its sender's
 * address; it arrives whole or not at all, once or twice, sooner or later. Here
 * the server sends each one back to where it came from, the empty one and the
 * largest (65507 bytes over IPv4) too. The client sends each line of its input
 * as one datagram and waits for the reply. `demo` also sends two at once, to
 * show that they do not run together as they would in a stream.
 *
 * In the tutorial: `server()` and `client()` of its UDP section, with their
 * steps, "UDP客户端的流程" and "UDP服务器端的流程". Its command lines work here:
 * `server PORT` and `client IP PORT`.
 *
 * What the tutorial's program gets wrong:
 * - `recvfrom(client_sock, ..., &serv_addr, &serv_len)` overwrites the server's
 *   address with that of whoever sends a datagram: the next line goes there.
 * - A reply that is lost leaves its client waiting for ever.
 * - `scanf("%s")` splits a line at its spaces, and writes past the buffer if a
 *   word is long. At the end of its input it sends the last word for ever.
 * - A datagram that fills `message` has no NUL behind it for `printf("%s")`.
 * - The server passes the -1 of a failed `recvfrom` on to `sendto` as a length.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listenDatagram` | `socket(SOCK_DGRAM)`, `bind`, `setsockopt(SO_BROADCAST)`, `setsockopt(IP_MULTICAST_LOOP)`, `getsockname` |
 * | `socket.receive` | `recvfrom` |
 * | `socket.send` | `sendto` |
 * | `socket.close` | `close`: nobody is told |
 *
 * Deno binds a UDP socket when it creates it. The tutorial's client leaves that
 * to its first `sendto`; lesson 03 shows the difference. What does not fit into
 * the buffer of a `receive` is cut off without a word: `--buffer-size` shows
 * that. Without a buffer, `receive` makes one of 65507 bytes each time.
 *
 * Try it:
 * - `server`, then `nc -u 127.0.0.1 9527` in another terminal.
 * - `server --buffer-size 4`, and `client` with `hello`: the reply is `hell`.
 * - `client` without a server: after a second, `no reply`. The kernel does say
 *   "port unreachable" (ICMP), but only a connected UDP socket gets to hear it.
 * - `client --host 127.0.0.2` with a `server` on 0.0.0.0: the reply comes from
 *   127.0.0.1, so it is not taken (lesson 03 says why it does).
 *
 * What is still missing: a lost datagram stays lost. Lesson 11 sends again, and
 * sees to it that each request gets one answer.
 *
 * @module
 */

import { lookup } from "node:dns/promises";
import { forkServer } from "../lib/child.ts";
import {
  clientOptions,
  demoOptions,
  describeError,
  failed,
  flagOption,
  integerOption,
  type Io,
  mode,
  needUnstableNet,
  runLesson,
  serverOptions,
} from "../lib/command_line.ts";
import { writeFull } from "../lib/full_io.ts";
import { abortable, withDeadline } from "../lib/deadline.ts";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";
import {
  formatAddress,
  quoteBytes,
  type Trace,
  traceTo,
} from "../lib/trace.ts";

/** The length field of UDP counts 65535 bytes, its header included. */
const BUFFER_SIZE = 65535;
/** How many requests are remembered, for replies that come late or twice. */
const MAX_REMEMBERED = 100;
const NEWLINE = 0x0a;

/** Options of {@linkcode server}. */
export interface ServerOptions {
  /** The address to bind to; every one of this host by default. */
  hostname?: string;
  /** The port, 9527 by default; 0 lets the kernel choose one. */
  port?: number;
  /** How many datagrams to send back, 10 by default; 0 is no limit. */
  messages?: number;
  /** Bytes of a datagram that are read, by default all; the rest is lost. */
  bufferSize?: number;
  /** Ends the server. */
  signal?: AbortSignal;
  /** Gets the address when datagrams can be sent to it. */
  onListen?: (address: Deno.NetAddr) => void;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Sends each datagram back to its sender. Resolves when it has closed, by
 * itself or because of the signal.
 *
 * @throws {Error} `bind HOST:PORT`, with the system's error as its `cause`.
 * @throws The signal's reason, if it is aborted already.
 */
export async function server(options: ServerOptions = {}): Promise<void> {
  const { hostname = "0.0.0.0", port = 9527, messages = 10 } = options;
  const { bufferSize = BUFFER_SIZE, signal, onListen, trace = () => {} } =
    options;
  needUnstableNet();
  signal?.throwIfAborted();

  // Create a socket and give it its address. There is nothing to listen for
  // and nobody to accept: one socket serves all.
  const socket = await Promise.try(() =>
    Deno.listenDatagram({ hostname, port, transport: "udp" })
  ).catch(failed(`bind ${formatAddress({ hostname, port })}`));
  const address = socket.addr as Deno.NetAddr;

  // Closing makes a waiting receive() reject, so the loop ends.
  const closeSocket = () => {
    trace("close");
    socket.close();
  };
  signal?.addEventListener("abort", closeSocket, { once: true });
  try {
    trace(`socket, bind ${formatAddress(address)}`);
    onListen?.(address);
    const buffer = new Uint8Array(bufferSize);
    for (let i = 0; messages === 0 || i < messages; i++) {
      const [data, sender] = await socket.receive(buffer);
      const from = formatAddress(sender as Deno.NetAddr);
      trace(`recvfrom ${from} ${data.length} bytes ${quoteBytes(data)}`);
      trace(`sendto ${from} ${data.length} bytes`, "to peer");
      // One sender that cannot be answered is no reason to leave the others.
      await socket.send(data, sender).catch((error) =>
        trace(`not answered: ${describeError(error)}`)
      );
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    signal?.removeEventListener("abort", closeSocket);
    if (!signal?.aborted) closeSocket();
  }
}

/** Options of {@linkcode client}. */
export interface ClientOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** The server's port, 9527 by default. */
  port?: number;
  /** What to send next: one datagram, or several at once; then `null`. */
  next: () => Promise<Uint8Array[] | null>;
  /** How long to wait for the replies, in milliseconds, 1000 by default. */
  timeout?: number;
  /** Where the replies go, byte for byte. */
  output: { write(p: Uint8Array): Promise<number> };
  /** Gets what went wrong with a datagram; the others go on. */
  report: (error: unknown) => void;
  /** Ends the client, which rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Is told each step; by default nobody is. */
  trace?: Trace;
}

/**
 * Sends datagrams, and waits for their replies.
 *
 * @returns 0, or 1 if there was one without a reply.
 * @throws {Error} `lookup HOST`, with the system's error as its `cause`.
 */
export async function client(options: ClientOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 9527, next, timeout = 1000 } = options;
  const { output, report, signal, trace = () => {} } = options;
  const address = formatAddress({ hostname, port });
  needUnstableNet();

  signal?.throwIfAborted();

  // The client's socket needs an address as well: any, and any free port.
  const any = hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = await Promise.try(() =>
    Deno.listenDatagram({ hostname: any, port: 0, transport: "udp" })
  ).catch(failed(`bind ${formatAddress({ hostname: any, port: 0 })}`));
  const closeSocket = () => {
    trace("close");
    socket.close();
  };
  signal?.addEventListener("abort", closeSocket, { once: true });

  let status = 0;
  const fail = (error: unknown) => {
    status = 1;
    report(error);
  };
  try {
    trace(`socket, bind ${formatAddress(socket.addr as Deno.NetAddr)}`);
    const peer = {
      transport: "udp" as const,
      hostname: await resolve(hostname),
      port,
    };
    const buffer = new Uint8Array(BUFFER_SIZE);
    let receiving: ReturnType<typeof socket.receive> | undefined;
    const unanswered: Uint8Array[] = [];
    const answered: Uint8Array[] = [];

    for (let batch; (batch = await abortable(next(), signal)) !== null;) {
      const waiting: Uint8Array[] = [];
      for (const data of batch) {
        trace(`sendto ${data.length} bytes ${quoteBytes(data)}`, "to peer");
        await socket.send(data, peer).then(
          () => waiting.push(data),
          (error) => {
            signal?.throwIfAborted();
            trace("sendto failed");
            fail(new Error(`send ${address}`, { cause: error }));
          },
        );
      }

      const end = performance.now() + timeout;
      while (waiting.length > 0) {
        // A receive() that was given up is still there for the next request.
        receiving ??= socket.receive(buffer);
        const reply = await withDeadline(receiving, end - performance.now())
          .catch((error) => {
            if (error instanceof Deno.errors.TimedOut) return null;
            throw error;
          });
        if (reply === null) {
          fail(new Error(`no reply from ${address} within ${timeout} ms`));
          unanswered.unshift(...waiting);
          unanswered.length = Math.min(unanswered.length, MAX_REMEMBERED);
          break;
        }
        receiving = undefined;

        const [data, sender] = reply as [Uint8Array, Deno.NetAddr];
        if (plain(sender.hostname) !== peer.hostname || sender.port !== port) {
          const from = formatAddress(sender);
          report(
            new Error(`ignored a datagram from ${from}, asked ${address}`),
          );
          continue;
        }
        trace(`recvfrom ${data.length} bytes ${quoteBytes(data)}`);
        const asked = takeReply(data, waiting, unanswered, answered);
        if (asked !== null) {
          answered.unshift(asked);
          answered.length = Math.min(answered.length, MAX_REMEMBERED);
          await writeFull(output, encode("recv:"));
          await writeFull(output, data);
          await writeFull(output, encode("\n"));
        } else trace("ignored: a reply to an earlier line");
      }
    }
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", closeSocket);
    if (!signal?.aborted) closeSocket();
  }
  return status;
}

/**
 * Finds out which request a reply belongs to, as far as its bytes tell, and
 * takes that off its list. An echo is what was sent, or, if the server's buffer
 * was small, its beginning; anything else is a reply to the oldest that waits.
 *
 * @returns The request that has waited for it, or `null` if it is late, or has
 * come before.
 */
function takeReply(
  reply: Uint8Array,
  waiting: Uint8Array[],
  ...earlier: Uint8Array[][]
): Uint8Array | null {
  const isStart = (sent: Uint8Array) =>
    reply.every((byte, i) => byte === sent[i]);
  const isSame = (sent: Uint8Array) =>
    sent.length === reply.length && isStart(sent);
  for (const belongs of [isSame, isStart, () => true]) {
    for (const list of [waiting, ...earlier]) {
      const index = list.findIndex(belongs);
      if (index < 0) continue;
      const [sent] = list.splice(index, 1);
      return list === waiting ? sent : null;
    }
  }
  return null;
}

/** The address that datagrams from `hostname` will come from. */
async function resolve(hostname: string): Promise<string> {
  const call = failed(`lookup ${hostname}`);
  if (hostname.includes(":")) {
    return await Promise.try(plain, hostname.replace(/^\[|\]$/g, ""))
      .catch(call);
  }
  const { address } = await lookup(hostname, 4).catch(call);
  return plain(address);
}

/** An address in the one form it is compared in. */
function plain(address: string): string {
  if (address === "0.0.0.0") return "127.0.0.1"; // Linux sends it there.
  if (!address.includes(":")) return address;
  const short = new URL(`http://[${address}]`).hostname.slice(1, -1);
  return short === "::" ? "::1" : short;
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** Each line of standard input as one datagram, without its newline. */
function inputLines({ ask }: Pick<Io, "ask">): ClientOptions["next"] {
  return async () => {
    const line = await ask("Input message(q to quit):");
    return line && [line.at(-1) === NEWLINE ? line.subarray(0, -1) : line];
  };
}

/** What `demo` sends where nobody types: the last two at once. */
function builtInMessages(): ClientOptions["next"] {
  const batches = [["hello"], [""], ["two datagrams", "stay two"]];
  return () => Promise.resolve(batches.shift()?.map(encode) ?? null);
}

/** Options of {@linkcode demo}. */
export interface DemoOptions extends ServerOptions, ClientOptions {
  /** Leaves out the diagram. */
  quiet?: boolean;
  /** Sends built-in messages. */
  script?: boolean;
  /** Whether there is anything to read from standard input. */
  hasInput: () => Promise<boolean>;
  /** Prints a line. */
  print: (line: string) => Promise<void>;
}

/** Forks the server, runs the client; resolves to the worst status. */
export async function demo(options: DemoOptions): Promise<number> {
  const { hostname = "127.0.0.1", port = 0, messages = 0, quiet, print } =
    options;
  const { bufferSize = BUFFER_SIZE } = options;
  const next = options.script || !await options.hasInput()
    ? builtInMessages()
    : options.next;
  const diagram = new SequenceDiagram();
  const trace = traceTo(diagram.lane("client"));

  let status = 0;
  const forked = await forkServer({
    ...options,
    url: import.meta.url,
    flags: SERVER_FLAGS,
    args: { host: hostname, port, messages, "buffer-size": bufferSize },
    onEvent: diagram.lane("server"),
  }, async (port, stop) => {
    status = await client({ ...options, hostname, port, next, trace });
    stop(); // There is no end of a connection for the server to see.
  });
  if (!quiet) await print(diagram.draw());
  return Math.max(status, forked);
}

const SERVER_FLAGS = ["--allow-net", "--unstable-net"];

if (import.meta.main) {
  const messages = integerOption("how many to answer, 0: no limit", 10);
  const bufferSize = integerOption("bytes read of each", 65535, 1, 65535);
  const serves = { messages, "buffer-size": bufferSize };
  const wait = integerOption("milliseconds to wait", 1000, 1, 2 ** 31 - 1);
  const script = flagOption("send built-in messages, and read no input");

  await runLesson({
    url: import.meta.url,
    title: "UDP echo: datagrams, with no connection",
    modes: {
      demo: mode({
        help: "a server process, and a client on standard input",
        flags: ["--allow-net", "--allow-run=deno", "--unstable-net"],
        options: {
          ...demoOptions,
          ...serves,
          messages: { ...messages, default: 0 },
          timeout: wait,
          script,
        },
        run: (options) =>
          demo({
            ...options,
            bufferSize: options["buffer-size"],
            next: inputLines(options),
          }),
      }),
      server: mode({
        help: "sends each datagram back to its sender",
        flags: SERVER_FLAGS,
        options: { ...serverOptions, ...serves },
        operands: ["port"],
        run: (options) =>
          server({ ...options, bufferSize: options["buffer-size"] }),
      }),
      client: mode({
        help: "sends each line of standard input, up to q or Q",
        flags: ["--allow-net", "--unstable-net"],
        options: { ...clientOptions, timeout: wait },
        operands: ["host", "port"],
        run: (options) => client({ ...options, next: inputLines(options) }),
      }),
    },
  });
}
