import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  LibcError,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../lib/libc_socket.ts";

const LOOPBACK = { hostname: "127.0.0.1", port: 0 };
const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;

function assertFails(f: () => unknown, call: string, code: string) {
  const error = assertThrows(f, LibcError);
  assertEquals([error.code, error.message.split(":")[0]], [code, call]);
}

Deno.test("libc sockets bind, connect and know their addresses", async () => {
  using libc = openLibc();
  using listener = Deno.listen(LOOPBACK);
  using tcp = libc.socket(SOCK_STREAM);
  assertEquals(tcp.getsockname(), { hostname: "0.0.0.0", port: 0 });
  tcp.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using conn = await listener.accept();
  const { hostname, port } = conn.remoteAddr;
  assertEquals(tcp.getsockname(), { hostname, port });

  const bytes = tcp.getsocknameBytes();
  assertEquals(bytes.length, 16);
  assertEquals([...bytes.subarray(2, 8)], [
    port >> 8,
    port & 255,
    127,
    0,
    0,
    1,
  ]);
});

Deno.test("libc sockets send datagrams of every size", async () => {
  using libc = openLibc();
  using udp = libc.socket(SOCK_DGRAM);
  const receiver = Deno.listenDatagram({ ...LOOPBACK, transport: "udp" });
  const to = receiver.addr as Deno.NetAddr;
  for (const size of [0, 1, 65507]) {
    assertEquals(udp.sendto(new Uint8Array(size).fill(7), to), size);
    const [data, from] = await receiver.receive(new Uint8Array(65535));
    assertEquals(data.length, size);
    assert(data.every((byte) => byte === 7));
    assertEquals((from as Deno.NetAddr).port, udp.getsockname().port);
  }
  assertFails(
    () => udp.sendto(new Uint8Array(65508), to),
    "sendto",
    "EMSGSIZE",
  );
  receiver.close();
});

Deno.test("libc calls fail with the name of their errno", () => {
  using libc = openLibc();
  using listener = Deno.listen(LOOPBACK);
  const { port } = listener.addr;
  const taken = { hostname: "127.0.0.1", port };
  using tcp = libc.socket(SOCK_STREAM);
  assertFails(() => tcp.bind(taken), "bind", "EADDRINUSE");
  const foreign = { hostname: "192.0.2.1", port: 0 };
  assertFails(() => tcp.bind(foreign), "bind", "EADDRNOTAVAIL");
  using deaf = libc.socket(SOCK_STREAM);
  deaf.bind(LOOPBACK);
  const nobody = deaf.getsockname();
  assertFails(() => tcp.connect(nobody), "connect", "ECONNREFUSED");
  assertFails(() => libc.socket(99), "socket", "EINVAL");

  const closed = libc.socket(SOCK_STREAM);
  closed.close();
  assertEquals(closed.fd, -1);
  assertFails(() => closed.bind(LOOPBACK), "bind", "EBADF");
  assertFails(() => closed.getsockname(), "getsockname", "EBADF");
  assertFails(() => closed.close(), "close", "EBADF");
});

Deno.test("libc sockets take IPv4 addresses and ports, and nothing else", () => {
  using libc = openLibc();
  using socket = libc.socket(SOCK_DGRAM);
  for (
    const hostname of ["", "::1", "localhost", "1..2.3", "256.0.0.1", "1.2"]
  ) {
    assertThrows(() => socket.bind({ hostname, port: 0 }), TypeError, "IPv4");
  }
  for (const port of [-1, 65536, 1.5, NaN]) {
    assertThrows(() => socket.bind({ ...LOOPBACK, port }), RangeError, "port");
  }
});

Deno.test("libc errors are right under load", async () => {
  using libc = openLibc();
  const closed = libc.socket(SOCK_STREAM);
  closed.close();
  // Timers, file reads and garbage all make system calls of their own.
  let reads = 0;
  const noise = setInterval(async () => {
    await Deno.readTextFile("/nowhere").catch(() => reads++);
  }, 0);
  for (let i = 0; i < 20_000; i++) {
    assertFails(() => closed.close(), "close", "EBADF");
    assertFails(() => libc.socket(99), "socket", "EINVAL");
    if (i % 1000 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  clearInterval(noise);
  await new Promise((resolve) => setTimeout(resolve, 20));
});

Deno.test("libc leaves no descriptor open", () => {
  const before = descriptors();
  for (let i = 0; i < 100; i++) {
    using libc = openLibc();
    using socket = libc.socket(SOCK_STREAM);
    using other = libc.socket(SOCK_DGRAM);
    assert(socket.fd !== other.fd);
    other.close(); // Closed twice is closed once.
  }
  assertEquals(descriptors(), before);
});
