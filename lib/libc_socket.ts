/**
 * The few calls of libc that the lessons need and Deno does not have, by FFI.
 * Linux only, IPv4 only. The calls block the whole program: use them where
 * nothing takes long, on loopback.
 *
 * @module
 */

/** An IPv4 address and a port, as `Deno.NetAddr` has them. */
export interface SocketAddress {
  /** In dotted decimal. */
  hostname: string;
  /** In host byte order, as any number is. */
  port: number;
}

/** A libc call returned -1. */
export class LibcError extends Error {
  /** The name of `errno`: `"EADDRINUSE"`. */
  readonly code: string;

  /** Keeps the call's name, and the name and text of its `errno`. */
  constructor(call: string, code: string, text: string) {
    super(`${call}: ${text}`);
    this.name = "LibcError";
    this.code = code;
  }
}

/** Address family IPv4, for `socket(2)`. */
export const AF_INET = 2;
/** A stream: TCP. */
export const SOCK_STREAM = 1;
/** Datagrams: UDP. */
export const SOCK_DGRAM = 2;

/** A signal, for `kill(2)`: what Ctrl+C sends. */
export const SIGINT = 2;

/** Socket options whose value is an `int`: level and name for getsockopt(2). */
export const SOCKET_OPTIONS = {
  SO_REUSEADDR: [1, 2],
  SO_TYPE: [1, 3],
  SO_ERROR: [1, 4],
  SO_SNDBUF: [1, 7],
  SO_RCVBUF: [1, 8],
  SO_KEEPALIVE: [1, 9],
  TCP_NODELAY: [6, 1],
} as const;

/** The name of a socket option whose value is an `int`. */
export type SocketOption = keyof typeof SOCKET_OPTIONS;

/** The value of `SO_LINGER`: see `socket(7)`. */
export interface Linger {
  /** Whether `close(2)` waits, or with 0 seconds resets the connection. */
  on: boolean;
  /** How long it waits, in seconds. */
  seconds: number;
}

const SO_LINGER = [1, 13] as const;

/** Closed in processes that this one starts. */
const SOCK_CLOEXEC = 0o2000000;

/** Of `errno(3)`, what sockets can meet; the same on x86_64 and arm64. */
const ERRNO_NAMES: Record<number, string> = {
  1: "EPERM",
  3: "ESRCH",
  4: "EINTR",
  9: "EBADF",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  22: "EINVAL",
  23: "ENFILE",
  24: "EMFILE",
  32: "EPIPE",
  88: "ENOTSOCK",
  89: "EDESTADDRREQ",
  90: "EMSGSIZE",
  92: "ENOPROTOOPT",
  93: "EPROTONOSUPPORT",
  94: "ESOCKTNOSUPPORT",
  95: "EOPNOTSUPP",
  97: "EAFNOSUPPORT",
  98: "EADDRINUSE",
  99: "EADDRNOTAVAIL",
  101: "ENETUNREACH",
  104: "ECONNRESET",
  105: "ENOBUFS",
  106: "EISCONN",
  107: "ENOTCONN",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  113: "EHOSTUNREACH",
};

