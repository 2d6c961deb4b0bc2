/**
 * @title Addresses: who is where, and who decides
 * @difficulty beginner
 * @tags tcp, udp, bind, connect, getsockname, libc
 * @run deno run --allow-net --allow-ffi --unstable-net lessons/03_addresses.ts
 * @resource {https://man7.org/linux/man-pages/man2/bind.2.html} bind(2)
 * @resource {https://man7.org/linux/man-pages/man2/connect.2.html} connect(2)
 * @resource {https://man7.org/linux/man-pages/man2/getsockname.2.html} getsockname(2)
 * @resource {https://man7.org/linux/man-pages/man7/ip.7.html} ip(7): INADDR_ANY is 0.0.0.0
 * @resource {https://www.rfc-editor.org/rfc/rfc9293#section-3.9.1} RFC 9293, 3.9.1: OPEN, passive and active
 * @see 02_tcp_echo.ts
 * @see 04_partial_write.ts
 *
 * A socket has two addresses: its own (`bind`) and the other side's
 * (`connect`). A server sets the first, so that clients find it; a client sets
 * the second, and the kernel chooses the first for it. Each table below asks
 * one question; each cell is what the kernel answered in this run.
 *
 * In the tutorial: "客户端设置服务器地址", "服务器端设置服务器地址", "connect()函数
 * 和 bind()函数 的区别", "这俩部分设置是否一样?", and its remark that a UDP client
 * gets its address and port from `sendto`. It has no program for these.
 *
 * What the tutorial leaves out: a socket bound to 0.0.0.0 has no one address to
 * answer from. TCP answers from the address that was asked. UDP does not know
 * it any more, and the kernel takes the one it would take for any datagram: a
 * client that compares addresses, as it should, then waits in vain.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `Deno.listen` | `socket`, `setsockopt(SO_REUSEADDR)`, `bind`, `listen`, `getsockname` |
 * | `Deno.connect` | `socket`, `connect`, `getsockopt(SO_ERROR)`, `getsockname`, `getpeername` |
 * | `listener.accept` | `accept4`, `getsockname`, `getpeername` |
 * | `Deno.listenDatagram` | `socket`, `bind`, `setsockopt(SO_BROADCAST)`, `setsockopt(IP_MULTICAST_LOOP)`, `getsockname` |
 * | `send`, `receive` | `sendto`, `recvfrom` |
 * | `conn.localAddr`, `listener.addr` | none: what `getsockname` said at the start |
 *
 * Deno has no call for a socket without an address: `connect` and
 * `listenDatagram` create it and give it one at once. To see it before that,
 * this lesson makes some sockets through libc (`--allow-ffi`).
 *
 * Try it:
 * - `strace -f -e trace=network deno run ...`: every answer in the tables.
 * - `02_tcp_echo.ts server --host 127.0.0.1`, then its `client --host
 *   127.0.0.2`: ECONNREFUSED. With the server at `--host 0.0.0.0` it
 *   connects.
 * - `ss -tln` while a server runs: its own address, and `0.0.0.0:*` for the
 *   other side, which only a connection has.
 *
 * What is still missing: these programs look at addresses and send next to
 * nothing. Lesson 04 sends a lot, to somebody who does not listen.
 *
 * @module
 */

import {
  mode,
  needUnstableNet,
  quietOption,
  runLesson,
} from "../lib/command_line.ts";
import { abortable } from "../lib/deadline.ts";
import {
  type Libc,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../lib/libc_socket.ts";
import { formatTable } from "../lib/table.ts";
import { formatAddress } from "../lib/trace.ts";

/** Reserved for documentation (RFC 5737): no host has this address. */
const FOREIGN = "192.0.2.1";

/** Options of {@linkcode demo}. */
export interface DemoOptions {
  /** Gets each table. */
  print: (text: string) => void;
}

/** Asks the kernel one question after the other. */
export async function demo({ print }: DemoOptions): Promise<void> {
  needUnstableNet();
  using libc = openLibc();

  print("A client connects. Which address does the server find itself at?");
  const targets = ["127.0.0.1", "127.0.0.2", "::1"];
  const reached: string[][] = [];
  for (const own of ["127.0.0.1", "0.0.0.0", "::"]) {
    const cells = targets.map((target) => answer(() => reach(own, target)));
    reached.push([own, ...await Promise.all(cells)]);
  }
  const heads = targets.map((target) => `client to ${target}`);
  print(formatTable(["server bound to", ...heads], reached) + "\n");

  print("A client does not ask for an address of its own. Which one has it?");
  print(
    formatTable(
      ["connected to", "client: localAddr", "server: remoteAddr"],
      await clientAddresses(),
    ) + "\n",
  );

  print("When does a socket get its own address? getsockname(2) says:");
  print(
    formatTable(["socket", "after", "address"], [
      ...ownAddresses(libc),
      ...await ownAddressesInDeno(),
    ]) + "\n",
  );

  print("Which addresses does the kernel refuse?");
  print(
    formatTable(["call", "through libc", "in Deno"], [
      ...await refusals(libc),
    ]) + "\n",
  );

  print("A UDP server on 0.0.0.0 is asked. Where does its answer come from?");
  const asked: string[][] = [];
  for (const target of ["127.0.0.1", "127.0.0.2"]) {
    asked.push([target, await answer(() => askOverUdp(target))]);
  }
  print(formatTable(["asked at", "answer from"], asked));
}

/** A cell of a table: what came out, or the kernel's name of the error. */
async function answer(ask: () => string | Promise<string>): Promise<string> {
  try {
    return await ask();
  } catch (error) {
    const { code } = error as { code?: unknown };
    // What this process has run out of is no answer to the question.
    if (typeof code !== "string" || code === "EMFILE") throw error;
    return code;
  }
}

/** Whether there is an IPv6 loopback address to bind to. */
function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === "EADDRNOTAVAIL" || code === "EAFNOSUPPORT") return false;
    throw error;
  }
}

