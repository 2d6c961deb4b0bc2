/**
 * What a server should do that echoes frames: lesson 10's.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { type Check, describeBytes, noise } from "./check.ts";
import { nextIsServed } from "./checks_hello.ts";

/** A message with its length in front: four bytes, the most significant first. */
function frameOf(message: Uint8Array): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(4 + message.length);
  new DataView(frame.buffer).setUint32(0, message.length);
  frame.set(message, 4);
  return frame;
}

const HELLO = frameOf(encode("hello"));
/** A length of 4 GiB less one: more than anybody should take. */
const TOO_LONG = new Uint8Array([0xff, 0xff, 0xff, 0xff, 0x68, 0x69]);

/** How a failure calls what was sent. */
function nameOf(message: Uint8Array): string {
  const bytes = describeBytes(frameOf(message));
  return `a frame of ${describeBytes(message)}: ${bytes}`;
}

/** The checks of `frames`. Those that end a weak server come last. */
export const FRAME_CHECKS: Check[] = [
  {
    name: "a frame comes back",
    lesson: "10",
    async run(attempt) {
      using client = await attempt.connect();
      await client.echo(HELLO, nameOf(encode("hello")));
    },
  },
  {
    name: "the next client is served too",
    lesson: "10",
    run: (attempt) => nextIsServed(attempt, HELLO),
  },
  {
    name: "a frame of no bytes comes back, and the next frame too",
    lesson: "10",
    async run(attempt) {
      using client = await attempt.connect();
      await client.echo(frameOf(new Uint8Array()), "a frame of no bytes");
      await client.echo(HELLO, nameOf(encode("hello")));
    },
  },
  {
    name: "a frame whose bytes come one by one comes back",
    lesson: "10",
    async run(attempt) {
      using client = await attempt.connect();
      for (const byte of HELLO) {
        await client.send(new Uint8Array([byte]));
        // Nobody can see from here that a byte was read: wait, but not for long.
        await client.waitForSome(attempt.pause / HELLO.length);
      }
      await client.receive(HELLO);
    },
  },
  {
    name: "two frames in one write both come back",
    lesson: "10",
    async run(attempt) {
      using client = await attempt.connect();
      const both = new Uint8Array([...HELLO, ...frameOf(encode("two"))]);
      await client.echo(both);
    },
  },
  {
    name: "a frame of 100 kB comes back",
    lesson: "10",
    async run(attempt) {
      using client = await attempt.connect();
      const message = noise(100_000);
      await client.echo(frameOf(message), nameOf(message));
    },
  },
  {
    name: "a frame over any limit ends its connection only",
    lesson: "10",
    async run(attempt) {
      {
        using client = await attempt.connect();
        await client.send(TOO_LONG, 'a length of 4,294,967,295, then "hi"');
        await client.receiveEnd({ orReset: true });
      }
      attempt.story.push("a client sends a length of 4,294,967,295");
      await nextIsServed(attempt, HELLO);
    },
  },
  {
    name: "a frame that is cut off ends its connection only",
    lesson: "10",
    async run(attempt) {
      for (const end of [2, 6]) {
        using client = await attempt.connect();
        await client.send(HELLO.subarray(0, end));
        await client.endSending();
        await client.receiveEnd({ orReset: true });
      }
      attempt.story.push("clients leave in the middle of a frame");
      await nextIsServed(attempt, HELLO);
    },
  },
  {
    name: "a client resets its connection, and the next one is served",
    lesson: "10",
    async run(attempt) {
      await attempt.reset({ message: HELLO });
      attempt.story.push("a client resets its connection after an echo");
      await nextIsServed(attempt, HELLO);
    },
  },
];
