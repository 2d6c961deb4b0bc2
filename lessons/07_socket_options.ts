/**
 * @title Socket options: what the kernel makes of them
 * @difficulty intermediate
 * @tags getsockopt, setsockopt, SO_SNDBUF, SO_RCVBUF, SO_TYPE, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/07_socket_options.ts
 * @resource {https://man7.org/linux/man-pages/man2/getsockopt.2.html} getsockopt(2), setsockopt(2)
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_SNDBUF, SO_RCVBUF, SO_REUSEADDR, ...
 * @resource {https://man7.org/linux/man-pages/man7/tcp.7.html} tcp(7): TCP_NODELAY, tcp_wmem, tcp_rmem
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.7.4} RFC 9293, 3.7.4: what TCP_NODELAY turns off
 * @see 06_udp_echo.ts
 * @see 08_closing.ts
 *
 * Options are how a program and the kernel talk about a socket. To set one is
 * to ask: the kernel rounds, doubles, limits or refuses, and says so only to
 * those who read the option back. Every value below was read with getsockopt(2)
 * in this run.
 *
 * In the tutorial: `lession76`, whose six lines come first here, and its
 * sentence that a socket's type is decided when it is created.
 *
 * What the tutorial's program gets wrong: it ignores what `setsockopt` returns,
 * and takes 32768 for an answer to 16384 without a word. Linux doubles the
 * value, because it counts its own bookkeeping as well (socket(7)).
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `socket.getsockopt` | `getsockopt` |
 * | `socket.setsockopt` | `setsockopt` |
 * | `conn.setNoDelay` | `setsockopt(TCP_NODELAY)` |
 * | `conn.setKeepAlive` | `setsockopt(SO_KEEPALIVE)` |
 * | `libc.descriptorOf` | `getsockname`, `getpeername` of every descriptor |
 *
 * Deno has calls for TCP_NODELAY and SO_KEEPALIVE, and none for the others. But
 * an option belongs to the socket, not to the library that asks: libc reads and
 * sets them on Deno's own connections (`--allow-ffi`). The limits stand in
 * `/proc/sys`, which Deno reads by `cat` (`--allow-run=cat`).
 *
 * Try it:
 * - `07_socket_options.ts --send-buffer 1`, and with 2147483647: the least and
 *   the most are where the table says.
 * - `strace -f -e trace=getsockopt,setsockopt deno run ...`.
 * - `ss -tm` while a connection is open: its buffers, from outside.
 *
 * What is still missing: SO_REUSEADDR can be set, but what is it good for? That
 * takes a look at how connections end, in lessons 08 and 09.
 *
 * @module
 */

import {
  integerOption,
  mode,
  quietOption,
  runLesson,
} from "../lib/command_line.ts";
import { abortable } from "../lib/deadline.ts";
import {
  type Libc,
  type LibcDescriptor,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
  type SocketOption,
} from "../lib/libc_socket.ts";
import { formatTable } from "../lib/table.ts";
import { cat } from "../lib/tcp_table.ts";

const INT_MAX = 2 ** 31 - 1;

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** The SO_SNDBUF to ask for, in bytes; 16384 by default. */
  sendBuffer?: number;
  /** The SO_RCVBUF to ask for, in bytes; 16384 by default. */
  receiveBuffer?: number;
  /** Gets each table. */
  print: (text: string) => void;
}

