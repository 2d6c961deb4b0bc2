/**
 * Watches what a program does with Deno's sockets. The program itself is not
 * changed: `Deno.listen`, `connect` and `listenDatagram`, and the methods of
 * what they return, are replaced by ones that do the same and say so.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import { describeError } from "../error_text.ts";
import { quoteBytes } from "../quote_bytes.ts";

/** One call, when it is done. */
export interface SocketCall {
  /**
   * Milliseconds since 1970, in fractions, so that processes can be compared. A
   * call that sends (connect, write, send, close) has the time when it was
   * called. A call that waits (accept, read, receive) has the time when it
   * returned.
   */
  at: number;
  /** The name of the program's file, without its folder. */
  file: string;
  /** The line of the program's own call, from 1. */
  line: number;
  /** The function it stands in, or `""` outside of any. */
  function: string;
  /** The call and what came of it: `read 6 bytes "hello\n"`. */
  what: string;
  /** Whether bytes or a connection went to the other side. */
  toPeer: boolean;
  /** Whether it was called from `lib/`, and the program's line is not known. */
  isOfLib: boolean;
  /** For UDP: which datagram was sent or received. */
  datagram?: undefined | {
    /** The port that it went out from. */
    from: number;
    /** The port that it was sent to. */
    to: number;
    /** Its number, where this process received it, or now passes it on. */
    id?: number | undefined;
  };
}

// deno-lint-ignore no-explicit-any -- The originals, of any type, called as they are.
type Any = any;
type Conn = Deno.Conn<Deno.Addr>;

/** This file, as stacks name it: not always as `import.meta.url` does. */
const THIS_FILE = new Error().stack?.match(/\w+:.+?(?=:\d+:\d+\)?$)/m)?.[0] ??
  import.meta.url;
/** Where `writeFull` and the like are: their caller is the program. */
const LIB = THIS_FILE.replace(/trace\/socket_calls\.ts$/, "");
/** It plays the network: none of its calls is the program's. A copy has none. */
const RELAY = `${LIB}lab/relay.ts`;
/** In a copy they stand in the program. */
const HELPERS = ["readSome", "readFull", "readExactly", "writeFull"];
/** Where `connect` and `send` go if no host is given. */
const LOOPBACK_HOST = "127.0.0.1";

/**
 * Watches all socket calls of this process from now on. The program behaves as
 * before: its results and errors are the same. Nothing here throws into the
 * program. But a getter of its own, in an address say, may be asked once more.
 * And what ends in the same turn of the event loop may end in another order.
 *
 * @param report Is told each call, before the program has its result.
 *
 * @example
 * ```ts no-assert
 * watchSocketCalls(({ what }) => console.error(what));
 * Deno.listen({ port: 0 }).close(); // socket, bind, listen 0.0.0.0:41257
 * ```
 */
