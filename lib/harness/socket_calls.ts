/**
 * Watches what a program does with Deno's sockets. The program itself is not
 * changed: `Deno.listen`, `connect` and `listenDatagram`, and the methods of
 * what they return, are replaced by ones that do the same and say so.
 *
 * @module
 */

import { describeError, formatAddress, quoteBytes } from "../describe.ts";

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

/** Where `writeFull` and the like are: their caller is the program. */
const LIB = import.meta.url.replace(/harness\/socket_calls\.ts$/, "");
/** It plays the network: none of its calls is the program's. */
const RELAY = `${LIB}relay.ts`;
const HELPERS = ["readFull", "writeFull"]; // In a copy they stand in the program.

/**
 * Watches all socket calls of this process from now on. The program behaves as
 * before: results, errors and their order are the same.
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
  const open = new Set<object>(); // Connections.
  let areSeveral = false; // Then each call names its connection.

  /** Tells one call; `what` is asked only now, because it costs time. */
  function tell(
    place: Place,
    what: string | (() => string),
    { at = now(), toPeer = false, datagram }: TellOptions = {},
  ): void {
    try {
      what = typeof what === "string" ? what : what();
      const more = datagram ? { datagram: datagram() } : {};
      report({ at, ...place, what, toPeer, ...more });
    } catch {
      // A program must do the same when it is watched.
    }
  }

  /** Watches a call that sends: its time is when it begins. */
  function sending<T>(
    place: Place,
    call: () => Promise<T>,
    name: string,
    done: (value: T) => string,
    { isNothing, datagram }: {
      isNothing?: (value: T) => boolean;
      datagram?: TellOptions["datagram"];
    } = {},
  ): Promise<T> {
    const at = now();
    return call().then((value) => {
      tell(place, () => `${name}${done(value)}`, {
        at,
        toPeer: !isNothing?.(value),
        datagram,
      });
      return value;
    }, (error) => {
      tell(place, () => `${name}: ${describeError(error)}`, { at });
      throw error;
    });
  }

  /** Watches a call that waits: its time is when it returns. */
  function waiting<T>(
    place: Place,
    result: Promise<T>,
    name: () => string,
    done: (value: T) => string,
  ): Promise<T> {
    return result.then((value) => {
      tell(place, () => done(value));
      return value;
    }, (error) => {
      tell(place, () => `${name()}: ${describeError(error)}`);
      throw error;
    });
  }

  /** Replaces a method of a prototype, once, by one that keeps its name. */
  function replace(
    owner: Any,
    key: string | symbol,
    make: (original: Any) => (this: Any, ...args: Any[]) => unknown,
  ): void {
    const original = owner[key];
    if (typeof original !== "function" || replaced.has(original)) return;
    const replacement = make(original);
    replaced.add(replacement);
    for (const name of ["name", "length"] as const) {
      Object.defineProperty(replacement, name, {
        value: original[name],
        configurable: true,
      });
    }
    Object.defineProperty(owner, key, {
      ...Object.getOwnPropertyDescriptor(owner, key),
      value: replacement,
    });
  }
  const replaced = new WeakSet<object>();

  /** `" 127.0.0.1:40980"` where that must be said. */
  function nameOf(conn: Conn): string {
    return areSeveral ? ` ${addressOf(conn.remoteAddr)}` : "";
  }

  function watchConn(conn: Conn): void {
    if (open.size === 0) areSeveral = false;
    open.add(conn);
    areSeveral ||= open.size > 1;
    const isPatched = replaced.has(conn.read);
    if (isPatched) return;
    const prototype = ownerOf(conn, "read");
    replace(prototype, "read", (read) =>
      function (buffer) {
        const place = here();
        return waiting<number | null>(
          place,
          read.call(this, buffer),
          () => `read${nameOf(this)}`,
          (count) =>
            count === null
              ? `read${nameOf(this)}: end of stream`
              : `read${nameOf(this)} ${bytes(buffer.subarray(0, count))}`,
        );
      });
    replace(prototype, "write", (write) =>
      function (data) {
        const place = here();
        const quoted = quoteBehind(data);
        return sending<number>(
          place,
          () => write.call(this, data),
          `write${nameOf(this)}`,
          (count) => ` ${count} of ${data.length} bytes${quoted}`,
          { isNothing: (count) => count === 0 },
        );
      });
    replace(prototype, "closeWrite", (closeWrite) =>
      function () {
        const place = here();
        const name = `closeWrite${nameOf(this)}`;
        return sending(place, () => closeWrite.call(this), name, () => "");
      });
    for (const key of ["close", Symbol.dispose]) {
      replace(prototype, key, (close) =>
        function (...args) {
          const at = now();
          const name = `close${nameOf(this)}`;
          const result = close.apply(this, args); // Throws if it was closed.
          if (open.delete(this)) tell(here(), name, { at, toPeer: true });
          return result;
        });
    }
    for (const key of ["setNoDelay", "setKeepAlive"]) {
      const owner = ownerOf(conn, key);
      if (owner === null) continue; // Only TCP has them.
      replace(owner, key, (set) =>
        function (...args) {
          const result = set.apply(this, args);
          tell(here(), `${key}${nameOf(this)} ${args[0] ?? true}`);
          return result;
        });
    }
    watchStreams(prototype, { open, nameOf, tell, sending });
  }

  function watchListener(listener: Deno.Listener): void {
    const prototype = ownerOf(listener, "accept");
    replace(prototype, "accept", (accept) =>
      function () {
        return waiting<Conn>(
          here(),
          accept.call(this),
          () => "accept",
          (conn) => {
            watchConn(conn);
            return `accept ${addressOf(conn.remoteAddr)}`;
          },
        );
      });
    const closed = new WeakSet();
    for (const key of ["close", Symbol.dispose]) {
      replace(prototype, key, (close) =>
        function (...args) {
          const result = close.apply(this, args);
          if (!closed.has(this)) tell(here(), "close listener");
          closed.add(this);
          return result;
        });
    }
  }

  function watchDatagrams(socket: Deno.DatagramConn): void {
    const prototype = ownerOf(socket, "receive");
    const closed = new WeakSet();
    /** What was received, to recognize it when it is passed on. */
    const received = new WeakMap<object, number>();
    let count = 0;
    replace(prototype, "receive", (receive) =>
      function (...args) {
        const place = here();
        return receive.apply(this, args).then((value: Any) => {
          const [data, from] = value;
          const id = ++count;
          received.set(data, id);
          tell(place, () => `recvfrom ${addressOf(from)} ${bytes(data)}`, {
            datagram: () => ({ from: from.port, to: this.addr.port, id }),
          });
          return value;
        }, (error: unknown) => {
          // If its own close() has ended it, this is expected.
          if (!closed.has(this)) {
            tell(place, () => `recvfrom: ${describeError(error)}`);
          }
          throw error;
        });
      });
    replace(prototype, "send", (send) =>
      function (data, to) {
        const place = here();
        const quoted = quoteBehind(data);
        const id = received.get(data);
        return sending<number>(
          place,
          () => send.call(this, data, to),
          `sendto ${addressOf(to)}`,
          (count) => ` ${count} of ${data.length} bytes${quoted}`,
          { datagram: () => ({ from: this.addr.port, to: to.port, id }) },
        );
      });
    replace(prototype, "close", (close) =>
      function () {
        const result = close.call(this);
        closed.add(this);
        tell(here(), "close");
        return result;
      });
  }

  /** Watches a call that opens a socket at once. */
  const opens = (
    name: string,
    watch: (socket: Any) => void,
    addressOfNew: (socket: Any) => Deno.Addr,
  ) =>
  (original: Any) =>
    function (this: unknown, ...args: Any[]) {
      const place = here();
      try {
        const socket = original.apply(this, args);
        watch(socket);
        tell(place, () => `${name} ${addressOf(addressOfNew(socket))}`);
        return socket;
      } catch (error) {
        tell(
          place,
          () => `${name} ${addressOf(args[0])}: ${describeError(error)}`,
        );
        throw error;
      }
    };
  replace(
    Deno,
    "listen",
    opens("socket, bind, listen", watchListener, (it) => it.addr),
  );
  replace(
    Deno,
    "listenDatagram",
    opens("socket, bind", watchDatagrams, (it) => it.addr),
  );
  replace(Deno, "connect", (connect) =>
    function (...args) {
      const place = here();
      return sending<Conn>(
        place,
        () => connect.apply(this, args),
        `socket, connect ${addressOf({ hostname: "127.0.0.1", ...args[0] })}`,
        (conn) => {
          watchConn(conn);
          return "";
        },
      );
    });
}

