/**
 * Watches the sockets of Node's modules: `node:net`, `node:tls`, `node:dgram`, and
 * the requests of `node:http`. Nearly all packages of npm stand on these, and none
 * on `Deno.connect`.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import type { Place } from "./call_site.ts";
import {
  type Begun,
  byEventLoop,
  type Outcome,
  type Recorder,
  type SocketInfo,
} from "./recorder.ts";
import { type Any, replace } from "./replace.ts";

/** Watches them from now on. */
export function watchNodeSockets(recorder: Recorder): void {
  const { process } = globalThis as Any;
  const watcher = new NodeWatcher(recorder);
  const { Socket, Server } = process.getBuiltinModule("node:net");
  watcher.watchConnect(Socket.prototype);
  watcher.watchReads(Socket.prototype);
  watcher.watchWrites(Socket.prototype);
  watcher.watchServer(Server.prototype);
  watcher.watchDatagrams(
    process.getBuiltinModule("node:dgram").Socket.prototype,
  );
  watcher.watchHttp(process.getBuiltinModule("node:diagnostics_channel"));
}

/**
 * What is known of them beside their numbers. Their methods return at once, and
 * what comes of them is an event.
 */
class NodeWatcher {
  #recorder: Recorder;
  /** Connects, binds and listens that have no answer yet. */
  #opening = new WeakMap<object, Begun>();
  /** Reads and accepts that wait: a socket of Node's always reads. */
  #waiting = new WeakMap<object, Begun>();
  /** The sockets that are open, by both addresses: TLS stands on another one. */
  #byAddress = new Map<string, SocketInfo>();
  /** Where the program wrote before there was a connection. */
  #wroteAt = new WeakMap<object, Place>();
  /** Errors of calls that have said so. */
  #told = new WeakSet<object>();
  /** TLS and the socket it stands on are both closed. */
  #closed = new WeakSet<SocketInfo>();

  constructor(recorder: Recorder) {
    this.#recorder = recorder;
  }

  /** `connect`, which is told when it has an answer. */
  watchConnect(prototype: Any): void {
    const recorder = this.#recorder;
    const [opening, wait, told] = [this.#opening, this.#wait, this.#told];
    const opened = (socket: Any, begun: Begun) => this.#opened(socket, begun);
    replace(prototype, "connect", (connect) =>
      function watched(...args) {
        const name = "socket, connect";
        const call = { name, target: targetOf(args), isSending: true };
        const begun = recorder.begin(call, watched);
        recorder.gate?.passSync(begun);
        opening.set(this, begun);
        const result = connect.apply(this, args);
        if (opening.has(this)) recorder.wait(begun);
        return result;
      });
    replace(prototype, "emit", (emit) =>
      function (event, ...args) {
        const begun = opening.get(this);
        if (event === "connect" && begun) {
          opening.delete(this);
          recorder.end(begun, () => opened(this, begun));
          wait(this, "read");
        } else if (event === "error") {
          const socket = recorder.info(this);
          if (begun) {
            opening.delete(this);
            recorder.fail(begun, args[0]);
          } else if (socket && !told.has(Object(args[0]))) {
            const name = args[0]?.syscall ?? "error";
            recorder.fail(byEventLoop(socket, name), args[0]);
          }
        }
        return emit.call(this, event, ...args);
      });
  }

  /** A connection is there. */
  #opened(socket: Any, { place }: { place: Place }): Outcome {
    const own = nodeAddress(socket.localAddress, socket.localPort);
    const peer = nodeAddress(socket.remoteAddress, socket.remotePort);
    const opened = this.#recorder.open(socket, { own, peer, place });
    this.#byAddress.set(`${own} ${peer}`, opened);
    return { target: peer, opened };
  }

  /** From now on it reads, or accepts, until something comes. */
  #wait = (socket: object, name: string): void => {
    const info = this.#recorder.info(socket);
    if (info === undefined || this.#waiting.has(socket)) return;
    const begun = byEventLoop(info, name);
    this.#waiting.set(socket, begun);
    this.#recorder.wait(begun);
  };

