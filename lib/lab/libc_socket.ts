/**
 * The few calls of libc that the lessons need and Deno does not have, by FFI.
 * Linux only, IPv4 only. The calls block the whole program: use them only where
 * no call takes long, on loopback.
 *
 * @module
 */

import { inetPton } from "../byte_order.ts";

/** An IPv4 address in dotted decimal, and a port. */
export type SocketAddress = Pick<Deno.NetAddr, "hostname" | "port">;

/** Address family IPv4, for `socket(2)`. */
export const AF_INET = 2;
/** Address family of Unix sockets, for `socket(2)`. */
export const AF_UNIX = 1;
/** A stream: TCP. */
export const SOCK_STREAM = 1;
/** Datagrams: UDP. */
export const SOCK_DGRAM = 2;
/** Closed in processes that this one starts. */
const SOCK_CLOEXEC = 0o2000000;
/** The size of a `struct sockaddr_in`, in bytes. */
const SOCKADDR_SIZE = 16;
/** A signal, for `kill(2)`: what Ctrl+C sends. */
export const SIGINT = 2;

/**
 * Level and name of socket options: `ip(7)`, `socket(7)`, `tcp(7)`, RFC 5082
 * (`IP_MINTTL`). A value is one `int`;
 * for `SO_LINGER` it is two, 1 (it is on) and seconds. `TCP_KEEPIDLE` and
 * `TCP_KEEPINTVL` are in seconds, `TCP_USER_TIMEOUT` is in milliseconds.
 */
export const SOCKET_OPTIONS = {
  IP_TTL: [0, 2],
  IP_MTU_DISCOVER: [0, 10],
  IP_RECVERR: [0, 11],
  IP_MTU: [0, 14],
  IP_MINTTL: [0, 21],
  SO_REUSEADDR: [1, 2],
  SO_TYPE: [1, 3],
  SO_ERROR: [1, 4],
  SO_BROADCAST: [1, 6],
  SO_SNDBUF: [1, 7],
  SO_RCVBUF: [1, 8],
  SO_KEEPALIVE: [1, 9],
  SO_LINGER: [1, 13],
  SO_ACCEPTCONN: [1, 30],
  TCP_NODELAY: [6, 1],
  TCP_KEEPIDLE: [6, 4],
  TCP_KEEPINTVL: [6, 5],
  TCP_KEEPCNT: [6, 6],
  TCP_USER_TIMEOUT: [6, 18],
} as const;

/** `TCP_INFO`, as far as its `tcpi_total_retrans`, and where this is in it. */
const [IPPROTO_TCP, TCP_INFO, TCP_INFO_SIZE, TOTAL_RETRANS] = [6, 11, 104, 100];

/** The name of one of them. */
export type SocketOption = keyof typeof SOCKET_OPTIONS;

