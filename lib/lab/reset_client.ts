/**
 * A client that leaves in the rudest way.
 *
 * @module
 */

import { once } from "node:events";
import { createConnection } from "node:net";

/**
 * Connects to an echo server on 127.0.0.1, and resets the connection when the
 * first echo has come: a real RST. Deno's `close()` would send a FIN first.
 *
 * @param port The server's port.
 * @throws {Error} If the server closes first, or nobody listens there.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const resetting = connectAndReset(listener.addr.port);
 * using conn = await listener.accept();
 * const buffer = new Uint8Array(16);
 * await conn.read(buffer);
 * await conn.write(buffer);
 * await resetting;
 * await assertRejects(
 *   () => conn.read(buffer),
 *   Deno.errors.ConnectionReset,
 * );
 * ```
 */
export async function connectAndReset(port: number): Promise<void> {
  const socket = createConnection(port, "127.0.0.1");
  socket.write("reset me");
  const closed = once(socket, "close");
  // After an echo it is accepted. A RST before that makes accept() reject.
  await Promise.race([once(socket, "data"), closed]);
  if (socket.destroyed) throw new Error("The server has closed first");
  socket.resetAndDestroy();
  await closed;
}
