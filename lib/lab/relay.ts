/**
 * A bad network, for tests and demos: a relay that loses datagrams.
 * This module imports nothing.
 *
 * @module
 */

/** Options of {@linkcode Relay}. */
export interface RelayOptions {
  /** How many datagrams of 100 are lost. As many of 100 others are doubled. */
  loss?: number;
  /** The longest that a datagram is held back, in milliseconds. */
  delay?: number;
  /** What the choices depend on: the same seed loses the same datagrams. */
  seed?: number;
}

const RELAY_HOST = "127.0.0.1";

/**
 * Stands between one client and one server, and passes their datagrams on in
 * both directions: not all of them, some twice, and none at once, so that they
 * may overtake each other.
 *
 * Which ones it loses depends on their bytes, and on how often the same ones
 * have come before, but not on the time.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const bind = { hostname: "127.0.0.1", port: 0, transport: "udp" } as const;
 * const [client, server] = [bind, bind].map(Deno.listenDatagram);
 * const relay = new Relay(server.addr as Deno.NetAddr, { loss: 0 });
 * await client.send(new Uint8Array([42]), relay.address);
 * const [data, from] = await server.receive();
 * assertEquals(data, new Uint8Array([42]));
 * await server.send(data, from);
 * assertEquals((await client.receive())[0], data);
 * client.close();
 * server.close();
 * await relay.close();
 * ```
 */
export class Relay {
  /** Where the client sends to, instead of the server. */
  readonly address: Deno.NetAddr;
  /** How many datagrams were passed on, once or twice. */
  passed = 0;
  /** How many were not. */
  lost = 0;
  /** How many of those that were passed on went out twice. */
  doubled = 0;

  #front: Deno.DatagramConn;
  #back: Deno.DatagramConn;
  #flying = new Set<Promise<unknown>>();
  #options: Required<RelayOptions>;

  /**
   * Opens a relay, on a port of 127.0.0.1.
   *
   * @param server The address of the server, which need not be there.
   * @param options What it does to the datagrams.
   */
  constructor(server: Deno.NetAddr, options: RelayOptions = {}) {
    this.#options = { loss: 25, delay: 10, seed: 1, ...options };
    const open = (hostname: string) =>
      Deno.listenDatagram({ hostname, port: 0, transport: "udp" });
    this.#front = open(RELAY_HOST);
    try {
      this.#back = open(server.hostname.includes(":") ? "::" : "0.0.0.0");
    } catch (error) {
      this.#front.close();
      throw error;
    }
    this.address = this.#front.addr as Deno.NetAddr;

    let client: Deno.Addr | undefined;
    this.#pass(this.#front, this.#back, (from) => {
      client = from;
      return server;
    });
    this.#pass(this.#back, this.#front, () => client);
  }

  /** Passes on in one direction, until the sockets are closed. */
  async #pass(
    source: Deno.DatagramConn,
    target: Deno.DatagramConn,
    addressFor: (from: Deno.Addr) => Deno.Addr | undefined,
  ): Promise<void> {
    const { loss, delay, seed } = this.#options;
    const salt = source === this.#front ? seed : seed + 1;
    const seen = new Map<number, number>();
    for (;;) {
      const received = await source.receive(new Uint8Array(65535))
        .catch(() => null);
      if (received === null) return;
      const [data, from] = received;
      const to = addressFor(from);
      if (to === undefined) continue; // An answer before any request.
      const hash = hashOf(data);
      const nth = seen.get(hash) ?? 0;
      seen.set(hash, nth + 1);
      const random = randomNumbers(hash + salt * 1009 + nth * 9176);

      if (random() * 100 < loss) {
        this.lost++;
        continue;
      }
      this.passed++;
      const isDoubled = random() * 100 < loss;
      if (isDoubled) this.doubled++;
      for (let copies = isDoubled ? 2 : 1; copies > 0; copies--) {
        const flight = pauseFor(random() * delay)
          .then(() => target.send(data, to))
          .catch(() => {}) // It may be too long for this network.
          .finally(() => this.#flying.delete(flight));
        this.#flying.add(flight);
      }
    }
  }

  /** Closes it when all that was held back is passed on, also the answers. */
  async close(): Promise<void> {
    while (this.#flying.size > 0) {
      await Promise.all(this.#flying);
      await pauseFor(this.#options.delay);
    }
    this.#front.close();
    this.#back.close();
  }
}

function pauseFor(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** A number of 32 bits for any bytes (FNV-1a). */
function hashOf(data: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of data) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
