import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  descriptorOf,
  LibcError,
  openLibc,
  SIGINT,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../../lib/lab/libc_socket.ts";
import { runDeno } from "../testing.ts";

const LOOPBACK = { hostname: "127.0.0.1", port: 0 };

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

  const bytes = new Uint8Array(16);
  const length = new Uint32Array([bytes.length]);
  assertEquals(libc.call("getsockname", tcp.fd, bytes, length), 0);
  assertEquals(length[0], 16);
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
    const bind = () => socket.bind({ hostname, port: 0 });
    assertThrows(bind, SyntaxError, "Not an IPv4 address");
  }
  for (const port of [-1, 65536, 1.5, NaN]) {
    assertThrows(() => socket.bind({ ...LOOPBACK, port }), RangeError, "port");
  }
});

/** getsockopt(2) without the lib: what the kernel says to somebody else. */
function independentGetsockopt(fd: number, level: number, name: number) {
  const library = Deno.dlopen("libc.so.6", {
    getsockopt: {
      parameters: ["i32", "i32", "i32", "buffer", "buffer"],
      result: "i32",
    },
  });
  const value = new Int32Array(2);
  const length = new Uint32Array([8]);
  const { getsockopt } = library.symbols;
  assertEquals(getsockopt(fd, level, name, value, length), 0);
  library.close();
  return [...value].slice(0, length[0] / 4);
}

Deno.test("libc options are what the kernel says", () => {
  using libc = openLibc();
  using tcp = libc.socket(SOCK_STREAM);
  using udp = libc.socket(SOCK_DGRAM);
  assertEquals(tcp.getsockopt("SO_TYPE"), SOCK_STREAM);
  assertEquals(udp.getsockopt("SO_TYPE"), SOCK_DGRAM);
  for (const socket of [tcp, udp]) {
    for (const size of [0, 5000, 2 ** 31 - 1]) {
      socket.setsockopt("SO_SNDBUF", size);
      socket.setsockopt("SO_RCVBUF", size);
      assertEquals(
        [socket.getsockopt("SO_SNDBUF"), socket.getsockopt("SO_RCVBUF")],
        [
          ...independentGetsockopt(socket.fd, 1, 7),
          ...independentGetsockopt(socket.fd, 1, 8),
        ],
      );
    }
  }
  for (
    const [option, level, name] of [
      ["SO_REUSEADDR", 1, 2],
      ["SO_KEEPALIVE", 1, 9],
      ["TCP_NODELAY", 6, 1],
    ] as const
  ) {
    for (const value of [1, 0]) {
      tcp.setsockopt(option, value);
      assertEquals(tcp.getsockopt(option), value);
      assertEquals(independentGetsockopt(tcp.fd, level, name), [value]);
    }
  }
  for (
    const [option, level, name, value] of [
      ["TCP_KEEPIDLE", 6, 4, 7],
      ["TCP_KEEPINTVL", 6, 5, 3],
      ["TCP_KEEPCNT", 6, 6, 2],
      ["TCP_USER_TIMEOUT", 6, 18, 1500],
    ] as const
  ) {
    assertEquals(
      [tcp.getsockopt(option)],
      independentGetsockopt(tcp.fd, level, name),
    );
    tcp.setsockopt(option, value);
    assertEquals(independentGetsockopt(tcp.fd, level, name), [value]);
  }
  assertEquals(independentGetsockopt(tcp.fd, 1, 13), [0, 0]);
  for (const seconds of [7, 0]) {
    tcp.setsockopt("SO_LINGER", 1, seconds);
    assertEquals(tcp.getsockopt("SO_LINGER"), 1);
    assertEquals(independentGetsockopt(tcp.fd, 1, 13), [1, seconds]);
  }
});

