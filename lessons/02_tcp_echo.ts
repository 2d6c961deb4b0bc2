/**
 * @title TCP echo: full reads and full writes
 * @difficulty beginner
 * @tags tcp, server, client, readFull, writeFull
 * @run deno run --allow-net --allow-run=deno lessons/02_tcp_echo.ts
 * @run deno run --allow-net lessons/02_tcp_echo.ts server
 * @run deno run --allow-net lessons/02_tcp_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man2/read.2.html} read(2): fewer bytes than asked for are no error
 * @see 01_tcp_hello.ts
 * @see README.md, "02 TCP echo"
 *
 * An echo server: what a client sends comes back. One `write` may take only a
 * part of its bytes, and one `read` may bring only a part, because both only
 * copy to and from the kernel's buffers, which know nothing of messages. So
 * `writeFull` and `readExactly` go on until all bytes are written or read.
 *
 * The client knows how much to read, because it knows what it sent. The server
 * does not, so it reads until `read` returns `null`: the client has closed its
 * side. Look at the client's `Promise.all`: it writes and reads at the same
 * time. If it wrote all of a long line first, the server would stop reading as
 * soon as nobody took its echo, and then each side would wait for the other for
 * ever. That is a deadlock.
 *
 * @module
 */

import { announce } from "../lib/address.ts";
import { askLines } from "../lib/ask_lines.ts";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { encode } from "../lib/encode.ts";
import { readExactly, writeFull, type Writer } from "../lib/full_io.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";

const stdout: Writer = Deno.stdout;

/** Echoes one client after the other; 0 `connections` means no limit. */
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
      while (true) {
        const count = await conn.read(buffer);
        if (count === null) break; // The client has closed its side.
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
  output = stdout,
} = {}) {
  using conn = await Deno.connect({ hostname, port });
  for await (const line of lines) {
    // Write and read at once: an echo server stops reading when nobody takes
    // its echo, and then this side's write would wait for ever.
    const [, echo] = await Promise.all([
      writeFull(conn, line),
      readExactly(conn, new Uint8Array(line.length)),
    ]);
    await writeFull(output, encode("from server "));
    await writeFull(output, echo);
    if (echo.at(-1) !== 0x0a) await writeFull(output, encode("\n"));
  }
}

/** Starts the server as a process of its own, and clients in turn. */
export async function demo(
  { hostname, port, backlog, connections, ask, ...io }:
    & Values<typeof common.demo>
    & { backlog: number; connections: number; ask: boolean }
    & Io,
) {
  const args = { host: hostname, port, backlog, connections };
  const server = { ...io, url: import.meta.url, args };
  return await forkServer(server, async (port) => {
    for (let i = 0; i < connections; i++) {
      const lines = ask ? undefined : BUILT_IN[i % 2]!.map(encode);
      await client({ hostname, port, lines, output: io.output });
      await io.print("client done!!");
    }
  });
}

const BUILT_IN = [["hello\n", "你好\n"], ["the second client\n", "goes on\n"]];

if (import.meta.main) {
  const backlog = { default: 3, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const ask = { default: false, help: "send what you type, up to q or Q" };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, and clients in turn",
      options: { ...common.demo, backlog, connections: clients, ask },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes what clients send, one client at a time",
      options: { ...common.server, backlog, connections },
      show: "trace",
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      options: common.client,
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