const SYMBOLS = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  sendto: {
    parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"],
    result: "isize",
  },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: {
    parameters: ["i32", "pointer", "pointer", "i32"],
    result: "i32",
  },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: {
    parameters: ["i32", "i32", "i32", "buffer", "buffer"],
    result: "i32",
  },
  setsockopt: {
    parameters: ["i32", "i32", "i32", "buffer", "u32"],
    result: "i32",
  },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  strerror: { parameters: ["i32"], result: "pointer" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;

/** libc, opened. Disposing of it does not close its sockets. */
export interface Libc extends Disposable {
  /**
   * `socket(2)`, for IPv4.
   *
   * @param type `SOCK_STREAM` or `SOCK_DGRAM`.
   * @throws {LibcError} With the name of `errno` as `code`.
   */
  socket(type: number): LibcSocket;
  /**
   * Finds the descriptor of a socket that Deno has opened, which Deno itself
   * does not tell: the one with the same addresses.
   *
   * @param socket A `Deno.TcpConn`, or with `addr` a `Deno.TcpListener`.
   * @throws {Deno.errors.NotFound} If there is none, or it is not IPv4.
   */
  descriptorOf(
    socket:
      | { localAddr: SocketAddress; remoteAddr: SocketAddress }
      | { addr: SocketAddress },
  ): LibcDescriptor;
  /**
   * `kill(2)`: sends a signal to a process.
   *
   * @throws {LibcError} With the name of `errno` as `code`.
   */
  kill(pid: number, signal: number): void;
}

/**
 * A descriptor to ask the kernel about. Every call throws a
 * {@linkcode LibcError} if it fails.
 */
export interface LibcDescriptor {
  /** The descriptor; -1 when it is closed. */
  readonly fd: number;
  /** `getsockname(2)`: the socket's own address. */
  getsockname(): SocketAddress;
  /** `getsockname(2)`, as the kernel writes it: a `struct sockaddr_in`. */
  getsocknameBytes(): Uint8Array<ArrayBuffer>;
  /** `getpeername(2)`: the other side's address. */
  getpeername(): SocketAddress;
  /** `getsockopt(2)`: buffer sizes in bytes, switches as 0 and 1. */
  getsockopt(option: SocketOption): number;
  /**
   * `setsockopt(2)`. The kernel need not take the value as it is.
   *
   * @throws {RangeError} If the value is no 32-bit integer.
   */
  setsockopt(option: SocketOption, value: number): void;
  /** `getsockopt(2)` of `SO_LINGER`. */
  getLinger(): Linger;
  /** `setsockopt(2)` of `SO_LINGER`. */
  setLinger(linger: Linger): void;
}

/** A socket of libc's. Disposing of it closes it, if it is open. */
export interface LibcSocket extends LibcDescriptor, Disposable {
  /** `bind(2)`: gives the socket its own address. */
  bind(address: SocketAddress): void;
  /** `connect(2)`: sets the other side's address, and for TCP waits for it. */
  connect(address: SocketAddress): void;
  /** `listen(2)`. */
  listen(backlog: number): void;
  /** `accept4(2)`: waits for a connection. */
  accept(): LibcSocket;
  /** `sendto(2)`: sends a datagram. Returns the number of bytes. */
  sendto(data: Uint8Array<ArrayBuffer>, address: SocketAddress): number;
  /** `close(2)`. */
  close(): void;
}

/**
 * Opens libc.
 *
 * @throws {Deno.errors.NotSupported} On a system that is not Linux.
 * @throws {Deno.errors.NotCapable} Without `--allow-ffi`.
 *
 * @example A socket has no address before it needs one
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using libc = openLibc();
 * using socket = libc.socket(SOCK_DGRAM);
 * assertEquals(socket.getsockname(), { hostname: "0.0.0.0", port: 0 });
 * ```
 */
export function openLibc(): Libc {
  if (Deno.build.os !== "linux") {
    throw new Deno.errors.NotSupported(
      `This needs Linux: it asks the kernel through libc.so.6, and this is ${Deno.build.os}`,
    );
  }
  const library = Deno.dlopen("libc.so.6", SYMBOLS);
  const { symbols } = library;
  // errno stays where it is, so it is read without another call, which might
  // set it anew.
  const errno = new Int32Array(
    Deno.UnsafePointerView.getArrayBuffer(symbols.__errno_location()!, 4),
  );

  /** Throws if `result` says that the call has failed. */
  function check(call: string, result: number | bigint): number {
    const number = errno[0];
    if (result !== -1 && result !== -1n) return Number(result);
    const text = Deno.UnsafePointerView.getCString(symbols.strerror(number)!);
    throw new LibcError(call, ERRNO_NAMES[number] ?? `errno ${number}`, text);
  }

  class Descriptor implements LibcDescriptor {
    constructor(public fd: number) {}

    getsockname() {
      return fromSockaddr(this.getsocknameBytes());
    }

    getsocknameBytes() {
      const name = new Uint8Array(SOCKADDR_SIZE);
      const length = new Uint32Array([name.length]);
      check("getsockname", symbols.getsockname(this.fd, name, length));
      return name;
    }

    getpeername() {
      const name = new Uint8Array(SOCKADDR_SIZE);
      const length = new Uint32Array([name.length]);
      check("getpeername", symbols.getpeername(this.fd, name, length));
      return fromSockaddr(name);
    }

    getsockopt(option: SocketOption) {
      return this.#get(SOCKET_OPTIONS[option], 1)[0];
    }

    setsockopt(option: SocketOption, value: number) {
      this.#set(SOCKET_OPTIONS[option], [value]);
    }

    getLinger() {
      const [on, seconds] = this.#get(SO_LINGER, 2);
      return { on: on !== 0, seconds };
    }

    setLinger({ on, seconds }: Linger) {
      this.#set(SO_LINGER, [Number(on), seconds]);
    }

    #get([level, name]: readonly [number, number], ints: number) {
      const value = new Int32Array(ints);
      const length = new Uint32Array([value.byteLength]);
      check(
        "getsockopt",
        symbols.getsockopt(this.fd, level, name, value, length),
      );
      return value;
    }

    #set([level, name]: readonly [number, number], ints: number[]) {
      for (const int of ints) {
        if (int !== (int | 0)) throw new RangeError(`Not an int: ${int}`);
      }
      const value = new Int32Array(ints);
      check(
        "setsockopt",
        symbols.setsockopt(this.fd, level, name, value, value.byteLength),
      );
    }
  }

  class Socket extends Descriptor implements LibcSocket {
    bind(address: SocketAddress) {
      const name = toSockaddr(address);
      check("bind", symbols.bind(this.fd, name, name.length));
    }

    connect(address: SocketAddress) {
      const name = toSockaddr(address);
      check("connect", symbols.connect(this.fd, name, name.length));
    }

    listen(backlog: number) {
      check("listen", symbols.listen(this.fd, backlog));
    }

    accept() {
      const fd = symbols.accept4(this.fd, null, null, SOCK_CLOEXEC);
      return new Socket(check("accept4", fd));
    }

    sendto(data: Uint8Array<ArrayBuffer>, address: SocketAddress) {
      const name = toSockaddr(address);
      const size = BigInt(data.length);
      return check(
        "sendto",
        symbols.sendto(this.fd, data, size, 0, name, name.length),
      );
    }

    close() {
      const { fd } = this;
      this.fd = -1; // The kernel gives the number to the next who asks.
      check("close", symbols.close(fd));
    }

    [Symbol.dispose]() {
      if (this.fd !== -1) this.close();
    }
  }

  /** The other side's address, or `null` where there is none. */
  function peerOf(descriptor: LibcDescriptor): string | null {
    try {
      return toText(descriptor.getpeername());
    } catch {
      return null;
    }
  }

  /** A socket's own address, or `null` for what is no socket. */
  function ownOf(descriptor: LibcDescriptor): string | null {
    try {
      return toText(descriptor.getsockname());
    } catch {
      return null;
    }
  }

  return {
    socket(type) {
      return new Socket(
        check("socket", symbols.socket(AF_INET, type | SOCK_CLOEXEC, 0)),
      );
    },
    descriptorOf(socket) {
      const own = toText("addr" in socket ? socket.addr : socket.localAddr);
      const peer = "addr" in socket ? null : toText(socket.remoteAddr);
      for (let fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        const found = new Descriptor(fd);
        if (
          ownOf(found) === own && peerOf(found) === peer &&
          found.getsockopt("SO_TYPE") === SOCK_STREAM
        ) return found;
      }
      throw new Deno.errors.NotFound(`No descriptor has the address ${own}`);
    },
    kill: (pid, signal) => void check("kill", symbols.kill(pid, signal)),
    [Symbol.dispose]: () => library.close(),
  };
}

