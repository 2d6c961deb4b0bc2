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
 * An echo server without connections. The client sends each line of its standard
 * input as one datagram, and waits for the reply. The server sends each datagram
 * back to the address that it came from.
 *
 * A datagram arrives whole or not at all. It may come late, twice, or after a
 * later one. The demo sends a line, an empty datagram, and at last two at once.
 * They stay two. A stream (lesson 02) might bring their bytes in one piece.
 *
 * What to look at:
 * - There is no `listen`, no `accept` and no end of a stream. One socket serves
 *   all clients, and each datagram says where it came from.
 * - UDP numbers nothing: a reply does not say which request it belongs to. So
 *   the client sends one line, and takes the next datagram from the server as
 *   its reply. A reply that comes when no line waits for one is late, or is a
 *   second copy. The client reports it on standard error, and its exit code is
 *   1.
 * - Anybody can send to any UDP port. Look in the code for the senders that the
 *   server does not answer, and for those that the client does not believe.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listenDatagram` | `socket(SOCK_DGRAM)`, `bind`, `setsockopt(SO_BROADCAST)`, `setsockopt(IP_MULTICAST_LOOP)`, `getsockname` |
 * | `socket.receive` | `recvfrom` |
 * | `receiveFrom` | `recvfrom`, until one comes from the server or the time is over |
 * | `socket.send` | `sendto` |
 * | `socket.close` | `close`: nobody is told |
 *
 * Deno binds a UDP socket when it creates it. The tutorial's client leaves that
 * to its first `sendto`. Lesson 03 shows the difference.
 *
 * Try it:
 * - `deno task udp_echo server --messages 0`, and in another terminal
 *   `deno task udp_echo client`: type lines, and `q` to quit. An empty line is
 *   a datagram too.
 * - `deno task udp_echo server 9527 --buffer-size 4`, and in another terminal
 *   `deno task udp_echo client 127.0.0.1 9527`, with `hello`: the reply is
 *   `hell`. `recvfrom` throws away what does not fit into the buffer.
 * - `deno task udp_echo client --port 9`, and type a line: `no reply`, after a
 *   second. Nobody is there, and the kernel was told so (ICMP, "port
 *   unreachable"). But the kernel tells this only to a socket that is
 *   connected.
 * - `deno task udp_echo server`, and `deno task udp_echo client 127.0.0.2`:
 *   the reply comes from 127.0.0.1, and the client ignores it. Lesson 03 says
 *   why. With `server --host 127.0.0.2` the reply comes from 127.0.0.2.
 *
 * In the tutorial this is `server()` and `client()` of its UDP part, in the steps
 * of "UDP服务器端的流程" and "UDP客户端的流程". Its command lines work here:
 * `server PORT` and `client IP PORT`. What its program gets wrong:
 * - `recvfrom(client_sock, ..., &serv_addr, &serv_len)` overwrites the server's
 *   address with the address of any program that sends it a datagram. The next
 *   line goes to that program.
 * - When a reply is lost, its client waits for ever.
 * - When a reply comes late or twice, its client takes it as the reply to
 *   another line.
 * - `scanf("%s")` splits a line at its spaces, and writes past the buffer if a
 *   word is long. At the end of its input it sends the last word for ever.
 * - A datagram that fills `message` has no NUL after it, which `printf("%s")`
 *   needs.
 * - The server passes the -1 of a failed `recvfrom` on to `sendto` as a length.
 *
 * What can still go wrong: a late reply to one line may come while the next line
 * waits for its own. The client cannot know that, and prints it as the reply to
 * the wrong line. Then one reply is left over at the end. The client looks for
 * such a reply before each line, and for 0.2 s after the last line. If it finds
 * one, its exit code is 1. A reply that comes later goes unnoticed.
 *
 * What is still missing: ids, so that each reply says which request it answers.
 * And a lost datagram stays lost. Lesson 11 has ids, and sends again.
 *
 * @module
 */

import { lookup } from "node:dns/promises";
import { announce, formatAddress, quoteBytes } from "../lib/describe.ts";
import { writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { askLines, hasInput } from "../lib/lines.ts";
import { receiveFrom } from "../lib/receive_from.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

/** The length field of UDP counts 65535 bytes, its header included. */
const LARGEST = 65535;
const NEWLINE = 0x0a;
const encode = (text: string) => new TextEncoder().encode(text);

/** Sends each datagram back to its sender; 0 `messages` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  messages = 10,
  bufferSize = LARGEST,
  onListen = announce,
} = {}): Promise<void> {
  needUnstableNet();
  // Nothing to listen for, and nobody to accept: one socket serves all.
  const socket = Deno.listenDatagram({ hostname, port, transport: "udp" });
  try {
    const address = socket.addr as Deno.NetAddr;
    onListen(address);

    const buffer = new Uint8Array(bufferSize);
    for (let answered = 0; messages === 0 || answered < messages;) {
      const [data, sender] = await socket.receive(buffer);
      // A sender's address can be forged. If it were the address of this
      // server, or of another one like it, the echo would go back and forth for
      // ever.
      if ((sender as Deno.NetAddr).port === address.port) continue;
      // An echo that cannot be sent is lost, as any datagram may be.
      await socket.send(data, sender).catch(() => {});
      answered++;
    }
  } finally {
    socket.close(); // `using` does not work with a UDP socket.
  }
}

/**
 * Sends each line as a datagram, and takes the next one that comes from the
 * server as its reply.
 *
 * @returns 0, or 1 if some line did not get exactly one reply.
 */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  timeout = 1000,
  lines = askLines("Input message(q to quit):"),
  output = Deno.stdout as Writer,
  report = console.error as (error: unknown) => unknown,
} = {}): Promise<number> {
  needUnstableNet();
  const family = hostname.includes(":") ? 6 : 4;
  const { address } = await lookup(hostname.replace(/^\[|\]$/g, ""), family);
  const peer = { hostname: address, port, transport: "udp" as const };
  const asked = formatAddress(peer);
  // The replies come to this address: any of this host, and a free port.
  const any = family === 6 ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ ...peer, hostname: any, port: 0 });

  const receive = (milliseconds: number) =>
    receiveFrom(socket, peer, milliseconds, (from) => {
      const stranger = formatAddress(from);
      report(new Error(`ignored a datagram from ${stranger}, asked ${asked}`));
    });
  let status = 0;
  /** What comes while no line waits for a reply is late, or a second copy. */
  const takeSurplus = async (milliseconds: number) => {
    const end = performance.now() + timeout; // They might never stop.
    while (performance.now() < end) {
      const data = await receive(milliseconds);
      if (data === null) return;
      status = 1;
      report(new Error(`late or double, no line's reply: ${quoteBytes(data)}`));
    }
  };
  try {
    for await (const line of lines) {
      await takeSurplus(10);
      try {
        const data = line.at(-1) === NEWLINE ? line.subarray(0, -1) : line;
        await socket.send(data, peer);
        const reply = await receive(timeout);
        if (reply === null) {
          throw new Error(`no reply from ${asked} within ${timeout} ms`);
        }
        await writeFull(output, encode("recv:"));
        await writeFull(output, reply);
        await writeFull(output, encode("\n"));
      } catch (error) {
        status = 1; // For this line; the next one may have more luck.
        report(error);
      }
    }
    await takeSurplus(200);
  } finally {
    socket.close();
  }
  return status;
}