export function watchSocketCalls(report: (call: SocketCall) => void): void {
  const tracedConns = new WeakSet<object>(); // Connections, but none of TLS.
  const open = new OpenConns();
  let areSeveral = false; // Then each call names its connection.
  const opened = new WeakSet<object>(); // Listeners, and sockets for datagrams.
  /** What was received, to recognize it when it is passed on. */
  const received = new WeakMap<object, number>();
  let datagrams = 0;

  /** Tells one call. */
  function reportCall(
    place: Place,
    what: () => string,
    { at = now(), toPeer = false, datagram }: CallDetails = {},
  ): void {
    safely(() => {
      const more = datagram ? { datagram: datagram() } : {};
      // The name of a host may contain anything.
      const line = what().replace(/\p{Cc}+/gu, " ");
      report({ at, ...place, what: line, toPeer, ...more });
    });
  }

  /** What is known before a call. One that sends has its time already. */
  const begin = (isSending = false) => (
    { place: callSite(), at: isSending ? now() : undefined, isSending }
  );

  /**
   * Watches a call until it is done, and passes on what comes of it. The call is
   * made by our replacement itself, which is then our only line on its stack.
   */
  function follow<T>(
    { place, at, isSending }: ReturnType<typeof begin>,
    result: Promise<T>,
    name: () => string,
    done: (value: T) => string,
    { onDone, isNothing, isExpected, datagram }: {
      onDone?: (value: T) => void;
      isNothing?: (value: T) => boolean;
      isExpected?: () => boolean;
      datagram?: (value: T) => SocketCall["datagram"];
    } = {},
  ): Promise<T> {
    if (!(result instanceof Promise)) return result; // It is not Deno's.
    return result.then((value) => {
      safely(() => onDone?.(value));
      const toPeer = isSending && !isNothing?.(value);
      const more = datagram && (() => datagram(value));
      reportCall(place, () => done(value), { at, toPeer, datagram: more });
      return value;
    }, (error) => {
      const failed = () => `${name()}: ${reasonOf(error)}`;
      if (!isExpected?.()) reportCall(place, failed, { at });
      throw error;
    });
  }

  /** `" 127.0.0.1:40980"` where that must be said. */
  function nameOf(conn: Conn): string {
    return areSeveral ? ` ${addressOf(conn.remoteAddr)}` : "";
  }

  const prototypes = new WeakSet<object>();
  /** Once for each, even if the program puts its own methods over ours. */
  function watchOnce(
    object: object,
    key: string,
    watch: (prototype: Any) => void,
  ): void {
    const prototype = ownerOf(object, key);
    if (prototype === null || prototypes.has(prototype)) return;
    prototypes.add(prototype);
    watch(prototype);
  }

  function watchConn(conn: Conn): void {
    if (open.size === 0) areSeveral = false;
    open.add(conn);
    tracedConns.add(conn);
    areSeveral ||= open.size > 1;
    watchOnce(conn, "read", (prototype) => {
      watchCalls(prototype);
      watchStreams(prototype, { tracedConns, open, nameOf, reportCall });
    });
    watchOnce(conn, "setNoDelay", (prototype) => { // Only TCP has it.
      for (const key of ["setNoDelay", "setKeepAlive"]) {
        replace(prototype, key, (set) =>
          function (...args) {
            const result = set.apply(this, args);
            const value = args[0] === undefined || Boolean(args[0]);
            reportCall(callSite(), () => `${key}${nameOf(this)} ${value}`);
            return result;
          });
      }
    });
  }

  function watchCalls(prototype: Any): void {
    replace(prototype, "read", (read) =>
      function (...args) {
        if (!tracedConns.has(this)) return read.apply(this, args);
        const name = () => `read${nameOf(this)}`;
        return follow<number | null>(
          begin(),
          read.apply(this, args),
          name,
          (count) =>
            count === null
              ? `${name()}: end of stream`
              : `${name()} ${bytes(args[0], count)}`,
        );
      });
    replace(prototype, "write", (write) =>
      function (...args) {
        if (!tracedConns.has(this)) return write.apply(this, args);
        const offered = bytes(args[0]); // They may be changed meanwhile.
        const name = () => `write${nameOf(this)}`;
        return follow<number>(
          begin(true),
          write.apply(this, args),
          name,
          (count) => `${name()} ${count} of ${offered}`,
          { isNothing: (count) => count === 0 },
        );
      });
    replace(prototype, "closeWrite", (closeWrite) =>
      function (...args) {
        if (!tracedConns.has(this)) return closeWrite.apply(this, args);
        const name = () => `closeWrite${nameOf(this)}`;
        return follow(begin(true), closeWrite.apply(this, args), name, name);
      });
    for (const key of ["close", Symbol.dispose]) {
      replace(prototype, key, (close) =>
        function (...args) {
          const at = now();
          const wasOpen = open.delete(this);
          const result = close.apply(this, args); // Throws if it was closed.
          const name = () => `close${nameOf(this)}`;
          if (wasOpen) reportCall(callSite(), name, { at, toPeer: true });
          return result;
        });
    }
  }

  function watchListener(listener: Deno.Listener): void {
    watchOnce(listener, "accept", (prototype) => {
      replace(prototype, "accept", (accept) =>
        function (...args) {
          return follow<Conn>(
            begin(),
            accept.apply(this, args),
            () => "accept",
            (conn) => `accept ${addressOf(conn.remoteAddr)}`,
            { onDone: watchConn },
          );
        });
      for (const key of ["close", Symbol.dispose]) {
        replace(prototype, key, (close) =>
          function (...args) {
            const result = close.apply(this, args);
            if (opened.delete(this)) {
              reportCall(callSite(), () => "close listener");
            }
            return result;
          });
      }
    });
  }

  function watchDatagrams(socket: Deno.DatagramConn): void {
    watchOnce(socket, "receive", (prototype) => {
      replace(prototype, "receive", (receive) =>
        function (...args) {
          return follow<[Uint8Array, Any]>(
            begin(),
            receive.apply(this, args),
            () => "recvfrom",
            ([data, from]) => `recvfrom ${addressOf(from)} ${bytes(data)}`,
            {
              onDone: ([data]) => received.set(data, ++datagrams),
              isExpected: () => !opened.has(this), // Its own close() ends it.
              datagram: ([data, from]) => (
                { from: from.port, to: this.addr.port, id: received.get(data) }
              ),
            },
          );
        });
      replace(prototype, "send", (send) =>
        function (...args) {
          const [data, to] = args;
          const offered = bytes(data);
          const address = addressOf(to, LOOPBACK_HOST);
          const id = received.get(data);
          const name = () => `sendto ${address}`;
          return follow<number>(
            begin(true),
            send.apply(this, args),
            name,
            (count) => `${name()} ${count} of ${offered}`,
            {
              datagram: () => {
                const port = Number(address.split(":").at(-1));
                return { from: this.addr.port, to: port, id };
              },
            },
          );
        });
      replace(prototype, "close", (close) =>
        function (...args) {
          const result = close.apply(this, args);
          opened.delete(this);
          reportCall(callSite(), () => "close");
          return result;
        });
    });
  }

  /** Watches a call that opens a socket at once. */
  const opens =
    (name: string, watch: (socket: Any) => void) => (original: Any) =>
      function (this: unknown, ...args: Any[]) {
        const place = callSite();
        try {
          const socket = original.apply(this, args);
          safely(() => {
            opened.add(socket);
            watch(socket);
          });
          reportCall(place, () => `${name} ${addressOf(socket.addr)}`);
          return socket;
        } catch (error) {
          const tried = () => `${name} ${addressOf(args[0])}`;
          reportCall(place, () => `${tried()}: ${reasonOf(error)}`);
          throw error;
        }
      };
  replace(Deno, "listen", opens("socket, bind, listen", watchListener));
  replace(Deno, "listenDatagram", opens("socket, bind", watchDatagrams));
  replace(Deno, "connect", (connect) =>
    function (...args) {
      const address = addressOf(args[0], LOOPBACK_HOST);
      return follow<Conn>(
        begin(true),
        connect.apply(this, args),
        () => `socket, connect ${address}`,
        (conn) => `socket, connect ${addressOf(conn.remoteAddr)}`,
        { onDone: watchConn },
      );
    });
  replace(Deno, "startTls", (startTls) =>
    function (...args) {
      return startTls.apply(this, args).then((conn: unknown) => {
        open.delete(args[0]); // From now on it belongs to another one.
        return conn;
      });
    });
}

