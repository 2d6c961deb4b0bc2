/**
 * The few calls of libc that the lessons need and Deno does not have, by FFI.
 * Linux only, IPv4 only. The calls block the whole program: use them where
 * nothing takes long, on loopback.
 *
 * @module
 */

import { inetNtop, inetPton } from "./byte_order.ts";

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

/**
 * Socket options whose value is an `int`: level and name for getsockopt(2).
 * `TCP_KEEPIDLE` and `TCP_KEEPINTVL` are in seconds, `TCP_USER_TIMEOUT` is in
 * milliseconds.
 */
export const SOCKET_OPTIONS = {
  SO_REUSEADDR: [1, 2],
  SO_TYPE: [1, 3],
  SO_ERROR: [1, 4],
  SO_SNDBUF: [1, 7],
  SO_RCVBUF: [1, 8],
  SO_KEEPALIVE: [1, 9],
  SO_REUSEPORT: [1, 15],
  SO_ACCEPTCONN: [1, 30],
  TCP_NODELAY: [6, 1],
  TCP_KEEPIDLE: [6, 4],
  TCP_KEEPINTVL: [6, 5],
  TCP_KEEPCNT: [6, 6],
  TCP_USER_TIMEOUT: [6, 18],
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

/** What TCP says of a connection: see `tcp(7)`. */
export interface TcpInfo {
  /** How often the oldest segment without an answer was sent again. */
  retransmits: number;
  /** How many probes (keepalive, closed window) are without an answer. */
  probes: number;
}

const SO_LINGER = [1, 13] as const;
const SO_ATTACH_FILTER = [1, 26] as const;
const SO_DETACH_FILTER = [1, 27] as const;
const TCP_INFO = [6, 11] as const;

/**
 * A `struct sock_filter`, in 16-bit words: the whole program of one instruction,
 * `BPF_RET | BPF_K`, "return 0": keep 0 bytes of each segment.
 */
const DROP_ALL = new Uint16Array([0x06, 0, 0, 0]);

/** Closed in processes that this one starts. */
const SOCK_CLOEXEC = 0o2000000;

/** Of `errno(3)`, what sockets can meet; the same on x86_64 and arm64. */
const ERRNO_NAMES: Record<number, string> = {
  1: "EPERM",
  2: "ENOENT",
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
  opendir: { parameters: ["buffer"], result: "pointer" },
  readdir: { parameters: ["pointer"], result: "pointer" },
  closedir: { parameters: ["pointer"], result: "i32" },
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
   * @throws {LibcError} If there is no descriptor left to look with.
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
  /** `getsockopt(2)` of `TCP_INFO`. */
  getTcpInfo(): TcpInfo;
  /**
   * `setsockopt(2)` of `SO_ATTACH_FILTER`: the kernel drops all that comes in
   * for this socket, as if the network had lost it. What the socket sends still
   * goes out. It needs no permission of the kernel's: see `socket(7)`.
   */
  dropIncoming(): void;
  /**
   * `setsockopt(2)` of `SO_DETACH_FILTER`: what comes in arrives again. It fails
   * with `ENOENT` if nothing was dropped.
   */
  passIncoming(): void;
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

    getTcpInfo() {
      // Of a struct tcp_info the first bytes: state, ca_state, retransmits, probes.
      const [, , retransmits, probes] = new Uint8Array(
        this.#get(TCP_INFO, 2).buffer,
      );
      return { retransmits, probes };
    }

    dropIncoming() {
      // A struct sock_fprog: how many instructions there are, and where.
      const program = new BigUint64Array(2);
      new Uint16Array(program.buffer)[0] = 1;
      program[1] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(DROP_ALL));
      this.#set(SO_ATTACH_FILTER, new Int32Array(program.buffer));
    }

    passIncoming() {
      this.#set(SO_DETACH_FILTER, [0]);
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

    #set([level, name]: readonly [number, number], ints: ArrayLike<number>) {
      const value = Int32Array.from(ints, (int) => {
        if (int === (int | 0)) return int;
        throw new RangeError(`Not an int: ${int}`);
      });
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

  /** The open descriptors of this process, sockets and others. */
  function openDescriptors(): Descriptor[] {
    const path = new TextEncoder().encode("/proc/self/fd\0");
    const directory = symbols.opendir(path);
    check("opendir", directory === null ? -1 : 0);
    const descriptors: Descriptor[] = [];
    for (let entry; (entry = symbols.readdir(directory)) !== null;) {
      const name = Deno.UnsafePointerView.getCString(entry, D_NAME);
      if (name[0] !== ".") descriptors.push(new Descriptor(Number(name)));
    }
    check("closedir", symbols.closedir(directory));
    return descriptors;
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
      const isIt = (found: Descriptor) =>
        toText(found.getsockname()) === own &&
        found.getsockopt("SO_TYPE") === SOCK_STREAM &&
        (peer === null
          // A connection that was reset has no peer either.
          ? found.getsockopt("SO_ACCEPTCONN") === 1
          : toText(found.getpeername()) === peer);
      for (const found of openDescriptors()) {
        try {
          if (isIt(found)) return found;
        } catch {
          // It is no socket, or has no peer.
        }
      }
      throw new Deno.errors.NotFound(`No descriptor has the address ${own}`);
    },
    kill: (pid, signal) => void check("kill", symbols.kill(pid, signal)),
    [Symbol.dispose]: () => library.close(),
  };
}

/** Where the name stands in a `struct dirent`, on 64-bit systems. */
const D_NAME = 19;

function toText({ hostname, port }: SocketAddress): string {
  return `${hostname}:${port}`;
}

/** The size of a `struct sockaddr_in`, in bytes. */
const SOCKADDR_SIZE = 16;

/** Makes a `struct sockaddr_in`: family, port, address, eight zeros. */
function toSockaddr(address: SocketAddress): Uint8Array<ArrayBuffer> {
  const { hostname, port } = address;
  const octets = inetPton(hostname);
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new RangeError(`Not a port: ${port}`);
  }
  const name = new Uint8Array(SOCKADDR_SIZE);
  new Uint16Array(name.buffer)[0] = AF_INET; // In host byte order,
  new DataView(name.buffer).setUint16(2, port); // in network byte order.
  name.set(octets, 4);
  return name;
}

function fromSockaddr(name: Uint8Array<ArrayBuffer>): SocketAddress {
  // Of a longer address (IPv6, Unix) this is the beginning, and means nothing.
  if (new Uint16Array(name.buffer)[0] !== AF_INET) {
    return { hostname: "", port: 0 };
  }
  return {
    hostname: inetNtop(name.subarray(4, 8)),
    port: new DataView(name.buffer).getUint16(2),
  };
}
