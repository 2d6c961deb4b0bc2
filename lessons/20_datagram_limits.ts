/**
 * @title Datagram limits: how many, how large, to whom
 * @difficulty intermediate
 * @tags udp, SO_RCVBUF, EMSGSIZE, MTU, broadcast, multicast, ICMP, libc
 * @run deno run --allow-net --allow-ffi --allow-run=deno,cat --unstable-net lessons/20_datagram_limits.ts
 * @resource {https://man7.org/linux/man-pages/man7/udp.7.html} udp(7)
 * @resource {https://man7.org/linux/man-pages/man7/ip.7.html} ip(7): IP_MTU, IP_RECVERR, multicast
 * @resource {https://www.rfc-editor.org/rfc/rfc8085} RFC 8085: what a program that uses UDP should do
 * @see 06_udp_echo.ts
 * @see README.md, "20 Datagram limits"
 *
 * UDP may lose datagrams, and on one host too, where no network is in between:
 * the kernel throws away what does not fit into a socket's receive buffer. It
 * tells nobody, but it counts them, and the first table holds this counter
 * against what is missing. The cure is a sender that does not have more under
 * way than the buffer holds. A larger buffer only makes a longer burst pass.
 *
 * The other tables ask how large a datagram may be, who gets one that is sent to
 * many, and who hears that nobody is there: look at `refusals()`, which turns
 * this on for a socket of Deno's. The counters are those of the whole host, so
 * other programs that use UDP meanwhile are counted too.
 *
 * @module
 */

import { withDeadline } from "../lib/deadline.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { grouped } from "../lib/grouped.ts";
import { forkServer } from "../lib/harness/child.ts";
import type { Io } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  descriptorOf,
  type Libc,
  type LibcSocket,
  openLibc,
  SOCK_DGRAM,
} from "../lib/lab/libc_socket.ts";
import { risesDuring } from "../lib/lab/net_counters.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

const LOOPBACK = "127.0.0.1";
/** Broadcast on loopback, and a group of the kind that is free for all. */
const [BROADCAST, GROUP] = ["127.255.255.255", "239.1.2.3"];
/** Reserved for documentation (RFC 5737): the way to it is the way out. */
const FOREIGN = "192.0.2.1";
/** How many bytes each datagram of a burst has. */
const SIZE = 1000;
/** How long nothing comes before we wait no longer, in milliseconds. */
const PATIENCE = 300;
/** For `recv(2)`: does not wait. */
const MSG_DONTWAIT = 0x40;
/** For `IP_MTU_DISCOVER`: no host on the way may cut it, nor this one. */
const IP_PMTUDISC_DO = 2;

const nothing = new Uint8Array();

/** Asks the kernel one question after the other. */
export async function demo(
  { count, window, ...io }: { count: number; window: number } & Io,
) {
  needUnstableNet();
  using libc = openLibc();
  const { print } = io;
  const many = grouped(count);

  print(`${many} datagrams of ${grouped(SIZE)} bytes to lesson 06's server:`);
  print(formatTable(
    ["under way at most", "sent", "echoes", "missing", "RcvbufErrors"],
    await bursts(io, count, window),
  ));
  print(`
RcvbufErrors is by how much this counter of the kernel's rose: what it threw
away because a receive buffer was full, the server's or the client's.

How many wait in a receive buffer that nobody reads, of ${many}?`);
  print(formatTable(
    ["SO_RCVBUF asked", "got", "wait", "bytes of it each", "RcvbufErrors"],
    await buffers(libc, count),
  ));

  print("\nHow large may one be? (to 127.0.0.1, through libc)");
  print(formatTable(
    ["bytes", "sendto", "came", "fragments", "if not to be cut"],
    await sizes(libc),
  ));
  print("\nHow large may a packet be on the way? (IP_MTU)");
  print(formatTable(["connected to", "path MTU"], await pathMtus(libc)));

  print("\nSockets on one port. Which of them answer, and from where?");
  const targets = [LOOPBACK, BROADCAST, GROUP];
  print(formatTable(
    ["bound to", ...targets.map((it) => `sent to ${it}`)],
    await receivers(targets),
  ));
  print("\nWho may send to 127.255.255.255?");
  print(formatTable(["socket", "sendto"], await broadcasters(libc)));

  print("\nNobody has the port. Who is told?");
  print(formatTable(
    ["socket", "sendto", "then it receives", "sendto once more"],
    await refusals(libc),
  ));
}

