/**
 * @title The event loop itself: epoll, in C's own calls
 * @difficulty advanced
 * @tags tcp, udp, server, epoll, event loop, FFI, backpressure, EMFILE, recvmmsg
 * @run deno run --allow-net --allow-run=deno lessons/16_epoll.ts
 * @run deno run --allow-ffi lessons/16_epoll.ts server
 * @resource {https://man7.org/linux/man-pages/man7/epoll.7.html} epoll(7): how one thread waits for many sockets
 * @see 12_concurrent_echo.ts
 * @see README.md, "16 The event loop itself"
 *
 * Lesson 12 writes `await conn.read()`, and Deno waits for all clients at once.
 * This echo server shows how that works, in the calls that a server in C makes:
 * one thread, non-blocking sockets, and one call that waits for all of them,
 * `epoll_wait`. Each socket that has something gets one `recv` and one `send`,
 * then the next one has its turn, so no client is left out. A call that would
 * have to wait fails with EAGAIN instead. What `send` does not take is kept,
 * and nothing more is read from that client until it is sent, so a client that
 * does not read costs 256 KiB at most: backpressure.
 *
 * Look at `runLoop()`: a call that waits stops all else that Deno does, so this
 * thread waits 10 ms at most, and then another thread does. The calls have the
 * types `i32`, `u32` and `buffer`, because V8 makes fast calls of these.
 *
 * @module
 */

import { announce, formatAddress } from "../lib/address.ts";
import { grouped } from "../lib/grouped.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io, type Values } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { putLoad } from "../lib/lab/load.ts";

/** A call of C's whose parameters are these, and whose result is an `int`. */
const int = <const P extends Deno.NativeType[]>(...parameters: P) =>
  ({ parameters, result: "i32" }) as const;

