/**
 * Both ends of a TCP connection in one program, to see what they do.
 *
 * @module
 */

import { readTcpTable, type TcpRow } from "./tcp_table.ts";

/** A connection, both ends of it. Disposing of it closes what is open. */
export interface TcpPair extends Disposable {
  /** The end that has connected. */
  readonly client: Deno.TcpConn;
  /** The end that was accepted. */
  readonly server: Deno.TcpConn;
  /**
   * The kernel's rows of both ends, from one look at its list. There is none of
   * an end that is closed and done.
   *
   * @param table That look, where it is one for several pairs; by default a new
   * one.
   * @throws {Error} If the list cannot be read.
   * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
   */
  rows(table?: TcpRow[]): Promise<{ client?: TcpRow; server?: TcpRow }>;
}

/**
 * Connects this program to itself, on 127.0.0.1.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using pair = await connectPair();
 * await pair.client.closeWrite();
 * assertEquals((await pair.rows()).server?.state, "CLOSE-WAIT");
 * ```
 */
export async function connectPair(): Promise<TcpPair> {
  const hostname = "127.0.0.1";
  using listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr;
  const client = await Deno.connect({ hostname, port });
  const server = await listener.accept();
  const own = client.localAddr.port;
  return {
    client,
    server,
    async rows(table) {
      table ??= await readTcpTable();
      const find = (from: number, to: number) =>
        table.find((row) => row.local.port === from && row.remote.port === to);
      return { client: find(own, port), server: find(port, own) };
    },
    [Symbol.dispose]() {
      client[Symbol.dispose]();
      server[Symbol.dispose]();
    },
  };
}
