/**
 * The few socket calls of libc that the lessons need and Deno does not have,
 * by FFI. Linux only, IPv4 only. The calls block: use them on loopback, where
 * nothing takes long.
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

/** Closed in processes that this one starts. */
const SOCK_CLOEXEC = 0o2000000;

/** Of `errno(3)`, what sockets can meet; the same on x86_64 and arm64. */
const ERRNO_NAMES: Record<number, string> = {
  1: "EPERM",
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
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
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
}

/** A socket of libc's. Every call throws a {@linkcode LibcError} if it fails. */
export interface LibcSocket extends Disposable {
  /** The descriptor; -1 when it is closed. */
  readonly fd: number;
  /** `bind(2)`: gives the socket its own address. */
  bind(address: SocketAddress): void;
  /** `connect(2)`: sets the other side's address, and for TCP waits for it. */
  connect(address: SocketAddress): void;
  /** `sendto(2)`: sends a datagram. Returns the number of bytes. */
  sendto(data: Uint8Array<ArrayBuffer>, address: SocketAddress): number;
  /** `getsockname(2)`: the socket's own address. */
  getsockname(): SocketAddress;
  /** `getsockname(2)`, as the kernel writes it: a `struct sockaddr_in`. */
  getsocknameBytes(): Uint8Array<ArrayBuffer>;
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

  class Socket implements LibcSocket {
    constructor(public fd: number) {}

    bind(address: SocketAddress) {
      const name = toSockaddr(address);
      check("bind", symbols.bind(this.fd, name, name.length));
    }

    connect(address: SocketAddress) {
      const name = toSockaddr(address);
      check("connect", symbols.connect(this.fd, name, name.length));
    }

    sendto(data: Uint8Array<ArrayBuffer>, address: SocketAddress) {
      const name = toSockaddr(address);
      return check(
        "sendto",
        symbols.sendto(
          this.fd,
          data,
          BigInt(data.length),
          0,
          name,
          name.length,
        ),
      );
    }

    getsockname() {
      return fromSockaddr(this.getsocknameBytes());
    }

    getsocknameBytes() {
      const name = new Uint8Array(SOCKADDR_SIZE);
      const length = new Uint32Array([name.length]);
      check("getsockname", symbols.getsockname(this.fd, name, length));
      return name;
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

  return {
    socket(type) {
      return new Socket(
        check("socket", symbols.socket(AF_INET, type | SOCK_CLOEXEC, 0)),
      );
    },
    [Symbol.dispose]: () => library.close(),
  };
}

/** The size of a `struct sockaddr_in`, in bytes. */
const SOCKADDR_SIZE = 16;

/** Makes a `struct sockaddr_in`: family, port, address, eight zeros. */
function toSockaddr(address: SocketAddress): Uint8Array<ArrayBuffer> {
  const { hostname, port } = address;
  const octets = hostname.split(".");
  if (
    octets.length !== 4 ||
    octets.some((it) => !/^\d{1,3}$/.test(it) || Number(it) > 255)
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
  return {
    hostname: name.subarray(4, 8).join("."),
    port: new DataView(name.buffer).getUint16(2),
  };
}
