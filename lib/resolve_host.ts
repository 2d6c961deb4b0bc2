/**
 * One resolver for both sides of a conversation.
 *
 * @module
 */

import { lookup } from "node:dns/promises";

/**
 * Finds the IP address that `Deno.listen` and `Deno.listenDatagram` take for a
 * host's name: the resolver's first answer. (`Deno.connect` tries the others
 * after it. A datagram has one address only, so both sides must take the same.)
 *
 * @param hostname A name, or an IP address, which stays as it is.
 * @returns The address, without brackets.
 * @throws The resolver's error if there is no such name: `ENOTFOUND`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(await resolveHost("127.0.0.1"), "127.0.0.1");
 * assertEquals(await resolveHost("[::1]"), "::1");
 * ```
 */
export async function resolveHost(hostname: string): Promise<string> {
  const bare = hostname.replace(/^\[|\]$/g, "");
  const { address } = await lookup(bare, { family: 0, order: "verbatim" });
  return address;
}
