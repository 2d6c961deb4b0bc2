import { assertEquals, assertRejects } from "@std/assert";
import { receiveFrom } from "../../lib/receive_from.ts";

const LONG = 30_000;

/** A socket, and others that send to it. */
class Sockets implements Disposable {
  #all: Deno.DatagramConn[] = [];
  readonly socket = this.open();

  open(hostname = "127.0.0.1"): Deno.DatagramConn {
    const socket = Deno.listenDatagram({ hostname, port: 0, transport: "udp" });
    this.#all.push(socket);
    return socket;
  }

  [Symbol.dispose]() {
    for (const it of this.#all) it.close();
  }
}

const addressOf = (socket: Deno.DatagramConn) => socket.addr as Deno.NetAddr;

Deno.test("receiveFrom() tells whom it does not listen to", async () => {
  using sockets = new Sockets();
  const { socket } = sockets;
  const [peer, stranger] = [sockets.open(), sockets.open()];
  const sibling = sockets.open("127.0.0.2"); // Only the port may be the same.
  for (const it of [stranger, sibling]) {
    await it.send(new Uint8Array([1]), socket.addr);
  }
  await peer.send(new Uint8Array(), socket.addr);
  const strangers: number[] = [];
  const data = await receiveFrom(
    socket,
    addressOf(peer),
    LONG,
    ({ port }) => strangers.push(port),
  );
  assertEquals(data, new Uint8Array());
  assertEquals(strangers, [stranger, sibling].map((it) => addressOf(it).port));
  await sibling.send(new Uint8Array([1]), socket.addr);
  const { port } = addressOf(sibling);
  const almost = { hostname: "127.0.0.1", port };
  assertEquals(await receiveFrom(socket, almost, 20), null);
});

Deno.test("receiveFrom() gives what came too late to the next call", async () => {
  using sockets = new Sockets();
  const { socket } = sockets;
  const peer = sockets.open();
  const address = addressOf(peer);
  for (let i = 0; i < 3; i++) {
    assertEquals(await receiveFrom(socket, address, 1), null);
  }
  for (let i = 1; i <= 3; i++) {
    await peer.send(new Uint8Array([i]), socket.addr);
  }
  for (let i = 1; i <= 3; i++) {
    assertEquals(await receiveFrom(socket, address, 0), new Uint8Array([i]));
  }
  assertEquals(await receiveFrom(socket, address, 0), null);
});

Deno.test("receiveFrom() knows an address however it is written", async () => {
  using sockets = new Sockets();
  const cases = [["127.0.0.1", "127.0.0.1", "0.0.0.0"]];
  try {
    sockets.open("::1");
    cases.push(["::1", "::1", "0:0::1", "::1%lo", "::"]);
  } catch {
    // This host has no IPv6.
  }
  for (const [bind, ...names] of cases) {
    const [socket, peer] = [sockets.open(bind), sockets.open(bind)];
    for (const hostname of names) {
      await peer.send(new Uint8Array([7]), socket.addr);
      const { port } = addressOf(peer);
      const data = await receiveFrom(socket, { hostname, port }, LONG);
      assertEquals(data, new Uint8Array([7]), hostname);
    }
  }
});

Deno.test("receiveFrom() keeps its deadline although strangers send", async () => {
  using sockets = new Sockets();
  const { socket } = sockets;
  const stranger = sockets.open();
  let count = 0;
  const flood = () => {
    count++;
    stranger.send(new Uint8Array([1]), socket.addr);
    stranger.send(new Uint8Array([1]), socket.addr);
  };
  flood();
  const nobody = { hostname: "127.0.0.1", port: 9 };
  assertEquals(await receiveFrom(socket, nobody, 50, flood), null);
  assertEquals(count > 2, true);
});

Deno.test("receiveFrom() passes the socket's errors on", async () => {
  const { socket } = new Sockets();
  const peer = { hostname: "127.0.0.1", port: 9 };
  const waiting = receiveFrom(socket, peer, LONG);
  socket.close();
  await assertRejects(() => waiting, Deno.errors.Interrupted);
  await assertRejects(() => receiveFrom(socket, peer, 1), Error);
});

Deno.test("receiveFrom() finds what has come behind a stranger's, however late", async () => {
  using sockets = new Sockets();
  const { socket } = sockets;
  const [peer, stranger] = [sockets.open(), sockets.open()];
  for (const it of [stranger, stranger, peer]) {
    await it.send(new Uint8Array([it === peer ? 1 : 0]), socket.addr);
  }
  const data = await receiveFrom(socket, addressOf(peer), 0);
  assertEquals(data, new Uint8Array([1]));
});

Deno.test("receiveFrom() knows where a socket with an address sends to this host", async () => {
  using sockets = new Sockets();
  const [socket, peer] = ["127.0.0.2", "127.0.0.2"].map((it) =>
    sockets.open(it)
  );
  const { port } = addressOf(peer);
  await socket.send(new Uint8Array(1), {
    ...addressOf(peer),
    hostname: "0.0.0.0",
  });
  const [data, from] = await peer.receive();
  await peer.send(data, from);
  const peerAddress = { hostname: "0.0.0.0", port };
  assertEquals(await receiveFrom(socket, peerAddress, LONG), data);
});

Deno.test("receiveFrom() refuses a name: it compares addresses", async () => {
  using sockets = new Sockets();
  const { socket } = sockets;
  const peer = sockets.open();
  await peer.send(new Uint8Array([1]), socket.addr);
  const { port } = addressOf(peer);
  for (const hostname of ["localhost", "two.test", "127.0.0.1.example", ""]) {
    await assertRejects(
      () => receiveFrom(socket, { hostname, port }, LONG),
      TypeError,
      `Not an IP address: "${hostname}"`,
    );
  }
  // What has come meanwhile is still there.
  const data = await receiveFrom(socket, addressOf(peer), 0);
  assertEquals(data, new Uint8Array([1]));
});
