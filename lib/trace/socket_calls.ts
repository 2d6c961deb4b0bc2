/**
 * Watches what a program does with Deno's sockets. The program itself is not
 * changed: `Deno.listen`, `connect` and the like, and the methods of what they
 * return, are replaced by ones that do the same and say so.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import type { Place } from "./call_site.ts";
import { watchStreams } from "./conn_streams.ts";
import {
  Recorder,
  type RecorderOptions,
  type Report,
  type SocketInfo,
} from "./recorder.ts";
import { type Any, prototypeWith, watchCall, watchSync } from "./replace.ts";

type Conn = Deno.Conn<Deno.Addr>;

/** Where `connect` and `send` go if no host is given. */
const LOOPBACK_HOST = "127.0.0.1";

/**
 * Watches all socket calls of this process from now on. The program behaves as
 * before: its results and errors are the same. Nothing here throws into the
 * program. But a getter of its own, in an address say, may be asked once more.
 * And what ends in the same turn of the event loop may end in another order.
 *
 * @param report Is told each call, before the program has its result.
 * @returns What knows the numbers of sockets, and the calls that wait.
 *
 * @example
 * ```ts no-assert
 * watchSocketCalls(({ name, target }) => console.error(name, target));
 * Deno.listen({ port: 0 }).close(); // socket, bind, listen 0.0.0.0:41257
 * ```
 */
export function watchSocketCalls(
  report: Report,
  options?: RecorderOptions,
): Recorder {
  const recorder = new Recorder(report, options);
  watchListens(recorder);
  watchConnects(recorder);
  return recorder;
}

/** Once for each, even if the program puts its own methods over ours. */
function watchOnce(
  { watched }: Recorder,
  object: object,
  key: string,
  watch: (prototype: Any) => void,
): void {
  const prototype = prototypeWith(object, key);
  if (prototype === null || watched.has(prototype)) return;
  watched.add(prototype);
  watch(prototype);
}

/** Watches the functions that open a socket at once. */
function watchListens(recorder: Recorder): void {
  const kinds = {
    listen: ["socket, bind, listen", watchListener],
    listenTls: ["socket, bind, listen (TLS)", watchListener],
    listenDatagram: ["socket, bind", watchDatagrams],
  } as const;
  for (const [key, [name, watch]] of Object.entries(kinds)) {
    watchSync<Any>(recorder, Deno, key, (_, [options]) => ({
      name,
      target: addressOf(options),
      done(socket, { place }) {
        watch(recorder, socket);
        const own = addressOf(socket.addr);
        return { target: own, opened: recorder.open(socket, { own, place }) };
      },
    }));
  }
}

/** Watches the functions that resolve to a connection. */
function watchConnects(recorder: Recorder): void {
  for (const key of ["connect", "connectTls"]) {
    watchCall<Conn>(recorder, Deno, key, (_, [options]) => ({
      name: `socket, connect${key === "connect" ? "" : " (TLS)"}`,
      target: addressOf(options, LOOPBACK_HOST),
      isSending: true,
      done(conn, { place }) {
        const opened = openConn(recorder, conn, place);
        return { target: opened.peer, opened };
      },
    }));
  }
  watchCall<Conn>(recorder, Deno, "startTls", (_, [conn]) => {
    const socket = recorder.info(conn);
    return socket && {
      name: "startTls",
      socket,
      isSending: true,
      done(tls, { place }) {
        recorder.close(conn); // From now on it belongs to the other one.
        openConn(recorder, tls, place, socket);
        return {};
      },
    };
  });
}

function watchListener(recorder: Recorder, listener: Deno.Listener): void {
  watchOnce(recorder, listener, "accept", (prototype) => {
    watchCall<Conn>(recorder, prototype, "accept", (self) => ({
      name: "accept",
      socket: recorder.info(self),
      done(conn, { place }) {
        const opened = openConn(recorder, conn, place);
        return { target: opened.peer, opened };
      },
    }));
    watchClose(recorder, prototype, "close listener", false);
  });
}

/** `close` and the end of a `using`: told if it was open, since it throws else. */
function watchClose(
  recorder: Recorder,
  prototype: Any,
  name: string,
  isSending: boolean,
): void {
  for (const key of ["close", Symbol.dispose]) {
    watchSync(recorder, prototype, key, (self) => {
      if (!recorder.close(self)) return;
      const socket = recorder.info(self);
      return { name, socket, isSending, isQuiet: true, done: () => ({}) };
    });
  }
}

