/**
 * Telling a client that is gone from a server that is broken.
 * This module imports nothing.
 *
 * @module
 */

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
  const { code } = error as { code?: unknown };
  switch (code) {
    case "ECONNRESET": // The other side has sent a RST,
    case "EPIPE": // which a write finds out like this (or this side has ended),
    case "ENOTCONN": // and Deno, before it could ask for the client's address,
    case "ECONNABORTED": // and other systems than Linux.
    case "ETIMEDOUT": // The other side does not answer any more.
    case "EHOSTUNREACH": // There is no way to the other side any more.
    case "ENETUNREACH":
    case "ECONNREFUSED": // A firewall on the way says so (ICMP),
    case "EPERM": // or this host's own, when the connection is to be accepted.
    case "ENOTSUP": // EOPNOTSUPP: as accept(2) says, to be tried again.
      return true;
  }
  // Deno has no code for ENONET, EPROTO, ENOPROTOOPT, ENETDOWN and EHOSTDOWN:
  // these are Linux's numbers of them.
  return /\(os error (64|71|92|100|112)\)$/.test(error.message);
}