  /** What it has waited for is there. */
  #waited = (socket: object): Begun | undefined => {
    const begun = this.#waiting.get(socket);
    this.#waiting.delete(socket);
    if (begun) this.#recorder.forget(begun);
    return begun;
  };

  /** `push` gets what was read, and `_read` asks for more. */
  watchReads(prototype: Any): void {
    const recorder = this.#recorder;
    const [wait, waited] = [this.#wait, this.#waited];
    const infoOf = (socket: Any) => this.#infoOf(socket);
    replace(prototype, "push", (push) =>
      function (chunk, ...args) {
        const socket = infoOf(this);
        if (socket !== undefined) {
          const begun = waited(this) ?? byEventLoop(socket, "read");
          recorder.end(begun, () =>
            chunk === null
              ? { result: ": end of stream" }
              : { result: ` ${recorder.quote(chunk)}`, bytes: chunk.length });
        }
        return push.call(this, chunk, ...args);
      });
    replace(prototype, "_read", (read) =>
      function (...args) {
        wait(this, "read");
        return read.apply(this, args);
      });
  }

  /** Says whether it was open. */
  #close(socket: object, info: SocketInfo): boolean {
    const wasOpen = this.#recorder.close(socket) && !this.#closed.has(info);
    this.#closed.add(info);
    this.#byAddress.delete(`${info.own} ${info.peer}`);
    return wasOpen;
  }

  /** What is known of a socket; TLS has the number of the one it stands on. */
  #infoOf(socket: Any): SocketInfo | undefined {
    const known = this.#recorder.info(socket);
    if (known !== undefined || !socket.remoteAddress) return known;
    const own = nodeAddress(socket.localAddress, socket.localPort);
    const peer = nodeAddress(socket.remoteAddress, socket.remotePort);
    const as = this.#byAddress.get(`${own} ${peer}`);
    return as && this.#recorder.open(socket, as, as);
  }

  /** `_writeGeneric`, `_final` and `_destroy`: what all others come to. */
  watchWrites(prototype: Any): void {
    const recorder = this.#recorder;
    const [wroteAt, waited, told] = [this.#wroteAt, this.#waited, this.#told];
    const infoOf = (socket: Any) => this.#infoOf(socket);
    const close = (socket: Any, info: SocketInfo) => this.#close(socket, info);
    replace(
      prototype,
      "_writeGeneric",
      (write) =>
        function watched(isList, data, encoding, done) {
          const socket = infoOf(this);
          if (this.connecting || socket === undefined) {
            // It comes here again when it is connected, and then it is told.
            const place = recorder.place(undefined, watched);
            if (place.file !== "") wroteAt.set(this, place);
            return write.call(this, isList, data, encoding, done);
          }
          const otherwise = wroteAt.get(this) ?? socket.place;
          const call = { name: "write", socket, isSending: true, otherwise };
          const begun = recorder.begin(call, watched);
          wroteAt.delete(this);
          recorder.gate?.passSync(begun);
          const bytes = bytesOf(isList ? data : [{ chunk: data, encoding }]);
          const offered = recorder.quote(bytes);
          recorder.wait(begun);
          return write.call(this, isList, data, encoding, (error: unknown) => {
            if (error) {
              told.add(Object(error));
              recorder.fail(begun, error);
            } else {
              recorder.end(begun, () => ({
                result: ` ${bytes.length} of ${offered}`,
                bytes: bytes.length,
              }));
            }
            done(error);
          });
        },
    );
    replace(prototype, "_final", (final) =>
      function watched(done) {
        const socket = infoOf(this);
        if (this.connecting || socket === undefined) {
          return final.call(this, done);
        }
        const otherwise = socket.place;
        const call = { name: "closeWrite", socket, isSending: true, otherwise };
        const begun = recorder.begin(call, watched);
        recorder.gate?.passSync(begun);
        return final.call(this, (error: unknown) => {
          if (error) recorder.fail(begun, error);
          else recorder.end(begun, () => ({}));
          done(error);
        });
      });
    replace(prototype, "_destroy", (destroy) =>
      function watched(...args) {
        const socket = infoOf(this);
        waited(this);
        if (socket === undefined || !close(this, socket)) {
          return destroy.apply(this, args);
        }
        const name = this.resetAndClosing ? "reset" : "close";
        const otherwise = socket.place;
        const call = { name, socket, isSending: true, otherwise };
        const begun = recorder.begin(call, watched);
        recorder.gate?.passSync(begun);
        const result = destroy.apply(this, args);
        recorder.end(begun, () => ({}));
        return result;
      });
  }

  /** `listen`, the connections that it brings, and `close`. */
  watchServer(prototype: Any): void {
    const recorder = this.#recorder;
    const opening = this.#opening;
    const [wait, waited] = [this.#wait, this.#waited];
    const opened = (socket: Any, begun: Begun) => this.#opened(socket, begun);
    replace(prototype, "listen", (listen) =>
      function watched(...args) {
        const call = { name: "socket, bind, listen", target: targetOf(args) };
        const begun = recorder.begin(call, watched);
        recorder.gate?.passSync(begun);
        opening.set(this, begun);
        return listen.apply(this, args);
      });
    replace(prototype, "emit", (emit) =>
      function (event, ...args) {
        const begun = opening.get(this);
        if (event === "listening" && begun) {
          opening.delete(this);
          recorder.end(begun, () => {
            const { address, port } = Object(this.address());
            const own = nodeAddress(address ?? this.address(), port);
            const { place } = begun;
            return { target: own, opened: recorder.open(this, { own, place }) };
          });
          wait(this, "accept");
        } else if (event === "connection" && recorder.info(this)) {
          const begun = waited(this) ??
            byEventLoop(recorder.info(this)!, "accept");
          recorder.end(begun, () => opened(args[0], begun));
          wait(args[0], "read");
          wait(this, "accept");
        } else if (event === "error" && begun) {
          opening.delete(this);
          recorder.fail(begun, args[0]);
        }
        return emit.call(this, event, ...args);
      });
    replace(prototype, "close", (close) =>
      function watched(...args) {
        waited(this);
        const result = close.apply(this, args);
        const socket = recorder.info(this);
        if (socket && recorder.close(this)) {
          const call = { name: "close listener", socket };
          recorder.end(recorder.begin(call, watched), () => ({}));
        }
        return result;
      });
  }

  /** `bind`, which comes by itself with the first `send`, and the datagrams. */
  watchDatagrams(prototype: Any): void {
    const recorder = this.#recorder;
    const opening = this.#opening;
    for (const key of ["bind", "send"]) {
      replace(prototype, key, (original) =>
        function watched(...args) {
          if (!recorder.info(this) && !opening.has(this)) {
            const begun = recorder.begin({ name: "socket, bind" }, watched);
            opening.set(this, begun);
          }
          if (key === "bind") return original.apply(this, args);
          const send = sendOf(args);
          const offered = recorder.quote(send.data);
          const socket = recorder.info(this);
          const call = { name: "sendto", target: send.target, socket };
          const begun = recorder.begin({ ...call, isSending: true }, watched);
          recorder.gate?.passSync(begun);
          const last = args.at(-1);
          const bytes = send.data.length;
          const opened = () => recorder.info(this);
          if (typeof last !== "function") {
            // If it fails, this is an event, and not told here.
            recorder.end(begun, () => ({ result: ` ${offered}`, bytes }));
          } else {
            args[args.length - 1] = function (this: Any, ...of: Any[]) {
              begun.socket = opened();
              if (of[0]) recorder.fail(begun, of[0]);
              else {
                const result = ` ${bytes} of ${offered}`;
                recorder.end(begun, () => ({ result, bytes }));
              }
              return last.apply(this, of);
            };
          }
          return original.apply(this, args);
        });
    }
    replace(prototype, "emit", (emit) =>
      function (event, ...args) {
        const begun = opening.get(this);
        const socket = recorder.info(this);
        if (event === "listening" && begun) {
          opening.delete(this);
          recorder.end(begun, () => {
            const { address, port } = this.address();
            const own = nodeAddress(address, port);
            const { place } = begun;
            return { target: own, opened: recorder.open(this, { own, place }) };
          });
        } else if (event === "error" && begun) {
          opening.delete(this);
          recorder.fail(begun, args[0]);
        } else if (event === "message" && socket) {
          const [data, from] = args;
          recorder.end(byEventLoop(socket, "recvfrom"), () => ({
            target: nodeAddress(from.address, from.port),
            result: ` ${recorder.quote(data)}`,
            bytes: data.length,
          }));
        }
        return emit.call(this, event, ...args);
      });
    replace(prototype, "close", (close) =>
      function watched(...args) {
        const result = close.apply(this, args);
        const socket = recorder.info(this);
        if (socket && recorder.close(this)) {
          const call = { name: "close", socket };
          recorder.end(recorder.begin(call, watched), () => ({}));
        }
        return result;
      });
  }

  /** The requests of a server, whose bytes its parser takes from the kernel. */
  watchHttp(channels: Any): void {
    const recorder = this.#recorder;
    const requests = new WeakMap<object, Begun>();
    channels.subscribe("http.server.request.start", (event: Any) => {
      const { request, socket } = event;
      const info = this.#infoOf(socket);
      this.#waited(socket); // It reads requests, and does not wait for bytes.
      const name = request.method;
      const target = request.url;
      const begun = { ...byEventLoop(info, name), target };
      requests.set(request, begun);
      recorder.wait(begun);
    });
    channels.subscribe("http.server.response.finish", (event: Any) => {
      const { request, response, socket } = event;
      const begun = requests.get(request);
      const result = `: ${response.statusCode}`;
      if (begun) recorder.end(begun, () => ({ result }));
      this.#wait(socket, "read");
    });
  }
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

/** The bytes of chunks, which may be strings. */
function bytesOf(chunks: { chunk: Any; encoding: string }[]): Uint8Array {
  const { Buffer } = globalThis as Any;
  return Buffer.concat(
    chunks.map(({ chunk, encoding }) =>
      typeof chunk === "string"
        ? Buffer.from(chunk, encoding === "buffer" ? "utf8" : encoding)
        : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    ),
  );
}

/** What `send` was given: data, perhaps a part of it, and where it goes. */
function sendOf(args: Any[]): { data: Uint8Array; target: string } {
  const [message, ...rest] = args.filter((it) => typeof it !== "function");
  const list = Array.isArray(message) ? message : [message];
  const all = bytesOf(list.map((chunk) => ({ chunk, encoding: "utf8" })));
  const numbers = rest.findIndex((it) => typeof it !== "number");
  const count = numbers === -1 ? rest.length : numbers;
  // (offset, length, port), (offset, length) of a connected socket, or (port).
  const [offset, length] = count >= 2 ? rest : [0, all.length];
  const port = count === 2 ? undefined : rest[count >= 2 ? 2 : 0];
  const host = rest[count];
  const target = port === undefined
    ? ""
    : nodeAddress(host ?? "127.0.0.1", port);
  return { data: all.subarray(offset, offset + length), target };
}