/** A connection is there: it gets a number, and is watched from now on. */
function openConn(
  recorder: Recorder,
  conn: Conn,
  place: Place,
  as?: SocketInfo,
): SocketInfo {
  watchOnce(recorder, conn, "read", (prototype) => {
    watchReadsAndWrites(recorder, prototype);
    watchClose(recorder, prototype, "close", true);
    watchStreams(recorder, prototype);
  });
  watchOnce(recorder, conn, "setNoDelay", (prototype) => { // Only TCP has it.
    for (const name of ["setNoDelay", "setKeepAlive"]) {
      watchSync(recorder, prototype, name, (self, [value]) => ({
        name,
        socket: recorder.info(self),
        isQuiet: true,
        done: () => ({ result: ` ${value === undefined || Boolean(value)}` }),
      }));
    }
  });
  watchOnce(recorder, conn, "handshake", (prototype) => { // Only TLS has it.
    watchCall(recorder, prototype, "handshake", (self) => {
      const socket = recorder.info(self);
      return { name: "handshake", socket, isSending: true, done: () => ({}) };
    });
  });
  const own = addressOf(conn.localAddr);
  const peer = addressOf(conn.remoteAddr);
  return recorder.open(conn, { own, peer, place }, as);
}

function watchReadsAndWrites(recorder: Recorder, prototype: Any): void {
  watchCall<number | null>(recorder, prototype, "read", (self, [buffer]) => {
    const socket = recorder.info(self);
    return socket && {
      name: "read",
      socket,
      done: (count) =>
        count === null
          ? recorder.readOutcome(null)
          : recorder.readOutcome(buffer, count),
    };
  });
  watchCall<number>(recorder, prototype, "write", (self, [data]) => {
    const socket = recorder.info(self);
    const offered = recorder.quote(data); // They may be changed meanwhile.
    return socket && {
      name: "write",
      socket,
      isSending: true,
      done: (bytes) => ({
        result: ` ${bytes} of ${offered}`,
        bytes,
        toPeer: bytes > 0,
      }),
    };
  });
  watchCall(recorder, prototype, "closeWrite", (self) => {
    const socket = recorder.info(self);
    return socket && {
      name: "closeWrite",
      socket,
      isSending: true,
      done: () => ({}),
    };
  });
}

function watchDatagrams(recorder: Recorder, socket: Deno.DatagramConn): void {
  watchOnce(recorder, socket, "receive", (prototype) => {
    /** What was received, to recognize it when it is passed on. */
    const received = new WeakMap<object, number>();
    let datagrams = 0;
    watchCall<[Uint8Array, Any]>(recorder, prototype, "receive", (self) => ({
      name: "recvfrom",
      socket: recorder.info(self),
      isExpected: () => !recorder.isOpen(self), // Its own close() ends it.
      done([data, from]) {
        received.set(data, ++datagrams);
        return {
          target: addressOf(from),
          result: ` ${recorder.quote(data)}`,
          bytes: data.length,
          datagram: { from: from.port, to: self.addr.port, id: datagrams },
        };
      },
    }));
    watchCall<number>(recorder, prototype, "send", (self, [data, to]) => {
      const offered = recorder.quote(data);
      const target = addressOf(to, LOOPBACK_HOST);
      const id = received.get(data);
      const port = Number(target.split(":").at(-1));
      return {
        name: "sendto",
        target,
        socket: recorder.info(self),
        isSending: true,
        done: (bytes) => ({
          result: ` ${bytes} of ${offered}`,
          bytes,
          datagram: { from: self.addr.port, to: port, id },
        }),
      };
    });
    watchSync(recorder, prototype, "close", (self) => {
      const socket = recorder.info(self);
      recorder.close(self);
      return { name: "close", socket, isQuiet: true, done: () => ({}) };
    });
  });
}

/** Any kind of address of Deno's, in one word. */
function addressOf(address: unknown, host = "0.0.0.0"): string {
  try {
    const { path, cid, hostname = host, port } = Object(address);
    if (path !== undefined) return path ?? "unix";
    if (cid !== undefined) return `${cid}:${port}`;
    return formatAddress({ hostname: String(hostname), port });
  } catch { // A getter of the program's has thrown.
    return "?";
  }
}
