/**
 * @title Addresses: who is where, and who decides
 * @difficulty beginner
 * @tags tcp, udp, bind, connect, getsockname, libc
 * @run deno run --allow-net --allow-ffi --unstable-net lessons/03_addresses.ts
 * @resource {https://man7.org/linux/man-pages/man2/bind.2.html} bind(2)
 * @resource {https://man7.org/linux/man-pages/man7/ip.7.html} ip(7): INADDR_ANY is 0.0.0.0
 * @see 02_tcp_echo.ts
 * @see README.md, "03 Addresses"
 *
 * A socket has two addresses: its own, which `bind` sets, and that of the other
 * side, which `connect` sets. A server binds, so that clients know where it is.
 * A client only connects, because the kernel chooses an address and a free port
 * for it. Each table asks one question about that, and each cell is what the
 * kernel answered in this run.
 *
 * Before `connect` or the first `sendto` a socket has no address yet. Deno has
 * no call for such a socket, so `ownAddresses()` makes some through libc
 * (`--allow-ffi`). Look at `askOverUdp()` too: a UDP server on 0.0.0.0 that is
 * asked at 127.0.0.2 answers from 127.0.0.1, because the kernel chooses the
 * sender's address anew for each datagram. So a client that takes answers only
 * from the address that it asked waits in vain.
 *
 * @module
 */

import { formatAddress } from "../lib/address.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { drawReach, reachMermaid } from "../lib/harness/reach_diagram.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  type Libc,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

/** Reserved for documentation (RFC 5737): hardly any host has this address. */
const FOREIGN = "192.0.2.1";
const TARGETS = ["127.0.0.1", "127.0.0.2", "::1"];

/** Asks the kernel one question after the other. */
export async function demo({
  mermaid = false,
  print = console.log,
} = {}): Promise<void> {
  needUnstableNet();
  using libc = openLibc();

  print("A client connects. Which address does the server find itself at?");
  const clients = TARGETS.map((target) => `client to ${target}`);
  const servers = await serverAddresses();
  print(formatTable(["server bound to", ...clients], servers));
  print(`
To a server 0.0.0.0 means every IPv4 address of this host. :: means every IPv6
address, and on most hosts every IPv4 address too, written as ::ffff:127.0.0.1.
A client reaches a server (o), or it is refused (x):

${(mermaid ? reachMermaid : drawReach)(TARGETS, servers)}`);

  print("\nA client does not ask for an address of its own. Which one has it?");
  print(formatTable(
    ["connected to", "client: localAddr", "server: remoteAddr"],
    await clientAddresses(),
  ));

  print("\nWhen does a socket get its own address? getsockname(2) says:");
  print(formatTable(["socket", "after", "address"], await ownAddresses(libc)));
  print(`
0.0.0.0:0 means here that the socket has no address yet. 0.0.0.0 with a port is
as above: the socket takes what comes to any IPv4 address of this host.`);

  print("\nWhich addresses does the kernel refuse?");
  print(formatTable(["call", "through libc", "in Deno"], await refusals(libc)));

  print("\nA UDP server on 0.0.0.0 is asked. Where does its answer come from?");
  print(formatTable(["asked at", "answer from"], [
    ["127.0.0.1", await outcomeOf(() => askOverUdp("127.0.0.1"))],
    ["127.0.0.2", await outcomeOf(() => askOverUdp("127.0.0.2"))],
  ]));
}

/** Binds to each address, and connects to each. */
async function serverAddresses(): Promise<string[][]> {
  const reach = async (own: string, hostname: string) => {
    using listener = Deno.listen({ hostname: own, port: 0 });
    const { port } = listener.addr;
    using _client = await Deno.connect({ hostname, port });
    using conn = await listener.accept();
    return conn.localAddr.hostname;
  };
  const rows: string[][] = [];
  for (const own of ["127.0.0.1", "0.0.0.0", "::"]) {
    const row = [own];
    for (const it of TARGETS) row.push(await outcomeOf(() => reach(own, it)));
    rows.push(row);
  }
  return rows;
}

