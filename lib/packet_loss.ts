/**
 * A network that loses what comes in for one connection. Linux only.
 *
 * @module
 */

import { descriptorOf, openLibc } from "./libc_socket.ts";

/** `BPF_RET | BPF_K`, "return 0": of each segment that comes keep 0 bytes. */
const DROP_ALL = new Uint16Array([0x06, 0, 0, 0]);

/**
 * The kernel drops all that comes in for a connection, as if the network had lost
 * it. What is written still goes out. It needs no root: see `SO_ATTACH_FILTER` in
 * `socket(7)`.
 *
 * @throws {Deno.errors.NotFound} If the connection is closed, or not IPv4.
 */
export function dropIncoming(conn: Deno.TcpConn): void {
  using libc = openLibc();
  // A struct sock_fprog: how many instructions the filter has, and where.
  const where = Deno.UnsafePointer.value(Deno.UnsafePointer.of(DROP_ALL));
  const program = new Int32Array(new BigUint64Array([1n, where]).buffer);
  descriptorOf(libc, conn).setsockopt("SO_ATTACH_FILTER", ...program);
}

/**
 * Ends the loss: what comes in arrives again.
 *
 * @throws {LibcError} With the code `ENOENT` if nothing was dropped.
 * @throws {Deno.errors.NotFound} If the connection is closed, or not IPv4.
 */
export function passIncoming(conn: Deno.TcpConn): void {
  using libc = openLibc();
  descriptorOf(libc, conn).setsockopt("SO_DETACH_FILTER", 0);
}
