/**
 * A network that loses what comes in for one socket. Linux only.
 *
 * @module
 */

import type { LibcDescriptor } from "./libc_socket.ts";

/** `BPF_RET | BPF_K`, "return 0": of each segment that comes keep 0 bytes. */
const DROP_ALL = new Uint16Array([0x06, 0, 0, 0]);

/**
 * The kernel drops all that comes in for this socket, as if the network had lost
 * it. What the socket sends still goes out. It needs no root: see
 * `SO_ATTACH_FILTER` in `socket(7)`.
 *
 * @param socket It may be one of Deno's: `descriptorOf` finds it.
 * @throws {LibcError} If the socket is closed.
 */
export function dropIncoming(socket: LibcDescriptor): void {
  // A struct sock_fprog: how many instructions the filter has, and where.
  const where = Deno.UnsafePointer.value(Deno.UnsafePointer.of(DROP_ALL));
  const program = new BigUint64Array([1n, where]);
  socket.setsockopt("SO_ATTACH_FILTER", ...new Int32Array(program.buffer));
}

/**
 * What comes in arrives again.
 *
 * @param socket One for which `dropIncoming` was called.
 * @throws {LibcError} With the code `ENOENT` if nothing was dropped.
 */
export function passIncoming(socket: LibcDescriptor): void {
  socket.setsockopt("SO_DETACH_FILTER", 0);
}