/**
 * The connections that are not closed. It keeps none of them alive, because Deno
 * closes a connection when nobody holds its streams any more.
 */
class OpenConns {
  size = 0;
  #conns = new WeakSet<object>();
  #collected = new FinalizationRegistry<void>(() => this.size--);

  add(conn: object): void {
    this.#conns.add(conn);
    this.#collected.register(conn, undefined, conn);
    this.size++;
  }

  /** Says whether it was open. */
  delete(conn: object): boolean {
    const wasOpen = this.#conns.delete(conn);
    if (wasOpen) {
      this.size--;
      this.#collected.unregister(conn);
    }
    return wasOpen;
  }
}

/** A program must do the same when it is watched. */
function safely(watch: () => void): void {
  try {
    watch();
  } catch {
    // Then this is not watched.
  }
}

/** Replaces a method by one that keeps its name. */
function replace(
  owner: Any,
  key: string | symbol,
  make: (original: Any) => (this: Any, ...args: Any[]) => unknown,
): void {
  const original = owner[key];
  if (typeof original !== "function") return;
  const replacement = make(original);
  for (const name of ["name", "length"] as const) {
    Object.defineProperty(replacement, name, {
      value: original[name],
      configurable: true,
    });
  }
  const before = Object.getOwnPropertyDescriptor(owner, key);
  Reflect.defineProperty(owner, key, { ...before, value: replacement });
}

/** What is known of a call besides its name. */
interface CallDetails {
  at?: number | undefined;
  toPeer?: boolean;
  datagram?: undefined | (() => SocketCall["datagram"]);
}

