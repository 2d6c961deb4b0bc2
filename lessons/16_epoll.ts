/**
 * @title The event loop itself: epoll, in C's own calls
 * @difficulty advanced
 * @tags tcp, udp, server, epoll, event loop, FFI, backpressure, EMFILE, recvmmsg
 * @run deno run --allow-net --allow-ffi --allow-run=deno,strace lessons/16_epoll.ts
 * @run deno run --allow-ffi lessons/16_epoll.ts server
 * @resource {https://man7.org/linux/man-pages/man7/epoll.7.html} epoll(7): how one thread waits for many sockets
 * @resource {https://man7.org/linux/man-pages/man2/accept.2.html} accept4(2): EAGAIN, EMFILE
 * @resource {https://man7.org/linux/man-pages/man2/recvmmsg.2.html} recvmmsg(2): many datagrams in one call
 * @resource {https://docs.deno.com/runtime/fundamentals/ffi/} Deno: calls of C functions (FFI)
 * @see 06_udp_echo.ts
 * @see 12_concurrent_echo.ts
 * @see 15_many_processes.ts
 *
 * The echo server of lesson 12, without Deno's sockets. Lesson 12 writes `await
 * conn.read()`, and Deno waits for all clients at once. This lesson shows how
 * that works: one thread, non-blocking sockets, and one call that waits for all
 * of them, `epoll_wait`. The server makes the calls that a server in C makes,
 * in the same order, and it is about as fast. `server --udp` echoes datagrams,
 * up to 64 of them with one call. The demo puts the same load on this server
 * and on lesson 12's.
 *
 * What to look at:
 * - The loop at the end of `server()`. `epoll_wait` says which sockets have
 *   something. Each of them gets one `recv` and one `send`, then the next one has
 *   its turn. So no client is left out.
 * - No call on a TCP socket waits. A call that would have to wait fails with
 *   EAGAIN. With `--udp`, `sendmmsg` may wait for room, because a datagram that
 *   it does not send is lost.
 * - `write()` keeps what `send` did not take. Nothing more is read from that
 *   client until the rest is sent. So a client that does not read costs 256 KiB
 *   at most, and its end of stream is not read before it has had its echo.
 * - An idle client costs a socket in the kernel, and nothing in this program.
 * - The waiting. A call that waits stops all else that Deno does: timers,
 *   promises, signals. So this thread waits 10 ms at most, and after 10 ms of work
 *   it lets Deno have a turn. When no client sends anything, another thread
 *   waits, and neither thread uses the processor. The price: a turn every 10 ms
 *   costs 1 % of the messages (every 1 ms: 3 %), and a message after a silence
 *   comes 0.1 ms later.
 * - The types of the calls: `i32`, `u32` and `buffer` only. With these types V8
 *   makes a fast call. It adds some 10 ns to the kernel's own time. C declares
 *   `recv` with types that are `usize` and `isize` in Deno. With these a call
 *   adds twice as much for a bigint, and many times as much for a number. The
 *   whole server then has 0.8 to 0.95 of its speed. `u32` is safe here for two
 *   reasons: sizes are small, and on x86-64 and arm64 a write to the lower half
 *   of a register clears the upper half.
 * - The memory. A call gets a pointer into a buffer, and V8 does not know how
 *   long C uses it. Here each buffer belongs to `server()`, which does not end.
 *   A pointer inside a struct does not keep its buffer alive: see
 *   `datagramEcho()`. `--allow-ffi` gives as much power as all permissions: a
 *   call with a wrong length writes anywhere.
 *
 * | here | Linux system calls (`strace`) |
 * |---|---|
 * | `libc.socket`, `libc.bind`, ... | the call of that name |
 * | `libc.recv`, `libc.send` | `recvfrom`, `sendto`, without an address |
 * | `libc.epoll_wait` | `epoll_wait`; on arm64 `epoll_pwait` |
 * | `libc.inet_pton`, `libc.strerror` | none: they only compute |
 *
 * Try it:
 * - `deno task epoll`: both servers make the same system calls. They differ in
 *   what runs between the calls. This changes how long a core works for a
 *   message. (The messages a second depend mostly on the load, which is a Deno
 *   program too. `deno task bench c` measures servers alone.)
 * - `deno task epoll server`, and in another terminal
 *   `deno task concurrent_echo client --clients 1000`.
 * - `strace -f -e trace=/epoll,accept4,recvfrom,sendto deno run --allow-ffi lessons/16_epoll.ts server`,
 *   and in another terminal `nc 127.0.0.1 9527`: type lines. After each echo the
 *   main thread waits for 10 ms in `epoll_wait`. Then a second thread waits
 *   without a limit (the last argument is -1). The `epoll_wait` on descriptor 3 is
 *   Deno's own.
 * - `deno task epoll server --udp`, and `deno task udp_echo client`.
 *
 * The tutorial's server makes the same calls on sockets that block. Its `accept`
 * and its `read` wait for one client, and all others wait with it.
 *
 * What is still missing: what lesson 12 has beyond this (an idle timeout, a
 * limit, the end in good order), IPv6 and names of hosts, and a second core
 * (lesson 15). A program that has other work to do runs this server in a Worker
 * or in a process of its own. The server runs on Linux only.
 *
 * @module
 */