const CALLS = {
  socket: int("i32", "i32", "i32"),
  inet_pton: int("i32", "buffer", "buffer"),
  setsockopt: int("i32", "i32", "i32", "buffer", "u32"),
  bind: int("i32", "buffer", "u32"),
  listen: int("i32", "i32"),
  getsockname: int("i32", "buffer", "buffer"),
  epoll_create1: int("i32"),
  epoll_ctl: int("i32", "i32", "i32", "buffer"),
  epoll_wait: int("i32", "buffer", "i32", "i32"),
  // The same call, made on another thread: it returns a promise.
  epoll_wait_aside: {
    ...int("i32", "buffer", "i32", "i32"),
    name: "epoll_wait",
    nonblocking: true,
  },
  accept4: int("i32", "buffer", "buffer", "i32"),
  // C has size_t and ssize_t here, of 64 bits. But with usize and isize a call
  // costs many times as much, and none of these sizes is that large.
  recv: int("i32", "buffer", "u32", "i32"),
  send: int("i32", "buffer", "u32", "i32"),
  recvmmsg: int("i32", "buffer", "u32", "i32", "buffer"),
  sendmmsg: int("i32", "buffer", "u32", "i32"),
  close: int("i32"),
  strerror: { parameters: ["i32"], result: "pointer" },
  // The name of an error, from glibc 2.32 on.
  strerrorname_np: { parameters: ["i32"], result: "pointer" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;

/** The calls, and what is needed to look at their results. */
interface Libc {
  calls: Deno.DynamicLibrary<typeof CALLS>["symbols"];
  errno: Int32Array;
  check(call: string, result: number): number;
}

const [AF_INET, SOCK_STREAM, SOCK_DGRAM] = [2, 1, 2];
const [SOCK_NONBLOCK, SOCK_CLOEXEC] = [0o4000, 0o2000000];
const [SOL_SOCKET, SO_REUSEADDR] = [1, 2];
const [IPPROTO_TCP, TCP_NODELAY] = [6, 1];
const [EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT] = [1, 3, 1, 4];
const [MSG_DONTWAIT, MSG_NOSIGNAL, EAGAIN] = [0x40, 0x4000, 11];

/**
 * A `struct epoll_event` in words of 32 bits, and which of them is its data. On
 * x86-64 it is packed: 12 bytes, and not 16.
 */
const [EVENT, DATA] = Deno.build.arch === "x86_64" ? [3, 1] : [4, 2];
/** How many connections may wait for accept4(2): see listen(2). */
const BACKLOG = 4096;
/** How many events epoll_wait(2) returns at most. */
const EVENTS = 512;
/** The longest wait, and the longest work before Deno has a turn: both in ms. */
const TURN = 10;
/** How long nobody is accepted when there is no descriptor, in milliseconds. */
const PAUSE = 100;
/** How many datagrams one call takes at most, and how large one may be. */
const [BATCH, LARGEST] = [64, 64 * 1024];

/** Echoes all clients at once. It has this thread for itself, and never ends. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  udp = false,
  onListen = announce,
} = {}) {
  using open = new DisposableStack();
  const libc = openCalls(open);
  const address = { hostname, port };
  const { socket, bound } = openSocket(libc, open, address, udp);
  const epoll = openEpoll(libc, open);
  epoll.watch(EPOLL_CTL_ADD, socket, EPOLLIN);
  onListen({ hostname, port: bound.port, transport: udp ? "udp" : "tcp" });

  const handle = udp
    ? datagramEcho(libc, socket, bound)
    : streamEcho(libc, socket, epoll);
  await runLoop(libc, epoll, handle);
}

/** Opens libc, for as long as `open` stays open. */
function openCalls(open: DisposableStack): Libc {
  if (Deno.build.os !== "linux") {
    throw new Deno.errors.NotSupported("epoll(7) is a part of Linux");
  }
  // At a prompt, dlopen() itself would look in the current folder only.
  Deno.permissions.requestSync({ name: "ffi" });
  const library = Deno.dlopen("libc.so.6", CALLS);
  open.defer(() => library.close());
  const calls = library.symbols;
  const { getArrayBuffer, getCString } = Deno.UnsafePointerView;
  // The place of errno. To ask for this place each time could change errno.
  const errno = new Int32Array(getArrayBuffer(calls.__errno_location()!, 4));
  const check = (call: string, result: number) => {
    const number = errno[0]!; // At once: whatever comes next may change it.
    if (result >= 0) return result;
    const name = calls.strerrorname_np(number);
    const code = name === null ? `errno ${number}` : getCString(name);
    const text = getCString(calls.strerror(number)!);
    const cause = Object.assign(new Error(text), { code });
    throw Object.assign(new Error(call, { cause }), { code });
  };
  return { calls, errno, check };
}

/** Opens the server's socket, gives it its address, and lets it listen. */
function openSocket(
  { calls, check }: Libc,
  open: DisposableStack,
  { hostname, port }: { hostname: string; port: number },
  udp: boolean,
) {
  // A struct sockaddr_in: family, port, address, eight zeros.
  const name = new Uint8Array(16);
  const text = new TextEncoder().encode(`${hostname}\0`);
  if (calls.inet_pton(AF_INET, text, name.subarray(4)) !== 1) {
    throw new TypeError(`Not an IPv4 address: ${hostname}`);
  }
  if (!(port >= 0 && port <= 65535)) {
    throw new RangeError(`Not a port: ${port}`);
  }
  name[0] = AF_INET;
  const view = new DataView(name.buffer);
  view.setUint16(2, port); // In network byte order: lesson 05.

  const type = udp ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK;
  const socket = calls.socket(AF_INET, type | SOCK_CLOEXEC, 0);
  check("socket", socket);
  open.defer(() => calls.close(socket));
  if (!udp) {
    const on = new Int32Array([1]);
    const set = (level: number, option: number) =>
      check("setsockopt", calls.setsockopt(socket, level, option, on, 4));
    set(SOL_SOCKET, SO_REUSEADDR);
    set(IPPROTO_TCP, TCP_NODELAY); // Accepted sockets inherit it.
  }
  const address = formatAddress({ hostname, port });
  check(`bind ${address}`, calls.bind(socket, name, name.length));
  if (!udp) check("listen", calls.listen(socket, BACKLOG));
  // If 0 was asked for, the kernel has chosen a port.
  const length = new Uint32Array([name.length]);
  check("getsockname", calls.getsockname(socket, name, length));
  const bound = { port: view.getUint16(2), address: view.getUint32(4) };
  return { socket, bound };
}

/** A set of descriptors, each with the events that are asked for. */
interface Epoll {
  fd: number;
  watch(how: number, fd: number, events: number): void;
}

/** Opens an epoll, for as long as `open` stays open. */
function openEpoll({ calls, check }: Libc, open: DisposableStack): Epoll {
  const epoll = check("epoll_create1", calls.epoll_create1(SOCK_CLOEXEC));
  open.defer(() => calls.close(epoll));
  const event = new Int32Array(EVENT);
  return {
    fd: epoll,
    watch(how, fd, events) {
      event[0] = events;
      event[DATA] = fd; // It comes back with the event.
      check("epoll_ctl", calls.epoll_ctl(epoll, how, fd, event));
    },
  };
}

/** Waits for events, and lets `handle` know which sockets have one, for ever. */
async function runLoop(
  { calls }: Libc,
  epoll: Epoll,
  handle: (fd: number) => void,
): Promise<never> {
  const events = new Int32Array(EVENTS * EVENT);
  const handleAll = (count: number) => {
    for (let i = 0; i < count; i++) handle(events[i * EVENT + DATA]!);
  };
  while (true) {
    // This blocks the thread, and with it all else that Deno does.
    const end = performance.now() + TURN;
    let count: number;
    do {
      count = calls.epoll_wait(epoll.fd, events, EVENTS, TURN);
      handleAll(count);
    } while (count > 0 && performance.now() < end);
    // Now Deno has its turn, and another thread waits. When there is much to
    // do, it does not wait at all. Otherwise it waits until a client sends
    // something.
    const timeout = count > 0 ? 0 : -1;
    handleAll(await calls.epoll_wait_aside(epoll.fd, events, EVENTS, timeout));
  }
}

/** Returns a function that serves the listener, or the client, with an event. */
function streamEcho(
  { calls, errno }: Libc,
  listener: number,
  { watch }: Epoll,
): (fd: number) => void {
  const accept = () => {
    const flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    let fd: number;
    while ((fd = calls.accept4(listener, null, null, flags)) >= 0) {
      try {
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
      } catch {
        // ENOMEM, or ENOSPC (/proc/sys/fs/epoll/max_user_watches): this client
        // cannot be watched, and so not served. The others can.
        calls.close(fd);
      }
    }
    if (errno[0] === EAGAIN) return; // No more clients wait.
    // No descriptor is left (EMFILE), and a client still waits. epoll_wait
    // would say so at once, again and again. So for a while it does not watch
    // the listener.
    watch(EPOLL_CTL_MOD, listener, 0);
    setTimeout(() => watch(EPOLL_CTL_MOD, listener, EPOLLIN), PAUSE);
  };

  // One buffer for all clients, so it may be large.
  const buffer = new Uint8Array(256 * 1024);
  const unsent = new Map<number, Uint8Array<ArrayBuffer>>();
  const read = (fd: number) => {
    const count = calls.recv(fd, buffer, buffer.length, 0);
    if (count > 0) write(fd, buffer, count);
    else if (count === 0 || errno[0] !== EAGAIN) hangUp(fd);
  };
  const write = (fd: number, data: Uint8Array<ArrayBuffer>, size: number) => {
    const count = calls.send(fd, data, size, MSG_NOSIGNAL);
    const isRest = data !== buffer; // What an earlier send did not take.
    if (count === size) {
      if (!isRest) return;
      unsent.delete(fd);
      watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    } else if (count >= 0 || errno[0] === EAGAIN) {
      // The client does not take its echo. Keep the rest, and ask when there is
      // room for it. Until then nothing more is read from this client.
      unsent.set(fd, data.slice(Math.max(count, 0), size));
      if (!isRest) watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
    } else hangUp(fd);
  };
  const hangUp = (fd: number) => {
    unsent.delete(fd);
    calls.close(fd); // This takes it out of the epoll.
  };

  return (fd) => {
    const rest = unsent.get(fd);
    if (fd === listener) accept();
    else if (rest === undefined) read(fd);
    else write(fd, rest, rest.length);
  };
}

/** Returns a function that echoes the datagrams which have arrived. */
function datagramEcho(
  { calls }: Libc,
  socket: number,
  bound: { port: number; address: number },
): () => void {
  // The structs, and the offsets of their fields:
  // - mmsghdr, 64 bytes: msg_name 0, msg_namelen 8, msg_iov 16, msg_iovlen 24,
  //   msg_len 56. The last one is the size of a datagram that came.
  // - iovec, 16 bytes: iov_base 0, iov_len 8.
  // - sockaddr_in, 16 bytes: port 2.
  // They point at each other: mmsghdr at iovec and sockaddr_in, iovec at the
  // data. All are in one piece of memory, so that none is freed before another.
  const parts = BATCH * 64; // Behind the mmsghdrs the iovecs,
  const names = parts + BATCH * 16; // then the sockaddr_ins,
  const data = names + BATCH * 16; // then the datagrams.
  const memory = new ArrayBuffer(data + BATCH * LARGEST);
  const start = Deno.UnsafePointer.value(Deno.UnsafePointer.of(memory));
  const view = new DataView(memory);
  const setPointer = (offset: number, target: number) =>
    view.setBigUint64(offset, start + BigInt(target), true);
  const setLength = (i: number, length: number) =>
    view.setUint32(parts + i * 16 + 8, length, true); // iov_len
  for (let i = 0; i < BATCH; i++) {
    setPointer(i * 64, names + i * 16); // msg_name
    view.setUint32(i * 64 + 8, 16, true); // msg_namelen
    setPointer(i * 64 + 16, parts + i * 16); // msg_iov
    view.setUint32(i * 64 + 24, 1, true); // msg_iovlen
    setPointer(parts + i * 16, data + i * LARGEST); // iov_base
    setLength(i, LARGEST);
  }
  // The ports of well-known services, or this server itself: by loopback, or by the
  // address that it is bound to. From outside no packet comes with such a sender.
  const isEchoing = (view: DataView, port: number) =>
    view.getUint16(port) < 1024 ||
    view.getUint16(port) === bound.port &&
      (view.getUint8(port + 2) === 127 ||
        view.getUint32(port + 2) === bound.address);
  return () => {
    const count = calls.recvmmsg(socket, memory, BATCH, MSG_DONTWAIT, null);
    for (let i = 0; i < count; i++) {
      setLength(i, view.getUint32(i * 64 + 56, true)); // msg_len
      // An echo to a forged sender might come back for ever (lesson 06). Port 0
      // stops it: nothing can be sent there.
      const port = names + i * 16 + 2;
      if (isEchoing(view, port)) view.setUint16(port, 0);
    }
    for (let done = 0; done < count;) {
      const rest = new Uint8Array(memory, done * 64);
      const sent = calls.sendmmsg(socket, rest, count - done, 0);
      done += Math.max(sent, 1); // One that cannot be sent is lost.
    }
    for (let i = 0; i < count; i++) setLength(i, LARGEST);
  };
}

/** Puts the same load on this server and on lesson 17's, one after the other. */
export async function demo(
  { hostname, port, clients, duration, print, signal }:
    & Values<typeof common.demo>
    & { clients: number; duration: number }
    & Io,
) {
  const args = { host: hostname, port };
  const servers: [lesson: string, ...flags: string[]][] = [
    ["16_epoll", "--allow-ffi"],
    ["17_production"],
  ];
  const rows: (string | number)[][] = [];
  for (const [lesson, ...flags] of servers) {
    const { href: url } = new URL(`${lesson}.ts`, import.meta.url);
    const command = { url, args, flags, relay: () => {}, signal };
    const status = await forkServer(command, async (port, stop) => {
      const load = { hostname, port, clients, duration };
      const { rate, p50, p99, error } = await putLoad(load);
      if (error !== undefined) throw error;
      const times = [p50, p99].map((time = 0) => Number(time.toFixed(2)));
      rows.push([lesson, grouped(Math.round(rate)), ...times]);
      stop();
    });
    if (status !== 0) return status; // It has said why.
  }
  await print("The same load on both, one after the other:");
  const head = ["server", "messages/s", "ms for half of them", "for 99 %"];
  await print(formatTable(head, rows));
}

if (import.meta.main) {
  const clients = { default: 100, min: 1, max: 10_000, help: "how many" };
  const ms = { min: 1, max: 2 ** 31 - 1, help: "ms of the load on each" };
  const udp = { default: false, help: "datagrams, many in one system call" };

  await runLesson(import.meta.url, {
    demo: {
      help: "the same load on this server and on lesson 17's",
      options: { ...common.demo, clients, duration: { default: 1000, ...ms } },
      show: "table",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes what clients send, all at once",
      options: { ...common.server, udp },
      run: server,
    },
  });
}