/** What is known of a call besides its name. */
interface TellOptions {
  at?: number;
  toPeer?: boolean;
  datagram?: undefined | (() => SocketCall["datagram"]);
}

/** What a traced stream needs of its watcher. */
interface StreamWatcher {
  open: Set<object>;
  nameOf(conn: Conn): string;
  tell(
    place: Place,
    what: string | (() => string),
    options?: TellOptions,
  ): void;
  sending<T>(
    place: Place,
    call: () => Promise<T>,
    name: string,
    done: () => string,
  ): Promise<T>;
}

/**
 * `readable` and `writable` do not call `read` and `write`. So our own streams
 * stand in front of Deno's, with the same buffers: none for reading, one chunk
 * for writing.
 */
function watchStreams(prototype: Any, watcher: StreamWatcher): void {
  const { open, nameOf, tell, sending } = watcher;
  /** At their end Deno's streams close the connection. */
  const closedBy = (key: string, place: Place, conn: Conn, at = now()) => {
    if (!open.delete(conn)) return;
    tell(place, `close, by ${key}`, { at, toPeer: true });
  };
  const getter = (key: string, make: (conn: Conn, stream: Any) => object) => {
    const original = Object.getOwnPropertyDescriptor(prototype, key)!;
    const made = new WeakMap<object, object>();
    Object.defineProperty(prototype, key, {
      ...original,
      get(this: Conn) {
        const stream = original.get!.call(this); // Throws for another `this`.
        const known = made.get(stream) ?? make(this, stream);
        made.set(stream, known);
        return known;
      },
    });
  };

  getter("readable", (conn, stream: ReadableStream<Uint8Array>) => {
    const place = here();
    const reader = stream.getReader({ mode: "byob" });
    return new ReadableStream({
      type: "bytes",
      autoAllocateChunkSize: 64 * 1024, // As Deno's own has it.
      async pull(controller) {
        const request = controller.byobRequest!;
        const { value, done } = await reader.read(request.view as Any)
          .catch((error) => {
            tell(place, () => `read${nameOf(conn)}: ${describeError(error)}`);
            throw error;
          });
        if (!done) {
          tell(place, () => `read${nameOf(conn)} ${bytes(value)}`);
          return request.respondWithNewView(value as Any);
        }
        tell(place, () => `read${nameOf(conn)}: end of stream`);
        closedBy("readable", place, conn);
        controller.close();
        if (value) request.respondWithNewView(value as Any);
        else request.respond(0);
      },
      async cancel(reason) {
        await reader.cancel(reason);
        closedBy("readable", place, conn);
      },
    }, { highWaterMark: 0 });
  });

  getter("writable", (conn, stream: WritableStream<Uint8Array>) => {
    const place = here();
    const writer = stream.getWriter();
    return new WritableStream<Uint8Array>({
      write(chunk) {
        const size = chunk.byteLength;
        const quoted = quoteBehind(chunk);
        return sending(
          place,
          () => writer.write(chunk),
          `write${nameOf(conn)}`,
          () => ` ${size} of ${size} bytes${quoted}`,
        );
      },
      async close() {
        const at = now();
        await writer.close();
        closedBy("writable", place, conn, at);
      },
      async abort(reason) {
        const at = now();
        await writer.abort(reason);
        closedBy("writable", place, conn, at);
      },
    });
  });
}

