/**
 * Receiving the datagrams of one peer, in time.
 *
 * @module
 */

import { withDeadline } from "./deadline.ts";
import { plainAddress } from "./address.ts";

/** A receive() cannot be cancelled: the next call takes what it brings. */
const givenUp = new WeakMap<
  Deno.DatagramConn,
  Promise<[Uint8Array<ArrayBuffer>, Deno.Addr]>
>();
/** More than the kernel keeps for a socket, if nobody has changed that. */
const MOST_QUEUED = 1000;
/** Where Linux sends from a socket without an address what is sent to these. */
const THIS_HOST: Record<string, string> = {
  "0.0.0.0": "127.0.0.1",
  "::": "::1",
};

/**
 * Receives the next datagram that `peer` sends to a socket. Anybody can send to
 * it; a connected UDP socket in C ignores all others in the same way.
 *
 * @param socket The socket. Nothing else may receive from it.
 * @param peer An IP address, with or without a scope (`%eth0`), and a port.
 * `0.0.0.0` and `::` are this host: Linux sends it what is sent to them.
 * @param milliseconds How long to wait; 0 takes only what has arrived already.
 * @param onStranger Is told where each other datagram came from.
 * @returns The datagram; `null` if none came in time.
 * @throws {TypeError} If the address of `peer` is not an IP address.
 * @throws The error of the socket: `Interrupted` if it has been closed.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const bind = { hostname: "127.0.0.1", port: 0, transport: "udp" } as const;
 * const [socket, peer] = [bind, bind].map(Deno.listenDatagram);
 * const address = peer.addr as Deno.NetAddr;
 * assertEquals(await receiveFrom(socket, address, 10), null);
 * await peer.send(new Uint8Array([42]), socket.addr);
 * const data = await receiveFrom(socket, address, 1000);
 * assertEquals(data, new Uint8Array([42]));
 * socket.close();
 * peer.close();
 * ```
 */
export async function receiveFrom(
  socket: Deno.DatagramConn,
  peer: { hostname: string; port: number },
  milliseconds: number,
  onStranger?: (from: Deno.NetAddr) => unknown,
): Promise<Uint8Array<ArrayBuffer> | null> {
  if (!/^[\d.]+$|:/.test(peer.hostname)) {
    throw new TypeError(`Not an IP address: ${JSON.stringify(peer.hostname)}`);
  }
  const own = plainAddress((socket.addr as Deno.NetAddr).hostname);
  const to = plainAddress(peer.hostname);
  const host = to in THIS_HOST ? THIS_HOST[own] ?? own : to;
  const end = performance.now() + milliseconds;
  // When the time is over, the peer's may still stand behind those of others.
  for (let late = 0; late < MOST_QUEUED;) {
    const receiving = givenUp.get(socket) ??
      socket.receive(new Uint8Array(65535));
    givenUp.set(socket, receiving);
    let received;
    try {
      received = await withDeadline(receiving, end - performance.now());
    } catch (error) {
      if (error instanceof Deno.errors.TimedOut) return null;
      throw error;
    }
    givenUp.delete(socket);
    const [data, from] = received as [typeof received[0], Deno.NetAddr];
    if (from.port === peer.port && plainAddress(from.hostname) === host) {
      return data;
    }
    onStranger?.(from);
    if (performance.now() >= end) late++;
  }
  return null;
}