/** Where the search for a descriptor ends. */
const MAX_DESCRIPTORS = 65536;

function toText({ hostname, port }: SocketAddress): string {
  return `${hostname}:${port}`;
}

/** The size of a `struct sockaddr_in`, in bytes. */
const SOCKADDR_SIZE = 16;

/** Makes a `struct sockaddr_in`: family, port, address, eight zeros. */
function toSockaddr(address: SocketAddress): Uint8Array<ArrayBuffer> {
  const { hostname, port } = address;
  const octets = hostname.split(".");
  if (
    octets.length !== 4 ||
    octets.some((it) => !/^(0|[1-9]\d{0,2})$/.test(it) || Number(it) > 255)
  ) throw new TypeError(`Not an IPv4 address: ${JSON.stringify(hostname)}`);
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new RangeError(`Not a port: ${port}`);
  }
  const name = new Uint8Array(SOCKADDR_SIZE);
  new Uint16Array(name.buffer)[0] = AF_INET; // In host byte order,
  new DataView(name.buffer).setUint16(2, port); // in network byte order.
  name.set(octets.map(Number), 4);
  return name;
}

function fromSockaddr(name: Uint8Array<ArrayBuffer>): SocketAddress {
  // Of a longer address (IPv6, Unix) this is the beginning, and means nothing.
  if (new Uint16Array(name.buffer)[0] !== AF_INET) {
    return { hostname: "", port: 0 };
  }
  return {
    hostname: name.subarray(4, 8).join("."),
    port: new DataView(name.buffer).getUint16(2),
  };
}
