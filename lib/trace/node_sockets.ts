/**
 * Watches the sockets of Node's modules: `node:net`, `node:tls`, `node:dgram`, and
 * the requests of `node:http`. Nearly all packages of npm stand on these, and none
 * on `Deno.connect`.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import { NOWHERE, type Place } from "./call_site.ts";
import {
  type Begun,
  byEventLoop,
  type Call,
  type Outcome,
  type Recorder,
  safely,
  type SocketInfo,
} from "./recorder.ts";
import { type Any, prototypeWith, replace, watchedBy } from "./replace.ts";

/** What came of a call whose socket was closed meanwhile. */
const UNDONE = ": closed before it was done";

/** Watches them from now on. */
export function watchNodeSockets(recorder: Recorder): void {
  const { process } = globalThis as Any;
  const sockets = new NodeSockets(recorder);
  const { Socket, Server } = process.getBuiltinModule("node:net");
  const { Socket: Datagrams } = process.getBuiltinModule("node:dgram");
  watchNodeConnect(sockets, Socket.prototype);
  watchNodeReads(sockets, Socket.prototype);
  watchNodeWrites(sockets, Socket.prototype);
  watchNodeServer(sockets, Server.prototype);
  watchNodeDatagrams(sockets, Datagrams.prototype);
  watchNodeHttp(
    sockets,
    process.getBuiltinModule("node:diagnostics_channel"),
  );
}

/**
 * Does something before a method, which may change its arguments, and after it, if it
 * has not thrown. Node's methods return at once, and what comes of them is an event,
 * or is told to a callback.
 */
function around<T>(
  prototype: Any,
  key: string,
  before: (self: Any, args: Any[], above: unknown) => T,
  after?: (self: Any, found: T | undefined) => void,
): void {
  replace(
    prototype,
    key,
    (original) =>
      watchedBy<{ self: Any; found: T | undefined }>(original, {
        before(self, args, above) {
          let found: T | undefined;
          safely(() => found = before(self, args, above));
          return { self, found };
        },
        after({ self, found }, result) {
          if (after) safely(() => after(self, found));
          return result;
        },
      }),
  );
}

/** What is known of them beside their numbers. */
class NodeSockets {
  readonly recorder: Recorder;
  /** Connects, binds and listens that have no answer yet. */
  #opening = new WeakMap<object, Begun>();
  /** Reads and accepts that wait: a socket of Node's always reads. */
  #waiting = new WeakMap<object, Begun>();
  /** What ends with its socket at the latest: requests, and their answers. */
  #served = new WeakMap<object, Set<Begun>>();
  /** TLS whose handshake is done. */
  #secure = new WeakSet<object>();
  /** Those whose close was told: TLS and the socket it stands on share one. */
  #closed = new WeakSet<SocketInfo>();
  /** Errors that were told, and that come again as an event. */
  #told = new WeakSet<object>();

  constructor(recorder: Recorder) {
    this.recorder = recorder;
  }

  /** A call begins; one that is stepped through waits here. */
  begin(call: Call, above: unknown): Begun {
    const begun = this.recorder.begin(call, above);
    // A package may stand on others: a socket is of the one that has opened it.
    const { place } = begun;
    const by = place.package && call.socket?.place.package;
    if (by) begun.place = { ...place, package: by };
    this.recorder.gate?.passSync(begun);
    return begun;
  }

  /** A socket begins to connect, to listen, or to be bound. */
  opens(socket: object, call: Call, above: unknown): void {
    this.#opening.set(socket, this.begin(call, above));
  }

  /** The call that has not opened it yet. */
  opening(socket: object): Begun | undefined {
    return this.#opening.get(socket);
  }

  /** A listener, or a socket for datagrams, is there. */
  bound(socket: Any): void {
    const begun = this.#opening.get(socket);
    if (begun === undefined) return;
    this.#opening.delete(socket);
    this.recorder.end(begun, () => {
      const address = socket.address(); // The path of a Unix socket is a string.
      const own = nodeAddress(address?.address ?? address, address?.port);
      const { place } = begun;
      return {
        target: own,
        opened: this.recorder.open(socket, { own, place }),
      };
    });
  }

  /** A connection is there. */
  connected(socket: Any, { place, target, socket: listener }: Begun): Outcome {
    const { localAddress, localPort, remoteAddress, remotePort } = socket;
    // A Unix socket says nothing of its path.
    const own = localAddress === undefined
      ? listener?.own ?? "unix"
      : nodeAddress(localAddress, localPort);
    const peer = remoteAddress === undefined
      ? target ?? "unix"
      : nodeAddress(remoteAddress, remotePort);
    const opened = this.recorder.open(socket, { own, peer, place });
    return { target: peer, opened };
  }

