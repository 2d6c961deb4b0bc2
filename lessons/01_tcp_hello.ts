/**
 * @title TCP hello: one message, one reply
 * @difficulty beginner
 * @tags tcp, server, client
 * @run deno run --allow-net --allow-run=deno lessons/01_tcp_hello.ts
 * @run deno run --allow-net lessons/01_tcp_hello.ts server
 * @run deno run --allow-net lessons/01_tcp_hello.ts client
 * @resource {https://man7.org/linux/man-pages/man2/listen.2.html} listen(2): what the backlog is
 * @see 02_tcp_echo.ts
 * @see README.md, "01 TCP hello"
 *
 * The smallest server and client. The server accepts a client, reads once,
 * sends back what it read and closes. Then it is the next client's turn.
 *
 * `Deno.listen` is three calls in C: it creates a socket, gives it an address,
 * and lets the kernel complete connections for it. They wait in a queue until
 * `accept` takes one; `tcpBacklog` is the length of this queue, so it does not
 * limit how many clients are served. `accept` returns another socket, which
 * belongs to this one client, and `using` closes it at the end of its block,
 * even after an error. Look at the one `read` on each side. It hopes to get a
 * whole message, but TCP carries bytes and knows nothing of messages, so it may
 * bring half of one, or two. Lesson 02 goes on until it has all.
 *
 * @module
 */

import { announce } from "../lib/address.ts";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { encode } from "../lib/encode.ts";
import { writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";

const stdout: Writer = Deno.stdout;

/** Answers one client after the other; 0 `connections` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 3,
  connections = 0,
  onListen = announce,
} = {}) {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  const buffer = new Uint8Array(16 * 1024);
  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      using conn = await listener.accept();
      // One read, in the hope that it is all of the message.
      const count = await conn.read(buffer);
      if (count !== null) await writeFull(conn, buffer.subarray(0, count));
    } catch (error) {
      // A client's reset ends that client, and not the server.
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Sends one message, and reads once for the reply. */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  message = "hello,hello",
  output = stdout,
} = {}) {
  using conn = await Deno.connect({ hostname, port });
  await writeFull(conn, encode(`${message}\n`));

  // One read again, in the hope that it is all of the reply.
  const buffer = new Uint8Array(16 * 1024);
  const count = await conn.read(buffer);
  if (count === null) throw new Error("The server has closed the connection");
  await writeFull(output, buffer.subarray(0, count));
  if (buffer[count - 1] !== 0x0a) await writeFull(output, encode("\n"));
}

/** Starts the server as a process of its own, and clients in turn. */
export async function demo(
  { hostname, port, backlog, connections, message, ...io }:
    & Values<typeof common.demo>
    & { backlog: number; connections: number; message: string }
    & Io,
) {
  const args = { host: hostname, port, backlog, connections };
  const server = { ...io, url: import.meta.url, args };
  return await forkServer(server, async (port) => {
    for (let i = 0; i < connections; i++) {
      await client({ hostname, port, message, output: io.output });
      await io.print("client done!!");
    }
  });
}

if (import.meta.main) {
  const backlog = { default: 3, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const message = { default: "hello,hello", help: "sent with a newline" };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, and clients in turn",
      options: { ...common.demo, backlog, connections: clients, message },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "answers each client's first read, one client at a time",
      options: { ...common.server, backlog, connections },
      show: "trace",
      run: server,
    },
    client: {
      help: "sends one message, and reads once",
      options: { ...common.client, message },
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
