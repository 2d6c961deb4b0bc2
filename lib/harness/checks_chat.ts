/**
 * What a chat server should do: lesson 18's. The rules are those of Protohackers'
 * "Budget Chat" (problem 3). What a server says in its own words may be any line
 * that begins with `*`, and has the name in it.
 *
 * @module
 */

import { encode } from "../encode.ts";
import {
  type Attempt,
  type Check,
  type Client,
  describeBytes,
} from "./check.ts";
import { TOO_MUCH } from "./checks_echo.ts";

/** A crowd, as far as a room can have one. */
const MANY = 30;
/** How many letters a line and a name must be allowed to have. */
const [LONG_LINE, LONG_NAME] = [1000, 16];
/**
 * So many lines are on their way at once: any queue may hold as much. More at once
 * are fewer waits for a server that leaves Nagle's algorithm on (lesson 17).
 */
const BATCH = 128;

/** How many names there were: each is new, because who left may be told of late. */
let names = 0;
const newName = (word: string) => `${word}${++names}`;

const hasName = (line: string, name: string) =>
  RegExp(`\\b${name}\\b`).test(line);

/** Somebody who was asked for a name, and may have one. */
class Guest {
  readonly name: string;
  readonly client: Client;
  #room: Room;

  constructor(room: Room, name: string, client: Client) {
    this.#room = room;
    this.name = name;
    this.client = client;
  }

  /** Says its name, and hears who else is there. */
  async enter(others: string[]): Promise<void> {
    await this.client.send(encode(`${this.name}\n`));
    const who = others.length > 0
      ? `the names ${others.join(", ")}`
      : "the names of who is there";
    await this.client.receiveLine(
      `a line that begins with "*", with ${who}, and without its own`,
      (line) =>
        line !== null && line.startsWith("*") && !hasName(line, this.name) &&
        others.every((name) => hasName(line, name)),
    );
  }

  async says(text: string): Promise<void> {
    const line = encode(`${text}\n`);
    this.#room.attempt.story.push(`${this.name} says ${describeBytes(line)}`);
    await this.client.send(line);
  }

  /** Hears what somebody says, and before it nothing of anybody in this check. */
  hears(from: Guest, text: string): Promise<void> {
    const line = `[${from.name}] ${text}`;
    const expected = text.length < 80
      ? JSON.stringify(line)
      : `a line of [${from.name}]`;
    return this.#hears(expected, (it) => it === line);
  }

  /** Hears that somebody has come, or has left. */
  hearsOf(name: string): Promise<void> {
    return this.#hears(
      `a line that begins with "*", with ${name}`,
      (line) => line.startsWith("*") && hasName(line, name),
    );
  }

  async #hears(expected: string, isRight: (line: string) => boolean) {
    let isThere = false;
    while (!isThere) {
      await this.client.receiveLine(expected, (line) => {
        if (line === null) return false;
        isThere = isRight(line);
        return isThere || !this.#room.isAbout(line); // Others may be there too.
      });
    }
  }
}

/** The guests of one check. */
class Room {
  readonly attempt: Attempt;
  readonly #guests: Guest[] = [];
  readonly #names = new Set<string>();

  constructor(attempt: Attempt) {
    this.attempt = attempt;
  }

  /** Somebody connects, and is asked for a name. */
  async comes(word: string, name: string = newName(word)): Promise<Guest> {
    const client = await this.attempt.connect(name);
    await client.receiveLine(
      "a line that asks for a name",
      (it) => it !== null,
    );
    this.#names.add(name);
    return new Guest(this, name, client);
  }

