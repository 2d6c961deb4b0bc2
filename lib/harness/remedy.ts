/**
 * What to do about the usual errors.
 * This module imports nothing.
 *
 * @module
 */

/** Where an error comes from, as far as that is known. */
export interface Where {
  /** The call: `connect`, `listen`, `bind` (of UDP), `read`, ... */
  call?: string | undefined;
  /** The port that it was given. */
  port?: number | undefined;
  /** The path that it was given, for a Unix socket. */
  path?: string | undefined;
}

const DOUBTFUL = "is that the right address, and is that host up?";

const UNKNOWN_NAME = "is the name right, and does getent hosts know it?";

/** By the system's names of errors. */
const REMEDIES: Record<string, (where: Where) => string> = {
  ECONNREFUSED: () => "does a server listen there?",
  ETIMEDOUT: () => DOUBTFUL,
  EHOSTUNREACH: () => DOUBTFUL,
  ENETUNREACH: () => DOUBTFUL,
  ECONNRESET: () => "the server has ended the connection by a reset",
  EPIPE: () => "the server has closed the connection",
  EADDRINUSE({ call, port, path }) {
    if (path !== undefined) {
      return "ss -xlp says who has it, or whether the file was only left behind";
    }
    const kind = { listen: "t", bind: "u" }[call ?? ""] ?? "tu";
    const which = port ? ` 'sport = :${port}'` : "";
    return `ss -${kind}lnp${which} says who has it`;
  },
  EADDRNOTAVAIL: ({ call }) =>
    call === "connect"
      ? "this host has no port left for it"
      : "no address of this host, ip addr lists those",
  EACCES: ({ port = 0, path }) =>
    path !== undefined
      ? "ls -l says who may use this file, and ls -ld its folder"
      : port > 0 && port < 1024
      ? "ports below 1024 are for root, take a higher one"
      : "",
  ENOENT: ({ path }) =>
    path === undefined ? "" : "no server has made this file",
  ECONNABORTED: () => "somebody on this host has ended the connection",
  ENOTFOUND: () => UNKNOWN_NAME,
  EMFILE: () => "ulimit -n says how many descriptors a process may have",
};

/** The error at the end of a chain of causes: the system's own. */
export function rootOf(error: unknown): unknown {
  const { cause } = Object(error) as { cause?: unknown };
  return cause === undefined ? error : rootOf(cause);
}

/**
 * Says what the usual cause of an error is, or how to find it.
 *
 * @param error What was thrown. If it has a cause, that is what counts.
 * @returns A few words, or `""`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const error = Object.assign(new Error(), { code: "EADDRINUSE" });
 * assertEquals(
 *   remedyOf(error, { call: "listen", port: 9527 }),
 *   "ss -tlnp 'sport = :9527' says who has it",
 * );
 * ```
 */
export function remedyOf(error: unknown, where: Where = {}): string {
  const root = rootOf(error);
  if (root instanceof Deno.errors.UnexpectedEof) {
    return "the server has closed the connection";
  }
  const { code, message } = Object(root) as Record<string, unknown>;
  // The resolver's errors have no code in Deno's own calls.
  if (String(message).startsWith("failed to lookup ")) return UNKNOWN_NAME;
  const isKnown = typeof code === "string" && Object.hasOwn(REMEDIES, code);
  return isKnown ? REMEDIES[code]!(where) : "";
}
