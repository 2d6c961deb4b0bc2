/**
 * What an echo server for many clients should do: lesson 12's. With what an echo
 * server does anyway, Protohackers' smoke test (problem 0) is in it.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { type Check, noise } from "./check.ts";
import { ECHO_CHECKS, largeMessage, TOO_MUCH } from "./checks_echo.ts";

/** More than lets one thread for each client pass unnoticed. */
const MANY = 200;

/** The checks of `concurrent`. */
export const CONCURRENT_CHECKS: Check[] = [
  ...ECHO_CHECKS,
  {
    name: "5 clients at once, one of them silent",
    lesson: "12",
    needs: largeMessage,
    async run(attempt) {
      using silent = await attempt.connect("the silent client, at last");
      attempt.story.push("a client connects, and is silent");
      const others = Array.from({ length: 4 }, async (_, i) => {
        const client = await attempt.connect(`client ${i + 2} of 5`);
        await client.echo(noise(100_000 + i));
        await client.endSending();
        await client.receiveEnd();
      });
      await Promise.all(others);
      await silent.echo(encode("at last\n"));
    },
  },
  {
    name: `${MANY} clients at once`,
    lesson: "12",
    async run(attempt) {
      const clients = [];
      // All of them are connected before the first one speaks.
      for (let i = 1; i <= MANY; i++) {
        clients.push(await attempt.connect(`client ${i} of ${MANY}`));
      }
      await Promise.all(
        clients.map((client, i) => client.echo(encode(`I am client ${i}\n`))),
      );
    },
  },
  {
    name: "a client that does not read does not stop the others",
    lesson: "12",
    async run(attempt) {
      using deaf = await attempt.connect();
      await deaf.sendUnread(noise(TOO_MUCH));
      attempt.story.push("a client sends much, and reads nothing");
      using other = await attempt.connect("another one");
      await other.echo(encode("hello\n"));
    },
  },
];
