/**
 * What a server for production should do: lesson 17's.
 *
 * @module
 */

import { kill } from "node:process";
import { describeError } from "../error_text.ts";
import { putLoad } from "../lab/load.ts";
import {
  type Attempt,
  type Check,
  CheckFailure,
  type Client,
  noise,
  OWN_FAULTS,
} from "./check.ts";
import { CONCURRENT_CHECKS } from "./checks_concurrent.ts";
import { everyByte, HELLO, lateReader, TOO_MUCH } from "./checks_echo.ts";
import { nextIsServed } from "./checks_hello.ts";

const [RESETS, SILENT] = [100, 100];
/** So many clients leave; a server that has no more descriptors then leaks none. */
const LEAVING = 100;
/** Other descriptors that a server may open meanwhile: a log, or a timer. */
const OTHERS = 10;
/** How long a crowd sends, in milliseconds for each client. */
const CROWD_TIME = 2;
/** The least of Jain's indexes that is called alike: it is 1 where all have as much. */
const ALIKE = 0.8;
/** So many echoes of one client are enough to compare the others with. */
const ENOUGH = 50;

/** Whether new clients are refused: nobody listens any more. */
async function isRefusing(attempt: Attempt): Promise<boolean> {
  const { hostname, port } = attempt.subject;
  try {
    const { signal } = attempt;
    (await Deno.connect({ hostname, port, signal })).close();
    return false;
  } catch {
    // It may have been in the queue, and was reset.
    return !attempt.signal.aborted;
  }
}

/**
 * Whether a process runs.
 *
 * @throws {Deno.errors.NotCapable} Without `--allow-run`.
 */
export function isRunning(pid: number): boolean {
  try {
    return kill(pid, 0); // Nothing is sent: kill(2) only looks.
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return Object(error).code !== "ESRCH";
  }
}

/** Looks again and again, as long as the check may take. */
async function until(
  attempt: Attempt,
  condition: () => boolean | Promise<boolean>,
  expected: string,
  came: () => string,
): Promise<void> {
  while (!await condition()) {
    if (attempt.signal.aborted) {
      const story = attempt.story.join("; ");
      throw new CheckFailure(story, expected, came());
    }
    await attempt.rest(20);
  }
}

/** SIGTERM, while a client is in the middle, and another one is silent. */
const goodEnd: Check = {
  name: "SIGTERM ends it in good order",
  lesson: "17",
  needs: lateReader,
  endsServer: true,
  // The server may wait for its clients for a while before it closes them.
  patience: 3,
  async run(attempt) {
    const { pid } = attempt.subject;
    const silent = await attempt.connect("the silent client");
    const busy = await attempt.connect("the client in the middle");
    const data = noise(TOO_MUCH);
    const { sending } = await busy.sendUnread(data);
    Deno.kill(pid, "SIGTERM");
    attempt.story.push("a client is in the middle of its echo; SIGTERM");
    await until(
      attempt,
      () => isRefusing(attempt),
      "no new client is accepted",
      () => `connections, for ${attempt.limit} ms`,
    );
    await Promise.all([sending, busy.receive(data, "the rest of its echo")]);
    busy[Symbol.dispose]();
    await silent.receiveEnd({ orReset: true });
    await until(
      attempt,
      () => !isRunning(pid),
      "the end of the process",
      () => `it still runs after ${attempt.limit} ms`,
    );
  },
};

/** How many descriptors a process has: `ls` may look where Deno may not. */
async function descriptorsOf(pid: number): Promise<number> {
  const args = [`/proc/${pid}/fd`];
  const ls = await new Deno.Command("ls", { args }).output();
  const [found, error] = [ls.stdout, ls.stderr]
    .map((it) => new TextDecoder().decode(it).trim());
  if (!ls.success) throw new Error(error);
  return found!.split("\n").length;
}

/** A server that keeps what its clients have left is full one day: EMFILE. */
const noLeak: Check = {
  name: `${LEAVING} clients leave or reset, and no descriptor stays open`,
  lesson: "17",
  async run(attempt) {
    const { pid } = attempt.subject;
    await attempt.rest(); // Those of other checks are to be closed by now.
    const before = await descriptorsOf(pid);
    for (let i = 0; i < LEAVING / 2; i++) {
      await attempt.reset({ message: HELLO });
      using client = await attempt.connect();
      await client.echo(HELLO);
    }
    attempt.story.push(`${LEAVING} clients have an echo, then leave or reset`);
    let more = 0;
    await until(
      attempt,
      async () => (more = await descriptorsOf(pid) - before) < OTHERS,
      `the server has no more descriptors than before: ${before}`,
      () => `${more} more, after ${attempt.limit} ms`,
    );
  },
};

/** The checks of `production`. */
export function productionChecks(pid: number, clients: number): Check[] {
  const checks: Check[] = [
    ...CONCURRENT_CHECKS,
    {
      name: `${RESETS} clients reset at once, and the next one is served`,
      lesson: "17",
      async run(attempt) {
        const resets = Array.from(
          { length: RESETS },
          (_, i) => attempt.reset({ atOnce: i % 2 === 0 }),
        );
        await Promise.all(resets);
        attempt.story.push(`${RESETS} clients reset their connections`);
        await nextIsServed(attempt);
      },
    },
    {
      name: `${SILENT} silent clients do not hold the server`,
      lesson: "17",
      async run(attempt) {
        const silent: Client[] = [];
        for (let i = 1; i <= SILENT; i++) {
          silent.push(await attempt.connect(`silent client ${i}`));
        }
        attempt.story.push(`${SILENT} clients connect, and are silent`);
        await nextIsServed(attempt);
      },
    },
    {
      name: `${clients} clients are served alike`,
      lesson: "17",
      needs: everyByte,
      patience: 2,
      async run({ subject, signal }) {
        const { hostname, port, timeout } = subject;
        const most = timeout / 2;
        let duration = Math.min(CROWD_TIME * clients, most);
        while (true) {
          const load = { hostname, port, clients, duration, timeout };
          const report = await putLoad(load);
          const { error, lost, corrupted, starved, index } = report;
          if (OWN_FAULTS.includes(Object(error).code)) throw error;
          const isWhole = lost + corrupted === 0;
          if (isWhole && starved === 0 && index >= ALIKE) return;
          // Where nobody has had many echoes yet, it may be chance who had more.
          const isEnough = report.most >= ENOUGH || duration === most;
          if (isWhole && !isEnough && !signal.aborted) {
            duration = Math.min(duration * 2, most);
            continue;
          }
          throw new CheckFailure(
            `messages of 64 bytes from ${clients} clients for ${duration} ms`,
            `all echoes, and Jain's index of their numbers from ${ALIKE} to 1`,
            `${lost} lost, ${corrupted} corrupted, ${starved} clients without ` +
              `an echo, index ${index.toFixed(3)}` +
              (error === undefined ? "" : `; ${describeError(error)}`),
          );
        }
      },
    },
  ];
  return pid === 0 ? checks : [...checks, noLeak, goodEnd];
}