/** The functions of C's that are called here. */
export const CALLS = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  // Its sizes are 64 bits long in C; none is that large here.
  sendto: {
    parameters: ["i32", "buffer", "u32", "i32", "buffer", "u32"],
    result: "i32",
  },
  recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
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
  getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  setfsuid: { parameters: ["u32"], result: "i32" },
  opendir: { parameters: ["buffer"], result: "pointer" },
  readdir: { parameters: ["pointer"], result: "pointer" },
  closedir: { parameters: ["pointer"], result: "i32" },
  strerror: { parameters: ["i32"], result: "pointer" },
  // The name of an error, from glibc 2.32 on.
  strerrorname_np: { parameters: ["i32"], result: "pointer" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;

/** The same, to be called. */
export type Calls = Deno.DynamicLibrary<typeof CALLS>["symbols"];

/** A call of libc's has failed. */
export class LibcError extends Error {
  /** The name of its `errno`: `"EADDRINUSE"`. */
  readonly code: string;

  /** Keeps the code, and says which call has failed. */
  constructor(call: string, code: string, text: string) {
    super(`${call}: ${text}`);
    this.name = "LibcError";
    this.code = code;
  }
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
  // Asked for by dlopen() itself, at a prompt, it would look for the library in
  // the current folder only.
  Deno.permissions.requestSync({ name: "ffi" });
  if (Deno.build.os === "linux") return new Libc();
  throw new Deno.errors.NotSupported(
    `This needs Linux: it calls libc.so.6, and this is ${Deno.build.os}`,
  );
}

/** libc, opened. */
export class Libc implements Disposable {
  #library = Deno.dlopen("libc.so.6", CALLS);
  /** Its functions, without a check. */
  readonly calls: Calls = this.#library.symbols;
  // The place of errno. To ask for this place each time could change errno.
  #errno = new Int32Array(
    Deno.UnsafePointerView.getArrayBuffer(this.calls.__errno_location()!, 4),
  );

  /**
   * Calls one of them: `libc.call("kill", pid, SIGINT)`.
   *
   * @throws {LibcError} If it returns -1.
   */
  call<Name extends keyof Calls>(
    name: Name,
    ...parameters: Parameters<Calls[Name]>
  ): ReturnType<Calls[Name]> {
    const call = this.calls[name] as (...parameters: unknown[]) => unknown;
    const result = call(...parameters);
    const errno = this.#errno[0]; // At once: whatever comes next may change it.
    if (result === -1) throw this.error(name, errno);
    return result as ReturnType<Calls[Name]>;
  }

  /** The error of a call that has just failed. */
  error(call: string, errno: number = this.#errno[0]!): LibcError {
    const { strerrorname_np, strerror } = this.calls;
    const { getCString } = Deno.UnsafePointerView;
    const name = strerrorname_np(errno);
    const code = name === null ? `errno ${errno}` : getCString(name);
    return new LibcError(call, code, getCString(strerror(errno)!));
  }

  /** `socket(2)`, by default for IPv4: `SOCK_STREAM` or `SOCK_DGRAM`. */
  socket(type: number, family: number = AF_INET): LibcSocket {
    const fd = this.call("socket", family, type | SOCK_CLOEXEC, 0);
    return new LibcSocket(this, fd);
  }

  /** Does not close its sockets. */
  [Symbol.dispose](): void {
    this.#library.close();
  }
}

/** A socket to ask the kernel about. A call that fails throws a `LibcError`. */
export class LibcDescriptor {
  /** The descriptor, or -1 when it is closed. */
  fd: number;
  /** What its calls are made with. */
  protected libc: Libc;

  /** Takes a descriptor that is open. */
  constructor(libc: Libc, fd: number) {
    this.libc = libc;
    this.fd = fd;
  }

  /** `getsockname(2)`: the socket's own address. */
  getsockname(): SocketAddress {
    return this.#address("getsockname");
  }

  /** `getpeername(2)`: the other side's address. */
  getpeername(): SocketAddress {
    return this.#address("getpeername");
  }

  #address(call: "getsockname" | "getpeername"): SocketAddress {
    const name = new Uint8Array(SOCKADDR_SIZE);
    this.libc.call(call, this.fd, name, new Uint32Array([name.length]));
    const [family] = new Uint16Array(name.buffer);
    const port = new DataView(name.buffer).getUint16(2);
    // A longer address (IPv6, Unix) is cut here, and what is left means
    // nothing.
    if (family !== AF_INET) return { hostname: "", port: 0 };
    return { hostname: name.subarray(4, 8).join("."), port };
  }

  /** `getsockopt(2)`: buffer sizes in bytes, switches as 0 and 1. */
  getsockopt(option: SocketOption): number {
    const [level, name] = SOCKET_OPTIONS[option];
    const value = new Int32Array(1);
    const length = new Uint32Array([4]);
    this.libc.call("getsockopt", this.fd, level, name, value, length);
    return value[0]!;
  }

  /**
   * How many segments TCP has sent again on this connection: `tcpi_total_retrans`
   * of `TCP_INFO`, tcp(7). The number in `/proc/net/tcp` leaves out the tail loss
   * probe (RFC 8985, 7), which often is the first one.
   */
  retransmits(): number {
    const info = new Uint32Array(TCP_INFO_SIZE / 4);
    const length = new Uint32Array([info.byteLength]);
    this.libc.call("getsockopt", this.fd, IPPROTO_TCP, TCP_INFO, info, length);
    return info[TOTAL_RETRANS / 4]!;
  }

  /** `setsockopt(2)`. Throws a `RangeError` for other than 32-bit integers. */
  setsockopt(option: SocketOption, ...ints: number[]): void {
    const [level, name] = SOCKET_OPTIONS[option];
    const value = new Int32Array(ints);
    if (ints.some((int, i) => int !== value[i])) {
      throw new RangeError(`Not an int: ${ints}`);
    }
    this.libc.call("setsockopt", this.fd, level, name, value, 4 * ints.length);
  }
}

