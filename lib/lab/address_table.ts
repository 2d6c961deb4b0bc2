/**
 * The kernel's own lists of this host's addresses. Linux only.
 *
 * @module
 */

import { plainAddress } from "../address.ts";
import { cat } from "./tcp_table.ts";

/** The scope of an address that is known on one link only, `IFA_LINK`. */
const LINK = "20";

/**
 * Lists the IP addresses of this host, of all its network interfaces: from
 * `/proc/net/fib_trie`, the table of IPv4 routes, and `/proc/net/if_inet6`.
 * `Deno.networkInterfaces()` has them too, but needs
 * `--allow-sys=networkInterfaces`.
 *
 * @returns Each one once: `127.0.0.1`; where a whole network is this host's own,
 * `127.0.0.0/8`; an address of one link with the name of its interface,
 * `fe80::1%eth0`.
 * @throws {Error} If the list of IPv4 cannot be read. (Where IPv6 is off, there
 * is none of it.)
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert((await readAddressTable()).includes("127.0.0.1"));
 * ```
 */
export async function readAddressTable(): Promise<string[]> {
  const text = await cat("/proc/net/fib_trie", "/proc/net/if_inet6");
  const addresses = new Set<string>();
  let leaf = "";
  for (const line of text.split("\n")) {
    // `|-- 127.0.0.0`, and in a later line `/8 host LOCAL`
    leaf = line.match(/\|-- (\S+)/)?.[1] ?? leaf;
    const [, length] = line.match(/\/(\d+) host LOCAL$/) ?? [];
    if (length) addresses.add(length === "32" ? leaf : `${leaf}/${length}`);
    // Address, number of the interface, length, scope, flags, interface.
    const [, digits, scope, card] =
      line.match(/^(\w{32}) \w+ \w+ (\w+) \w+ +(\S+)$/) ?? [];
    if (!digits) continue;
    const address = plainAddress(digits.match(/..../g)!.join(":"));
    addresses.add(scope === LINK ? `${address}%${card}` : address);
  }
  return [...addresses];
}
