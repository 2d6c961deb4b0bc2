/**
 * What lesson 01's server should do: one message, one reply, and the next client.
 *
 * @module
 */

import { encode } from "../encode.ts";
import type { Attempt, Check } from "./check.ts";

/** A message has a newline at its end, as the client of lesson 01 sends it. */
const HELLO = encode("hello,hello\n");

/** So many clients come next, and so long is each of them waited for, in ms. */
const [NEXT, TURN] = [10, 10];

/**
 * Other clients, after what has happened. The first one may be served although the
 * server is about to end, so that the next check would be blamed for it.
 */
export async function nextIsServed(
  attempt: Attempt,
  message: Uint8Array = HELLO,
): Promise<void> {
  for (let clients = 0; clients < NEXT; clients++) {
    using next = await attempt.connect("the next client");
    await next.echo(message);
    await attempt.rest(TURN);
  }
}

/** The first check of a server: without this nothing else can be judged. */
export const oneMessage: Check = {
  name: "a message comes back",
  lesson: "01",
  async run(attempt) {
    using client = await attempt.connect();
    await client.echo(HELLO);
  },
};

/** Clients in turn. */
export const nextClient: Check = {
  name: "the next client is served too",
  lesson: "01",
  async run(attempt) {
    attempt.story.push("a client had its reply, and left");
    await nextIsServed(attempt);
  },
};

/** A client whose stream ends before it began. */
export const silentLeave: Check = {
  name: "a client leaves without a word, and the next one is served",
  lesson: "02",
  async run(attempt) {
    (await attempt.connect())[Symbol.dispose]();
    attempt.story.push("a client connects, and leaves");
    await nextIsServed(attempt);
  },
};

/** The checks of `hello`. */
export const HELLO_CHECKS: Check[] = [
  oneMessage,
  nextClient,
  {
    name: "a NUL does not end a message",
    lesson: "01",
    async run(attempt) {
      using client = await attempt.connect();
      await client.echo(encode("hel\0lo\n"));
    },
  },
  {
    name: "a message in two pieces comes back whole",
    lesson: "02",
    async run(attempt) {
      using client = await attempt.connect();
      await client.send(encode("hel"));
      // A server that takes the first piece for all of it answers now.
      await client.waitForSome();
      await client.send(encode("lo\n"));
      await client.receive(encode("hello\n"), '"hello\\n"');
    },
  },
  silentLeave,
  {
    name: "a client resets its connection, and the next one is served",
    lesson: "01",
    async run(attempt) {
      for (let resets = 1; resets <= 3; resets++) {
        await attempt.reset({ message: HELLO, atOnce: resets > 1 });
      }
      attempt.story.push("3 clients reset their connections");
      await nextIsServed(attempt);
    },
  },
];
