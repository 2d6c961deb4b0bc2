/**
 * How addresses, bytes and errors are written: in one line, for people.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Writes a host name or IP address and a port from 0 to 65535 in one word:
 * `127.0.0.1:9527`, or `[::1]:9527`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatAddress({ hostname: "::1", port: 80 }), "[::1]:80");
 * ```
 */
export function formatAddress(
  { hostname, port }: { hostname: string; port: number },
): string {
  const bare = hostname.includes(":") && !hostname.startsWith("[");
  return `${bare ? `[${hostname}]` : hostname}:${port}`;
}

/**
 * Writes an IP address in the one form in which it can be compared, and without
 * its scope.
 *
 * @throws {TypeError} If it has a colon and is no IPv6 address.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(plainAddress("0:0::FF%eth0"), "::ff");
 * assertEquals(plainAddress("127.0.0.1"), "127.0.0.1");
 * ```
 */
export function plainAddress(address: string): string {
  if (!address.includes(":")) return address;
  const [bare] = address.split("%");
  return new URL(`http://[${bare}]`).hostname.slice(1, -1);
}

/**
 * Prints a server's first line. A program that waits for it needs no sleep.
 *
 * @example
 * ```ts no-assert
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * announce(listener.addr); // listening on 127.0.0.1:41257
 * ```
 */
export function announce(address: Deno.NetAddr): void {
  console.log(`listening on ${formatAddress(address)}`);
}

/** What JSON would write otherwise, or a terminal would read as a command. */
const UNPRINTABLE = /[\p{C}\u2028\u2029"\\]/gu;

/**
 * Writes bytes as text in quotes. What is valid UTF-8 stands as it is; every
 * other byte, and every character that cannot be seen, stands as an escape:
 * `\n`, `\x00`.
 *
 * @param data The bytes.
 * @param most How many bytes are shown; `...` stands for the rest.
 * @returns One line of text.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = new TextEncoder().encode("你好\n");
 * assertEquals(quoteBytes(bytes), '"你好\\n"');
 * assertEquals(quoteBytes(bytes.subarray(1, 4)), '"\\xbd\\xa0\\xe5"');
 * ```
 */
export function quoteBytes(data: Uint8Array, most = 16): string {
  let quoted = "";
  for (let start = 0; start < data.length;) {
    const lead = data[start]!;
    const length = lead < 0xc2 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const character = lead < 0x80
      ? String.fromCharCode(lead)
      : decodeCharacter(data.subarray(start, start + length));
    const end = start + (character === undefined ? 1 : length);
    if (start > 0 && end > most) return `"${quoted}"...`;
    quoted += character?.replace(UNPRINTABLE, escape) ??
      escapeBytes(data.subarray(start, end));
    start = end;
  }
  return `"${quoted}"`;
}

const STRICT_UTF_8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The character that these bytes are, if they are one. */
function decodeCharacter(bytes: Uint8Array): string | undefined {
  try {
    return STRICT_UTF_8.decode(bytes);
  } catch {
    return undefined;
  }
}

function escape(character: string): string {
  if (character === "\n") return "\\n";
  if (character === '"' || character === "\\") return `\\${character}`;
  return escapeBytes(new TextEncoder().encode(character));
}

function escapeBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (it) => `\\x${it.toString(16).padStart(2, "0")}`)
    .join("");
}

/**
 * Puts what was thrown in one line: `ECONNREFUSED (Connection refused)`. An
 * error that has a cause stands before its cause.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const error = new Deno.errors.AddrInUse("Address already in use (os error 98)");
 * assertEquals(describeError(error), "Address already in use");
 * assertEquals(
 *   describeError(Object.assign(error, { code: "EADDRINUSE" })),
 *   "EADDRINUSE (Address already in use)",
 * );
 * ```
 */
export function describeError(error: unknown): string {
  const text = error instanceof Error ? error.message : error;
  const message = String(text).replace(/ \(os error \d+\)/, "")
    .replace(/[\s\p{Cc}]+/gu, " ");
  if (!(error instanceof Error)) return message;
  if (error.cause !== undefined) {
    return `${message}: ${describeError(error.cause)}`;
  }
  const { code } = error as { code?: unknown };
  if (typeof code === "string") return `${code} (${message})`;
  const isTimeout = error instanceof Deno.errors.TimedOut ||
    error.name === "TimeoutError";
  return isTimeout ? "TimedOut" : message;
}

/** When this process or host has run out of these, the call is not to blame. */
const NO_ANSWER = ["EMFILE", "ENFILE"];

/**
 * Makes a call for a cell of a table. The cell is what the call returned, or
 * the system's name of its error, because a failure is an answer too.
 *
 * @param call The call.
 * @returns Its result, or its error's `code`.
 * @throws The error itself, if it has no such code, or if it only says that
 * this process or host has no descriptors left.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * const listen = () => Deno.listen({ hostname: "127.0.0.1", port }).close();
 * assertEquals(await outcomeOf(listen), "EADDRINUSE");
 * assertEquals(await outcomeOf(() => port), port);
 * ```
 */
export async function outcomeOf<T>(
  call: () => T | Promise<T>,
): Promise<T | string> {
  try {
    return await call();
  } catch (error) {
    const { code } = Object(error) as { code?: unknown };
    if (typeof code === "string" && !NO_ANSWER.includes(code)) return code;
    throw error;
  }
}
