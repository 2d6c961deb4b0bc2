/**
 * What the kernel knows of the sockets that somebody calls at a prompt.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import {
  awaitsAnswer,
  type ConnEnd,
  describeRow,
  endOf,
  otherEnd,
  readUntilSettled,
  type TcpRow,
} from "../lab/tcp_table.ts";

/** What the kernel has as the other end of a listener. */
const NOBODY = { hostname: "0.0.0.0", port: 0 };

/**
 * Asks the kernel for a listener, and for both ends of a connection, when they
 * have got the answers that they wait for.
 *
 * @param listener A listener, if there is one.
 * @param conn A connection, open or closed, if there is one.
 * @returns A line for each socket.
 * @throws {Error} If the kernel's list cannot be read.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const [line] = await describeSockets(listener);
 * const address = `127.0.0.1:${listener.addr.port}`.padEnd(15);
 * assertEquals(line, `here   ${address}  LISTEN`);
 * ```
 */
export async function describeSockets(
  listener?: Deno.TcpListener,
  conn?: Deno.TcpConn,
): Promise<string[]> {
  const ends: [where: string, end: ConnEnd][] = [];
  if (listener) {
    ends.push(["here", { localAddr: listener.addr, remoteAddr: NOBODY }]);
  }
  if (conn) ends.push(["here", conn], ["there", otherEnd(conn)]);
  let rows: TcpRow[] = [];
  const all = ends.map(([_, end]) => end);
  for await (rows of readUntilSettled(all, awaitsAnswer));
  return ends.map(([where, end]) => {
    const address = formatAddress(end.localAddr).padEnd(15);
    return `${where.padEnd(5)}  ${address}  ${describeRow(endOf(rows, end))}`;
  });
}
