/**
 * The tutorial's `printf("%s(%d):%s\n", __FILE__, __LINE__, __FUNCTION__)`,
 * with what happened there and when.
 *
 * @module
 */

/**
 * Says what happens at the place that calls it. The time of the event is the
 * time of the call, so call it *before* what begins something (a connect, a
 * write, a close) and *after* what waits for something (an accept, a read).
 *
 * @param what What happens, in a few words.
 * @param crossing `"to peer"` if bytes or a connection go to the other side.
 */
export type Trace = (what: string, crossing?: "to peer") => void;

/** What a {@linkcode Trace} was told, and where and when. */
export interface TraceEvent {
  /** Milliseconds since 1970, in fractions: comparable between processes. */
  at: number;
  /** The calling file's name, without its folder. */
  file: string;
  /** The line of the call, from 1. */
  line: number;
  /** The calling function's name, or `""` outside of any. */
  function: string;
  /** What happens. */
  what: string;
  /** Whether bytes or a connection go to the other side. */
  toPeer: boolean;
}

/**
 * Makes a {@linkcode Trace} that hands its events to `sink`.
 *
 * @param sink What is done with each event: print it, send it, keep it.
 * @returns The function to call at each step.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const events: TraceEvent[] = [];
 * const trace = traceTo((event) => events.push(event));
 * function client() {
 *   trace("write 6 bytes", "to peer");
 * }
 * client();
 * assertEquals(events[0].function, "client");
 * assertEquals(events[0].what, "write 6 bytes");
 * ```
 */
export function traceTo(sink: (event: TraceEvent) => void): Trace {
  const trace: Trace = (what, crossing) => {
    const at = performance.timeOrigin + performance.now();
    const caller = { stack: "" };
    Error.captureStackTrace(caller, trace); // The first frame is the call site.
    sink({ at, ...firstFrame(caller.stack), what, toPeer: !!crossing });
  };
  return trace;
}

/** Takes the first `at server (file:///path/02_tcp_echo.ts:57:5)` apart. */
function firstFrame(stack: string) {
  const [, name = "", url = "", line = "0"] =
    stack.match(/^ *at (?:(.+?) \()?(.*?):(\d+):\d+\)?$/m) ?? [];
  return {
    file: decodeURIComponent(url.slice(url.lastIndexOf("/") + 1)),
    line: Number(line),
    function: name.slice(name.lastIndexOf(".") + 1),
  };
}

/**
 * Prints an event on standard error as
 * `02_tcp_echo.ts(57):server accept 127.0.0.1:40980`.
 *
 * @param event What a {@linkcode Trace} was told.
 */
export function printEvent(event: TraceEvent): void {
  writeLine(
    `${event.file}(${event.line}):${event.function} ${event.what}`,
  );
}

/**
 * Sends an event to standard error as one line of JSON, for a parent: `at` is
 * its first key, by which `lib/child.ts` tells it from an error.
 */
export function sendEvent(event: TraceEvent): void {
  writeLine(JSON.stringify(event));
}

/** Synchronous, so that an event is out before what it announces begins. */
function writeLine(line: string): void {
  const bytes = new TextEncoder().encode(line + "\n");
  try {
    for (let written = 0; written < bytes.length;) {
      written += Deno.stderr.writeSync(bytes.subarray(written));
    }
  } catch {
    // Nobody reads standard error. That is no reason to stop.
  }
}

/**
 * Writes an address as `127.0.0.1:9527`, or `[::1]:9527`.
 *
 * @param address A host name or IP address, and a port.
 * @returns Both, with a colon between them.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatAddress({ hostname: "::1", port: 80 }), "[::1]:80");
 * ```
 */
export function formatAddress(
  address: { hostname: string; port: number },
): string {
  const { hostname, port } = address;
  const bare = hostname.includes(":") && !hostname.startsWith("[");
  return `${bare ? `[${hostname}]` : hostname}:${port}`;
}

/** How many bytes {@linkcode quoteBytes} shows. */
const MAX_QUOTED = 16;

/**
 * Writes bytes as strace does: `"hello\n"`, the ones that are not printable
 * ASCII escaped, and `...` behind the first 16.
 *
 * @param data The bytes.
 * @returns At most 69 characters of ASCII.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(quoteBytes(new Uint8Array([0x68, 0x69, 0, 10])), '"hi\\x00\\n"');
 * ```
 */
export function quoteBytes(data: Uint8Array): string {
  let quoted = "";
  for (const byte of data.subarray(0, MAX_QUOTED)) {
    const character = String.fromCharCode(byte);
    if (character === "\n") quoted += "\\n";
    else if (character === '"' || character === "\\") {
      quoted += `\\${character}`;
    } else if (byte >= 0x20 && byte < 0x7f) quoted += character;
    else quoted += `\\x${byte.toString(16).padStart(2, "0")}`;
  }
  return `"${quoted}"${data.length > MAX_QUOTED ? "..." : ""}`;
}
