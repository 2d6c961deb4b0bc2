/**
 * Both ends of a TCP connection in one program, to see what they do.
 *
 * @module
 */

/** A connection, both ends of it. Disposing of it closes what is open. */
export interface TcpPair extends Disposable {
  /** The end that has connected. */
  readonly client: Deno.TcpConn;
  /** The end that was accepted. */
  readonly server: Deno.TcpConn;
}

/**
 * Connects this program to itself, on 127.0.0.1.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using pair = await connectPair();
 * await pair.client.write(new Uint8Array(5));
 * assertEquals(await pair.server.read(new Uint8Array(10)), 5);
 * ```
 */
export async function connectPair(): Promise<TcpPair> {
  const hostname = "127.0.0.1";
  using listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr;
  const client = await Deno.connect({ hostname, port });
  const server = await listener.accept().catch((error) => {
    client.close();
    throw error;
  });
  return {
    client,
    server,
    [Symbol.dispose]() {
      client[Symbol.dispose]();
      server[Symbol.dispose]();
    },
  };
}
