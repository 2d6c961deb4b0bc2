/**
 * @title Judges a server, whoever wrote it, in whatever language
 * @run deno run --allow-net --allow-run --unstable-net lib/harness/judge.ts
 *
 * It connects as clients do, and looks at nothing but what comes back. Each check
 * is one property, in a time of its own. When one has failed, the first check looks
 * whether the server still serves anybody: if it does not, what is left is not
 * tried, because it would fail for a reason that has been told already.
 *
 * @module
 */

import { green, red } from "@std/fmt/colors";
import { formatAddress } from "../address.ts";
import {
  type Check,
  type CheckFailure,
  ConnectFailure,
  runCheck,
  type Subject,
} from "./check.ts";
import { CHAT_CHECKS } from "./checks_chat.ts";
import { CONCURRENT_CHECKS } from "./checks_concurrent.ts";
import { ECHO_CHECKS } from "./checks_echo.ts";
import { FRAME_CHECKS } from "./checks_frames.ts";
import { HELLO_CHECKS } from "./checks_hello.ts";
import { isRunning, productionChecks } from "./checks_production.ts";
import { UDP_CHECKS } from "./checks_udp.ts";
import { UsageError } from "./command_line.ts";
import { runLesson } from "./run_lesson.ts";
import { isColored } from "./terminal.ts";

/** The checks of each kind of server. */
const KINDS: Record<string, (subject: Subject) => Check[]> = {
  hello: () => HELLO_CHECKS,
  echo: () => ECHO_CHECKS,
  udp: () => UDP_CHECKS,
  frames: () => FRAME_CHECKS,
  concurrent: () => CONCURRENT_CHECKS,
  production: ({ pid, clients }) => productionChecks(pid, clients),
  chat: () => CHAT_CHECKS,
};

/** How a judgement ended. */
export interface Verdict {
  /** How many checks passed. */
  passed: number;
  /** How many failed. */
  failed: number;
  /** How many were not tried, because the server was gone by then. */
  untried: number;
}

/**
 * Runs the checks, one after the other.
 *
 * @param checks The checks. The first one says whether a server serves at all.
 * @param subject The server.
 * @param print Prints a line.
 * @returns How many passed.
 * @throws {Error} If nothing listens there.
 *
 * @example
 * ```ts
 * import { assertRejects } from "@std/assert";
 *
 * const subject = { hostname: "127.0.0.1", port: 1, timeout: 1000, clients: 10, pid: 0 };
 * const run = (attempt: { connect(): Promise<unknown> }) => attempt.connect();
 * const check = { name: "open", lesson: "01", run };
 * await assertRejects(
 *   () => judge([check], subject, console.log),
 *   Error,
 *   "connect 127.0.0.1:1",
 * );
 * ```
 */
export async function judge(
  checks: Check[],
  subject: Subject,
  print: (line: string) => unknown,
): Promise<Verdict> {
  const [first] = checks;
  const verdict: Verdict = { passed: 0, failed: 0, untried: 0 };
  const passed = new Set<string>();
  let end = "";
  for (const check of checks) {
    const isPossible = !check.needs || passed.has(check.needs.name);
    if (end !== "" || !isPossible) {
      verdict.untried++;
      if (end === "") {
        print(`-    ${check.name} (not tried, it needs the above)`);
      }
      continue;
    }
    const failure = await runCheck(check, subject);
    if (failure === undefined) {
      verdict.passed++;
      passed.add(check.name);
      print(`${inColor("ok", green)}   ${check.name}`);
      continue;
    }
    if (check === first && failure instanceof ConnectFailure) {
      throw new Error(`connect ${formatAddress(subject)}`, failure);
    }
    verdict.failed++;
    print(`${inColor("FAIL", red)} ${check.name}`);
    for (const line of details(failure, check)) print(`     ${line}`);
    if (check.endsServer) continue;
    end = check === first
      ? "without this nothing else can be judged"
      : await endOf(first!, subject);
    if (end !== "") print(end);
  }
  return verdict;
}

