/**
 * Watches `Deno.serve`, `fetch` and DNS queries, and says of what is not watched that
 * it is used: an empty trace must not look like a program without a network.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import { counted } from "../counted.ts";
import type { Place } from "./call_site.ts";
import {
  type Begun,
  byEventLoop,
  type Outcome,
  type Recorder,
  safely,
  type SocketInfo,
} from "./recorder.ts";
import {
  type Any,
  replace,
  replaceProperty,
  watchCall,
  watchedBy,
} from "./replace.ts";

/** Connections of HTTP servers that are known at once; they do not say goodbye. */
const MOST_CONNECTIONS = 10_000;

/** What reads the body of a response to its end. */
const BODY_READS = [
  "arrayBuffer",
  "blob",
  "bytes",
  "formData",
  "json",
  "text",
] as const;

/** Watches them from now on. */
export function watchHttp(recorder: Recorder): void {
  watchServe(recorder);
  watchFetch(recorder);
  watchCall<unknown[]>(recorder, Deno, "resolveDns", (_, [name, type]) => ({
    name: `resolveDns ${type}`,
    target: String(name),
    done: ({ length }) => ({ result: `: ${counted(length, "answer")}` }),
  }));
}

/** A request has its answer when the headers are there; the body may still wait. */
function watchFetch(recorder: Recorder): void {
  const fetched = new WeakMap<object, string>();
  watchCall<Response>(recorder, globalThis, "fetch", (_, [input, init]) => {
    const target = String(input?.url ?? input);
    if (/^(data|blob|file):/.test(target)) return undefined; // No network.
    return {
      name: `fetch ${init?.method ?? input?.method ?? "GET"}`,
      target,
      isSending: true,
      done(response) {
        fetched.set(response, target);
        return { result: `: ${response.status}` };
      },
    };
  });
  for (const key of BODY_READS) {
    watchCall(recorder, Response.prototype, key, (self) => {
      const target = fetched.get(self);
      return target === undefined || self.body === null
        ? undefined
        : { name: "fetch body", target, done: () => ({}) };
    });
  }
}

/** A server is a handler: what is told are connections and requests. */
function watchServe(recorder: Recorder): void {
  replace(Deno, "serve", (serve) =>
    watchedBy<[Begun, Handlers]>(serve, {
      before(_, args: Any[], above) {
        const target = listenTarget(args);
        const call = { name: "socket, bind, listen", target };
        const begun = recorder.begin(call, above);
        recorder.gate?.passSync(begun);
        const handlers = new Handlers(recorder, begun.place);
        const i = args.findIndex((it) => typeof it === "function");
        if (i !== -1) args[i] = handlers.watch(args[i]);
        else if (typeof args[0]?.handler === "function") {
          args[1] = handlers.watch(args[0].handler);
        }
        return [begun, handlers];
      },
      after([begun, handlers], server) {
        recorder.end(begun, () => handlers.listen(server as Any));
        return server;
      },
      failed: ([begun], error) => recorder.fail(begun, error),
    }));
}

/** Where a server will listen, as far as its options say it. */
function listenTarget(args: Any[]): string {
  const options = Object(args.find((it) => typeof it !== "function"));
  try {
    const { hostname = "0.0.0.0", port = 8000, path } = options;
    return httpAddress({ hostname, port, path });
  } catch { // A getter of the program's has thrown.
    return "?";
  }
}

class Handlers {
  #recorder: Recorder;
  #place: Place;
  #listener: SocketInfo | undefined;
  #accepting: Begun | undefined;
  #conns = new Map<string, SocketInfo>();

  constructor(recorder: Recorder, place: Place) {
    this.#recorder = recorder;
    this.#place = place;
  }

