/**
 * Telling a client that is gone from a server that is broken.
 * This module imports nothing.
 *
 * @module
 */

/** What accept(2), recv(2) and send(2) say of a connection that has ended. */
const CODES = [
  "ECONNRESET", // the other side has sent a RST
  "EPIPE", // the same, but found out by a write
  "ENOTCONN", // the same, before Deno could ask for the client's address
  "ECONNABORTED", // the same, on other systems
  "ETIMEDOUT", // the other side does not answer any more
  "EHOSTUNREACH", // there is no way to the other side any more
  "ENETUNREACH",
  "ECONNREFUSED", // a firewall on the way says so (ICMP)
];
/** The same for errors that Deno has no code for: Linux's numbers of them. */
const NUMBERS = [
  64, // ENONET
  71, // EPROTO
  92, // ENOPROTOOPT
  100, // ENETDOWN
  112, // EHOSTDOWN
];

/**
 * Says whether what `accept`, `read` or `write` has thrown is the end of one
 * connection, and of nothing else. A server goes on after such an error,
 * because it is about one client only. Any other error is about the server
 * itself.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * const reset = Object.assign(new Error(), { code: "ECONNRESET" });
 * assert(isConnectionLost(reset));
 * assert(!isConnectionLost(new RangeError("a mistake of ours")));
 * ```
 */
export function isConnectionLost(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const [, number] = error.message.match(/\(os error (\d+)\)$/) ?? [];
  return CODES.includes(String((error as { code?: unknown }).code)) ||
    NUMBERS.includes(Number(number));
}