/** Whether a server is still there: what is said if it is not, and else "". */
async function endOf(first: Check, subject: Subject): Promise<string> {
  const failure = await runCheck(first, subject);
  if (failure === undefined) return "";
  return failure instanceof ConnectFailure
    ? "the server no longer accepts connections"
    : "the server no longer serves a new client";
}

/** What a learner needs to know of a failure. */
function details(
  { sent, expected, came }: CheckFailure,
  { lesson }: Check,
): string[] {
  return [
    `sent: ${sent}`,
    `expected: ${expected}`,
    `came: ${came}`,
    `see lesson ${lesson}`,
  ];
}

/** The one word that matters, in color on a terminal. */
function inColor(word: string, color: (text: string) => string): string {
  return isColored() ? color(word) : word;
}

/**
 * Reads where the server is.
 *
 * @param address `PORT`, `HOST:PORT` or `[IPv6]:PORT`.
 * @throws {UsageError} If it is nothing of these.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseAddress("80"), { hostname: "127.0.0.1", port: 80 });
 * assertEquals(parseAddress("[::1]:80"), { hostname: "::1", port: 80 });
 * ```
 */
export function parseAddress(
  address: string,
): { hostname: string; port: number } {
  const [, inBrackets, name = "127.0.0.1", digits] =
    address.match(/^(?:\[([\d.:a-f]+)\]:|([^:[\]]+):)?(\d+)$/i) ?? [];
  const port = Number(digits);
  if (port >= 1 && port <= 65535) {
    return { hostname: inBrackets ?? name, port };
  }
  const wanted = "expected [HOST:]PORT, with a port from 1 to 65535";
  throw new UsageError(`${wanted}, got ${JSON.stringify(address)}`);
}

/** The checks that are asked for. */
function checksOf(kind: string | undefined): (subject: Subject) => Check[] {
  if (kind !== undefined && Object.hasOwn(KINDS, kind)) return KINDS[kind]!;
  const what = kind === undefined
    ? "no kind of server"
    : `unknown kind ${JSON.stringify(kind)}`;
  throw new UsageError(
    `${what}, expected one of ${Object.keys(KINDS).join(", ")}`,
  );
}

if (import.meta.main) {
  const max = 2 ** 31 - 1;
  const options = {
    timeout: {
      default: 5000,
      min: 500,
      max: Math.floor(max / 10),
      help: "ms that each check may take; the crowd 2 times that, the end 3",
    },
    clients: { default: 1000, min: 2, max: 5000, help: "production: a crowd" },
    pid: { default: 0, max, help: "production: ends this process by SIGTERM" },
  };

  await runLesson(import.meta.url, {
    judge: {
      help: `checks a server; kinds: ${Object.keys(KINDS).join(", ")}`,
      options,
      operands: "KIND [HOST:]PORT",
      async run({ operands: [kind, address, ...more], print, ...options }) {
        const checks = checksOf(kind);
        if (address === undefined) {
          throw new UsageError("no address, expected [HOST:]PORT");
        }
        if (more.length > 0) {
          throw new UsageError(
            `unexpected argument ${JSON.stringify(more[0])}`,
          );
        }
        if (options.pid !== 0 && kind !== "production") {
          throw new UsageError("--pid is for production only");
        }
        if (options.pid !== 0 && !isRunning(options.pid)) {
          throw new UsageError(
            `--pid ${options.pid}: there is no such process`,
          );
        }
        const subject = { ...parseAddress(address), ...options };
        const verdict = await judge(checks(subject), subject, print);
        const { passed, failed, untried } = verdict;
        const rest = untried === 0 ? "" : `, ${untried} not tried`;
        await print(`${passed} passed, ${failed} failed${rest}`);
        return failed === 0 ? 0 : 1;
      },
    },
  });
}
