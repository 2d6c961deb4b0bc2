/**
 * @title TCP echo: full reads and full writes
 * @difficulty beginner
 * @tags tcp, server, client, readFull, writeFull
 * @run deno run --allow-net --allow-run=deno lessons/02_tcp_echo.ts
 * @run deno run --allow-net lessons/02_tcp_echo.ts server
 * @run deno run --allow-net lessons/02_tcp_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man2/read.2.html} read(2): fewer bytes than asked for are no error
 * @resource {https://man7.org/linux/man-pages/man2/write.2.html} write(2): the same for writing
 * @resource {https://www.rfc-editor.org/rfc/rfc862} RFC 862: the echo protocol
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.8} RFC 9293, 3.8: data communication
 * @see 01_tcp_hello.ts
 * @see 03_addresses.ts
 *
 * An echo server: what a client sends comes back. The client sends the lines of
 * its standard input one by one, and reads as many bytes as it has sent. The
 * demo runs the server as a process of its own, and two clients in turn: the
 * first one takes the lines up to a `q`, the second one goes on from there.
 *
 * What to look at:
 * - The server reads until `read` returns `null`. Lesson 01 reads once.
 * - `writeFull` and `readFull` go on until all bytes are written or read. One
 *   `write` may take only a part of the bytes, and one `read` may bring only a
 *   part of them.
 * - The client writes and reads at the same time. See the comment there.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername` |
 * | `Deno.connect` | `socket`, `connect`, `getsockopt(SO_ERROR)`, `getsockname`, `getpeername` |
 * | `conn.read` returns `null` | `recvfrom` returns 0: the other side has sent its FIN |
 * | `writeFull` | `sendto`, as often as it takes |
 * | `readFull` | `recvfrom`, as often as it takes |
 * | the end of `using conn` | `shutdown(SHUT_WR)`, `close` |
 *
 * Try it:
 * - `deno task tcp_echo server`, and in another terminal
 *   `deno task tcp_echo client`: type lines, and `Q` to quit. The server ends
 *   after two clients, as the tutorial's does.
 * - `deno task tcp_echo server --connections 0 --quiet`, and in another terminal
 *   `deno task tcp_echo client --quiet < /usr/bin/env | LC_ALL=C sed 's/^from server //' | cmp - /usr/bin/env`.
 *   A file that is not text comes back whole. `cmp` finds no difference, and then
 *   says "EOF on /usr/bin/env": the client also prints a newline and
 *   `client done!!`.
 * - `diff -I '^ \*' lessons/01_tcp_hello.ts lessons/02_tcp_echo.ts`: what has
 *   to change in a server that treats one read as one message. (`-I` leaves out
 *   lines like this one.)
 *
 * In the tutorial `run_client64` is `client()`, `server64` is `server()`, and
 * `lession64` is `demo()`. What its program gets wrong:
 * - The server compares what it wrote with `strlen` of its buffer. A full
 *   buffer has no NUL at its end, and the data may contain NULs. So it says
 *   that a correct write has failed, and ends.
 * - It treats the end of a client's stream as an error ("read failed!"), and
 *   ends. Its second client is never served.
 * - The client loops for ever at the end of its input: `fgets` leaves the buffer
 *   empty, nothing is sent, and it prompts again.
 * - `fgets` cuts lines at 255 bytes, and `strlen` cuts them at the first NUL.
 * - The client writes all of a line before it reads. That works because its
 *   lines are short. Lesson 04 shows how a client with a long one locks up.
 * - Its first client does not wait until the server listens (the `sleep` is
 *   commented out), and says nothing when the connection is refused.
 *
 * What is still missing: the client knows how much to read, because it knows
 * what it sent. Where the reader does not know the length, messages need frames
 * (lesson 10). A client that says nothing makes all others wait as long as it
 * likes. Lesson 11 gives up in time, and lesson 12 serves many clients at once.
 *
 * @module
 */

import { isConnectionLost } from "../lib/connection_lost.ts";
import { announce } from "../lib/describe.ts";
import { readFull, writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { askLines, hasInput } from "../lib/lines.ts";

const NEWLINE = 0x0a;
const encode = (text: string) => new TextEncoder().encode(text);

/** Echoes one client after the other; 0 `connections` means no limit. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 3,
  connections = 2,
  onListen = announce,
} = {}): Promise<void> {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  const buffer = new Uint8Array(16 * 1024);
  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      using conn = await listener.accept();
      // null is the end of the stream: the client has closed its side.
      for (let count; (count = await conn.read(buffer)) !== null;) {
        await writeFull(conn, buffer.subarray(0, count));
      }
    } catch (error) {
      // A client's reset ends that client, and not the server.
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Sends line after line, and waits for the echo of each. */
export async function client({
  hostname = "127.0.0.1",
  port = 9527,
  lines = askLines("Input message(Q to quit):"),
  output = Deno.stdout as Writer,
} = {}): Promise<void> {
  try {
    using conn = await Deno.connect({ hostname, port });
    for await (const line of lines) {
      // Write and read at once. An echo server stops reading when nobody takes
      // its echo. After that, this side's write would wait for ever.
      const [, echo] = await Promise.all([
        writeFull(conn, line),
        readEcho(conn, line.length),
      ]);
      await writeFull(output, encode("from server "));
      await writeFull(output, echo);
      if (echo.at(-1) !== NEWLINE) await writeFull(output, encode("\n"));
    }
  } finally {
    await writeFull(output, encode("client done!!\n"));
  }
}

/** readFull throws if half an echo comes. Here it is an error if none comes. */
async function readEcho(conn: Deno.TcpConn, size: number) {
  const echo = await readFull(conn, new Uint8Array(size));
  if (echo !== null) return echo;
  throw new Deno.errors.UnexpectedEof("read failed!: End of stream");
}

const BUILT_IN = [["hello\n", "你好\n"], ["the second client\n", "goes on\n"]];

/** Forks the server, and runs the clients in turn, as the tutorial does. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  backlog = 3,
  connections = 2,
  script = false,
  output = Deno.stdout as Writer,
  print = console.log as (line: string) => unknown,
} = {}): Promise<number> {
  const isAsked = !script && await hasInput();
  const args = { host: hostname, port, backlog, connections };
  const { url } = import.meta;
  return await forkServer({ url, args, print }, async (port) => {
    for (let i = 0; i < connections; i++) {
      const lines = isAsked ? undefined : BUILT_IN[i]?.map(encode) ?? [];
      await client({ hostname, port, lines, output });
    }
  });
}

if (import.meta.main) {
  const backlog = { default: 3, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 2, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const script = { default: false, help: "send built-in lines, read no input" };

  await runLesson(import.meta.url, "TCP echo: full reads and full writes", {
    demo: {
      help: "a server, and clients on standard input, if it has any at once",
      flags: ["--allow-net", "--allow-run=deno"],
      options: { ...common.demo, backlog, connections: clients, script },
      show: "diagram", // stage
      last: "client done!!",
      run: demo,
    },
    server: {
      help: "echoes what clients send, one client at a time",
      flags: ["--allow-net"],
      options: { ...common.server, backlog, connections },
      show: "trace", // stage
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      flags: ["--allow-net"],
      options: common.client,
      show: "trace", // stage
      last: "client done!!",
      run: client,
    },
  });
}