/** Reads options, sets them, and reads them again. */
export async function demo(options: DemoOptions): Promise<void> {
  const { sendBuffer = 16384, receiveBuffer = 16384, print } = options;
  using libc = openLibc();

  // The tutorial's program, line by line.
  using tcp = libc.socket(SOCK_STREAM);
  using udp = libc.socket(SOCK_DGRAM);
  print(`SOCK_STREAM:${SOCK_STREAM}`);
  print(`SOCK_DGRAM:${SOCK_DGRAM}`);
  print(`tcp_sock type is :${tcp.getsockopt("SO_TYPE")}`);
  print(`udp_sock type is :${udp.getsockopt("SO_TYPE")}`);
  print(`tcp_sock send buffer size is :${tcp.getsockopt("SO_SNDBUF")}`);
  tcp.setsockopt("SO_SNDBUF", sendBuffer);
  print(`*tcp_sock send buffer size is :${tcp.getsockopt("SO_SNDBUF")}\n`);

  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using newTcp = libc.socket(SOCK_STREAM);

  print("What becomes of a value that is asked for:");
  const sockets = {
    "TCP": newTcp,
    "UDP": udp,
    "Deno": libc.descriptorOf(conn),
  };
  const asked: [SocketOption, number][] = [
    ["SO_SNDBUF", sendBuffer],
    ["SO_RCVBUF", receiveBuffer],
    ["SO_REUSEADDR", 1],
    ["SO_KEEPALIVE", 1],
    ["TCP_NODELAY", 1],
    ["SO_TYPE", SOCK_DGRAM],
    ["SO_ERROR", 1],
  ];
  const rows: (string | number)[][] = [];
  for (const [option, value] of asked) {
    for (const [name, socket] of Object.entries(sockets)) {
      const before = read(socket, option);
      const refusal = write(socket, option, value);
      const after = refusal ?? read(socket, option);
      rows.push([option, name, before, value, after]);
    }
  }
  print(formatTable(["option", "socket", "before", "asked", "after"], rows));
  print(`
Deno's is a live connection: TCP sizes its buffers as it goes (tcp(7)).
ENOPROTOOPT is a refusal: a type is decided when the socket is created, an error
can only be read, and UDP has no TCP_NODELAY (EOPNOTSUPP says the same).
`);

  print("Buffer sizes: the least and the most of this host, in bytes");
  print(formatTable(
    ["option", "asked", "got", "asked", "got", "limit", "got/limit"],
    [
      await limits(libc, "SO_SNDBUF", "net/core/wmem_max"),
      await limits(libc, "SO_RCVBUF", "net/core/rmem_max"),
    ],
  ));
  const got = tcp.getsockopt("SO_SNDBUF");
  print(`
The limit is wmem_max or rmem_max in /proc/sys/net/core. Asked for
${sendBuffer}, the tutorial's socket got ${got}. By socket(7) the kernel cuts a
value to the limit and then doubles it, to make room for its own bookkeeping.
`);

  print("Deno's two calls, as the kernel sees them:");
  print(formatTable(["call", "option", "before", "after"], [
    ...denoCalls(conn, libc.descriptorOf(conn)),
  ]));

  print(
    `\nLesson 04's first write of 64 MiB, without and with this SO_SNDBUF:`,
  );
  print(formatTable(["SO_SNDBUF", "accepted"], [
    await firstWrite(libc, null),
    await firstWrite(libc, sendBuffer),
  ]));
  print(
    "It may be more than the buffer: the kernel takes a write in pieces, and",
  );
  print("looks at the limit before each of them.");
}

/** An option's value, or the name of the error. */
function read(socket: LibcDescriptor, option: SocketOption): number | string {
  try {
    return socket.getsockopt(option);
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** The name of the error, or `null`. */
function write(
  socket: LibcDescriptor,
  option: SocketOption,
  value: number,
): string | null {
  try {
    socket.setsockopt(option, value);
    return null;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** The least and the most that a TCP socket gets, and the host's limit. */
async function limits(libc: Libc, option: SocketOption, limit: string) {
  const row: (string | number)[] = [option];
  for (const asked of [0, INT_MAX]) {
    using socket = libc.socket(SOCK_STREAM);
    socket.setsockopt(option, asked);
    row.push(asked, socket.getsockopt(option));
  }
  const text = await cat(`/proc/sys/${limit}`);
  if (text === "") return [...row, "unknown", "unknown"]; // Hidden from here.
  return [...row, Number(text), Number(row.at(-1)) / Number(text)];
}

function denoCalls(conn: Deno.TcpConn, descriptor: LibcDescriptor) {
  conn.setNoDelay(false);
  conn.setKeepAlive(false);
  const before = [
    descriptor.getsockopt("TCP_NODELAY"),
    descriptor.getsockopt("SO_KEEPALIVE"),
  ];
  conn.setNoDelay(true);
  conn.setKeepAlive(true);
  return [
    [
      "conn.setNoDelay(true)",
      "TCP_NODELAY",
      before[0],
      descriptor.getsockopt("TCP_NODELAY"),
    ],
    [
      "conn.setKeepAlive(true)",
      "SO_KEEPALIVE",
      before[1],
      descriptor.getsockopt("SO_KEEPALIVE"),
    ],
  ];
}

/** How much a write accepts when nobody reads. */
async function firstWrite(libc: Libc, sendBuffer: number | null) {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using _peer = await listener.accept();
  const descriptor = libc.descriptorOf(conn);
  if (sendBuffer !== null) descriptor.setsockopt("SO_SNDBUF", sendBuffer);
  const size = descriptor.getsockopt("SO_SNDBUF");
  return [size, await conn.write(new Uint8Array(64 * 1024 * 1024))];
}

if (import.meta.main) {
  const size = (name: string) =>
    integerOption(`the ${name} to ask for, in bytes`, 16384, 0, INT_MAX);

  await runLesson({
    url: import.meta.url,
    title: "Socket options: what the kernel makes of them",
    modes: {
      demo: mode({
        help: "options, before and after",
        flags: ["--allow-net", "--allow-ffi", "--allow-run=cat"],
        options: {
          "send-buffer": size("SO_SNDBUF"),
          "receive-buffer": size("SO_RCVBUF"),
          ...quietOption,
        },
        run: (options) => {
          const sendBuffer = options["send-buffer"];
          const receiveBuffer = options["receive-buffer"];
          return abortable(
            demo({ ...options, sendBuffer, receiveBuffer }),
            options.signal,
          );
        },
      }),
    },
  });
}
