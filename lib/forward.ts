/**
 * Joining two connections, as a TCP proxy does.
 *
 * @module
 */

import { type Reader, readSome, writeFull, type Writer } from "./full_io.ts";

/** How many bytes are on their way in one direction at most. */
const BUFFER_SIZE = 64 * 1024;

/** One of the two sides: a `Deno.Conn`, or anything with these methods. */
export interface ForwardedConn extends Reader, Writer {
  /** Ends this side of the stream, as the method of `Deno.Conn` does. */
  closeWrite(): Promise<void>;
  /** Closes it. Where it is not there, whoever has called must close it. */
  [Symbol.dispose]?(): void;
}

/**
 * Passes on what comes from each of two connections to the other one, in both
 * directions at once, until both directions have ended. Then both are closed.
 *
 * The end of a stream is passed on as such, by `closeWrite`. So a client may end
 * its request and still get the answer (a half-close). In each direction the next
 * read waits until all is written, so a side that reads slowly slows down the one
 * that sends (backpressure).
 *
 * When one side is reset, or fails in another way, both are closed at once,
 * because the other one would wait for an answer that never comes. Three things
 * are good to know about that:
 *
 * - The other side is not told that it was a reset. Deno's `close()` sends a FIN
 *   first, so the other side reads what looks like a clean end, and learns of the
 *   failure only when it writes. A protocol in which the end of the stream means
 *   "complete" cannot tell the difference.
 * - What was read and not passed on yet is lost.
 * - A failure is found out by the next call on that side. While the other side
 *   does not take what was sent to it, there is none; and a side that has only
 *   vanished is not found out at all, unless the kernel asks (keepalive).
 *
 * @param one A connection.
 * @param other Another one.
 * @throws The first error of {@linkcode readSome}, {@linkcode writeFull} or a
 * `closeWrite`.
 *
 * @example A proxy between a client and a server
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using proxy = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using client = await Deno.connect({ port: proxy.addr.port });
 * const upstream = await Deno.connect({ port: listener.addr.port });
 * const forwarding = forward(await proxy.accept(), upstream);
 *
 * using conn = await listener.accept();
 * await client.write(new Uint8Array([42]));
 * await client.closeWrite();
 * const buffer = new Uint8Array(2);
 * assertEquals(await conn.read(buffer), 1);
 * assertEquals(await conn.read(buffer), null);
 * await conn.write(buffer);
 * conn.close();
 * assertEquals(await client.read(buffer), 2);
 * assertEquals(await client.read(buffer), null);
 * await forwarding;
 * ```
 */
export async function forward(
  one: ForwardedConn,
  other: ForwardedConn,
): Promise<void> {
  try {
    await Promise.all([passOn(one, other), passOn(other, one)]);
  } finally {
    for (const conn of [one, other]) conn[Symbol.dispose]?.();
  }
}

/** One direction, up to its end. */
async function passOn(from: ForwardedConn, to: ForwardedConn): Promise<void> {
  const buffer = new Uint8Array(BUFFER_SIZE);
  while (true) {
    const count = await readSome(from, buffer);
    if (count === null) break;
    await writeFull(to, buffer.subarray(0, count));
  }
  await to.closeWrite();
}