/** Two datagrams sent at once stay two. A stream might bring them as one. */
async function sendTwo(peer: Deno.NetAddr, print: (line: string) => unknown) {
  const socket = Deno.listenDatagram({ ...peer, transport: "udp", port: 0 });
  for (const text of ["two datagrams", "stay two"]) {
    await socket.send(encode(text), peer);
  }
  for (let i = 0; i < 2; i++) {
    const reply = await receiveFrom(socket, peer, 1000);
    if (reply) await print(`recv:${new TextDecoder().decode(reply)}`);
  }
  socket.close();
}

/** Forks the server, and runs the client. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  bufferSize = LARGEST,
  timeout = 1000,
  script = false,
  output = Deno.stdout as Writer,
  print = console.log as (line: string) => unknown,
  report = console.error as (error: unknown) => unknown,
} = {}): Promise<number> {
  const isAsked = !script && await hasInput();
  const lines = isAsked ? undefined : ["hello", "", "你好"].map(encode);
  const args = { host: hostname, port, messages: 0, "buffer-size": bufferSize };
  const { url } = import.meta;
  let status = 0;
  const forked = await forkServer({ url, args, print }, async (port, stop) => {
    status = await client({ hostname, port, timeout, lines, output, report });
    if (!isAsked) await sendTwo({ hostname, port, transport: "udp" }, print);
    stop(); // The server sees no end of a connection.
  });
  return Math.max(status, forked);
}

if (import.meta.main) {
  const messages = { default: 10, help: "how many to answer, 0: no limit" };
  const size = { default: LARGEST, min: 1, max: LARGEST };
  const bufferSize = { ...size, help: "bytes read of each" };
  const timeout = { default: 1000, min: 1, help: "milliseconds for a reply" };
  const script = { default: false, help: "send built-in lines, read no input" };

  await runLesson(import.meta.url, "UDP echo: datagrams, with no connection", {
    demo: {
      help: "a server, and a client on standard input, if it has any at once",
      flags: ["--allow-net", "--allow-run=deno", "--unstable-net"],
      options: { ...common.demo, bufferSize, timeout, script },
      show: "diagram", // stage
      run: demo,
    },
    server: {
      help: "sends each datagram back to its sender",
      flags: ["--allow-net", "--unstable-net"],
      options: { ...common.server, messages, bufferSize },
      operands: ["port"],
      show: "trace", // stage
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      flags: ["--allow-net", "--unstable-net"],
      options: { ...common.client, timeout },
      operands: ["host", "port"],
      show: "trace", // stage
      run: client,
    },
  });
}