/** Sends to lesson 06's server, at once and with a limit, and counts. */
async function bursts(io: Io, count: number, window: number) {
  const url = new URL("06_udp_echo.ts", import.meta.url).href;
  const rows: string[][] = [];
  for (const underWay of [count, window]) {
    const server = {
      ...io,
      relay() {},
      url,
      args: { host: LOOPBACK, port: 0 },
    };
    await forkServer(server, async (port, stop) => {
      const [[sent, echoes], lost] = await risesDuring(
        ["UdpRcvbufErrors"],
        () => burst({ hostname: LOOPBACK, port }, count, underWay),
      );
      const numbers = [underWay, sent, echoes, sent - echoes, lost];
      rows.push(numbers.map(grouped));
      stop();
    });
  }
  return rows;
}

/** Sends, and reads meanwhile, with so many at most that wait for an echo. */
async function burst(
  peer: { hostname: string; port: number },
  count: number,
  underWay: number,
): Promise<[sent: number, echoes: number]> {
  const socket = openUdp(LOOPBACK);
  let [sent, echoes] = [0, 0];
  let news = Promise.withResolvers<void>();
  const reading = (async () => {
    const buffer = new Uint8Array(SIZE);
    while (true) {
      await socket.receive(buffer);
      echoes++;
      news.resolve();
      news = Promise.withResolvers();
    }
  })().catch(() => {}); // Until it is closed.
  const cameMore = () =>
    withDeadline(news.promise, PATIENCE).then(() => true, () => false);

  const data = new Uint8Array(SIZE);
  const to = { ...peer, transport: "udp" } as const;
  for (; sent < count; sent++) {
    if (sent - echoes >= underWay && !await cameMore()) break;
    await socket.send(data, to);
  }
  while (echoes < sent && await cameMore());
  socket.close();
  await reading;
  return [sent, echoes];
}

/** Fills receive buffers while this program does nothing else, and then reads. */
async function buffers(libc: Libc, count: number) {
  const rows: string[][] = [];
  using sender = libc.socket(SOCK_DGRAM);
  for (const asked of [undefined, 2 ** 20, 2 ** 30]) {
    const receiver = openUdp(LOOPBACK);
    const to = receiver.addr as Deno.NetAddr;
    const socket = descriptorOf(libc, receiver);
    if (asked !== undefined) socket.setsockopt("SO_RCVBUF", asked);
    const got = socket.getsockopt("SO_RCVBUF");
    // deno-lint-ignore require-await -- It does not wait: that is the point.
    const [, lost] = await risesDuring(["UdpRcvbufErrors"], async () => {
      for (let i = 0; i < count; i++) sender.sendto(new Uint8Array(SIZE), to);
    });
    let wait = 0;
    const buffer = new Uint8Array(SIZE);
    while (libc.calls.recv(socket.fd, buffer, SIZE, MSG_DONTWAIT) === SIZE) {
      wait++;
    }
    receiver.close();
    const numbers = [got, wait, Math.floor(got / wait), lost!].map(grouped);
    rows.push([asked === undefined ? "-" : grouped(asked), ...numbers]);
  }
  return rows;
}

/** Sends datagrams of several sizes, and looks at what arrives. */
async function sizes(libc: Libc) {
  using receiver = libc.socket(SOCK_DGRAM);
  receiver.bind({ hostname: LOOPBACK, port: 0 });
  const to = receiver.getsockname();
  using sender = libc.socket(SOCK_DGRAM);
  using whole = libc.socket(SOCK_DGRAM);
  whole.setsockopt("IP_MTU_DISCOVER", IP_PMTUDISC_DO);
  const rows: (string | number)[][] = [];
  for (const size of [1472, 1473, 65507, 65508]) {
    const send = (socket: LibcSocket) =>
      outcomeOf(() => void socket.sendto(new Uint8Array(size), to));
    const [refusal, fragments] = await risesDuring(
      ["IpFragCreates"],
      () => send(sender),
    );
    const buffer = new Uint8Array(65535);
    const came = libc.calls.recv(receiver.fd, buffer, 65535, MSG_DONTWAIT);
    const bytes = came < 0 ? "nothing" : `${grouped(came)} bytes`;
    const uncut = await send(whole) ?? "sent";
    rows.push([grouped(size), refusal ?? "sent", bytes, fragments!, uncut]);
    libc.calls.recv(receiver.fd, buffer, 65535, MSG_DONTWAIT); // That one.
  }
  return rows;
}

/** What the kernel knows of the way. To connect a UDP socket sends nothing. */
async function pathMtus(libc: Libc) {
  const rows: string[][] = [];
  for (const hostname of [LOOPBACK, FOREIGN]) {
    const mtu = await outcomeOf(() => {
      using socket = libc.socket(SOCK_DGRAM);
      socket.connect({ hostname, port: 9 });
      return grouped(socket.getsockopt("IP_MTU"));
    });
    rows.push([hostname, mtu]);
  }
  return rows;
}

