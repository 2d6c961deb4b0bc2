/**
 * What an echo server for datagrams should do: lesson 06's.
 *
 * @module
 */

import { formatAddress } from "../address.ts";
import { encode } from "../encode.ts";
import { grouped } from "../grouped.ts";
import { receiveFrom } from "../receive_from.ts";
import { resolveHost } from "../resolve_host.ts";
import { needUnstableNet } from "../unstable_net.ts";
import {
  type Attempt,
  type Check,
  CheckFailure,
  describeBytes,
  noise,
} from "./check.ts";

/** The largest datagram over IPv4: 65,535 bytes, less two headers. */
const LARGEST = 65_507;
/** Around the sizes that programs and networks like to have as their limit. */
const SIZES = [1, 2, 100, 255, 512, 513, 1024, 1025, 1500, 9000];

/** How a failure calls a datagram. */
const nameOf = (data: Uint8Array) =>
  data.length === 0 ? "an empty datagram" : describeBytes(data);

/** A socket that sends to the server, and takes datagrams from nobody else. */
async function open(attempt: Attempt, who = "") {
  needUnstableNet();
  const { port } = attempt.subject;
  const hostname = await resolveHost(attempt.subject.hostname);
  const server = { hostname, port, transport: "udp" as const };
  const any = hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ ...server, hostname: any, port: 0 });
  attempt.defer(() => socket.close());
  return {
    send: (data: Uint8Array) => socket.send(data, server),
    async receive(wanted: Uint8Array): Promise<void> {
      const others: string[] = [];
      const onStranger = (from: Deno.NetAddr) =>
        others.push(`, but a datagram from ${formatAddress(from)}`);
      const got = await receiveFrom(socket, server, attempt.limit, onStranger)
        .catch(() => null); // The time is over: the socket is closed.
      const isSame = got?.length === wanted.length &&
        got.every((byte, i) => byte === wanted[i]);
      if (isSame) return;
      const came = got === null
        ? `nothing in ${attempt.limit} ms${others[0] ?? ""}`
        : got.length === wanted.length
        ? "as many bytes, but others"
        : nameOf(got);
      const sent = attempt.told(`${who} ${nameOf(wanted)}`.trim());
      throw new CheckFailure(sent, "the same back", came);
    },
  };
}

/** Sends datagrams, each when the last one has come back. */
async function echo(attempt: Attempt, datagrams: Uint8Array[]): Promise<void> {
  const client = await open(attempt);
  for (const data of datagrams) {
    await client.send(data);
    await client.receive(data);
  }
}

/** The checks of `udp`. */
export const UDP_CHECKS: Check[] = [
  {
    name: "a datagram comes back",
    lesson: "06",
    run: (attempt) => echo(attempt, [encode("hello")]),
  },
  {
    name: "the next client is served too",
    lesson: "06",
    async run(attempt) {
      attempt.story.push("another client was served, and is gone");
      await echo(attempt, [encode("again")]);
    },
  },
  {
    name: "an empty datagram comes back",
    lesson: "06",
    run: (attempt) => echo(attempt, [new Uint8Array()]),
  },
  {
    name: "every byte value comes back, NUL too",
    lesson: "06",
    run: (attempt) =>
      echo(attempt, [Uint8Array.from({ length: 256 }, (_, value) => value)]),
  },
  {
    name: `datagrams of ${SIZES.length} sizes come back, none of them cut`,
    lesson: "06",
    run: (attempt) => echo(attempt, SIZES.map(noise)),
  },
  {
    name: `the largest datagram comes back: ${grouped(LARGEST)}`,
    lesson: "06",
    run: (attempt) => echo(attempt, [noise(LARGEST)]),
  },
  {
    name: "two clients have their own datagrams back",
    lesson: "06",
    async run(attempt) {
      const one = await open(attempt, "one client sent");
      const other = await open(attempt, "another client sent");
      const [first, second] = [encode("first"), encode("second")];
      await one.send(first);
      await other.send(second);
      await one.receive(first);
      await other.receive(second);
    },
  },
];
