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
    for (let sent = 0; sent < bytes.length;) {
      sent += await conn.write(bytes.subarray(sent));
    }
    await conn.closeWrite();
  };
  const readAll = async () => {
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    for (;;) {
      const buffer = new Uint8Array(64 * 1024);
      const count = await conn.read(buffer);
      if (count === null) return await new Blob(chunks).text();
      chunks.push(buffer.subarray(0, count));
    }
  };
  // Both may fail, when the server is gone: then neither is left alone.
  const [text] = await Promise.all([readAll(), send()]);
  return text;
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
