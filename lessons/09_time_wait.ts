/**
 * @title TIME-WAIT and SO_REUSEADDR: starting again at once
 * @difficulty intermediate
 * @tags tcp, TIME-WAIT, SO_REUSEADDR, bind, EADDRINUSE, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/09_time_wait.ts
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.4.2} RFC 9293, 3.4.2: MSL, why a connection's name must rest
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.6.1} RFC 9293, 3.6.1: TIME-WAIT, half-closed connections
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.10.7.4} RFC 9293, 3.10.7.4: a FIN in TIME-WAIT is acknowledged again
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_REUSEADDR
 * @see 08_closing.ts
 * @see 10_framing.ts
 *
 * Who closes first waits last: its end stays in TIME-WAIT. If that was the
 * server, its port is still in use when it starts again, and `bind` fails. This
 * lesson lets servers close first, looks at the kernel's list of sockets, and
 * binds the port again in every combination of SO_REUSEADDR.
 *
 * In the tutorial: "Time-wait", "bind error" and "SO_REUSEADDR", which it tells
 * and does not show.
 *
 * What the tutorial gets wrong:
 * - "大约三分钟" (about three minutes): the timer that the kernel prints below is
 *   what it is. Linux fixes it in its source (TCP_TIMEWAIT_LEN); RFC 9293 asks
 *   for twice the maximum segment lifetime, which it sets to two minutes.
 * - Its cure, SO_REUSEADDR, for the server that starts again: on Linux the one
 *   that has ended must have had it too, so set it before the first start.
 * - The client "need not be considered", for its port is another one each time:
 *   true until a client of many connections has used up its ports.
 *
 * Why TIME-WAIT exists: if the last ACK is lost, the other side sends its FIN
 * again, and only an end that is still there can acknowledge it, and starts its
 * wait anew (RFC 9293, 3.10.7.4). And segments of the old connection that are
 * still under way must not be taken for those of a new one with the same two
 * addresses (3.4.2). To see the first takes packet loss; it is only told here.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `libc.socket` and `bind` | `socket` and `bind`, and no option |
 * | `setsockopt("SO_REUSEADDR", 1)` | `setsockopt` |
 *
 * `Deno.listen` always sets SO_REUSEADDR, and has no way not to. The servers
 * without it are made through libc (`--allow-ffi`); the kernel's list is read
 * by `cat` (`--allow-run=cat`).
 *
 * Try it:
 * - `--wait`: until the kernel lets the port go, about a minute.
 * - `02_tcp_echo.ts server --connections 0`, a client, Ctrl+C for the server,
 *   `Q` for the client, and `ss -tan | grep 9527`: TIME-WAIT. The server starts
 *   again.
 * - The tutorial's C++ server the same way: `bind failed!`.
 *
 * What is still missing: so far, one `read` was one message, or as long as what
 * was sent. Lesson 10 tells the reader how long a message is.
 *
 * @module
 */

import {
  flagOption,
  mode,
  quietOption,
  runLesson,
} from "../lib/command_line.ts";
import {
  type Libc,
  type LibcSocket,
  openLibc,
  SOCK_STREAM,
} from "../lib/libc_socket.ts";
import { Progress } from "../lib/progress.ts";
import { formatTable } from "../lib/table.ts";
import { readTcpTable, type TcpRow } from "../lib/tcp_table.ts";
import { formatAddress } from "../lib/trace.ts";

const LOOPBACK = "127.0.0.1";

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** Waits until the kernel lets a port go. */
  wait?: boolean;
  /** Gets each table. */
  print: (text: string) => void;
  /** Gives up. */
  signal?: AbortSignal;
}

/** Starts servers again that have closed first. */
export async function demo(options: DemoOptions): Promise<void> {
  const { wait = false, print, signal } = options;
  using libc = openLibc();

  print("A server closes first. Its port's sockets, as the kernel lists them:");
  const port = await serveOnce(libc, { reuse: false, first: "server" });
  const row = await timeWait(port);
  print(
    formatTable(["own address", "other side", "state", "timer"], [[
      formatAddress(row.local),
      formatAddress(row.remote),
      row.state,
      `${row.timer!.milliseconds / 1000} s left`,
    ]]) + "\n",
  );

  signal?.throwIfAborted();
  print("The server starts again on that port. Does bind(2) work?");
  const restarts: string[][] = [];
  for (const before of [false, true]) {
    for (const after of [false, true]) {
      signal?.throwIfAborted();
      const port = await serveOnce(libc, { reuse: before, first: "server" });
      await timeWait(port);
      const result = outcome(() => bind(libc, port, after)[Symbol.dispose]());
      restarts.push([...[before, after].map(String), result]);
    }
  }
  print(
    formatTable(
      ["the old one had SO_REUSEADDR", "the new one has it", "bind(2)"],
      restarts,
    ) + "\n",
  );

  signal?.throwIfAborted();
  print("And in Deno:");
  print(formatTable(["", "observed"], await denoRestarts(libc)) + "\n");

  signal?.throwIfAborted();
  print("The client closes first:");
  print(formatTable(["", "observed"], await clientFirst(libc)) + "\n");

  print("A port that somebody still listens on:");
  print(formatTable(["SO_REUSEADDR", "bind(2)"], stillListening(libc)));

  signal?.throwIfAborted();
  if (wait) {
    print(`\nPort ${port}, without SO_REUSEADDR, until bind(2) works:`);
    print(await waitForPort(libc, port, signal));
  }
}