/** Binds a server to `own`, connects to `target`, and says where it landed. */
async function reach(own: string, target: string): Promise<string> {
  if ((own + target).includes(":") && !hasIpv6()) return "no IPv6 here";
  using listener = Deno.listen({ hostname: own, port: 0 });
  const { port } = listener.addr;
  using _client = await Deno.connect({ hostname: target, port });
  using conn = await listener.accept();
  return conn.localAddr.hostname;
}

async function clientAddresses(): Promise<string[][]> {
  using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const { port } = listener.addr;
  const rows: string[][] = [];
  for (const hostname of ["127.0.0.1", "127.0.0.1", "127.0.0.2"]) {
    using client = await Deno.connect({ hostname, port });
    using conn = await listener.accept();
    rows.push([
      formatAddress({ hostname, port }),
      formatAddress(client.localAddr),
      formatAddress(conn.remoteAddr),
    ]);
  }
  return rows;
}

/** With libc there is a moment between socket(2) and the address. */
function ownAddresses(libc: Libc): string[][] {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const rows: string[][] = [];

  using tcp = libc.socket(SOCK_STREAM);
  rows.push(["TCP", "socket(2)", formatAddress(tcp.getsockname())]);
  tcp.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  rows.push(["TCP", "connect(2)", formatAddress(tcp.getsockname())]);

  using udp = libc.socket(SOCK_DGRAM);
  rows.push(["UDP", "socket(2)", formatAddress(udp.getsockname())]);
  using receiver = libc.socket(SOCK_DGRAM);
  receiver.bind({ hostname: "127.0.0.1", port: 0 });
  udp.sendto(new Uint8Array(1), receiver.getsockname());
  rows.push(["UDP", "its first sendto(2)", formatAddress(udp.getsockname())]);
  return rows;
}

/** Deno gives a socket its address in the call that creates it. */
async function ownAddressesInDeno(): Promise<string[][]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const udp = Deno.listenDatagram({
    hostname: "0.0.0.0",
    port: 0,
    transport: "udp",
  });
  const { localAddr } = conn;
  const udpAddress = formatAddress(udp.addr as Deno.NetAddr);
  udp.close();
  return [
    ["TCP", "Deno.connect", formatAddress(localAddr)],
    ["UDP", "Deno.listenDatagram", udpAddress],
  ];
}

async function refusals(libc: Libc): Promise<string[][]> {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  // Bound, so that nobody else gets the port, but it does not listen.
  using deaf = libc.socket(SOCK_STREAM);
  deaf.bind({ hostname: "127.0.0.1", port: 0 });

  const bind = (hostname: string, port: number) => () => {
    using socket = libc.socket(SOCK_STREAM);
    socket.bind({ hostname, port });
    return "no error";
  };
  const listen = (hostname: string, port: number) => () => {
    using _listener = Deno.listen({ hostname, port });
    return "no error";
  };
  const { port } = deaf.getsockname();
  return [
    [
      "bind: not an address of this host",
      await answer(bind(FOREIGN, 0)),
      await answer(listen(FOREIGN, 0)),
    ],
    [
      "bind: somebody listens there",
      await answer(bind("127.0.0.1", taken.addr.port)),
      await answer(listen("127.0.0.1", taken.addr.port)),
    ],
    [
      "connect: nobody listens there",
      await answer(() => {
        using socket = libc.socket(SOCK_STREAM);
        socket.connect({ hostname: "127.0.0.1", port });
        return "no error";
      }),
      await answer(async () => {
        using _conn = await Deno.connect({ hostname: "127.0.0.1", port });
        return "no error";
      }),
    ],
  ];
}

/** Sends a datagram to `hostname`; the server on 0.0.0.0 sends it back. */
async function askOverUdp(hostname: string): Promise<string> {
  const bind = { hostname: "0.0.0.0", port: 0, transport: "udp" } as const;
  const server = Deno.listenDatagram(bind);
  const client = Deno.listenDatagram(bind);
  try {
    const { port } = server.addr as Deno.NetAddr;
    await client.send(new Uint8Array(1), { ...bind, hostname, port });
    const [data, sender] = await server.receive();
    await server.send(data, sender);
    const [, from] = await client.receive();
    return (from as Deno.NetAddr).hostname;
  } finally {
    server.close();
    client.close();
  }
}

if (import.meta.main) {
  await runLesson({
    url: import.meta.url,
    title: "Addresses: who is where, and who decides",
    modes: {
      demo: mode({
        help: "one table for each question",
        flags: ["--allow-net", "--allow-ffi", "--unstable-net"],
        options: quietOption,
        run: (options) => abortable(demo(options), options.signal),
      }),
    },
  });
}
