/**
 * A client that leaves in the rudest way.
 *
 * @module
 */

import { once } from "node:events";
import { createConnection } from "node:net";

/** Options of {@linkcode connectAndReset}. */
export interface ResetOptions {
  /** The server's address, 127.0.0.1 by default. */
  hostname?: string;
  /** What is sent, and echoed: "reset me" by default. */
  message?: string | Uint8Array;
  /** Resets as soon as it is connected: nothing is sent, and nothing awaited. */
  atOnce?: boolean;
  /** Resets when this has resolved, and not when an echo comes. */
  when?: Promise<unknown>;
  /** Gives up, and closes the connection. */
  signal?: AbortSignal;
}

/**
 * Connects to an echo server, and resets the connection when the first echo has
 * come: a real RST. Deno's `close()` would send a FIN first.
 *
 * @param port The server's port.
 * @param options Where it is, and what is sent.
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
export async function connectAndReset(
  port: number,
  options: ResetOptions = {},
): Promise<void> {
  const { hostname = "127.0.0.1", message = "reset me" } = options;
  const { atOnce = false, when, signal } = options;
  const socket = createConnection(port, hostname);
  const giveUp = () => void socket.destroy();
  signal?.addEventListener("abort", giveUp);
  try {
    const closed = once(socket, "close");
    if (!atOnce) socket.write(message);
    // After an echo it is accepted. A RST before that makes accept() reject.
    const ready = when ?? once(socket, atOnce ? "connect" : "data");
    await Promise.race([ready, closed]);
    if (socket.destroyed) throw new Error("The server has closed first");
    socket.resetAndDestroy();
    await closed;
  } finally {
    signal?.removeEventListener("abort", giveUp);
  }
}
