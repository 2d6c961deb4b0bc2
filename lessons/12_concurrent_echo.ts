/**
 * @title Concurrent echo: many clients at once
 * @difficulty intermediate
 * @tags tcp, server, client, concurrency
 * @run deno run --allow-net --allow-run=deno lessons/12_concurrent_echo.ts
 * @run deno run --allow-net lessons/12_concurrent_echo.ts server
 * @run deno run --allow-net lessons/12_concurrent_echo.ts client
 * @resource {https://man7.org/linux/man-pages/man7/epoll.7.html} epoll(7): how one thread waits for many sockets
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept(2): which errors are about one client
 * @see 02_tcp_echo.ts
 * @see README.md, "12 Concurrent echo"
 *
 * The echo server of lesson 02, for many clients at once. In lesson 02 a client
 * that says nothing makes all others wait, because the server waits for it. In
 * the demo such a client is connected, and others have their echoes meanwhile.
 *
 * What to look at: `server()` calls `echo(conn)` without `await`. So it goes on
 * to the next client, while Deno's loop, in one thread, waits for all sockets
 * and continues whichever function has something to do. That is why each client
 * needs its own buffer, and why each catches the error of a lost client itself.
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

/** Echoes all clients at once, without end. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  backlog = 128,
  onListen = announce,
} = {}) {
  using listener = Deno.listen({ hostname, port, tcpBacklog: backlog });
  onListen(listener.addr);

  while (true) {
    try {
      const conn = await listener.accept();
      echo(conn); // Without `await`: the next client can come at once.
    } catch (error) {
      // A client's reset in the queue ends that client, and not the server.
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Echoes one client. */
async function echo(conn: Deno.TcpConn) {
  const buffer = new Uint8Array(16 * 1024);
  try {
    using _ = conn;
    while (true) {
      const count = await conn.read(buffer);
      if (count === null) break; // The client has closed its side.
      await writeFull(conn, buffer.subarray(0, count));
    }
  } catch (error) {
    // A client's reset ends that client, and not the server. Any other error is
    // the program's own. Nobody waits for this function, so it ends the process.
    if (!isConnectionLost(error)) throw error;
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

/** Starts the server as a process of its own, a silent client, and others. */
export async function demo(
  { hostname, port, backlog, connections, ask, ...io }:
    & Values<typeof common.demo>
    & { backlog: number; connections: number; ask: boolean }
    & Io,
) {
  const args = { host: hostname, port, backlog };
  const server = { ...io, url: import.meta.url, args };
  return await forkServer(server, async (port, stop) => {
    using silent = await Deno.connect({ hostname, port });
    await io.print("a client is connected, and says nothing");

    const start = performance.now();
    for (let i = 0; i < connections; i++) {
      const lines = ask ? undefined : BUILT_IN[i % 2]!.map(encode);
      await client({ hostname, port, lines, output: io.output });
      await io.print("client done!!");
    }
    const time = Math.round(performance.now() - start);
    await io.print(`the silent one has been so for ${time} ms, and speaks now`);

    const line = encode("at last\n");
    await writeFull(silent, line);
    const echo = await readExactly(silent, new Uint8Array(line.length));
    await writeFull(io.output, encode("from server "));
    await writeFull(io.output, echo);
    stop();
  });
}

const BUILT_IN = [["hello\n", "你好\n"], ["the second client\n", "goes on\n"]];

if (import.meta.main) {
  const backlog = { default: 128, max: 2 ** 31 - 1, help: "listen(2)'s queue" };
  const connections = { default: 2, min: 1, help: "how many clients, in turn" };
  const ask = { default: false, help: "send what you type, up to q or Q" };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, a silent client, and others",
      options: { ...common.demo, backlog, connections, ask },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes what clients send, all at once",
      options: { ...common.server, backlog },
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
