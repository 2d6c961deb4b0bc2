/**
 * A connection as a stream that leaves the connection open.
 * This module imports nothing.
 *
 * @module
 */

/** How many bytes a chunk has at most; as many as those of Deno's streams. */
const CHUNK_SIZE = 64 * 1024;
/** How many reads of 0 bytes in a row are no mistake of the reader's. */
const MOST_EMPTY = 100;

/**
 * Makes a stream of what `read` brings. `conn.readable` also does that. But at
 * the end of the stream it closes the connection, in both directions: what is
 * still to be written is lost. This stream closes nothing.
 *
 * @param reader A connection, or anything else to read bytes from. While the
 * stream is read, do not read from it in another way.
 * @returns The stream. It reads when it is read, and not before.
 *
 * @example An answer after the end of the request
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using client = await Deno.connect({ port: listener.addr.port });
 * using conn = await listener.accept();
 * await client.write(new TextEncoder().encode("How long is it?"));
 * await client.closeWrite();
 *
 * const request = await new Response(openReadable(conn)).text();
 * await conn.write(new Uint8Array([request.length]));
 * const answer = new Uint8Array(1);
 * await client.read(answer);
 * assertEquals(answer[0], 15);
 * ```
 */
export function openReadable(
  reader: { read(p: Uint8Array): Promise<number | null> },
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    type: "bytes",
    autoAllocateChunkSize: CHUNK_SIZE,
    async pull(controller) {
      const request = controller.byobRequest!;
      let count: number | null = 0;
      for (let i = 0; count === 0 && i < MOST_EMPTY; i++) {
        count = await reader.read(request.view as Uint8Array);
      }
      if (count === null) controller.close();
      request.respond(count ?? 0);
    },
  });
}
