/**
 * @title TCP hello: one message, one reply
 * @difficulty beginner
 * @tags tcp, server, client
 * @run deno run --allow-net --allow-run=deno lessons/01_tcp_hello.ts
 * @run deno run --allow-net lessons/01_tcp_hello.ts server
 * @run deno run --allow-net lessons/01_tcp_hello.ts client
 * @resource {https://man7.org/linux/man-pages/man2/listen.2.html} listen(2): what the backlog is
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2)
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7)
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.5} RFC 9293, 3.5: how a connection is opened
 * @see 02_tcp_echo.ts
 *
 * The smallest server and client. The server accepts a client, reads once, sends
 * back what it read, and closes. Then it is the next client's turn. The client
 * connects, sends a line, reads once for the reply, and closes. The demo runs
 * the server as a process of its own, and the client twice.
 *
 * What to look at:
 * - `Deno.listen` is three calls in C: create a socket, give it its address, let
 *   the kernel complete connections for it. The client gives no address of its
 *   own. The kernel chooses one when it connects.
 * - `accept` returns another socket, which belongs to this one client. `using`
 *   closes it at the end of its block, even when an error ends the block.
 * - `tcpBacklog` is the 3 of `listen(server, 3)`. It does not limit how many
 *   clients are served. It is the length of a queue. In the queue are
 *   connections that the kernel has completed and the server has not accepted
 *   yet. Linux allows one more. While the server is busy with one client, four
 *   others can connect. The `connect` of the next one waits.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername` |
 * | `Deno.connect` | `socket`, `connect`, `getsockopt(SO_ERROR)`, `getsockname`, `getpeername` |
 * | `conn.read` | `recvfrom` |
 * | `writeFull` | `sendto(MSG_NOSIGNAL)`, as often as it takes: an error instead of a SIGPIPE |
 * | the end of `using conn` | `shutdown(SHUT_WR)`, `close` |
 *
 * Try it:
 * - `deno task tcp_hello server`, and in another terminal
 *   `deno task tcp_hello client --message 'how are you?'`.
 * - With the same server, `nc 127.0.0.1 9527` in a second terminal, without
 *   typing anything, and `deno task tcp_hello client` in a third one. The client
 *   is connected and has written its message, but the server waits for bytes
 *   from nc. Press Ctrl+C in nc's terminal, and the reply comes. (`nc` may be
 *   any program of this name.)
 * - `(printf hel; sleep 1; printf lo) | nc 127.0.0.1 9527` prints `hel`: the
 *   server's one read came too early for the rest.
 * - `diff -I '^ \*' lessons/01_tcp_hello.ts lessons/02_tcp_echo.ts`: what lesson
 *   02 does about that. (Lines that begin with ` *` are comments like this one.)
 *
 * In the tutorial `run_client` is `client()`, `lession63_` is `server()`, and
 * `lession63` is `demo()`, where the client is the child. Its lists of
 * steps, "TCP连接客户端的流程" and "TCP连接服务器的流程", are the calls of `client()`
 * and of `server()`.
 * What its program gets wrong:
 * - The client sends `sizeof(buffer)` bytes: 256 for a text of 12. The other 244
 *   are NULs. Here only the bytes of the text are sent.
 * - The server answers with `strlen(buffer)` bytes. A NUL in the message cuts
 *   the reply short. A message that fills the buffer has no NUL after it, where
 *   `strlen` would stop.
 * - `accept` gets a `cliaddrlen` that was never set. It must say how large the
 *   buffer for the address is. In Deno there is no such argument.
 * - One failed write ends the server. Here an error of one client's connection
 *   ends that connection only. This is also why the loop calls `accept`, and is
 *   not a `for await (const conn of listener)`. A client can reset its
 *   connection while it is still in the queue. Then `accept` throws ENOTCONN,
 *   which would end a `for await`.
 * - The child sleeps for a second, and hopes that the server listens by then.
 *   Here the server prints a line when it listens, and the demo waits for it.
 * - The parent never stops serving, so its call of `wait` is never reached.
 *
 * What is still missing: a TCP connection carries bytes, not messages. One
 * `read` returns what has arrived by then: perhaps half of what one `write`
 * sent, perhaps the bytes of two writes. Here both sides hope that one `read`
 * is one message. Lesson 02 reads until it has the whole reply.
 *
 * @module
 */

import { isConnectionLost } from "../lib/connection_lost.ts";
import { announce } from "../lib/describe.ts";
import { writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";

const NEWLINE = 0x0a;
const encode = (text: string) => new TextEncoder().encode(text);

/** Answers one client after the other; 0 `connections` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 3,
  connections = 0,
  onListen = announce,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  const buffer = new Uint8Array(1024);
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
  output = Deno.stdout as Writer,
} = {}): Promise<void> {
  try {
    using conn = await Deno.connect({ hostname, port });
    await writeFull(conn, encode(`${message}\n`));

    // One read again, in the hope that it is all of the reply.
    const buffer = new Uint8Array(1024);
    const count = await conn.read(buffer);
    if (count === null) {
      throw new Deno.errors.UnexpectedEof("read failed!: End of stream");
    }
    await writeFull(output, buffer.subarray(0, count));
    if (buffer[count - 1] !== NEWLINE) await writeFull(output, encode("\n"));
  } finally {
    await writeFull(output, encode("client done!!\n"));
  }
}

/** Forks the server, and runs the clients in turn, as the tutorial does. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  backlog = 3,
  connections = 2,
  message = "hello,hello",
  output = Deno.stdout as Writer,
  print = console.log as (line: string) => unknown,
} = {}): Promise<number> {
  const args = { host: hostname, port, backlog, connections };
  const { url } = import.meta;
  return await forkServer({ url, args, print }, async (port) => {
    for (let i = 0; i < connections; i++) {
      await client({ hostname, port, message, output });
    }
  });
}

if (import.meta.main) {
  const backlog = { default: 3, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const message = { default: "hello,hello", help: "sent with a newline" };

  await runLesson(import.meta.url, "TCP hello: one message, one reply", {
    demo: {
      help: "a server process, and clients in turn",
      flags: ["--allow-net", "--allow-run=deno"],
      options: { ...common.demo, backlog, connections: clients, message },
      show: "diagram", // stage
      last: "client done!!",
      run: demo,
    },
    server: {
      help: "answers each client's first read, one client at a time",
      flags: ["--allow-net"],
      options: { ...common.server, backlog, connections },
      show: "trace", // stage
      run: server,
    },
    client: {
      help: "sends one message, and reads once",
      flags: ["--allow-net"],
      options: { ...common.client, message },
      show: "trace", // stage
      last: "client done!!",
      run: client,
    },
  });
}
