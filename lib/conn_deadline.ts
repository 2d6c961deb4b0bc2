/**
 * Calls of a connection that give up in time.
 *
 * @module
 */

import { withDeadline } from "./deadline.ts";
import { writeFull } from "./full_io.ts";

/**
 * Connects, or gives up: a server whose queue is full gives no answer.
 *
 * @param address The server's address.
 * @param milliseconds How long to wait.
 * @throws {Deno.errors.TimedOut} When the time is over.
 *
 * @example
 * ```ts
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using _conn = await connectWithDeadline(listener.addr, 1000);
 * ```
 */
export async function connectWithDeadline(
  address: { hostname: string; port: number },
  milliseconds: number,
): Promise<Deno.TcpConn> {
  const giveUp = new AbortController();
  const connecting = Deno.connect({ ...address, signal: giveUp.signal });
  return await withDeadline(connecting, milliseconds, () => {
    giveUp.abort();
    // It may have connected just now.
    connecting.then((conn) => conn[Symbol.dispose](), () => {});
  });
}

/**
 * Reads, or closes the connection: then there is nothing left to read from, and
 * another call that waits on it is `Interrupted`.
 *
 * @param conn The connection.
 * @param buffer Where the bytes go.
 * @param milliseconds How long to wait.
 * @returns How many bytes came, or `null` at the end of the stream.
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export function readWithDeadline(
  conn: Deno.Conn,
  buffer: Uint8Array,
  milliseconds: number,
): Promise<number | null> {
  const giveUp = () => conn[Symbol.dispose](); // Unlike close(), never throws.
  return withDeadline(conn.read(buffer), milliseconds, giveUp);
}

/**
 * Writes all of it, or closes the connection: a part may have been sent.
 *
 * @param conn The connection.
 * @param data The bytes.
 * @param milliseconds How long to wait.
 * @returns `data.length`.
 * @throws {Deno.errors.TimedOut} When the time is over.
 */
export function writeFullWithDeadline(
  conn: Deno.Conn,
  data: Uint8Array,
  milliseconds: number,
): Promise<number> {
  const giveUp = () => conn[Symbol.dispose]();
  return withDeadline(writeFull(conn, data), milliseconds, giveUp);
}