  /** It listens, and accepts from now on. */
  listen(server: Deno.HttpServer<Deno.Addr>): Outcome {
    const recorder = this.#recorder;
    const own = httpAddress(server.addr);
    const socket = recorder.open(server, { own, place: this.#place });
    this.#listener = socket;
    this.#accept();
    const closed = () => {
      if (this.#accepting) recorder.forget(this.#accepting);
      recorder.close(server);
      recorder.end(byEventLoop(socket, "close listener"), () => ({}));
    };
    server.finished.then(closed, closed);
    return { target: own, opened: socket };
  }

  #accept(): void {
    this.#accepting = byEventLoop(this.#listener, "accept");
    this.#recorder.wait(this.#accepting);
  }

  /** Returns a handler that does the same. */
  watch(handler: Any): Any {
    const recorder = this.#recorder;
    const requestOf = (request: Request, info: Any) =>
      this.#requestOf(request, info);
    // Deno gives no arguments to a handler that takes none; this one needs them.
    const given = handler.length === 0 ? 0 : 2;
    return function (this: unknown, request: Request, info: Any) {
      const begun = requestOf(request, info);
      recorder.wait(begun);
      const answered = (response: Any) => {
        // What is no response is answered by 500, as Deno itself says.
        const status = Object(response).status ?? "not a response";
        recorder.end(begun, () => ({ result: `: ${status}` }));
        return response;
      };
      const failed = (error: unknown) => {
        recorder.fail(begun, error); // The server will answer 500.
        throw error;
      };
      try {
        const result = handler.apply(this, [request, info].slice(0, given));
        if (typeof result?.then === "function") {
          return Promise.resolve(result).then(answered, failed);
        }
        return answered(result);
      } catch (error) {
        return failed(error);
      }
    };
  }

  #requestOf({ method, url }: Request, { remoteAddr }: Any): Begun {
    let socket: SocketInfo | undefined;
    safely(() => socket = this.#connOf(remoteAddr));
    // No URL of a client's is too odd for a server.
    const target = url.replace(/^\w+:\/\/[^/?#]*/, "");
    return { ...byEventLoop(socket, method), target };
  }

  /** The connection that a request came on, which is told with its first one. */
  #connOf(address: Any): SocketInfo {
    const peer = httpAddress(address);
    const known = this.#conns.get(peer);
    if (known !== undefined) return known;
    const recorder = this.#recorder;
    const place = this.#place;
    const own = this.#listener?.own ?? "";
    const opened = recorder.open({}, { own, peer, place });
    const accepted = () => ({ target: peer, opened });
    recorder.end(this.#accepting ?? byEventLoop(opened, "accept"), accepted);
    this.#accept();
    const [oldest] = this.#conns.keys();
    if (this.#conns.size >= MOST_CONNECTIONS) this.#conns.delete(oldest!);
    this.#conns.set(peer, opened);
    return opened;
  }
}

function httpAddress({ hostname, port, path }: Any): string {
  return path ??
    (port === undefined ? "unix" : formatAddress({ hostname, port }));
}

/** What may talk to others, and is not watched. */
const NOT_WATCHED: [owner: Any, keys: string[]][] = [
  [
    globalThis,
    ["EventSource", "WebSocket", "WebSocketStream", "WebTransport"],
  ],
  [Deno, ["upgradeWebSocket", "connectQuic", "QuicEndpoint", "dlopen"]],
];

/** Says so when one of these is used for the first time. */
export function tellNotWatched(recorder: Recorder): void {
  const told = new Set<string>();
  const tell = (name: string) => {
    if (told.has(name)) return;
    told.add(name);
    const begun = recorder.begin({ name });
    recorder.end(begun, () => ({ result: ": not watched" }));
  };
  for (const [owner, keys] of NOT_WATCHED) {
    for (const key of keys) {
      replaceProperty(
        owner,
        key,
        (original) => {
          if (typeof original !== "function") return original;
          const proxy = new Proxy(original, {
            apply(...call) {
              tell(key);
              return Reflect.apply(...call);
            },
            construct(...call) {
              tell(key);
              return Reflect.construct(...call);
            },
          });
          const { prototype } = original;
          if (prototype?.constructor === original) {
            const value = proxy;
            Reflect.defineProperty(prototype, "constructor", { value });
          }
          return proxy;
        },
      );
    }
  }
  const { process } = globalThis as Any;
  process.getBuiltinModule("node:diagnostics_channel")
    .subscribe("worker_threads", () => tell("worker_threads"));
  // Libraries that packages bring along.
  const { _extensions } = process.getBuiltinModule("node:module");
  replace(_extensions, ".node", (load) =>
    function watched(...args) {
      tell("a library in C (.node)");
      return load.apply(this, args);
    });
}
