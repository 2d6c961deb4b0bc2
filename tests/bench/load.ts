/**
 * A load generator, as a process of its own. It calls the kernel through libc,
 * and so costs less than the servers; a client on Deno's own sockets would cost
 * more than what it is to measure. One load at a time, as it blocks.
 *
 * For each line of standard input, a {@linkcode Load} in JSON, it connects, prints
 * `connected`, waits for another line, makes that load, and prints a
 * {@linkcode LoadResult}. It ends with its input.
 *
 * @module
 */

import { textLines } from "../../lib/harness/text_lines.ts";
import {
  type LibcSocket,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../../lib/lab/libc_socket.ts";

/** What load to make. */
export interface Load {
  /** The server's port on 127.0.0.1. */
  port: number;
  /** Datagrams. */
  udp?: boolean;
  /** How many connections, or sockets for datagrams. */
  connections: number;
  /** Bytes of each message. */
  size: number;
  /** Does not wait for an echo before it sends the next message. */
  stream?: boolean;
  /** How long nothing is counted, in milliseconds. */
  warmUp: number;
  /** For how long it is, in milliseconds. With 0 the connections stay, idle. */
  duration: number;
}

/** What came of it. */
export interface LoadResult {
  /** How long it was counted, in milliseconds. */
  elapsed: number;
  /** How many messages came back on each connection while it was. */
  messages: number[];
  /** How many came back in all. */
  total: number;
}

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_MOD = 3;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EAGAIN = 11;
/** How long nothing may come back, in milliseconds. */
const SILENCE = 2000;

/** `struct epoll_event`: 32 bits of events, 64 of data; packed on x86_64 only. */
const EVENT = Deno.build.arch === "x86_64"
  ? { size: 12, data: 4 }
  : { size: 16, data: 8 };

const { symbols } = Deno.dlopen("libc.so.6", {
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
  // Not usize and isize, which would cost more: lesson 16.
  recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
});
const errno = new Int32Array(
  Deno.UnsafePointerView.getArrayBuffer(symbols.__errno_location()!, 4),
);
const libc = openLibc();

/** The result of a call, or -1 where it would have to wait. */
function check(call: string, result: number): number {
  if (result >= 0) return result;
  if (errno[0] === EAGAIN) return -1;
  throw new Error(`${call}: errno ${errno[0]}`);
}

async function makeLoad(
  load: Load,
  sockets: LibcSocket[],
  isTime: () => Promise<unknown>,
): Promise<LoadResult> {
  const { port, udp, connections, size, stream, warmUp, duration } = load;
  const message = new Uint8Array(size).fill(0x61);
  const buffer = new Uint8Array(Math.max(256 * 1024, size));
  const unsent = new Int32Array(connections);
  const unread = new Int32Array(connections);
  const isBlocked = new Uint8Array(connections);
  const messages = new Array<number>(connections).fill(0);
  let total = 0;

  const epoll = check("epoll_create1", symbols.epoll_create1(0));
  const event = new Uint8Array(EVENT.size);
  const watch = (how: number, id: number, events: number) => {
    const view = new DataView(event.buffer);
    view.setUint32(0, events, true);
    view.setUint32(EVENT.data, id, true);
    check("epoll_ctl", symbols.epoll_ctl(epoll, how, sockets[id].fd, event));
  };

  /** Sends what is left of a message, as far as it is taken. */
  const send = (id: number) => {
    while (unsent[id] > 0) {
      const rest = message.subarray(size - unsent[id]);
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      const sent = check(
        "send",
        symbols.send(sockets[id].fd, rest, rest.length, flags),
      );
      if (sent < 0) {
        if (!isBlocked[id]) watch(EPOLL_CTL_MOD, id, EPOLLIN | EPOLLOUT);
        isBlocked[id] = 1;
        return;
      }
      unsent[id] -= sent;
      if (stream && unsent[id] === 0) unsent[id] = size;
    }
    if (isBlocked[id]) watch(EPOLL_CTL_MOD, id, EPOLLIN);
    isBlocked[id] = 0;
  };

  const begin = (id: number) => {
    unsent[id] = unread[id] = size;
    send(id);
  };

  /** Takes what has come; behind a whole echo it sends the next message. */
  const receive = (id: number) => {
    const count = check(
      "recv",
      symbols.recv(sockets[id].fd, buffer, buffer.length, MSG_DONTWAIT),
    );
    if (count < 0) return;
    if (count === 0) throw new Error("the server has closed a connection");
    unread[id] -= count;
    for (; unread[id] <= 0; unread[id] += size) {
      messages[id]++;
      total++;
      if (!stream) return begin(id);
    }
  };

  for (let id = 0; id < connections; id++) {
    const socket = libc.socket(udp ? SOCK_DGRAM : SOCK_STREAM);
    sockets.push(socket);
    socket.connect({ hostname: "127.0.0.1", port });
    // One byte, and its echo: now it has been accepted, which does not count.
    check("send", symbols.send(socket.fd, message, 1, MSG_NOSIGNAL));
    check("recv", symbols.recv(socket.fd, buffer, 1, 0));
    watch(EPOLL_CTL_ADD, id, EPOLLIN);
  }

  console.log("connected");
  if (duration === 0) {
    symbols.close(epoll);
    return { elapsed: 0, messages, total };
  }
  await isTime();

  const events = new Uint8Array(EVENT.size * 256);
  const view = new DataView(events.buffer);
  let start = performance.now() + warmUp;
  let now = start;
  let uncounted = 0;
  for (let id = 0; id < connections; id++) begin(id);
  // There is always something to count, however slow the server is.
  const isOver = () => now - start >= duration && total > uncounted;
  let isWarm = false;
  for (; !isWarm || !isOver(); now = performance.now()) {
    if (!isWarm && now >= start) {
      isWarm = true;
      start = now;
      uncounted = total;
      messages.fill(0);
    }
    const count = check(
      "epoll_wait",
      symbols.epoll_wait(epoll, events, 256, SILENCE),
    );
    if (count === 0) throw new Error(`no echo for ${SILENCE} ms`);
    for (let i = 0; i < count; i++) {
      const ready = view.getUint32(i * EVENT.size, true);
      const id = view.getUint32(i * EVENT.size + EVENT.data, true);
      if (ready & EPOLLOUT) send(id);
      if (ready & ~EPOLLOUT) receive(id);
    }
  }
  symbols.close(epoll);
  return { elapsed: now - start, messages, total };
}

let sockets: LibcSocket[] = [];
const lines = textLines(Deno.stdin.readable);
for await (const line of lines) {
  for (const socket of sockets) socket.close(); // Those of the load before.
  sockets = [];
  const load: Load = JSON.parse(line);
  try {
    const result = await makeLoad(load, sockets, () => lines.next());
    console.log(JSON.stringify(result));
  } catch (error) {
    console.error(`load: ${(error as Error).message}`);
    Deno.exit(1);
  }
  if (load.duration === 0) continue;
  for (const socket of sockets) socket.close();
  sockets = [];
}
Deno.exit();
