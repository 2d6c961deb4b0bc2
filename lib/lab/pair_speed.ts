/**
 * How fast a connection is, with both ends in this program.
 *
 * @module
 */

import { readExactly, writeFull } from "../full_io.ts";
import type { Libc, LibcDescriptor } from "./libc_socket.ts";

/** An end of a connection, as Deno's are. */
export type SpeedEnd = Pick<Deno.Conn, "read" | "write">;

/** How many bytes one end asks with, and the other one answers with. */
const QUESTION = 64;
/** How many bytes go in one direction at a time: 1 MiB. */
const CHUNK = 1024 * 1024;

/**
 * Asks at one end, and answers at the other.
 *
 * @param milliseconds For how long.
 * @returns How many questions of 64 bytes were answered in a second.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { connectPair } from "./tcp_pair.ts";
 *
 * using pair = await connectPair();
 * assert(await roundTrips(pair.client, pair.server, 10) > 1);
 * ```
 */
export async function roundTrips(
  client: SpeedEnd,
  server: SpeedEnd,
  milliseconds: number,
): Promise<number> {
  const data = new Uint8Array(QUESTION);
  const start = performance.now();
  for (let count = 1;; count++) {
    for (const [from, to] of [[client, server], [server, client]] as const) {
      await writeFull(from, data);
      await readExactly(to, data);
    }
    const time = performance.now() - start;
    if (time > milliseconds) return 1000 * count / time;
  }
}

/** The same, by nothing but the kernel's calls, which wait for each other. */
export function libcRoundTrips(
  libc: Libc,
  client: LibcDescriptor,
  server: LibcDescriptor,
  milliseconds: number,
): number {
  const data = new Uint8Array(QUESTION);
  const start = performance.now();
  for (let count = 1;; count++) {
    for (const [from, to] of [[client, server], [server, client]] as const) {
      libc.call("sendto", from.fd, data, data.length, 0, null, 0);
      libc.call("recv", to.fd, data, data.length, 0);
    }
    const time = performance.now() - start;
    if (time > milliseconds) return 1000 * count / time;
  }
}

/**
 * Writes at one end all the time, and reads at the other.
 *
 * @param milliseconds For how long.
 * @returns How many MiB went through in a second.
 */
export async function throughput(
  client: SpeedEnd,
  server: SpeedEnd,
  milliseconds: number,
): Promise<number> {
  const [data, buffer] = [new Uint8Array(CHUNK), new Uint8Array(CHUNK)];
  const start = performance.now();
  for (let count = 1;; count++) {
    await Promise.all([writeFull(client, data), readExactly(server, buffer)]);
    const time = performance.now() - start;
    if (time > milliseconds) return 1000 * count / time;
  }
}
