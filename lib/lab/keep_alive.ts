/**
 * The kernel's remedies for a peer that is gone and says nothing. Linux and IPv4
 * only, and through libc: Deno's own `setKeepAlive` cannot say when.
 *
 * @module
 */

import { descriptorOf, openLibc } from "./libc_socket.ts";

/** When the kernel asks a silent peer whether it is there: `tcp(7)`. */
export interface KeepAliveTimes {
  /** After how many seconds of silence: `TCP_KEEPIDLE`. */
  idle: number;
  /** How many seconds it waits for each answer: `TCP_KEEPINTVL`. */
  interval: number;
  /** How often it asks: `TCP_KEEPCNT`. */
  count: number;
}

/**
 * Lets the kernel ask a silent peer. After `idle + interval * count` seconds
 * without an answer the connection ends, and a read rejects with ETIMEDOUT.
 *
 * @throws {Deno.errors.NotFound} If the connection is closed, or not IPv4.
 * @throws {RangeError} If a time is not a whole number.
 */
export function setKeepAliveTimes(
  conn: Deno.TcpConn,
  { idle, interval, count }: KeepAliveTimes,
): void {
  using libc = openLibc();
  const socket = descriptorOf(libc, conn);
  socket.setsockopt("TCP_KEEPIDLE", idle);
  socket.setsockopt("TCP_KEEPINTVL", interval);
  socket.setsockopt("TCP_KEEPCNT", count);
  socket.setsockopt("SO_KEEPALIVE", 1);
}

/**
 * Lets the kernel wait no longer for an acknowledgement of what was written:
 * `TCP_USER_TIMEOUT`, RFC 5482. Then the connection ends with ETIMEDOUT.
 *
 * @param conn The connection.
 * @param milliseconds How long; 0 is the kernel's own time.
 * @throws {Deno.errors.NotFound} If the connection is closed, or not IPv4.
 */
export function setUserTimeout(
  conn: Deno.TcpConn,
  milliseconds: number,
): void {
  using libc = openLibc();
  descriptorOf(libc, conn).setsockopt("TCP_USER_TIMEOUT", milliseconds);
}
