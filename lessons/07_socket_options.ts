/**
 * @title Socket options: what the kernel makes of them
 * @difficulty intermediate
 * @tags getsockopt, setsockopt, SO_SNDBUF, SO_RCVBUF, SO_TYPE, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/07_socket_options.ts
 * @resource {https://man7.org/linux/man-pages/man2/getsockopt.2.html} getsockopt(2), setsockopt(2)
 * @resource {https://man7.org/linux/man-pages/man7/socket.7.html} socket(7): SO_SNDBUF, SO_RCVBUF, SO_REUSEADDR, ...
 * @see 04_partial_write.ts
 * @see README.md, "07 Socket options"
 *
 * A socket has options: how large its buffers are, whether it sends small
 * segments at once, and many more. To set one is only a request, because the
 * kernel may double a value, limit it, or refuse it. A program finds out only
 * if it reads the option back, so `ask()` reads an option, sets it, and reads
 * it again. The first lines of `demo()` are the tutorial's program; then the
 * tables ask the same of several sockets. SO_TYPE is always refused, because a
 * socket's type is decided when it is created.
 *
 * Deno has calls for TCP_NODELAY and SO_KEEPALIVE and for no other option, so
 * these go through libc (`--allow-ffi`). Look at `descriptorOf()`: it finds the
 * descriptor of a connection of Deno's. So libc can set options there too,
 * because an option belongs to the socket, and not to the library that asks.
 *
 * @module
 */

import { outcomeOf } from "../lib/error_text.ts";
import { grouped } from "../lib/grouped.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  descriptorOf,
  type Libc,
  type LibcDescriptor,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
  type SocketOption,
} from "../lib/lab/libc_socket.ts";
import { connectPair, type TcpPair } from "../lib/lab/tcp_pair.ts";
import { cat, endOf, readTcpTable } from "../lib/lab/tcp_table.ts";

const LOOPBACK = "127.0.0.1";
const INT_MAX = 2 ** 31 - 1;

/** Reads options, sets them, and reads them again. */
export async function demo({
  sendBuffer = 16384,
  receiveBuffer = 16384,
  print = console.log,
} = {}): Promise<void> {
  using libc = openLibc();

  using tcp = libc.socket(SOCK_STREAM);
  using udp = libc.socket(SOCK_DGRAM);
  print(`SOCK_STREAM:${SOCK_STREAM}`);
  print(`SOCK_DGRAM:${SOCK_DGRAM}`);
  print(`tcp_sock type is :${tcp.getsockopt("SO_TYPE")}`);
  print(`udp_sock type is :${udp.getsockopt("SO_TYPE")}`);
  print(`tcp_sock send buffer size is :${tcp.getsockopt("SO_SNDBUF")}`);
  tcp.setsockopt("SO_SNDBUF", sendBuffer);
  const got = tcp.getsockopt("SO_SNDBUF");
  print(`*tcp_sock send buffer size is :${got}\n`);

  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  const descriptor = descriptorOf(libc, conn);
  using newTcp = libc.socket(SOCK_STREAM);
  const sockets = { TCP: newTcp, UDP: udp, Deno: descriptor };
  const wishes: [SocketOption, number][] = [
    ["SO_SNDBUF", sendBuffer],
    ["SO_RCVBUF", receiveBuffer],
    ["SO_REUSEADDR", 1],
    ["SO_KEEPALIVE", 1],
    ["TCP_NODELAY", 1],
    ["SO_TYPE", SOCK_DGRAM],
    ["SO_ERROR", 1],
  ];
  const answers: (string | number)[][] = [];
  for (const [option, value] of wishes) {
    for (const [name, socket] of Object.entries(sockets)) {
      answers.push([option, name, ...await ask(socket, option, value)]);
    }
  }
  print("What becomes of a value that is asked for:");
  print(formatTable(
    ["option", "socket", "before", "asked", "after"],
    answers.map(readable),
  ));
  print(`
Deno's is a live connection: TCP sizes its buffers as it goes (tcp(7)).
ENOPROTOOPT is a refusal: a type is decided when the socket is created, an error
can only be read, and UDP has no TCP_NODELAY (EOPNOTSUPP says the same).
`);

  const sendLimits = await limits(libc, "SO_SNDBUF", "wmem_max");
  const [, least, , , limit] = sendLimits;
  const reason = got === 2 * sendBuffer
    ? ": it doubles a value, to make\nroom for its own bookkeeping (socket(7))"
    : got === least
    ? ", the least that a socket gets"
    : got === 2 * Number(limit)
    ? ": it cuts a value to\nthe limit, and doubles it (socket(7))"
    : "";
  print("Buffer sizes: the least and the most of this host, in bytes");
  print(formatTable(
    ["option", "asked", "got", "asked", "got", "limit", "got/limit"],
    [
      readable(["SO_SNDBUF", ...sendLimits]),
      readable(["SO_RCVBUF", ...await limits(libc, "SO_RCVBUF", "rmem_max")]),
    ],
  ));
  print(`
The limit is wmem_max or rmem_max in /proc/sys/net/core. Asked for
${grouped(sendBuffer)}, the tutorial's socket got ${grouped(got)}${reason}.
`);

  print("Deno's two calls turn off what libc has turned on above:");
  const read = () =>
    [
      descriptor.getsockopt("TCP_NODELAY"),
      descriptor.getsockopt("SO_KEEPALIVE"),
    ] as const;
  const before = read();
  conn.setNoDelay(false);
  conn.setKeepAlive(false);
  const after = read();
  print(formatTable(["call", "option", "before", "after"], [
    ["conn.setNoDelay(false)", "TCP_NODELAY", before[0], after[0]],
    ["conn.setKeepAlive(false)", "SO_KEEPALIVE", before[1], after[1]],
  ]));

  print(
    "\nLesson 04's first write of 64 MiB, without and with this SO_SNDBUF:",
  );
  const head = [
    "SO_SNDBUF",
    "accepted",
    "still here",
    "there",
    "SO_SNDBUF now",
  ];
  print(formatTable(head, [
    readable(await firstWrite(libc)),
    readable(await firstWrite(libc, sendBuffer)),
  ]));
  print(
    `The rest of the 64 MiB waits in the program. What was accepted waits in the
send queue here, or in the receive queue there, where nobody reads it.`,
  );
}