  /** It is connected. */
  answered(socket: Any, begun: Begun): void {
    this.#opening.delete(socket);
    this.recorder.end(begun, () => this.connected(socket, begun));
    this.waitForRead(socket);
  }

  /** From now on it reads, unless it is paused: then it does when `_read` says so. */
  waitForRead(socket: Any): void {
    if (socket.isPaused()) return;
    const isSecure = !socket.encrypted || this.#secure.has(socket);
    this.wait(socket, isSecure ? "read" : "handshake");
  }

  /** The handshake of TLS is done. */
  secured(socket: object): void {
    const info = this.info(socket);
    if (info === undefined) return;
    const begun = this.waited(socket) ?? byEventLoop(info, "handshake");
    this.#secure.add(socket);
    this.recorder.end({ ...begun, name: "handshake" }, () => ({}));
    this.waitForRead(socket);
  }

  /** A server has something to do for a client, which waits. */
  serves(socket: object, begun: Begun): void {
    const all = this.#served.get(socket) ?? new Set();
    this.#served.set(socket, all.add(begun));
    this.recorder.wait(begun);
  }

  /** It is done, if it was not before. */
  served(socket: object, begun: Begun, result: string, bytes = 0): void {
    if (!this.#served.get(socket)?.delete(begun)) return;
    this.recorder.end(begun, () => ({ result, bytes }));
  }

  /** Something has failed, as an event says, or the end that follows. */
  failed(socket: Any, error: Any): void {
    const begun = this.#opening.get(socket);
    const info = this.recorder.info(socket);
    this.#opening.delete(socket);
    if (!begun && !info || this.#told.has(Object(error))) return;
    this.#told.add(Object(error));
    if (begun) return this.recorder.fail(begun, error);
    let failing = this.#waiting.get(socket);
    const isHandshake = failing?.name === "handshake";
    const name: string = isHandshake ? "handshake" : error?.syscall ?? "error";
    if (failing?.name === name) this.waited(socket);
    else failing = byEventLoop(info, name);
    this.recorder.fail(failing, error);
  }

  /** It was closed before it was open. */
  givenUp(socket: object): void {
    const begun = this.#opening.get(socket);
    this.#opening.delete(socket);
    if (begun) this.recorder.end(begun, () => ({ result: UNDONE }));
  }

  /** A callback that tells first what came of a call. */
  calling(
    begun: Begun,
    done: Any,
    outcome: () => Outcome,
    isDone = () => true,
  ): Any {
    const tell = (error: unknown) => {
      if (error) {
        this.#told.add(Object(error));
        this.recorder.fail(begun, error);
      } else if (isDone()) this.recorder.end(begun, outcome);
      else this.recorder.forget(begun);
    };
    return function (this: Any, ...args: Any[]) {
      tell(args[0]);
      return done.apply(this, args);
    };
  }

  /** From now on it reads, or accepts, until something comes. */
  wait(socket: object, name: string): void {
    const info = this.recorder.info(socket);
    if (info === undefined || this.#waiting.has(socket)) return;
    const begun = byEventLoop(info, name);
    this.#waiting.set(socket, begun);
    this.recorder.wait(begun);
  }

  /** What it has waited for is there. */
  waited(socket: object): Begun | undefined {
    const begun = this.#waiting.get(socket);
    this.#waiting.delete(socket);
    if (begun) this.recorder.forget(begun);
    return begun;
  }

  /** Says whether it was open. */
  close(socket: object): boolean {
    const info = this.recorder.info(socket);
    this.waited(socket);
    for (const begun of this.#served.get(socket) ?? []) {
      this.served(socket, begun, UNDONE);
    }
    if (info === undefined) return false;
    const wasOpen = this.recorder.close(socket) && !this.#closed.has(info);
    this.#closed.add(info);
    return wasOpen;
  }

  /** What is known of a socket; TLS has the number of the one it stands on. */
  info(socket: Any): SocketInfo | undefined {
    const known = this.recorder.info(socket);
    const { _parent } = socket;
    if (known !== undefined || !socket.encrypted || !_parent) return known;
    const as = this.recorder.info(_parent);
    if (as) this.waited(_parent); // From now on TLS reads.
    return as && this.recorder.open(socket, as, as);
  }
}

/** `connect`, which is told when it has an answer. */
function watchNodeConnect(sockets: NodeSockets, prototype: Any): void {
  const { recorder } = sockets;
  around(prototype, "connect", (self, args, above) => {
    const name = "socket, connect";
    const call = { name, target: targetOf(args), isSending: true };
    sockets.opens(self, call, above);
  }, (self) => {
    const begun = sockets.opening(self);
    if (begun) recorder.wait(begun);
  });
  around(prototype, "emit", (self, [event, error]) => {
    const begun = event === "connect" && sockets.opening(self);
    if (begun) sockets.answered(self, begun);
    if (event === "secure") sockets.secured(self);
    if (event === "error") sockets.failed(self, error);
  });
}

/** `push` gets what was read, and `_read` asks for more. */
function watchNodeReads(sockets: NodeSockets, prototype: Any): void {
  const { recorder } = sockets;
  around(prototype, "push", (self, [chunk]) => {
    const socket = sockets.info(self);
    if (socket === undefined) return;
    const begun = sockets.waited(self) ?? byEventLoop(socket, "read");
    recorder.end(begun, () => recorder.readOutcome(chunk));
  });
  around(prototype, "_read", (self) => sockets.waitForRead(self));
}

/** `_writeGeneric`, `_final` and `_destroy`: what all others come to. */
function watchNodeWrites(sockets: NodeSockets, prototype: Any): void {
  const { recorder } = sockets;
  /** Where the program wrote before there was a connection. */
  const wroteAt = new WeakMap<object, Place>();
  /**
   * The first write is shown at the line that opened the socket, if no line of the
   * program is on the stack. A later one then has no line.
   */
  const hasWritten = new WeakSet<object>();
  around(prototype, "_writeGeneric", (self, args, above) => {
    const [isList, data, encoding, done] = args;
    const socket = sockets.info(self);
    if (self.connecting || socket === undefined) {
      // It comes here again when it is connected, and then it is told.
      const place = recorder.place(undefined, above);
      if (place.file !== "") wroteAt.set(self, place);
      return;
    }
    const { package: by } = socket.place;
    const otherwise = wroteAt.get(self) ??
      (hasWritten.has(self) ? { ...NOWHERE, package: by } : socket.place);
    wroteAt.delete(self);
    const chunks = isList ? data : [{ chunk: data, encoding }];
    const bytes = lengthOf(chunks);
    if (bytes === 0) return; // No system call comes of it.
    hasWritten.add(self);
    const call = { name: "write", socket, isSending: true, otherwise };
    const begun = sockets.begin(call, above);
    if (begun.place.file !== "") socket.wroteAt = begun.place;
    const result = ` ${bytes} of ${quoteChunks(recorder, chunks, bytes)}`;
    recorder.wait(begun);
    args[3] = sockets.calling(begun, done, () => ({ result, bytes }));
  });
  around(prototype, "_final", (self, args, above) => {
    const socket = sockets.info(self);
    if (self.connecting || socket === undefined) return;
    const name = "closeWrite";
    const call = { name, socket, isSending: true, otherwise: socket.place };
    const begun = sockets.begin(call, above);
    // What was destroyed meanwhile has had no shutdown().
    const isDone = () => recorder.isOpen(self);
    args[0] = sockets.calling(begun, args[0], () => ({}), isDone);
  });
  const reset = new WeakSet<object>();
  around(prototype, "resetAndDestroy", (self) => reset.add(self));
  around(prototype, "_destroy", (self, [error], above) => {
    const socket = sockets.info(self);
    if (error) sockets.failed(self, error);
    sockets.givenUp(self);
    if (socket === undefined || !sockets.close(self)) return;
    const name = reset.has(self) ? "reset" : "close";
    const call = { name, socket, isSending: true, otherwise: socket.place };
    recorder.end(sockets.begin(call, above), () => ({}));
  });
}

/** `listen`, the connections that it brings, and `close`. */
function watchNodeServer(sockets: NodeSockets, prototype: Any): void {
  const { recorder } = sockets;
  around(prototype, "listen", (self, args, above) => {
    const call = { name: "socket, bind, listen", target: targetOf(args) };
    sockets.opens(self, call, above);
  });
  around(prototype, "emit", (self, [event, about]) => {
    if (event === "error") sockets.failed(self, about);
    if (event === "listening") {
      sockets.bound(self);
      sockets.wait(self, "accept");
    }
    const listener = event === "connection" && recorder.info(self);
    if (listener) {
      const begun = sockets.waited(self) ?? byEventLoop(listener, "accept");
      recorder.end(begun, () => sockets.connected(about, begun));
      sockets.waitForRead(about);
      sockets.wait(self, "accept");
    }
    if (event === "upgrade" || event === "connect") {
      const { method, url: target, socket } = about; // A request of node:http.
      const begun = { ...byEventLoop(sockets.info(socket), method), target };
      recorder.end(begun, () => ({ result: `: ${event}` }));
    }
  });
  watchNodeClose(sockets, prototype, "close listener");
}

/** `close` of what is not a connection. */
function watchNodeClose(
  sockets: NodeSockets,
  prototype: Any,
  name: string,
): void {
  around(prototype, "close", (self, _args, above) => {
    const socket = sockets.recorder.info(self);
    if (!sockets.close(self)) return;
    const begun = sockets.begin({ name, socket }, above);
    sockets.recorder.end(begun, () => ({}));
  });
}

/** `bind`, which comes by itself with the first `send`, and the datagrams. */
function watchNodeDatagrams(sockets: NodeSockets, prototype: Any): void {
  const { recorder } = sockets;
  /** Where the program sent before the socket was bound. */
  const sentAt = new WeakMap<object, Place>();
  const bind = (self: Any, above: unknown) => {
    if (recorder.info(self) || sockets.opening(self)) return;
    sockets.opens(self, { name: "socket, bind" }, above);
  };
  around(prototype, "bind", (self, _args, above) => bind(self, above));
  /** The last connect() of each. Where it is connected, it sends there. */
  const connects = new WeakMap<object, Begun>();
  around(prototype, "connect", (self, [port, address], above) => {
    bind(self, above);
    const host = typeof address === "string" ? address : loopbackOf(self);
    const call = { name: "connect", target: nodeAddress(host, port) };
    connects.set(self, sockets.begin(call, above));
  });
  around(prototype, "send", (self, args, above) => {
    bind(self, above);
    const socket = recorder.info(self);
    if (socket === undefined) {
      // It comes here again when it is bound, and then it is told.
      const place = recorder.place(undefined, above);
      if (place.file !== "") sentAt.set(self, place);
      return undefined;
    }
    const otherwise = sentAt.get(self) ?? socket.place;
    sentAt.delete(self);
    const { data, target = connects.get(self)?.target } = sendOf(
      args,
      loopbackOf(self),
    );
    const bytes = data.length;
    const offered = recorder.quote(data);
    const call = { name: "sendto", target, socket, isSending: true, otherwise };
    const begun = sockets.begin(call, above);
    const done = args.at(-1);
    if (typeof done !== "function") {
      return () =>
        recorder.end(begun, () => ({ result: ` ${offered}`, bytes }));
    }
    const result = ` ${bytes} of ${offered}`;
    args[args.length - 1] = sockets.calling(begun, done, () => ({
      result,
      bytes,
    }));
    return undefined;
  }, (_self, tell) => tell?.());
  around(prototype, "emit", (self, [event, about, from]) => {
    if (event === "listening") {
      sockets.bound(self);
      sockets.wait(self, "recvfrom");
    }
    const begun = event === "connect" && connects.get(self);
    if (begun) {
      const socket = recorder.info(self);
      recorder.end({ ...begun, socket }, () => ({}));
    }
    if (event === "error") sockets.failed(self, about);
    const socket = event === "message" && recorder.info(self);
    if (socket) {
      const begun = sockets.waited(self) ?? byEventLoop(socket, "recvfrom");
      recorder.end(begun, () => ({
        target: nodeAddress(from.address, from.port),
        result: ` ${recorder.quote(about)}`,
        bytes: about.length,
      }));
      sockets.wait(self, "recvfrom");
    }
  });
  watchNodeClose(sockets, prototype, "close");
}

/** The requests of a server, whose bytes its parser takes from the kernel. */
function watchNodeHttp(sockets: NodeSockets, channels: Any): void {
  const { recorder } = sockets;
  const requests = new WeakMap<object, Begun>();
  /** Answers that are under way, by the sockets that they go to. */
  const answers = new WeakMap<object, (() => void)>();
  const bytesRead = new WeakMap<object, number>();
  const socketOf = new WeakMap<object, object>();
  /** A short answer is not written by the socket, but by what that stands on. */
  const watchHandle = (socket: Any) => {
    const handle = socket._handle;
    const prototype = prototypeWith(handle, "writeUtf8String");
    socketOf.set(handle, socket);
    if (prototype === null || recorder.watched.has(prototype)) return;
    recorder.watched.add(prototype);
    for (
      const [key, encoding] of Object.entries({
        writeUtf8String: "utf8",
        writeLatin1String: "latin1",
      })
    ) {
      around(prototype, key, (self, [request, chunk], above) => {
        const to = socketOf.get(self);
        if (to === undefined || "handle" in request) return; // It was told.
        const call = {
          name: "write",
          socket: sockets.info(to),
          isSending: true,
        };
        const begun = sockets.begin(call, above);
        const chunks = [{ chunk, encoding }];
        const bytes = lengthOf(chunks);
        const result = ` ${bytes} of ${quoteChunks(recorder, chunks, bytes)}`;
        answers.set(to, () => sockets.served(to, begun, result, bytes));
        sockets.serves(to, begun);
      });
    }
  };
  const on = (event: string, tell: (about: Any) => void) =>
    channels.subscribe(event, (about: Any) => safely(() => tell(about)));
  on("http.server.request.start", ({ request, socket }) => {
    sockets.waited(socket); // It reads requests, and does not wait for bytes.
    safely(() => watchHandle(socket));
    const info = sockets.info(socket);
    const target = request.url;
    const begun = { ...byEventLoop(info, request.method), target };
    requests.set(request, begun);
    sockets.serves(socket, begun);
  });
  on("http.server.response.finish", ({ request, response, socket }) => {
    answers.get(socket)?.();
    const before = bytesRead.get(socket) ?? 0;
    bytesRead.set(socket, socket.bytesRead);
    const begun = requests.get(request);
    const read = socket.bytesRead - before;
    if (begun) {
      sockets.served(socket, begun, `: ${response.statusCode}`, read);
    }
    sockets.waitForRead(socket);
  });
}

/** What `connect` or `listen` was given: options, a port and a host, or a path. */
function targetOf(args: Any[]): string {
  const [first, host] = Array.isArray(args[0]) ? args[0] : args;
  if (typeof first === "object" && first !== null) {
    const { path, port, host } = first;
    return path ?? nodeAddress(host ?? "localhost", port);
  }
  if (typeof first === "string" && !/^\d+$/.test(first)) return first;
  return nodeAddress(typeof host === "string" ? host : "localhost", first);
}

function nodeAddress(hostname: Any, port: Any): string {
  if (hostname === undefined || hostname === null) return "unix";
  return port === undefined
    ? String(hostname)
    : formatAddress({ hostname: String(hostname), port });
}

/** A chunk that is written, which may be a string. */
interface Chunk {
  chunk: Any;
  encoding?: string;
}

// Not the global one: it is made when it is asked for, and then microtasks run.
const { Buffer } = (globalThis as Any).process.getBuiltinModule("node:buffer");

/** The bytes of a chunk, or at least the first ones if it is long. */
function bytesOf({ chunk, encoding = "utf8" }: Chunk, most = Infinity) {
  if (typeof chunk !== "string") {
    const length = Math.min(chunk.byteLength, most);
    return Buffer.from(chunk.buffer, chunk.byteOffset, length);
  }
  const isShort = /^(hex|base64)/i.test(encoding); // Fewer bytes than characters.
  return Buffer.from(
    isShort ? chunk : chunk.slice(0, most),
    encoding === "buffer" ? "utf8" : encoding,
  );
}

function lengthOf(chunks: Chunk[]): number {
  return chunks.reduce(
    (sum, { chunk, encoding }) => sum + Buffer.byteLength(chunk, encoding),
    0,
  );
}

/** The first bytes of some chunks, and how many all of them have. */
function quoteChunks(
  recorder: Recorder,
  chunks: Chunk[],
  length: number,
): string {
  const most = recorder.mostShown + 8; // A number may stand before them.
  const first: Uint8Array[] = [];
  for (let i = 0, sum = 0; i < chunks.length && sum < most; i++) {
    const bytes = bytesOf(chunks[i]!, most);
    first.push(bytes);
    sum += bytes.length;
  }
  return recorder.quote(Buffer.concat(first), length);
}

/** Where a socket sends that is given no host. */
const loopbackOf = ({ type }: Any) => type === "udp6" ? "::1" : "127.0.0.1";

/** What `send` was given: data, perhaps a part of it, and where it goes. */
function sendOf(
  args: Any[],
  loopback: string,
): { data: Uint8Array; target?: string } {
  const [message, ...rest] = args.filter((it) => typeof it !== "function");
  const list = Array.isArray(message) ? message : [message];
  const all = Buffer.concat(list.map((chunk: Any) => bytesOf({ chunk })));
  const numbers = rest.findIndex((it) => typeof it !== "number");
  const count = numbers === -1 ? rest.length : numbers;
  // (offset, length, port), (offset, length) of a connected socket, or (port).
  const [offset, length] = count >= 2 ? rest : [0, all.length];
  const port = count === 2 ? undefined : rest[count >= 2 ? 2 : 0];
  const host = rest[count];
  const data = all.subarray(offset, offset + length);
  if (port === undefined) return { data };
  return { data, target: nodeAddress(host ?? loopback, port) };
}