Deno.test("libc options that cannot be set or read say why", () => {
  using libc = openLibc();
  using tcp = libc.socket(SOCK_STREAM);
  using udp = libc.socket(SOCK_DGRAM);
  const set = () => tcp.setsockopt("SO_TYPE", SOCK_DGRAM);
  assertFails(set, "setsockopt", "ENOPROTOOPT");
  const get = () => udp.getsockopt("TCP_NODELAY");
  assertFails(get, "getsockopt", "EOPNOTSUPP");
  for (const value of [1.5, NaN, 2 ** 31, -(2 ** 31) - 1, "1" as never]) {
    assertThrows(() => tcp.setsockopt("SO_SNDBUF", value), RangeError, "int");
    const linger = () => tcp.setsockopt("SO_LINGER", 1, value);
    assertThrows(linger, RangeError, "int");
  }
  const tooLarge = () => tcp.setsockopt("IP_MINTTL", 256);
  assertFails(tooLarge, "setsockopt", "EINVAL");
  assertFails(() => tcp.getpeername(), "getpeername", "ENOTCONN");
  tcp.close();
  assertFails(() => tcp.getsockopt("SO_TYPE"), "getsockopt", "EBADF");
  assertFails(() => tcp.setsockopt("SO_SNDBUF", 1), "setsockopt", "EBADF");
  assertFails(() => tcp.getsockopt("SO_LINGER"), "getsockopt", "EBADF");
  assertFails(() => tcp.listen(1), "listen", "EBADF");
  assertFails(() => tcp.accept(), "accept4", "EBADF");
});

