/**
 * What an echo server should do (RFC 862) that serves one client at a time: lesson
 * 02's.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { type Check, noise } from "./check.ts";
import {
  nextClient,
  nextIsServed,
  oneMessage,
  silentLeave,
} from "./checks_hello.ts";

const MIB = 1024 * 1024;
/** More than any buffer of a program's, but not of the kernel's. */
const LARGE = 100_000;
/** More than the kernel keeps, with its usual limits, on both sides together. */
export const TOO_MUCH: number = 12 * MIB;
/** Rounds of resets: behind those of one round the next client finds a place too. */
const [ROUND, ROUNDS] = [3, 30];

/** A short message. */
export const HELLO: Uint8Array<ArrayBuffer> = encode("hello\n");

/** Bytes are bytes, and not text. */
export const everyByte: Check = {
  name: "every byte value comes back, NUL too",
  lesson: "02",
  async run(attempt) {
    using client = await attempt.connect();
    const values = Uint8Array.from({ length: 256 }, (_, value) => value);
    await client.echo(values, "the 256 byte values");
  },
};

/** More than one read brings. */
export const largeMessage: Check = {
  name: "a message larger than any buffer comes back",
  lesson: "02",
  needs: everyByte,
  async run(attempt) {
    using client = await attempt.connect();
    await client.echo(noise(LARGE));
  },
};

/** The server has to wait until its writes are taken. */
export const lateReader: Check = {
  name: "a client that reads late gets all of its echo",
  lesson: "04",
  needs: largeMessage,
  async run(attempt) {
    using client = await attempt.connect();
    const data = noise(TOO_MUCH);
    const { sending } = await client.sendUnread(data);
    await Promise.all([sending, client.receive(data)]);
  },
};

/** The checks of `echo`. Those that end a weak server come last. */
export const ECHO_CHECKS: Check[] = [
  { ...oneMessage, lesson: "02" },
  { ...nextClient, lesson: "02" },
  {
    name: "a message in pieces comes back whole",
    lesson: "02",
    async run(attempt) {
      using client = await attempt.connect();
      // The next piece leaves when the last one has come back, so it cannot be
      // read together with that.
      for (const piece of ["hel", "lo", "\n"]) await client.echo(encode(piece));
    },
  },
  everyByte,
  largeMessage,
  {
    name: "8 MiB both ways at once",
    lesson: "04",
    needs: largeMessage,
    async run(attempt) {
      using client = await attempt.connect();
      await client.echo(noise(8 * MIB));
    },
  },
  lateReader,
  {
    name: "after a half-close the echo still comes, and then the end",
    lesson: "08",
    needs: lateReader,
    async run(attempt) {
      using client = await attempt.connect();
      const data = noise(TOO_MUCH);
      const { sending, isStuck } = await client.sendUnread(data);
      const end = sending.then(() => client.endSending());
      // A server that has taken all of it keeps what it cannot send. It is to read
      // the end before there is room for more.
      if (!isStuck) await attempt.rest(3 * attempt.pause);
      await Promise.all([end, client.receive(data)]);
      await client.receiveEnd();
    },
  },
  silentLeave,
  {
    name: "a client resets its connection, and the next one is served",
    lesson: "02",
    async run(attempt) {
      await attempt.reset({ message: HELLO });
      attempt.story.push("a client resets its connection after an echo");
      await nextIsServed(attempt);
    },
  },
  {
    name: "clients reset before their turn, and the next one is served",
    lesson: "01",
    async run(attempt) {
      const resetAll = () =>
        Promise.all(
          Array.from({ length: ROUND }, () => attempt.reset({ atOnce: true })),
        );
      {
        // While this one is served, the others are in the queue: that of a
        // program, or at least that of the kernel.
        using first = await attempt.connect();
        await first.echo(HELLO);
        await resetAll();
      }
      const count = ROUND * ROUNDS;
      attempt.story.push(`up to ${count} clients connect, and reset at once`);
      for (let round = 1; round < ROUNDS; round++) {
        using next = await attempt.connect("the next client");
        await next.echo(HELLO); // So the queue is empty again.
        await resetAll();
      }
      await nextIsServed(attempt);
    },
  },
  {
    name: "a client leaves its echo unread, and the next one is served",
    lesson: "02",
    async run(attempt) {
      {
        using client = await attempt.connect();
        await client.sendUnread(noise(TOO_MUCH));
        await client.waitForSome();
      }
      attempt.story.push("a client sends much, reads nothing, and leaves");
      await nextIsServed(attempt);
    },
  },
];