/** Cells whose numbers have their thousands apart. */
const readable = (cells: (string | number)[]) =>
  cells.map((it) => typeof it === "number" && it >= 1000 ? grouped(it) : it);

/** What an option was, what it should be, and what it is now, or the error. */
async function ask(
  socket: LibcDescriptor,
  option: SocketOption,
  value: number,
): Promise<(string | number)[]> {
  const read = () => outcomeOf(() => socket.getsockopt(option));
  const before = await read();
  const refusal = await outcomeOf(() => socket.setsockopt(option, value));
  return [before, value, refusal ?? await read()];
}

/** The least and the most that a TCP socket gets, and the host's limit. */
async function limits(libc: Libc, option: SocketOption, limit: string) {
  const cells: (string | number)[] = [];
  for (const asked of [0, INT_MAX]) {
    using socket = libc.socket(SOCK_STREAM);
    socket.setsockopt(option, asked);
    cells.push(asked, socket.getsockopt(option));
  }
  try {
    const most = Number(await cat(`/proc/sys/net/core/${limit}`));
    return [...cells, most, Number(cells.at(-1)) / most];
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return [...cells, "unknown", "unknown"]; // Some containers do not show it.
  }
}

/** How much a write accepts when nobody reads, and where that is. */
async function firstWrite(libc: Libc, sendBuffer?: number) {
  using pair = await connectPair();
  const socket = descriptorOf(libc, pair.client);
  if (sendBuffer !== undefined) socket.setsockopt("SO_SNDBUF", sendBuffer);
  const before = socket.getsockopt("SO_SNDBUF");
  const accepted = await pair.client.write(new Uint8Array(64 * 1024 * 1024));
  const [here, there] = await queues(pair, accepted).catch((error) => {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return ["unknown", "unknown"] as const; // Some containers do not show it.
  });
  return [before, accepted, here, there, socket.getsockopt("SO_SNDBUF")];
}

/** The bytes that wait on both sides, when all have been acknowledged. */
async function queues({ client, server }: TcpPair, all: number) {
  let here = 0;
  let there = 0;
  // A byte that has arrived is in both queues until it is acknowledged.
  for (const end = performance.now() + 1000; performance.now() < end;) {
    const rows = await readTcpTable(); // One reading for both ends.
    here = endOf(rows, client)!.sendQueue;
    there = endOf(rows, server)!.receiveQueue;
    if (here + there === all) break;
  }
  return [here, there] as const;
}

if (import.meta.main) {
  const size = (name: string) => ({
    default: 16384,
    max: INT_MAX,
    help: `the ${name} to ask for, in bytes`,
  });

  await runLesson(import.meta.url, {
    demo: {
      help: "options, before and after",
      options: {
        sendBuffer: size("SO_SNDBUF"),
        receiveBuffer: size("SO_RCVBUF"),
      },
      show: "table",
      run: demo,
    },
  });
}
