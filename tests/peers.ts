/**
 * Peers that behave badly, for lessons to survive.
 *
 * @module
 */

import { connect, createServer } from "node:net";

/**
 * Connects, writes `data`, and resets the connection, with a real RST: Deno's
 * own `close()` would send a FIN first.
 */
export async function reset(
  port: number,
  data = new Uint8Array(),
): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  const closed = new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => socket.on("connect", () => resolve()));
  if (data.length > 0) {
    await new Promise<void>((resolve) => socket.write(data, () => resolve()));
  }
  socket.resetAndDestroy();
  await closed;
}

/** Reads to the end, or as many bytes as are wanted. */
export async function readAll(
  conn: Deno.Conn,
  wanted = Infinity,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for (let size = 0; size < wanted;) {
    const buffer = new Uint8Array(64 * 1024);
    const count = await conn.read(buffer);
    if (count === null) break;
    chunks.push(buffer.subarray(0, count));
    size += count;
  }
  return await new Blob(chunks).bytes();
}

/** Writes all of `data`. Not by `lib`, which is what is tested here. */
export async function writeAll(
  conn: Deno.Conn,
  data: Uint8Array,
): Promise<void> {
  for (let sent = 0; sent < data.length;) {
    sent += await conn.write(data.subarray(sent));
  }
}

/** Sends `data`, ends its side, and returns all that comes back. */
export async function exchange(
  port: number,
  data: string | Uint8Array<ArrayBuffer>,
): Promise<string> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const bytes = typeof data === "string"
    ? new TextEncoder().encode(data)
    : data;
  const send = async () => {
    await writeAll(conn, bytes);
    await conn.closeWrite();
  };
  // Both may fail, when the server is gone: then neither is left alone.
  const [reply] = await Promise.all([readAll(conn), send()]);
  return new TextDecoder().decode(reply);
}

/** Listens, and resets each connection when its first bytes have come. */
export async function resettingServer() {
  const reset = Promise.withResolvers<void>();
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("close", () => reset.resolve());
    socket.once("data", () => socket.resetAndDestroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as { port: number }).port,
    /** Resolves when the first connection is reset. */
    wasReset: reset.promise,
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => server.close(() => resolve())),
  };
}