Deno.test("libc calls on a descriptor that is no socket say ENOTSOCK", () => {
  using libc = openLibc();
  using file = Deno.openSync("/dev/null");
  void file;
  const fd = [...Deno.readDirSync("/proc/self/fd")].map((it) => Number(it.name))
    .find((it) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${it}`) === "/dev/null" &&
          it > 2;
      } catch {
        return false;
      }
    })!;
  using socket = libc.socket(SOCK_STREAM);
  const own = socket.fd;
  Object.assign(socket, { fd });
  assertFails(() => socket.getsockopt("SO_TYPE"), "getsockopt", "ENOTSOCK");
  assertFails(() => socket.getsockname(), "getsockname", "ENOTSOCK");
  assertFails(() => socket.listen(1), "listen", "ENOTSOCK");
  Object.assign(socket, { fd: own });
});

Deno.test("libc sockets listen and accept", async () => {
  using libc = openLibc();
  using listener = libc.socket(SOCK_STREAM);
  listener.bind(LOOPBACK);
  listener.listen(1);
  const { port } = listener.getsockname();
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using accepted = listener.accept();
  const { localAddr } = conn;
  assertEquals(accepted.getpeername(), {
    hostname: localAddr.hostname,
    port: localAddr.port,
  });
  assertEquals(accepted.getsockname().port, port);
});

Deno.test("libc sockets are closed in processes that are started", () => {
  using libc = openLibc();
  using socket = libc.socket(SOCK_STREAM);
  socket.bind(LOOPBACK);
  socket.listen(1);
  const flags = (fd: number) =>
    Deno.readTextFileSync(`/proc/self/fdinfo/${fd}`).match(
      /flags:\s+(\d+)/,
    )![1];
  assert(parseInt(flags(socket.fd), 8) & 0o2000000, "O_CLOEXEC");
});

Deno.test("libc finds the descriptors of Deno's sockets", async () => {
  using libc = openLibc();
  using listener = Deno.listen(LOOPBACK);
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using peer = await listener.accept();
  const found = [conn, peer, listener].map((it) => descriptorOf(libc, it).fd);
  assertEquals(new Set(found).size, 3);

  const descriptor = descriptorOf(libc, conn);
  assertEquals(descriptor.getsockopt("TCP_NODELAY"), 0);
  conn.setNoDelay(true);
  assertEquals(descriptor.getsockopt("TCP_NODELAY"), 1);
  assertEquals(descriptorOf(libc, peer).getsockopt("TCP_NODELAY"), 0);
  assertEquals(descriptorOf(libc, listener).getsockopt("SO_REUSEADDR"), 1);
  peer.close();
  assertThrows(() => descriptorOf(libc, peer), Deno.errors.NotFound);
});

Deno.test("libc finds the descriptors of Deno's datagram sockets", () => {
  using libc = openLibc();
  // UDP's ports are not TCP's: this one has the same address, and comes first.
  using listener = Deno.listen(LOOPBACK);
  const open = (port: number) =>
    Deno.listenDatagram({ ...LOOPBACK, transport: "udp", port });
  const [one, other] = [open(listener.addr.port), open(0)];
  const found = [one, other].map((it) => descriptorOf(libc, it));
  assert(found[0].fd !== found[1].fd);
  for (const { fd } of found) {
    assertEquals(independentGetsockopt(fd, 1, 3), [SOCK_DGRAM], "SO_TYPE");
  }
  found[0].setsockopt("SO_BROADCAST", 0);
  assertEquals(independentGetsockopt(found[0].fd, 1, 6), [0]);
  assertEquals(independentGetsockopt(found[1].fd, 1, 6), [1]);
  for (const it of [one, other]) it.close();
  assertThrows(() => descriptorOf(libc, one), Deno.errors.NotFound);
});

Deno.test("libc tells a listener from a connection that was reset", async () => {
  using libc = openLibc();
  // The connection gets a lower descriptor than the listener.
  const free = [libc.socket(SOCK_STREAM), libc.socket(SOCK_STREAM)];
  using listener = Deno.listen(LOOPBACK);
  for (const socket of free) socket.close();
  using client = libc.socket(SOCK_STREAM);
  client.connect(listener.addr);
  using conn = await listener.accept();
  client.setsockopt("SO_LINGER", 1, 0);
  client.close();
  await assertRejects(
    () => conn.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );

  const { fd } = descriptorOf(libc, listener);
  assertEquals(independentGetsockopt(fd, 1, 30), [1], "SO_ACCEPTCONN");
});

Deno.test("libc finds no descriptor in no time", () => {
  using libc = openLibc();
  const times = ["192.0.2.1", "::1", "192.0.2.1"].map((hostname) => {
    const nowhere = { hostname, port: 1 };
    const conn = { localAddr: nowhere, remoteAddr: nowhere } as Deno.TcpConn;
    const start = performance.now();
    assertThrows(
      () => descriptorOf(libc, conn),
      Deno.errors.NotFound,
    );
    return performance.now() - start;
  });
  assert(Math.min(...times) < 100, `${times} ms`);
});

Deno.test("openLibc() says that it needs Linux", () => {
  const { build } = Deno;
  Object.defineProperty(Deno, "build", {
    value: { ...build, os: "darwin" },
    configurable: true,
  });
  try {
    assertThrows(() => openLibc(), Deno.errors.NotSupported, "needs Linux");
  } finally {
    Object.defineProperty(Deno, "build", { value: build, configurable: true });
  }
});

Deno.test("libc calls kill(), which sends a signal, or says why not", async () => {
  using libc = openLibc();
  const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
  libc.call("kill", child.pid, SIGINT);
  assertEquals((await child.status).signal, "SIGINT");
  assertFails(() => libc.call("kill", 2 ** 22 + 1, SIGINT), "kill", "ESRCH");
});

Deno.test("libc errors are right under load", async () => {
  // In a process of its own. Here the children of other tests end, and so the
  // kernel interrupts this one by SIGCHLD; whoever handles that may change errno.
  const module = new URL("../../lib/lab/libc_socket.ts", import.meta.url);
  const script = `
    import { openLibc, SOCK_STREAM } from "${module}";
    using libc = openLibc();
    const closed = libc.socket(SOCK_STREAM);
    closed.close();
    // Timers, file reads and garbage all make system calls of their own.
    setInterval(() => Deno.readTextFile("/nowhere").catch(() => {}), 0);
    const codes = new Set();
    const count = (call) => {
      try {
        call();
      } catch (error) {
        codes.add(error.message.split(":")[0] + " " + error.code);
      }
    };
    for (let i = 0; i < 20_000; i++) {
      count(() => closed.close());
      count(() => libc.socket(99));
      if (i % 1000 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    console.log([...codes].join());
    Deno.exit();`;
  const { stdout } = await runDeno(["eval", script]);
  assertEquals(stdout, "close EBADF,socket EINVAL\n");
});

Deno.test("libc leaves no descriptor open", async () => {
  // In a process of its own: here other tests open some meanwhile.
  const module = new URL("../../lib/lab/libc_socket.ts", import.meta.url);
  const script = `
    import { descriptorOf, openLibc, SOCK_DGRAM, SOCK_STREAM } from "${module}";
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = descriptors();
    for (let i = 0; i < 200; i++) {
      using libc = openLibc();
      using socket = libc.socket(SOCK_STREAM);
      using other = libc.socket(SOCK_DGRAM);
      if (socket.fd === other.fd) throw new Error("one descriptor for both");
      other.close(); // Closed twice is closed once.
      descriptorOf(libc, listener);
    }
    console.log(descriptors() - before);`;
  const { stdout } = await runDeno(["eval", script]);
  assertEquals(stdout, "0\n");
});