import { constants } from "node:os";
import { announce, describeError, formatAddress } from "../lib/describe.ts";
import { spawnChild, textLines } from "../lib/harness/child.ts";
import { common } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import { type LoadOptions, putLoad } from "../lib/load.ts";

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
  // C has size_t and ssize_t here, of 64 bits. Why not usize and isize: see
  // above.
  recv: int("i32", "buffer", "u32", "i32"),
  send: int("i32", "buffer", "u32", "i32"),
  recvmmsg: int("i32", "buffer", "u32", "i32", "buffer"),
  sendmmsg: int("i32", "buffer", "u32", "i32"),
  close: int("i32"),
  strerror: { parameters: ["i32"], result: "pointer" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;
type Libc = Deno.DynamicLibrary<typeof CALLS>["symbols"];

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
/** How many events epoll_wait(2) returns at most. */
const EVENTS = 512;
/** The longest wait, and the longest work before Deno has a turn: both in ms. */
const TURN = 10;
/** How long nobody is accepted when there is no descriptor, in milliseconds. */
const PAUSE = 100;
const RUSAGE_CHILDREN = -1;
/** How many datagrams one call takes at most, and how large one may be. */
const [BATCH, LARGEST] = [64, 64 * 1024];

/** Echoes all clients at once. It has this thread for itself, and never ends. */
export async function server({
  hostname = "0.0.0.0",
  port = 9527,
  udp = false,
  onListen = announce,
} = {}): Promise<void> {
  if (Deno.build.os !== "linux") {
    throw new Deno.errors.NotSupported("epoll(7) is a part of Linux");
  }
  using open = new DisposableStack();
  const library = Deno.dlopen("libc.so.6", CALLS);
  open.defer(() => library.close());
  const libc = library.symbols;
  // The place of errno. To ask for this place each time could change errno.
  const errno = new Int32Array(
    Deno.UnsafePointerView.getArrayBuffer(libc.__errno_location()!, 4),
  );
  const check = (call: string, result: number) => {
    const number = errno[0]!; // At once: whatever comes next may change it.
    if (result >= 0) return result;
    const [code] = Object.entries(constants.errno)
      .find(([, it]) => it === number) ?? [];
    const text = Deno.UnsafePointerView.getCString(libc.strerror(number)!);
    const cause = Object.assign(new Error(text), { code });
    throw Object.assign(new Error(call, { cause }), { code });
  };

  // A struct sockaddr_in: family, port, address, eight zeros.
  const name = new Uint8Array(16);
  const view = new DataView(name.buffer);
  const text = new TextEncoder().encode(`${hostname}\0`);
  if (libc.inet_pton(AF_INET, text, name.subarray(4)) !== 1) {
    throw new TypeError(`Not an IPv4 address: ${hostname}`);
  }
  if (!(port >= 0 && port <= 65535)) {
    throw new RangeError(`Not a port: ${port}`);
  }
  name[0] = AF_INET;
  view.setUint16(2, port); // In network byte order: lesson 05.

  const type = udp ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK;
  const listener = libc.socket(AF_INET, type | SOCK_CLOEXEC, 0);
  check("socket", listener);
  open.defer(() => libc.close(listener));
  if (!udp) {
    const on = new Int32Array([1]);
    const set = (level: number, option: number) =>
      check("setsockopt", libc.setsockopt(listener, level, option, on, 4));
    set(SOL_SOCKET, SO_REUSEADDR);
    set(IPPROTO_TCP, TCP_NODELAY); // Accepted sockets inherit it.
  }
  const address = formatAddress({ hostname, port });
  check(`bind ${address}`, libc.bind(listener, name, name.length));
  if (!udp) check("listen", libc.listen(listener, 4096));
  const length = new Uint32Array([name.length]);
  check("getsockname", libc.getsockname(listener, name, length));
  const bound = view.getUint16(2);

  // An epoll is a set of descriptors, each with the events that we ask for.
  const epoll = check("epoll_create1", libc.epoll_create1(SOCK_CLOEXEC));
  open.defer(() => libc.close(epoll));
  const event = new Int32Array(EVENT);
  const watch = (how: number, fd: number, events: number) => {
    event[0] = events;
    event[DATA] = fd; // It comes back with the event.
    check("epoll_ctl", libc.epoll_ctl(epoll, how, fd, event));
  };
  watch(EPOLL_CTL_ADD, listener, EPOLLIN);
  onListen({ hostname, port: bound, transport: udp ? "udp" : "tcp" });

  const accept = () => {
    const flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    let fd: number;
    while ((fd = libc.accept4(listener, null, null, flags)) >= 0) {
      watch(EPOLL_CTL_ADD, fd, EPOLLIN);
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
  const hangUp = (fd: number) => {
    unsent.delete(fd);
    libc.close(fd); // This takes it out of the epoll.
  };
  const read = (fd: number) => {
    const count = libc.recv(fd, buffer, buffer.length, 0);
    if (count > 0) write(fd, buffer, count);
    else if (count === 0 || errno[0] !== EAGAIN) hangUp(fd);
  };
  const write = (fd: number, data: Uint8Array<ArrayBuffer>, size: number) => {
    const count = libc.send(fd, data, size, MSG_NOSIGNAL);
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
  const welcome = udp ? datagramEcho(libc, listener, bound) : accept;

  const events = new Int32Array(EVENTS * EVENT);
  const serve = (count: number) => {
    for (let i = 0; i < count; i++) {
      const fd = events[i * EVENT + DATA]!;
      const rest = unsent.get(fd);
      if (fd === listener) welcome();
      else if (rest === undefined) read(fd);
      else write(fd, rest, rest.length);
    }
  };
  for (;;) {
    // This blocks the thread, and with it all else that Deno does.
    const end = performance.now() + TURN;
    let count: number;
    do {
      count = libc.epoll_wait(epoll, events, EVENTS, TURN);
      serve(count);
    } while (count > 0 && performance.now() < end);
    // Now Deno has its turn, and another thread waits. When there is much to
    // do, it does not wait at all. Otherwise it waits until a client sends
    // something.
    const timeout = count > 0 ? 0 : -1;
    serve(await libc.epoll_wait_aside(epoll, events, EVENTS, timeout));
  }
}

/** Returns a function that echoes the datagrams which have arrived. */
function datagramEcho(libc: Libc, socket: number, bound: number): () => void {
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
  return () => {
    const count = libc.recvmmsg(socket, memory, BATCH, MSG_DONTWAIT, null);
    for (let i = 0; i < count; i++) {
      setLength(i, view.getUint32(i * 64 + 56, true)); // msg_len
      // A forged sender may have this server's port. The echo would come back
      // here for ever (lesson 06). Port 0 stops it: nothing can be sent there.
      const port = names + i * 16 + 2;
      if (view.getUint16(port) === bound) view.setUint16(port, 0);
    }
    for (let done = 0; done < count;) {
      const rest = new Uint8Array(memory, done * 64);
      const sent = libc.sendmmsg(socket, rest, count - done, 0);
      done += Math.max(sent, 1); // One that cannot be sent is lost.
    }
    for (let i = 0; i < count; i++) setLength(i, LARGEST);
  };
}

/** Puts the same load on this server and on lesson 12's, one after the other. */
export async function demo({
  hostname = "127.0.0.1",
  port = 0,
  clients = 100,
  duration = 1000,
  print = console.log as (line: string) => unknown,
} = {}): Promise<void> {
  const load = { hostname, clients };
  const measure = async (url: string, flag: string) => {
    const args = ["run", flag, url, "server", "--child"];
    args.push(`--host=${hostname}`, `--port=${port}`);
    // The start of a server takes time too. Only the rest is for messages.
    const short = await serveLoad({ ...load, messages: 1 }, "deno", args);
    const long = await serveLoad({ ...load, duration }, "deno", args);
    const messages = long.report.messages - short.report.messages;
    const cost = (long.cpuTime - short.cpuTime) / messages;
    const calls = await countCalls(load, args);
    const rate = Math.round(long.report.rate);
    // The cost of a few messages is lost in that of the start.
    return [rate, messages > 1000 ? cost.toFixed(1) : "-", calls];
  };
  const other = "12_concurrent_echo";
  const { href } = new URL(`${other}.ts`, import.meta.url);
  await print("The same load on both, one after the other:");
  const rows = [
    ["16_epoll", ...await measure(import.meta.url, "--allow-ffi")],
    [
      other,
      ...await measure(href, "--allow-net").catch((error: Error) => {
        // A copy of this lesson has no lesson 12 beside it, or a copy with
        // functions only, which ends at once.
        if (!/^Module not found|ended with 0$/.test(error.message)) throw error;
        return ["not measured", "", error.message];
      }),
    ],
  ];
  const head = ["server", "messages/s", "us of CPU", "calls for a message"];
  await print(formatTable(head, rows));
}

/** Runs a server for as long as the load takes. */
async function serveLoad(load: LoadOptions, program: string, args: string[]) {
  const before = cpuTimeOfChildren();
  const { stdin, stdout, stderr, status } = spawnChild(program, args, "piped");
  const errors = new Response(stderr).text();
  const { value: ready } = await textLines(stdout).next();
  if (ready === undefined) {
    const [why = ""] = (await errors).split("\n");
    const { code } = await status;
    throw new Error(
      why.replace(/^\w+: /, "") || `the server has ended with ${code}`,
    );
  }
  const port = Number(ready.split(":").at(-1));
  const report = await putLoad({ ...load, port });
  if (report.error !== undefined) throw report.error;
  await stdin.close(); // This ends a server with --child.
  const { code } = await status;
  if (code !== 0) throw new Error(`the server has ended with ${code}`);
  const cpuTime = cpuTimeOfChildren() - before;
  return { report, cpuTime, errors: await errors };
}

/** How long child processes that have ended ran on a core, in microseconds. */
function cpuTimeOfChildren(): number {
  const CALL = { getrusage: int("i32", "buffer") };
  const library = Deno.dlopen("libc.so.6", CALL);
  // A struct rusage begins with two times, each in seconds and microseconds.
  const usage = new BigInt64Array(18);
  library.symbols.getrusage(RUSAGE_CHILDREN, usage);
  library.close();
  const time = (i: number) => usage[i]! * 1_000_000n + usage[i + 1]!;
  return Number(time(0) + time(2));
}

/** Lets strace(1) count, and divides by the number of messages. */
async function countCalls(load: LoadOptions, args: string[]) {
  const options = ["-fce", "trace=/^(recv|send|epoll_p?wait)", "deno", ...args];
  try {
    const { report, errors } = await serveLoad(
      { ...load, messages: 20 },
      "strace",
      options,
    );
    const lines = errors.matchAll(/^(?: *[\d.]+){3} +(\d\d+).* (\w+)$/gm);
    return Array.from(
      lines,
      ([, count, name]) =>
        `${name} ${(Number(count) / report.messages).toFixed(2)}`,
    ).join(", ");
  } catch (error) {
    return `(${describeError(error)})`;
  }
}

if (import.meta.main) {
  const title = "The event loop itself: epoll, in C's own calls";

  await runLesson(import.meta.url, title, {
    demo: {
      help: "the same load on this server and on lesson 12's",
      flags: ["--allow-net", "--allow-ffi", "--allow-run=deno,strace"],
      options: {
        ...common.demo,
        clients: {
          default: 100,
          min: 1,
          max: 10_000,
          help: "how many at once",
        },
        duration: {
          default: 1000,
          min: 1,
          max: 2 ** 31 - 1,
          help: "ms of the load on each",
        },
      },
      run: demo,
    },
    server: {
      help: "echoes what clients send, all at once",
      flags: ["--allow-ffi"],
      options: {
        ...common.server,
        udp: { default: false, help: "datagrams, many in one system call" },
      },
      run: server,
    },
  });
}