  /** A guest says its name, and the others hear of it. */
  async enters(guest: Guest): Promise<void> {
    await guest.enter(this.#guests.map(({ name }) => name));
    this.attempt.story.push(`${guest.name} comes`);
    for (const other of this.#guests) await other.hearsOf(guest.name);
    this.#guests.push(guest);
  }

  /** A guest for each word, one after the other. */
  async join<Words extends string[]>(
    ...words: Words
  ): Promise<{ [K in keyof Words]: Guest }> {
    const guests: Guest[] = [];
    for (const word of words) {
      const guest = await this.comes(word);
      await this.enters(guest);
      guests.push(guest);
    }
    return guests as { [K in keyof Words]: Guest };
  }

  /** A guest is gone, or what is heard of it does not matter any more. */
  forget({ name }: Guest, { isNews = false } = {}): void {
    this.#guests.splice(this.#guests.findIndex((it) => it.name === name), 1);
    if (!isNews) this.#names.delete(name);
  }

  /** What is said of nobody in this room is of others, or of another check. */
  isAbout(line: string): boolean {
    return [...this.#names].some((name) => hasName(line, name));
  }
}

/** One who does not read, and two who talk meanwhile: so many lines of each kind. */
async function talkBesideDeaf(attempt: Attempt) {
  const room = new Room(attempt);
  const [deaf, ada, bob] = await room.join("deaf", "ada", "bob");
  room.forget(deaf); // It may be dropped, and told of.
  const lines = Array.from(
    { length: Math.ceil(TOO_MUCH / LONG_LINE / BATCH) * BATCH },
    (_, i) => `${i} `.padEnd(LONG_LINE, "abcdefghij"),
  );
  attempt.story.push(
    `${deaf.name} reads nothing; ${ada.name} says ${lines.length} lines`,
  );
  for (let start = 0; start < lines.length; start += BATCH) {
    const batch = lines.slice(start, start + BATCH);
    const sending = ada.client.send(encode(`${batch.join("\n")}\n`));
    for (const line of batch) await bob.hears(ada, line);
    await sending;
  }
  return { deaf, ada, lines };
}

/** Without this nothing else can be judged. */
const welcome: Check = {
  name: "a client is asked for its name, and told who is there",
  lesson: "18",
  async run(attempt) {
    const room = new Room(attempt);
    const ada = await room.comes("ada");
    await ada.enter([]);
    attempt.story.push(`${ada.name} comes`);
    const bob = await room.comes("bob");
    await bob.enter([ada.name]);
  },
};

const arrival: Check = {
  name: "who comes is told to those who are there, and only to them",
  lesson: "18",
  needs: welcome,
  async run(attempt) {
    const room = new Room(attempt);
    const [ada, bob] = await room.join("ada", "bob");
    await ada.says("hi");
    await bob.hears(ada, "hi");
  },
};

const relay: Check = {
  name: "a line goes to all others, and not back",
  lesson: "18",
  needs: arrival,
  async run(attempt) {
    const room = new Room(attempt);
    const [ada, bob, cleo] = await room.join("ada", "bob", "cleo");
    await ada.says("hello");
    await bob.hears(ada, "hello");
    await cleo.hears(ada, "hello");
    await bob.says("hi");
    await ada.hears(bob, "hi");
    await cleo.hears(bob, "hi");
  },
};

const deafClient: Check = {
  name: "a client that does not read does not stop the others",
  lesson: "18",
  needs: relay,
  patience: 2,
  run: talkBesideDeaf,
};

/** The checks of `chat`. Those that end a weak server come last. */
export const CHAT_CHECKS: Check[] = [
  welcome,
  arrival,
  relay,
  {
    name: "a line in two pieces is one, and two lines in one piece are two",
    lesson: "10",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const [ada, bob] = await room.join("ada", "bob");
      await ada.client.send(encode("hel"));
      await attempt.rest();
      await ada.says("lo\none\ntwo");
      for (const line of ["hello", "one", "two"]) await bob.hears(ada, line);
    },
  },
  {
    name: `a name of ${LONG_NAME} letters, and a line of ${LONG_LINE}`,
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const name = newName("").padStart(LONG_NAME, "Constantinopolis");
      const long = await room.comes("", name);
      await room.enters(long);
      const [ada] = await room.join("ada");
      await long.says("x".repeat(LONG_LINE));
      await ada.hears(long, "x".repeat(LONG_LINE));
    },
  },
  {
    name: "an illegal name is refused, and nobody hears of it",
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const [ada] = await room.join("ada");
      for (const end of ["", " x", "-x", "!", "é"]) {
        const mallory = await room.comes("mallory");
        const name = end === "" ? "" : mallory.name + end;
        attempt.story.push(`the name ${JSON.stringify(name)}`);
        await mallory.client.send(encode(`${name}\n`));
        let line: string | null = "";
        while (line !== null) { // It may be told why.
          line = await mallory.client.receiveLine(
            "the end of the stream",
            () => true,
          );
        }
      }
      const [bob] = await room.join("bob");
      await bob.says("hi");
      await ada.hears(bob, "hi");
    },
  },
  {
    name: "who has no name yet hears nothing, and is no news",
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const nameless = await room.comes("nameless");
      const other = await room.comes("nameless");
      attempt.story.push("two clients connect, and say no name");
      const [ada, bob] = await room.join("ada", "bob");
      await ada.says("hi");
      await bob.hears(ada, "hi");
      other.client[Symbol.dispose]();
      attempt.story.push("one of them leaves");
      await room.enters(nameless); // It hears who is there, and nothing before.
      await nameless.says("at last");
      await ada.hears(nameless, "at last");
    },
  },
  {
    name: "who leaves is told to the others, and is there no more",
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const [ada, bob] = await room.join("ada", "bob");
      bob.client[Symbol.dispose]();
      attempt.story.push(`${bob.name} leaves`);
      await ada.hearsOf(bob.name);
      room.forget(bob, { isNews: true });
      const cleo = await room.comes("cleo");
      await cleo.client.send(encode(`${cleo.name}\n`));
      await cleo.client.receiveLine(
        `a line that begins with "*", without ${bob.name}`,
        (line) =>
          line !== null && line.startsWith("*") && !hasName(line, bob.name),
      );
    },
  },
  {
    name: `${MANY} clients in one room`,
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const words = Array.from({ length: MANY }, () => "guest");
      const guests = await room.join(...words);
      const [first, ...others] = guests as [Guest, ...Guest[]];
      await first.says("hello, all of you");
      for (const it of others) await it.hears(first, "hello, all of you");
    },
  },
  deafClient,
  {
    name: "what a client reads late is whole lines",
    lesson: "18",
    needs: deafClient,
    patience: 2,
    async run(attempt) {
      const { deaf, ada, lines } = await talkBesideDeaf(attempt);
      attempt.story.push(`now ${deaf.name} reads`);
      const places = new Map(
        lines.map((line, i) => [`[${ada.name}] ${line}`, i]),
      );
      // Some may be missing, or all from one on: it has not kept up.
      let last = -1;
      for (let line: string | null = ""; line !== null;) {
        line = await deaf.client.receiveLine(
          `lines of [${ada.name}] as they were sent, in their order`,
          (it) => it === null || it.startsWith("*") || places.get(it)! > last,
        );
        last = places.get(line!) ?? last;
        if (last === lines.length - 1) break;
        if (last % 1000 === 0) await attempt.rest(10); // And slowly.
      }
    },
  },
  {
    name: "a client that resets its connection leaves",
    lesson: "18",
    needs: relay,
    async run(attempt) {
      const room = new Room(attempt);
      const [ada] = await room.join("ada");
      const rude = newName("rude");
      const { promise: when, resolve } = Promise.withResolvers<void>();
      const resetting = attempt.reset({ message: `${rude}\n`, when });
      await ada.hearsOf(rude);
      resolve();
      await resetting;
      attempt.story.push(`${rude} comes, and resets its connection`);
      await ada.hearsOf(rude);
      const [bob] = await room.join("bob");
      await bob.says("hi");
      await ada.hears(bob, "hi");
    },
  },
];
