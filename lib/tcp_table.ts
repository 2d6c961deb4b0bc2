/**
 * The kernel's own list of TCP sockets: `/proc/net/tcp` and `/proc/net/tcp6`,
 * see `proc_net(5)`. Linux only.
 *
 * @module
 */

import { WITHOUT_LD } from "./plain_env.ts";

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
  /** What it has sent without an answer yet, and what waits to be sent: bytes. */
  sendQueue: number;
  /** What has come and was not read yet, in bytes. */
  receiveQueue: number;
  /** What its timer waits for, or `null` if none runs. */
  timer: {
    /** What happens next. */
    kind: "retransmit" | "keepalive" | "time-wait" | "window probe";
    /** In how many milliseconds, to 10 ms. */
    milliseconds: number;
  } | null;
  /** How often the oldest segment without an answer was sent again. */
  retransmits: number;
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

/** How `/proc/net/tcp` begins, even where there is no socket. */
const TABLE_HEAD = "  sl  local_address rem_address ";

/** Clock ticks that `/proc` shows times in: `sysconf(_SC_CLK_TCK)`. */
const TICK = 1000 / 100;

/**
 * Lists the TCP sockets of this host. What has to be known of several sockets
 * at the same time, like the states of both ends of a connection, must come from
 * one such list.
 *
 * @throws {Error} If the list cannot be read.
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
  const { code, stdout, stderr } = await runCat(
    "/proc/net/tcp",
    "/proc/net/tcp6", // Is not there on a host without IPv6.
  );
  if (stdout.startsWith(TABLE_HEAD) && code <= 1) return parseTcpTable(stdout);
  throw catError("/proc/net/tcp", code, stderr);
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
    /^ *\d+: (\w+):(\w{4}) (\w+):(\w{4}) (\w\w) (\w+):(\w+) (\w\w):(\w+) (\w+)/gm;
  return Array.from(text.matchAll(row), ([, local, localPort, ...rest]) => {
    const [remote, remotePort, ...numbers] = rest;
    const [state, sendQueue, receiveQueue, timer, when, retransmits] = numbers
      .map((hex) => parseInt(hex, 16));
    const kind = TIMERS[timer - 1];
    return {
      local: { hostname: toHostname(local), port: parseInt(localPort, 16) },
      remote: { hostname: toHostname(remote), port: parseInt(remotePort, 16) },
      state: STATES[state - 1] ?? `state ${state}`,
      sendQueue,
      receiveQueue,
      timer: kind ? { kind, milliseconds: when * TICK } : null,
      retransmits,
    };
  });
}

/**
 * Finds one end of a connection.
 *
 * @param rows What the kernel lists, from one reading.
 * @param end A `Deno.TcpConn`, or as much of it as its ports.
 * @returns Its row, or `undefined` if the kernel has none any more.
 *
 * @example Both ends of a connection on this host
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * using conn = await Deno.connect({ hostname: "127.0.0.1", port });
 * using accepted = await listener.accept();
 * const rows = await readTcpTable();
 * assertEquals(endOf(rows, conn)?.state, "ESTABLISHED");
 * assertEquals(endOf(rows, accepted)?.state, "ESTABLISHED");
 * ```
 */
export function endOf(
  rows: TcpRow[],
  end: { localAddr: { port: number }; remoteAddr: { port: number } },
): TcpRow | undefined {
  return rows.find(({ local, remote }) =>
    local.port === end.localAddr.port && remote.port === end.remoteAddr.port
  );
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
 * Reads a file by `cat`: Deno itself reads those under `/proc` only with
 * `--allow-all`.
 *
 * @param path The file.
 * @returns Its text.
 * @throws {Error} `cat PATH: ...` and what `cat` says, if it fails.
 * @throws {Deno.errors.NotCapable} Without `--allow-run=cat`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * assert(Number(await cat("/proc/sys/net/core/somaxconn")) > 0);
 * ```
 */
export async function cat(path: string): Promise<string> {
  const { code, stdout, stderr } = await runCat(path);
  if (code === 0) return stdout;
  throw catError(path, code, stderr);
}

async function runCat(...paths: string[]) {
  const command = new Deno.Command("cat", { args: paths, env: WITHOUT_LD });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

function catError(path: string, code: number, stderr: string): Error {
  // It says "cat: /nowhere: No such file or directory".
  const reason = stderr.split("\n")[0].split(": ").at(-1);
  return new Error(`cat ${path}: ${reason || `exit code ${code}`}`);
}