/** A socket of libc's. */
export class LibcSocket extends LibcDescriptor implements Disposable {
  /** `bind(2)`: gives the socket its own address. */
  bind(address: SocketAddress): void {
    this.libc.call("bind", this.fd, toSockaddr(address), SOCKADDR_SIZE);
  }

  /** `connect(2)`: sets the other side's address, and for TCP waits for it. */
  connect(address: SocketAddress): void {
    this.libc.call("connect", this.fd, toSockaddr(address), SOCKADDR_SIZE);
  }

  /** `listen(2)`. */
  listen(backlog: number): void {
    this.libc.call("listen", this.fd, backlog);
  }

  /** `accept4(2)`: waits for a connection. */
  accept(): LibcSocket {
    const fd = this.libc.call("accept4", this.fd, null, null, SOCK_CLOEXEC);
    return new LibcSocket(this.libc, fd);
  }

  /** `sendto(2)`: sends a datagram. Returns the number of bytes. */
  sendto(data: Uint8Array<ArrayBuffer>, address: SocketAddress): number {
    const to = toSockaddr(address);
    const { libc, fd } = this;
    return libc.call("sendto", fd, data, data.length, 0, to, SOCKADDR_SIZE);
  }

  /** `close(2)`. */
  close(): void {
    const { fd } = this;
    this.fd = -1; // The kernel gives the number to the next file.
    this.libc.call("close", fd);
  }

  /** Closes it, if it is open. */
  [Symbol.dispose](): void {
    if (this.fd !== -1) this.close();
  }
}

/**
 * Finds the descriptor of a socket that Deno has opened. Deno itself does not
 * tell it. It is the descriptor with the same addresses.
 *
 * @throws {Deno.errors.NotFound} If there is none, or it is not IPv4.
 * @throws {LibcError} If the search needs a descriptor, and none is left.
 */
export function descriptorOf(
  libc: Libc,
  socket: Deno.TcpConn | Deno.TcpListener | Deno.DatagramConn,
): LibcDescriptor {
  const toText = ({ hostname, port }: SocketAddress) => `${hostname}:${port}`;
  const address = "addr" in socket ? socket.addr : socket.localAddr;
  const own = toText(address as Deno.NetAddr);
  const type = address.transport === "udp" ? SOCK_DGRAM : SOCK_STREAM;
  const isIt = (found: LibcDescriptor) =>
    toText(found.getsockname()) === own &&
    found.getsockopt("SO_TYPE") === type &&
    (type === SOCK_DGRAM ||
      ("addr" in socket
        // A connection that was reset has no peer either.
        ? found.getsockopt("SO_ACCEPTCONN") === 1
        : toText(found.getpeername()) === toText(socket.remoteAddr)));
  const found = findDescriptor(libc, isIt);
  if (found !== undefined) return found;
  throw new Deno.errors.NotFound(`No descriptor has the address ${own}`);
}

/**
 * Looks at this process's descriptors until one is the one that is looked for.
 *
 * @param isIt Says whether a descriptor is it. If it throws, it is not.
 * @throws {LibcError} If the search needs a descriptor, and none is left.
 */
export function findDescriptor(
  libc: Libc,
  isIt: (found: LibcDescriptor) => boolean,
): LibcDescriptor | undefined {
  const { opendir, readdir, closedir } = libc.calls;
  const directory = opendir(new TextEncoder().encode("/proc/self/fd\0"));
  if (directory === null) throw libc.error("opendir");
  using open = new DisposableStack();
  open.defer(() => closedir(directory));
  for (let entry; (entry = readdir(directory)) !== null;) {
    // In a struct dirent the name begins after 19 bytes.
    const name = Deno.UnsafePointerView.getCString(entry, 19);
    if (name.startsWith(".")) continue;
    const found = new LibcDescriptor(libc, Number(name));
    try {
      if (isIt(found)) return found;
    } catch {
      // It is not a socket, or has no peer.
    }
  }
  return undefined;
}

/** Makes a `struct sockaddr_in`: family, port, address, eight zeros. */
function toSockaddr({ hostname, port }: SocketAddress) {
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new RangeError(`Not a port: ${port}`);
  }
  const name = new Uint8Array(SOCKADDR_SIZE);
  new Uint16Array(name.buffer)[0] = AF_INET; // In host byte order,
  new DataView(name.buffer).setUint16(2, port); // in network byte order.
  name.set(inetPton(hostname), 4);
  return name;
}
