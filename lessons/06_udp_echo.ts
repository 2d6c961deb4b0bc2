/**
 * @title UDP echo: datagrams, with no connection
 * @difficulty intermediate
 * @tags udp, server, client, datagram
 * @run deno run --allow-net --allow-run=deno --unstable-net lessons/06_udp_echo.ts
 * @run deno run --allow-net --unstable-net lessons/06_udp_echo.ts server
 * @run deno run --allow-net --unstable-net lessons/06_udp_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man7/udp.7.html} udp(7)
 * @see 02_tcp_echo.ts
 * @see README.md, "06 UDP echo"
 *
 * An echo server without connections. The client sends each line as one
 * datagram, and the server sends it back to its sender. There is no `listen`
 * and no `accept`, so one socket serves all clients. A datagram arrives whole
 * or not at all, and two stay two, which a stream does not promise.
 *
 * But it may be lost, so the client waits for a reply only until a timeout. It
 * may also come late or twice, and UDP numbers nothing, so a reply does not say
 * which line it answers. The client takes the next datagram from the server,
 * and reports one that comes when no line waits. Anybody can send to any UDP
 * port: look whom the server does not answer, and whom the client does not
 * believe.
 *
 * @module
 */

import { encode } from "../lib/encode.ts";
import { announce, formatAddress } from "../lib/address.ts";
import { quoteBytes } from "../lib/quote_bytes.ts";
import { writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { askLines } from "../lib/ask_lines.ts";
import { isOwnAddress } from "../lib/own_address.ts";
import { receiveFrom } from "../lib/receive_from.ts";
import { resolveHost } from "../lib/resolve_host.ts";
import { isSystemError } from "../lib/system_error.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

/** The length field of UDP counts 65535 bytes, its header included. */
const LARGEST = 65535;

const stdout: Writer = Deno.stdout;

/** Sends each datagram back to its sender; 0 `messages` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  messages = 0,
  bufferSize = LARGEST,
  onListen = announce,
  report = console.error,
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
      if (isEchoing(sender as Deno.NetAddr, address)) continue;
      try {
        await socket.send(data, sender);
      } catch (error) {
        // What the system cannot send is lost, as any datagram may be. But a
        // permission that is missing is to be heard of.
        if (!isSystemError(error)) report(error);
      }
      answered++;
    }
  } finally {
    socket.close(); // `using` does not work with a UDP socket.
  }
}

/**
 * Whether an echo to this sender might come back for ever. A sender's address can
 * be forged, and where it is that of a server which answers whatever comes, two
 * servers keep each other busy. This server is one, and those at well-known ports
 * may be (echo has 7, RFC 862). Another one at a higher port looks like any
 * client: against that only a limit helps, or a protocol that tells answers from
 * requests. So services like this are off wherever strangers can reach them.
 */
function isEchoing(sender: Deno.NetAddr, own: Deno.NetAddr): boolean {
  return sender.port < 1024 ||
    sender.port === own.port && isOwnAddress(sender.hostname);
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
  output = stdout,
  report = console.error,
} = {}): Promise<number> {
  needUnstableNet();
  const address = await resolveHost(hostname);
  const peer = { hostname: address, port, transport: "udp" as const };
  const asked = formatAddress(peer);
  // The replies come to this address: any of this host, and a free port.
  const any = address.includes(":") ? "::" : "0.0.0.0";
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
        const data = line.at(-1) === 0x0a ? line.subarray(0, -1) : line;
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

/** Starts the server as a process of its own, and runs the client. */
export async function demo(
  { hostname, port, bufferSize, timeout, ask, ...io }:
    & Values<typeof common.demo>
    & { bufferSize: number; timeout: number; ask: boolean }
    & Io,
) {
  const { output, print, report } = io;
  const lines = ask ? undefined : ["hello", "", "你好"].map(encode);
  const args = { host: hostname, port, "buffer-size": bufferSize };
  const server = { ...io, url: import.meta.url, args };
  let status = 0;
  const forked = await forkServer(server, async (port, stop) => {
    status = await client({ hostname, port, timeout, lines, output, report });
    if (!ask) await sendTwo(await resolveHost(hostname), port, print);
    stop(); // The server sees no end of a connection.
  });
  return Math.max(status, forked);
}

/** Two datagrams sent at once stay two. A stream might bring them as one. */
async function sendTwo(
  hostname: string,
  port: number,
  print: (line: string) => unknown,
) {
  const peer = { hostname, port, transport: "udp" as const };
  const any = hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ ...peer, hostname: any, port: 0 });
  for (const text of ["two datagrams", "stay two"]) {
    await socket.send(encode(text), peer);
  }
  for (let i = 0; i < 2; i++) {
    const reply = await receiveFrom(socket, peer, 1000);
    if (reply) await print(`recv:${new TextDecoder().decode(reply)}`);
  }
  socket.close();
}

if (import.meta.main) {
  const messages = { default: 0, help: "how many to answer, 0: no limit" };
  const size = { default: LARGEST, min: 1, max: LARGEST };
  const bufferSize = { ...size, help: "bytes read of each" };
  const timeout = { default: 1000, min: 1, help: "milliseconds for a reply" };
  const ask = { default: false, help: "send what you type, up to q or Q" };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, and a client",
      options: { ...common.demo, bufferSize, timeout, ask },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "sends each datagram back to its sender",
      options: { ...common.server, messages, bufferSize },
      show: "trace",
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      options: { ...common.client, timeout },
      show: "trace",
      run: client,
    },
  });
}
