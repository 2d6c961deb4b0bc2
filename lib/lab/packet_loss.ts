/**
 * A network that loses what comes in for one connection. Linux only.
 *
 * @module
 */

import { descriptorOf, openLibc } from "./libc_socket.ts";

/** The largest TTL of an IP packet. Linux sends with 64, if nobody changed that. */
const LARGEST_TTL = 255;

/**
 * The kernel drops all that comes in for a connection, as if the network had lost
 * it. What is written still goes out. It does so by `IP_MINTTL` (Linux 2.6.34,
 * RFC 5082): the socket takes no packet whose TTL is less than the largest one. It
 * needs no root. (A filter that returns 0, `SO_ATTACH_FILTER` in `socket(7)`, does
 * the same, but some kernels let only root attach one to a TCP socket.)
 *
 * @throws {Deno.errors.NotFound} If the connection is closed, or not IPv4.
 * @throws {Error} If this host itself sends with the largest TTL.
 */
export function dropIncoming(conn: Deno.TcpConn): void {
  using libc = openLibc();
  const socket = descriptorOf(libc, conn);
  if (socket.getsockopt("IP_TTL") === LARGEST_TTL) {
    throw new Error("Nothing is lost where ip_default_ttl is 255");
  }
  socket.setsockopt("IP_MINTTL", LARGEST_TTL);
}

/**
 * Ends the loss: what comes in arrives again. Where the connection is gone
 * meanwhile, there is nothing to end.
 */
export function passIncoming(conn: Deno.TcpConn): void {
  using libc = openLibc();
  try {
    descriptorOf(libc, conn).setsockopt("IP_MINTTL", 0);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