/** Where a call stands in the program. */
type Place = Pick<SocketCall, "file" | "line" | "function" | "isOfLib">;

/**
 * Finds the program's own line on the stack: the first one that is neither
 * Deno's, nor of a library, nor of `lib/`. The stack goes on after an `await`.
 */
function here(): Place {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 50;
  const stack = String(new Error().stack);
  Error.stackTraceLimit = stackTraceLimit;

  const frames = Array.from(
    stack.matchAll(/^ *at (?:async )?(?:(.+?) \()?(\w+:.+?):(\d+):\d+\)?$/gm),
    ([, name = "", url = "", line]) => ({
      url,
      line: Number(line),
      function: name.replace(/ \[as .*\]$/, "").replace(/.*\./, ""),
    }),
  ).filter(({ url }) => !/^(ext|node):/.test(url) && url !== import.meta.url);
  const program = frames.find((frame) =>
    frame.url.startsWith("file:") && !frame.url.startsWith(LIB) &&
    !frame.url.includes("/node_modules/") && !HELPERS.includes(frame.function)
  );
  const found = frames.find(({ url }) => url === RELAY) ?? program ??
    frames[0] ?? { url: "", line: 0, function: "" };
  return {
    file: decodeURIComponent(found.url.slice(found.url.lastIndexOf("/") + 1)),
    line: found.line,
    function: found.function,
    isOfLib: found.url.startsWith(LIB),
  };
}

const now = () => performance.timeOrigin + performance.now();

/** `6 bytes "hello\n"` */
const bytes = (data: Uint8Array) => `${data.length} bytes${quoteBehind(data)}`;

/**
 * The bytes, to stand after their number. Anything else is not refused here. A
 * 0 at the start begins a number of four bytes, most likely the length of a
 * message.
 */
function quoteBehind(data: unknown): string {
  if (!(data instanceof Uint8Array) || data.length === 0) return "";
  if (data[0] !== 0 || data.length < 4) return ` ${quoteBytes(data)}`;
  const number = Array.from(
    data.subarray(0, 4),
    (byte) => byte.toString(16).padStart(2, "0"),
  ).join(" ");
  const rest = data.subarray(4);
  return rest.length === 0 ? ` ${number}` : ` ${number} ${quoteBytes(rest)}`;
}

/** Any kind of address of Deno's, in one word. */
function addressOf(address: unknown): string {
  const { path, hostname = "0.0.0.0", port } = Object(address);
  if (path !== undefined) return path ?? "unix";
  return formatAddress({ hostname: String(hostname), port });
}

/** The object of a prototype chain that has the property itself. */
function ownerOf(object: object, key: string): Any {
  let owner: object | null = object;
  while (owner !== null && !Object.hasOwn(owner, key)) {
    owner = Object.getPrototypeOf(owner);
  }
  return owner;
}
