/**
 * The kernel's own list of TCP sockets: `/proc/net/tcp` and `/proc/net/tcp6`,
 * see `proc_net(5)`. Linux only.
 *
 * @module
 */

/** One TCP socket of this host, whoever owns it. */
export interface TcpRow {
  /** Its own address. */
  local: {
    /** In dotted decimal, or an IPv6 address. */
    hostname: string;
    /** From 1 to 65535. */
    port: number;
  };
  /** The other side's address; `0.0.0.0` or `::` and port 0 if it listens. */
  remote: {
    /** In dotted decimal, or an IPv6 address. */
    hostname: string;
    /** From 0 to 65535. */
    port: number;
  };
  /** Its state, by the name it has in RFC 9293: `"TIME-WAIT"`. */
  state: string;
  /** What its timer waits for, or `null` if none runs. */
  timer: {
    /** What happens next. */
    kind: "retransmit" | "keepalive" | "time-wait" | "window probe";
    /** In how many milliseconds, to 10 ms. */
    milliseconds: number;
  } | null;
}

/** `enum` in the kernel's `include/net/tcp_states.h`, from 1. */
const STATES = [
  "ESTABLISHED",
  "SYN-SENT",
  "SYN-RECEIVED",
  "FIN-WAIT-1",
  "FIN-WAIT-2",
  "TIME-WAIT",
  "CLOSED",
  "CLOSE-WAIT",
  "LAST-ACK",
  "LISTEN",
  "CLOSING",
  "SYN-RECEIVED", // "new": before the third segment of the handshake
];

const TIMERS = [
  "retransmit",
  "keepalive",
  "time-wait",
  "window probe",
] as const;

/** Clock ticks that `/proc` shows times in: `sysconf(_SC_CLK_TCK)`. */
const TICK = 1000 / 100;

/**
 * Lists the TCP sockets of this host.
 *
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example A socket that listens
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * const rows = await readTcpTable();
 * assertEquals(rows.find((row) => row.local.port === port)?.state, "LISTEN");
 * ```
 */
export async function readTcpTable(): Promise<TcpRow[]> {
  return parseTcpTable(await cat("/proc/net/tcp", "/proc/net/tcp6"));
}

/**
 * Reads what stands in `/proc/net/tcp` and `/proc/net/tcp6`.
 *
 * @param text The text of one or both of them.
 * @returns A row for each socket, in the kernel's order.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const [row] = parseTcpTable(
 *   "   0: 0100007F:2537 0100007F:C350 06 00000000:00000000 03:00001770 00000000",
 * );
 * assertEquals(row.local.port, 9527);
 * assertEquals(row.state, "TIME-WAIT");
 * assertEquals(row.timer, { kind: "time-wait", milliseconds: 60000 });
 * ```
 */
export function parseTcpTable(text: string): TcpRow[] {
  const row =
    /^ *\d+: ([0-9A-F]+):(\w{4}) ([0-9A-F]+):(\w{4}) (\w\w) \w+:\w+ (\w\w):(\w+)/gm;
  return Array.from(text.matchAll(row), (match) => {
    const [, local, localPort, remote, remotePort, state, timer, when] = match;
    const kind = TIMERS[parseInt(timer, 16) - 1];
    return {
      local: { hostname: toHostname(local), port: parseInt(localPort, 16) },
      remote: { hostname: toHostname(remote), port: parseInt(remotePort, 16) },
      state: STATES[parseInt(state, 16) - 1] ?? `state ${state}`,
      timer: kind ? { kind, milliseconds: parseInt(when, 16) * TICK } : null,
    };
  });
}

/** The kernel prints addresses as 32-bit numbers of this host's byte order. */
function toHostname(hex: string): string {
  const words = new Uint32Array(
    hex.match(/.{8}/g)!.map((word) => parseInt(word, 16)),
  );
  const bytes = new Uint8Array(words.buffer);
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from(
    { length: 8 },
    (_, i) => (bytes[2 * i] << 8 | bytes[2 * i + 1]).toString(16),
  );
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}

/**
 * Reads files by `cat`: Deno itself reads those under `/proc` only with
 * `--allow-all`.
 *
 * @param paths The files; one that is not there has no text.
 * @returns Their text, one behind the other.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(Number(await cat("/proc/sys/net/core/somaxconn")) > 0);
 * ```
 */
export async function cat(...paths: string[]): Promise<string> {
  const command = new Deno.Command("cat", {
    args: paths,
    stderr: "null",
    // Deno refuses to start anything that inherits an LD_ variable.
    env: {
      LD_LIBRARY_PATH: "",
      LD_PRELOAD: "",
      LD_RUN_PATH: "",
      LD_BIND_NOW: "",
    },
  });
  return new TextDecoder().decode((await command.output()).stdout);
}