/** What a traced stream needs of its watcher. */
interface StreamWatcher {
  tracedConns: WeakSet<object>;
  open: OpenConns;
  nameOf(conn: Conn): string;
  reportCall(place: Place, what: () => string, options?: CallDetails): void;
}

/**
 * `readable` and `writable` do not call `read` and `write`. So our own streams
 * stand in front of Deno's, with the same buffers: none for reading, one chunk
 * for writing.
 */
function watchStreams(prototype: Any, watcher: StreamWatcher): void {
  const { tracedConns, open, nameOf, reportCall } = watcher;
  /** At their end, and after an error, Deno's streams close the connection. */
  const closedBy = (key: string, place: Place, conn: Conn, at = now()) => {
    if (!open.delete(conn)) return;
    reportCall(place, () => `close${nameOf(conn)}, by ${key}`, {
      at,
      toPeer: true,
    });
  };
  const getter = (key: string, make: (conn: Conn, stream: Any) => object) => {
    const original = Object.getOwnPropertyDescriptor(prototype, key);
    const { get } = original ?? {};
    if (get === undefined) return;
    const made = new WeakMap<object, object>();
    Reflect.defineProperty(prototype, key, {
      ...original,
      get(this: Conn) {
        const stream = get.call(this); // Throws for another `this`.
        if (!tracedConns.has(this)) return stream;
        const ours = made.get(stream) ?? make(this, stream);
        made.set(stream, ours);
        return ours;
      },
    });
  };

  getter("readable", (conn, stream: ReadableStream<Uint8Array>) => {
    const gotAt = callSite(); // pipeTo() reads while no line of the program is on the stack.
    const reader = stream.getReader({ mode: "byob" });
    let isReading = false;
    let isCancelled = false;
    let next: Place | undefined; // Of a read that waits for another one.
    const name = () => `read${nameOf(conn)}`;
    const read = async (controller: ReadableByteStreamController) => {
      const place = callSite(next ?? gotAt);
      const request = controller.byobRequest!;
      isReading = true;
      try {
        const { value, done } = await reader.read(request.view as Any);
        isReading = false;
        if (isCancelled) return; // That ends a read as well.
        next ??= place; // A read that wants more goes on at once.
        if (!done) reportCall(place, () => `${name()} ${bytes(value)}`);
        else {
          reportCall(place, () => `${name()}: end of stream`);
          closedBy("readable", place, conn);
          controller.close();
        }
        if (value) request.respondWithNewView(value as Any);
        else request.respond(0);
        next = undefined;
      } catch (error) {
        reportCall(place, () => `${name()}: ${reasonOf(error)}`);
        closedBy("readable", place, conn);
        controller.error(error);
      }
    };
    return new ReadableStream({
      type: "bytes",
      autoAllocateChunkSize: 64 * 1024, // As Deno's own has it.
      // It does not wait: while it does, the stream takes the program's next
      // read without a call, and so without a place.
      pull(controller) {
        if (isReading) next = callSite(gotAt);
        else read(controller);
      },
      async cancel(reason) {
        const place = callSite(gotAt);
        isCancelled = true;
        await reader.cancel(reason);
        closedBy("readable", place, conn);
      },
    }, { highWaterMark: 0 });
  });

  getter("writable", (conn, stream: WritableStream<Uint8Array>) => {
    const gotAt = callSite();
    const writer = stream.getWriter();
    const end = async (call: () => Promise<void>) => {
      const at = now();
      const place = callSite(gotAt);
      await call();
      closedBy("writable", place, conn, at);
    };
    const places: Place[] = [];
    return new WritableStream<Uint8Array>({
      start(controller) {
        // In Deno 2.8 a write that fails resolves; the stream has its error.
        writer.closed.catch((error) => controller.error(error));
      },
      write(chunk) {
        const at = now();
        const place = places.shift() ?? gotAt;
        const offered = bytes(chunk);
        const name = () => `write${nameOf(conn)}`;
        const failed = (error: unknown) => {
          reportCall(place, () => `${name()}: ${reasonOf(error)}`, { at });
          closedBy("writable", place, conn);
        };
        return writer.write(chunk).then(() => {
          if (writer.desiredSize === null) {
            writer.closed.catch(failed);
            return;
          }
          // It says so only when all of it is written.
          const done = () => `${name()} ${parseInt(offered)} of ${offered}`;
          reportCall(place, done, { at, toPeer: true });
        }, (error) => {
          failed(error);
          throw error;
        });
      },
      close: () => end(() => writer.close()),
      abort: (reason) => end(() => writer.abort(reason)),
    }, {
      // Asked for by each write, also by one that has to wait for another one.
      size() {
        places.push(callSite(gotAt));
        return 1;
      },
    });
  });
}

