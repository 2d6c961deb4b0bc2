/**
 * Watches `Deno.serve` and `fetch`, and says of what is not watched that it is
 * used: an empty trace must not look like a program without a network.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import type { Place } from "./call_site.ts";
import { byEventLoop, type Recorder, type SocketInfo } from "./recorder.ts";
import { type Any, replace, replaceProperty, watchCall } from "./replace.ts";

/** Connections of HTTP servers that are known at once; they do not say goodbye. */
const MOST_CONNECTIONS = 10_000;

/** Watches them from now on. */
export function watchHttp(recorder: Recorder): void {
  watchServe(recorder);
  watchCall<Response>(recorder, globalThis, "fetch", (_, [input, init]) => ({
    name: `fetch ${init?.method ?? input?.method ?? "GET"}`,
    target: String(input?.url ?? input),
    isSending: true,
    done: ({ status }) => ({ result: `: ${status}` }),
  }));
}

/** A server is a handler: what is told are connections and requests. */
function watchServe(recorder: Recorder): void {
  replace(Deno, "serve", (serve) =>
    function watched(...args) {
      const begun = recorder.begin({ name: "socket, bind, listen" }, watched);
      const handlers = new Handlers(recorder, begun.place);
      const i = args.findIndex((it) => typeof it === "function");
      if (i !== -1) args[i] = handlers.watch(args[i]);
      else if (typeof args[0]?.handler === "function") {
        // It may inherit its other options.
        const value = handlers.watch(args[0].handler);
        args[0] = Object.create(args[0], { handler: { value } });
      }
      let server: Deno.HttpServer<Deno.Addr>;
      try {
        server = serve.apply(this, args);
      } catch (error) {
        recorder.fail(begun, error);
        throw error;
      }
      recorder.end(begun, () => {
        const own = httpAddress(server.addr);
        handlers.own = own;
        const { place } = begun;
        return { target: own, opened: recorder.open(server, { own, place }) };
      });
      return server;
    });
}

class Handlers {
  own = "";
  #recorder: Recorder;
  #place: Place;
  #conns = new Map<string, SocketInfo>();

  constructor(recorder: Recorder, place: Place) {
    this.#recorder = recorder;
    this.#place = place;
  }

  /** Returns a handler that does the same. */
  watch(handler: Any): Any {
    const recorder = this.#recorder;
    const connOf = (address: Any) => this.#connOf(address);
    // Deno gives no arguments to a handler that takes none; this one needs them.
    const given = handler.length === 0 ? 0 : 2;
    return function (this: unknown, request: Request, info: Any) {
      const socket = connOf(info.remoteAddr);
      const { pathname, search } = new URL(request.url);
      const target = `${pathname}${search}`;
      const begun = { ...byEventLoop(socket, request.method), target };
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

  /** The connection that a request came on, which is told with its first one. */
  #connOf(address: Any): SocketInfo {
    const peer = httpAddress(address);
    const known = this.#conns.get(peer);
    if (known !== undefined) return known;
    const recorder = this.#recorder;
    const place = this.#place;
    const opened = recorder.open({}, { own: this.own, peer, place });
    recorder.end(
      byEventLoop(opened, "accept"),
      () => ({ target: peer, opened }),
    );
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
  [globalThis, ["WebSocket", "WebSocketStream", "WebTransport"]],
  [Deno, ["upgradeWebSocket", "connectQuic", "QuicEndpoint", "dlopen"]],
];

/** Says so when one of these is used for the first time. */
export function tellNotWatched(recorder: Recorder): void {
  for (const [owner, keys] of NOT_WATCHED) {
    for (const key of keys) {
      let isTold = false;
      const tell = () => {
        if (isTold) return;
        isTold = true;
        const begun = recorder.begin({ name: key });
        recorder.end(begun, () => ({ result: ": not watched" }));
      };
      replaceProperty(
        owner,
        key,
        (original) =>
          typeof original !== "function" ? original : new Proxy(original, {
            apply(...call) {
              tell();
              return Reflect.apply(...call);
            },
            construct(...call) {
              tell();
              return Reflect.construct(...call);
            },
          }),
      );
    }
  }
}