/** A socket that is bound, with SO_REUSEADDR or without. */
function bind(libc: Libc, port: number, reuse: boolean): LibcSocket {
  const socket = libc.socket(SOCK_STREAM);
  try {
    if (reuse) socket.setsockopt("SO_REUSEADDR", 1);
    socket.bind({ hostname: LOOPBACK, port });
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** A server's life with one client. Returns its port. */
async function serveOnce(
  libc: Libc,
  { reuse, first }: { reuse: boolean; first: "server" | "client" },
): Promise<number> {
  using listener = bind(libc, 0, reuse);
  listener.listen(1);
  const { port } = listener.getsockname();
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  using accepted = listener.accept();
  // Each side closes when it has read the other's end, but for the first.
  if (first === "server") {
    accepted.close();
    await conn.read(new Uint8Array(1));
  } else {
    await conn.closeWrite();
    await until(async () =>
      (await readTcpTable()).some((row) =>
        row.local.port === port && row.state === "CLOSE-WAIT"
      )
    );
    accepted.close();
  }
  return port;
}

/** Waits for the kernel to list a port in TIME-WAIT, which takes a moment. */
async function timeWait(port: number): Promise<TcpRow> {
  let found: TcpRow | undefined;
  await until(async () => {
    found = (await readTcpTable()).find((row) =>
      row.local.port === port && row.state === "TIME-WAIT"
    );
    return found !== undefined;
  });
  return found!;
}

/** Asks again until it holds, for two seconds at most. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 2000;
  while (!await condition()) {
    if (performance.now() > end) {
      throw new Deno.errors.TimedOut("The kernel did not list the state");
    }
  }
}

async function denoRestarts(libc: Libc): Promise<(string | number)[][]> {
  const listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const option = libc.descriptorOf(listener).getsockopt("SO_REUSEADDR");
  {
    using conn = await Deno.connect({ hostname: LOOPBACK, port });
    (await listener.accept()).close(); // The server is first.
    await conn.read(new Uint8Array(1));
  }
  listener.close();
  await timeWait(port);

  const without = await serveOnce(libc, { reuse: false, first: "server" });
  await timeWait(without);
  const listen = (port: number) =>
    outcome(() => Deno.listen({ hostname: LOOPBACK, port }).close());
  return [
    ["SO_REUSEADDR of a Deno.listen", String(option)],
    ["Deno.listen, after a Deno.listen that closed first", listen(port)],
    ["Deno.listen, after a server without SO_REUSEADDR", listen(without)],
  ];
}

async function clientFirst(libc: Libc): Promise<string[][]> {
  const port = await serveOnce(libc, { reuse: false, first: "client" });
  let rows: TcpRow[] = [];
  await until(async () => {
    rows = (await readTcpTable()).filter(({ local, remote, state }) =>
      state === "TIME-WAIT" && [local.port, remote.port].includes(port)
    );
    return rows.length > 0;
  });
  const result = outcome(() => bind(libc, port, false)[Symbol.dispose]());
  return [
    ["the server's port", String(port)],
    ["TIME-WAIT is at", formatAddress(rows[0].local)],
    ["bind(2) of the server's port, without SO_REUSEADDR", result],
  ];
}

function stillListening(libc: Libc): string[][] {
  using listener = bind(libc, 0, true);
  listener.listen(1);
  const { port } = listener.getsockname();
  return [false, true].map((reuse) => [
    String(reuse),
    outcome(() => bind(libc, port, reuse)[Symbol.dispose]()),
  ]);
}

/** Waits for TIME-WAIT to end, by the kernel's own timer, and binds. */
async function waitForPort(
  libc: Libc,
  port: number,
  signal?: AbortSignal,
): Promise<string> {
  const start = performance.now();
  const left = async () => {
    const rows = await readTcpTable();
    const row = rows.find((row) => row.local.port === port);
    return row?.timer?.milliseconds ?? 0;
  };
  const total = await left();
  using progress = new Progress("TIME-WAIT", total);
  for (;;) {
    signal?.throwIfAborted();
    try {
      bind(libc, port, false).close();
      break;
    } catch (error) {
      if ((error as { code?: string }).code !== "EADDRINUSE") throw error;
    }
    progress.update(total - await left());
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  return `bind(2) works after ${seconds} s; the timer had ${
    total / 1000
  } s left.`;
}

/** "works", or the name of the error. */
function outcome(call: () => void): string {
  try {
    call();
    return "works";
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (typeof code === "string") return code;
    throw error;
  }
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "TIME-WAIT and SO_REUSEADDR: starting again at once",
    modes: {
      demo: mode({
        help: "servers that close first, and start again",
        flags: ["--allow-net", "--allow-ffi", "--allow-run=cat"],
        options: {
          wait: flagOption("wait until the kernel lets a port go"),
          ...quietOption,
        },
        run: demo,
      }),
    },
  });
}