/** Where a call stands in the program. */
type Place = Pick<SocketCall, "file" | "line" | "function" | "isOfLib">;

/** Usually the program's own line is among so many, and each one takes time. */
const FEW_FRAMES = 6;
const ALL_FRAMES = 50;

/**
 * Finds the program's own line on the stack: the first one that is neither
 * Deno's, nor of a library, nor of `lib/`. The stack goes on after an `await`.
 */
function callSite(otherwise?: Place): Place {
  let first: Place | undefined;
  for (const limit of [FEW_FRAMES, ALL_FRAMES]) {
    const lines = stackOf(limit).split("\n");
    const frames = lines.flatMap(frameOf);
    const found = frames.find(({ url }) => url === RELAY) ??
      frames.find(({ url, place }) =>
        url.startsWith("file:") && !url.includes("/node_modules/") &&
        !place.isOfLib && !HELPERS.includes(place.function)
      );
    if (found !== undefined) return found.place;
    first = frames[0]?.place;
    if (lines.length <= limit) break; // These are all.
  }
  const nowhere = { file: "", line: 0, function: "", isOfLib: false };
  return otherwise ?? first ?? nowhere;
}

/** The stack as V8 writes it, whatever the program has set for its own. */
function stackOf(limit: number): string {
  const { stackTraceLimit, prepareStackTrace } = Error as Any;
  try {
    Error.stackTraceLimit = limit;
    (Error as Any).prepareStackTrace = undefined;
    return String(new Error().stack);
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
    (Error as Any).prepareStackTrace = prepareStackTrace;
  }
}

/** A line of a stack, if it is not Deno's, not of this file, and not of eval. */
function frameOf(text: string): { url: string; place: Place }[] {
  const [, name = "", url = "", line] = text
    .match(/^ *at (?:async )?(?:(.+?) \()?(\w+:.+?):(\d+):\d+\)?$/) ?? [];
  if (url === "" || url === THIS_FILE) return [];
  if (/^(ext|node):/.test(url) || name.includes("(eval at ")) return [];
  const place = {
    file: url.slice(url.lastIndexOf("/") + 1),
    line: Number(line),
    function: name.replace(/ \[as .*\]$/, "").replace(/^[\w$]+\.(?=.)/, "")
      // A function without a name.
      .replace(/^(_onTimeout|<anonymous>)$/, ""),
    isOfLib: url.startsWith(LIB),
  };
  return [{ url, place }];
}

/**
 * The clock of the host. `performance.timeOrigin` is measured by each process
 * for itself. On a busy machine two of them differ by more than a read takes.
 */
const now = () => Number(Temporal.Now.instant().epochNanoseconds) / 1e6;

/**
 * `6 bytes "hello\n"`. A 0 at the start begins a number of four bytes, most
 * likely the length of a message.
 */
function bytes(all: unknown, length?: number): string {
  try {
    // Whatever else it is, the call itself accepts or refuses it.
    const { byteLength } = all as Uint8Array;
    const count = `${length ?? byteLength} bytes`;
    if (!(all instanceof Uint8Array) || byteLength === 0) return count;
    const data = all.subarray(0, length);
    if (data[0] !== 0 || data.length < 4) return `${count} ${quoteBytes(data)}`;
    const number = Array.from(
      data.subarray(0, 4),
      (byte) => byte.toString(16).padStart(2, "0"),
    ).join(" ");
    const rest = data.subarray(4);
    return `${count} ${number} ${quoteBytes(rest)}`.replace(/ ""$/, "");
  } catch { // It only looks like an array of bytes.
    return "? bytes";
  }
}

/** What has gone wrong, if that can be said. */
function reasonOf(error: unknown): string {
  try {
    return describeError(error);
  } catch {
    return "?";
  }
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

/** The object of a prototype chain that has the property itself. */
function ownerOf(object: object, key: string): Any {
  let owner: object | null = object;
  while (owner !== null && !Object.hasOwn(owner, key)) {
    owner = Object.getPrototypeOf(owner);
  }
  return owner;
}
