/**
 * Which addresses are this host's own. This module imports nothing.
 *
 * @module
 */

/**
 * Says whether an IP address is one of this host's own. A socket can be bound to
 * such an address only, so this asks the kernel to bind one, on any free port.
 *
 * @param hostname The IP address.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(isOwnAddress("127.0.0.1"));
 * assert(!isOwnAddress("192.0.2.1")); // Hardly: it is for documentation.
 * ```
 */
export function isOwnAddress(hostname: string): boolean {
  try {
    Deno.listen({ hostname, port: 0 }).close();
    return true;
  } catch {
    return false; // EADDRNOTAVAIL, or a scope that is not there.
  }
}