/** Sends to each target, and lists the sockets that answer. */
async function receivers(targets: string[]) {
  const asker = openUdp(LOOPBACK); // So what it sends goes by loopback.
  const first = openUdp("0.0.0.0", { reuseAddress: true });
  const shared = { ...first.addr as Deno.NetAddr, reuseAddress: true };
  const { port } = shared;
  const member = openUdp("0.0.0.0", shared);
  await member.joinMulticastV4(GROUP, LOOPBACK);
  const sockets = {
    "0.0.0.0": first,
    [`0.0.0.0, and joined ${GROUP}`]: member,
    [LOOPBACK]: openUdp(LOOPBACK, shared),
    [BROADCAST]: openUdp(BROADCAST, shared),
  };
  const rows = Object.keys(sockets).map((it) => [it]);
  const answering = Object.values(sockets).map(async (socket, i) => {
    for await (const [, from] of socket) {
      await socket.send(new Uint8Array([i]), from);
    }
  });
  const asking = (async () => {
    for await (const [[i], from] of asker) {
      rows[i!]!.splice(-1, 1, `from ${(from as Deno.NetAddr).hostname}`);
    }
  })();
  for (const hostname of targets) {
    for (const row of rows) row.push("-");
    await asker.send(nothing, { transport: "udp", hostname, port });
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
  }
  for (const socket of [asker, ...Object.values(sockets)]) socket.close();
  await Promise.all([asking, ...answering]);
  return rows;
}

/** A socket has to say that it means it. */
async function broadcasters(libc: Libc) {
  const inDeno = openUdp(LOOPBACK);
  const to = { hostname: BROADCAST, port: 9 };
  const rows: string[][] = [];
  for (const isAllowed of [0, 1]) {
    using socket = libc.socket(SOCK_DGRAM);
    socket.setsockopt("SO_BROADCAST", isAllowed);
    const send = () => void socket.sendto(nothing, to);
    const result = await outcomeOf(send) ?? "sent";
    rows.push([`libc, SO_BROADCAST ${isAllowed}`, result]);
  }
  const option = descriptorOf(libc, inDeno).getsockopt("SO_BROADCAST");
  const send = () => inDeno.send(nothing, { transport: "udp", ...to });
  const result = await outcomeOf(async () => void await send()) ?? "sent";
  rows.push([`Deno, SO_BROADCAST is ${option}`, result]);
  inDeno.close();
  return rows;
}

/** Sends to a port that nobody has, which the kernel answers with an ICMP. */
async function refusals(libc: Libc) {
  const gone = openUdp(LOOPBACK);
  const { port } = gone.addr as Deno.NetAddr;
  gone.close();
  const to = { hostname: LOOPBACK, port };
  const rows: string[][] = [];
  const ask = async (
    name: string,
    send: () => unknown,
    read: () => unknown,
  ) => {
    const trySend = () => outcomeOf(async () => void await send());
    const first = await trySend() ?? "sent";
    const received = `${await outcomeOf(read)}`;
    rows.push([name, first, received, await trySend() ?? "sent"]);
  };

  for (const how of ["", ", connected", ", IP_RECVERR"]) {
    using socket = libc.socket(SOCK_DGRAM);
    if (how === ", connected") socket.connect(to);
    if (how === ", IP_RECVERR") socket.setsockopt("IP_RECVERR", 1);
    await ask(
      `libc${how}`,
      () => socket.sendto(nothing, to),
      () => libc.call("recv", socket.fd, new Uint8Array(1), 1, MSG_DONTWAIT),
    );
  }
  for (const how of ["", ", IP_RECVERR"]) {
    const socket = openUdp(LOOPBACK);
    if (how !== "") descriptorOf(libc, socket).setsockopt("IP_RECVERR", 1);
    await ask(
      `Deno${how}`,
      () => socket.send(nothing, { transport: "udp", ...to }),
      () =>
        withDeadline(socket.receive(), PATIENCE).catch((error) => {
          if (error instanceof Deno.errors.TimedOut) return "nothing";
          throw error;
        }),
    );
    socket.close();
  }
  return rows;
}

/** A socket for datagrams; with `reuseAddress` others may have its port too. */
function openUdp(hostname: string, { port = 0, reuseAddress = false } = {}) {
  const transport = "udp";
  return Deno.listenDatagram({ transport, hostname, port, reuseAddress });
}

if (import.meta.main) {
  const count = { default: 20_000, min: 1, help: "how many datagrams at once" };
  const window = { default: 50, min: 1, help: "how many may wait for an echo" };

  await runLesson(import.meta.url, {
    demo: {
      help: "one table for each question",
      options: { count, window },
      show: "table",
      endsOnSignal: true,
      run: demo,
    },
  });
}
