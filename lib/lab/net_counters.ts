/**
 * What the kernel counts for a whole network, not for one socket. Linux only.
 *
 * @module
 */

import { cat } from "./tcp_table.ts";

/**
 * Reads the counters of `/proc/net/snmp`. They are those of all programs of this
 * host, or of the network namespace that this process is in, since it began.
 *
 * @returns Each counter by the name that nstat(8) has for it: `UdpRcvbufErrors`.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * const { UdpOutDatagrams } = await readCounters();
 * assert(UdpOutDatagrams >= 0);
 * ```
 */
export async function readCounters(): Promise<Record<string, number>> {
  const lines = (await cat("/proc/net/snmp")).trim().split("\n");
  const counters: Record<string, number> = {};
  // Two lines for each protocol: its name and names, its name and numbers.
  for (let i = 0; i + 1 < lines.length; i += 2) {
    const [names, numbers] = lines.slice(i, i + 2).map((it) => it.split(" "));
    const protocol = names![0]!.replace(":", "");
    for (const [at, name] of names!.slice(1).entries()) {
      counters[protocol + name] = Number(numbers![at + 1]);
    }
  }
  return counters;
}

/**
 * Says by how much some counters rise meanwhile.
 *
 * @param names Their names, as {@linkcode readCounters} has them.
 * @param work What is done meanwhile.
 * @returns What `work` resolves to, and a number for each name.
 */
export async function risesDuring<T>(
  names: string[],
  work: () => Promise<T>,
): Promise<[T, ...number[]]> {
  const before = await readCounters();
  const result = await work();
  const after = await readCounters();
  const rises = names.map((name) => after[name]! - before[name]!);
  return [result, ...rises];
}
