/**
 * What the kernel knows of Unix sockets, and Deno does not tell. Linux only.
 *
 * @module
 */

import { encode } from "../encode.ts";
import {
  AF_UNIX,
  findDescriptor,
  type Libc,
  type LibcDescriptor,
  type LibcSocket,
  SOCK_STREAM,
} from "./libc_socket.ts";

/** The size of a `struct sockaddr_un`: a family, and a path with its NUL. */
const SOCKADDR_UN_SIZE = 2 + 108;
/** Level and name of the option, `unix(7)`. */
const [SOL_SOCKET, SO_PEERCRED] = [1, 17];

/** Who a process is, as the kernel has checked it. */
export interface Credentials {
  /** Its process id. */
  pid: number;
  /** Its effective user. */
  uid: number;
  /** Its effective group. */
  gid: number;
}

/**
 * `SO_PEERCRED`: who called `connect(2)`, asked at the server's end of a
 * connection, or who called `listen(2)`, asked at the client's. It is what they
 * were then. Who has the other end now, may be somebody else.
 *
 * @param libc libc, opened.
 * @param conn A connection of Deno's, the only one between these two addresses.
 * @throws {Deno.errors.NotFound} If it is closed.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { openLibc } from "./libc_socket.ts";
 *
 * using libc = openLibc();
 * const path = `${await Deno.makeTempDir()}/own.sock`;
 * using listener = Deno.listen({ transport: "unix", path });
 * using conn = await Deno.connect({ transport: "unix", path });
 * assertEquals(peerCredentials(libc, conn).pid, Deno.pid);
 * ```
 */
export function peerCredentials(libc: Libc, conn: Deno.UnixConn): Credentials {
  const { fd } = unixDescriptorOf(libc, conn);
  const ucred = new Int32Array(3);
  const length = new Uint32Array([ucred.byteLength]);
  libc.call("getsockopt", fd, SOL_SOCKET, SO_PEERCRED, ucred, length);
  const [pid = 0, uid = 0, gid = 0] = ucred;
  return { pid, uid, gid };
}

/**
 * Finds the descriptor of a Unix socket of Deno's, by its addresses.
 *
 * @throws {Deno.errors.NotFound} If there is none.
 */
export function unixDescriptorOf(
  libc: Libc,
  socket: Deno.UnixConn | Deno.DatagramConn,
): LibcDescriptor {
  // A client's end has no path of its own: null, which the type leaves out.
  const pathOf = (address: Deno.Addr) => (address as Deno.UnixAddr).path ?? "";
  const own = pathOf("addr" in socket ? socket.addr : socket.localAddr);
  const other = "addr" in socket ? undefined : pathOf(socket.remoteAddr);
  const found = findDescriptor(
    libc,
    ({ fd }) =>
      pathBehind(libc, "getsockname", fd) === own &&
      (other === undefined || pathBehind(libc, "getpeername", fd) === other),
  );
  if (found !== undefined) return found;
  throw new Deno.errors.NotFound(`No descriptor has the path ${own || other}`);
}

/** The path in an address of a socket, `undefined` if it is no Unix socket. */
function pathBehind(
  libc: Libc,
  call: "getsockname" | "getpeername",
  fd: number,
): string | undefined {
  const name = new Uint8Array(SOCKADDR_UN_SIZE);
  const length = new Uint32Array([name.length]);
  libc.call(call, fd, name, length);
  if (new Uint16Array(name.buffer, 0, 1)[0] !== AF_UNIX) return undefined;
  const path = name.subarray(2, length[0]);
  return new TextDecoder().decode(path).replace(/\0$/, "");
}

/**
 * A socket as a program in C has it: nothing but what the call says happens, so
 * its `close` leaves the file where it is.
 *
 * @param call What is done with the path.
 * @throws {LibcError} If the call fails.
 * @throws {RangeError} If the path is too long for an address.
 */
export function openUnix(
  libc: Libc,
  call: "bind" | "connect",
  path: string,
): LibcSocket {
  const bytes = encode(path);
  const address = new Uint8Array(SOCKADDR_UN_SIZE);
  if (bytes.length > SOCKADDR_UN_SIZE - 3) {
    throw new RangeError(`A path of more than 107 bytes: ${path}`);
  }
  new Uint16Array(address.buffer, 0, 1)[0] = AF_UNIX;
  address.set(bytes, 2);
  const socket = libc.socket(SOCK_STREAM, AF_UNIX);
  try {
    libc.call(call, socket.fd, address, address.length);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** Nobody's number: `setfsuid(2)` takes it for a question. */
const NO_USER = 2 ** 32 - 1;

/** Which user this thread is for the modes of files: its effective one, mostly. */
export function fileUser(libc: Libc): number {
  return libc.calls.setfsuid(NO_USER);
}

/**
 * Does something as another user, as far as files are concerned: `setfsuid(2)`,
 * which is about the calling thread only. Only root may, and root who does loses
 * the right to ignore the modes of files meanwhile.
 *
 * @param libc libc, opened.
 * @param uid The other user's number.
 * @param work Must not wait for anything: that would be done by root again.
 * @returns What `work` returns.
 * @throws {Deno.errors.PermissionDenied} If this process may not.
 */
export function asUser<T>(libc: Libc, uid: number, work: () => T): T {
  const own = libc.calls.setfsuid(uid);
  try {
    // It has no error, so one has to look what it has done.
    if (fileUser(libc) === uid) return work();
    throw new Deno.errors.PermissionDenied(`User ${own} cannot be ${uid}`);
  } finally {
    libc.calls.setfsuid(own);
  }
}