/** Connects three times, and asks both sides who the client is. */
async function clientAddresses(): Promise<string[][]> {
  using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const { port } = listener.addr;
  const rows: string[][] = [];
  for (const hostname of ["127.0.0.1", "127.0.0.1", "127.0.0.2"]) {
    using client = await Deno.connect({ hostname, port });
    using conn = await listener.accept();
    const addresses = [{ hostname, port }, client.localAddr, conn.remoteAddr];
    rows.push(addresses.map(formatAddress));
  }
  return rows;
}

/** With libc, one can look at a socket before it has an address. */
async function ownAddresses(libc: Libc): Promise<string[][]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = { hostname: "127.0.0.1", port: listener.addr.port };
  using conn = await Deno.connect(server);
  using open = new DisposableStack();
  const receiver = openUdp(open);

  using tcp = libc.socket(SOCK_STREAM);
  using udp = libc.socket(SOCK_DGRAM);
  const [tcpBefore, udpBefore] = [tcp.getsockname(), udp.getsockname()];
  tcp.connect(server);
  udp.sendto(new Uint8Array(1), { ...server, port: receiver.port });
  return [
    ["TCP", "socket(2)", formatAddress(tcpBefore)],
    ["TCP", "connect(2)", formatAddress(tcp.getsockname())],
    ["UDP", "socket(2)", formatAddress(udpBefore)],
    ["UDP", "its first sendto(2)", formatAddress(udp.getsockname())],
    ["TCP", "Deno.connect", formatAddress(conn.localAddr)],
    ["UDP", "Deno.listenDatagram", formatAddress(receiver)],
  ];
}

/** Makes the same mistakes through libc and in Deno. */
async function refusals(libc: Libc): Promise<string[][]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = { hostname: "127.0.0.1", port: listener.addr.port };
  // It is bound, so nobody else gets the port. But it does not listen.
  using deaf = libc.socket(SOCK_STREAM);
  deaf.bind({ hostname: "127.0.0.1", port: 0 });

  const cases = [
    ["bind", "not an address of this host", { hostname: FOREIGN, port: 0 }],
    ["bind", "somebody listens there", taken],
    ["connect", "nobody listens there", deaf.getsockname()],
  ] as const;
  const rows: string[][] = [];
  for (const [call, mistake, address] of cases) {
    const throughLibc = await outcomeOf(() => {
      using socket = libc.socket(SOCK_STREAM);
      socket[call](address);
      return "no error";
    });
    const inDeno = await outcomeOf(async () => {
      using _socket = call === "bind"
        ? Deno.listen(address)
        : await Deno.connect(address);
      return "no error";
    });
    const isNone = throughLibc === "no error" && inDeno === "no error";
    const row = `${call}: ${isNone ? formatAddress(address) : mistake}`;
    rows.push([row, throughLibc, inDeno]);
  }
  return rows;
}

/** Sends a datagram to `hostname`; the server on 0.0.0.0 sends it back. */
async function askOverUdp(hostname: string): Promise<string> {
  using open = new DisposableStack();
  const { socket: server, port } = openUdp(open);
  const { socket: client } = openUdp(open);
  await client.send(new Uint8Array(1), { transport: "udp", hostname, port });
  const [data, sender] = await server.receive();
  await server.send(data, sender);
  const [, from] = await client.receive();
  return (from as Deno.NetAddr).hostname;
}

/** A UDP socket on 0.0.0.0 and any port. `open` closes it: it has no `using`. */
function openUdp(open: DisposableStack) {
  const socket = Deno.listenDatagram({
    hostname: "0.0.0.0",
    port: 0,
    transport: "udp",
  });
  open.defer(() => socket.close());
  return { socket, ...socket.addr as Deno.NetAddr };
}

if (import.meta.main) {
  const mermaid = { default: false, help: "the picture for Mermaid" };

  await runLesson(import.meta.url, {
    demo: {
      help: "one table for each question",
      options: { mermaid },
      show: "table",
      run: demo,
    },
  });
}
