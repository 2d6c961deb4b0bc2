/**
 * Traces the socket calls of a Deno program, any program, on standard error: an
 * strace(1) in the words of Deno.
 *
 * @run deno run --preload lib/trace/trace.ts --allow-net any_program.ts
 *
 * For each call it prints the time in seconds, the file, line and function of the
 * program, as the tutorial's `printf("%s(%d):%s\n", __FILE__, __LINE__,
 * __FUNCTION__)`, the number of the socket, and what came of the call:
 *
 *     0.002 any_program.ts(7):serve #2 write 6 of 6 bytes "hello\n"
 *
 * @module
 */

import { counted } from "../counted.ts";
import { describeError } from "../error_text.ts";
import { errorLine } from "./error_line.ts";
import { isTesting } from "./every.ts";
import { tellNotWatched, watchHttp } from "./http_calls.ts";
import { watchNodeSockets } from "./node_sockets.ts";
import { hostTime, type SocketCall } from "./recorder.ts";
import { durationOf, lineWriter, startTrace } from "./start_trace.ts";
import { parseTraceOptions, type TraceOptions } from "./trace_options.ts";
import { standIn, watchWorkers } from "./workers.ts";

/** In a Worker: what the trace of its program says about it. */
const asked = new URL(import.meta.url).searchParams;
/** Its number: `2.1` is the first one that the second one has started. */
const WORKER = asked.get("worker");
const SINCE = Number(asked.get("since") ?? hostTime());

if (WORKER !== null) standIn(asked.get("at")!);
const options = readOptions();
/** The file to write to, wherever the program goes meanwhile. */
const filePath = asked.get("out") || absolute(options.out);
const print = filePath === undefined ? errorLine : fileLine(filePath);
const lineOf = options.json
  ? (call: SocketCall) =>
    JSON.stringify(WORKER === null ? call : { ...call, worker: WORKER })
  : lineWriter(SINCE, WORKER === null ? "" : `[worker ${WORKER}] `);
const summary = new Map<number, Summary>();

if (options.summary) addEventListener("unload", printSummary);
const { recorder, leaveSignals } = startTrace(
  (call) => {
    if (!isWanted(call)) return;
    print(lineOf(call));
    if (options.summary && !call.isWaiting) count(call);
  },
  options,
  () => options.summary && printSummary(),
);
watchNodeSockets(recorder);
watchHttp(recorder);
tellNotWatched(recorder);
// A signal is the whole program's, but each of its threads knows only its own
// listeners.
if (WORKER !== null) leaveSignals();
watchWorkers(recorder, (number, module) => {
  leaveSignals();
  const url = new URL(import.meta.url);
  url.search = String(
    new URLSearchParams({
      since: String(SINCE),
      worker: WORKER === null ? String(number) : `${WORKER}.${number}`,
      at: module,
      out: filePath ?? "",
    }),
  );
  return url.href;
});

/** What `SOCKET_TRACE` says, where it may be read. */
function readOptions(): TraceOptions {
  const variable = "SOCKET_TRACE";
  const may = Deno.permissions.querySync({ name: "env", variable }).state;
  const text = may === "granted" ? Deno.env.get(variable) : undefined;
  try {
    return parseTraceOptions(text ?? "");
  } catch (error) {
    errorLine(`${variable}: ${(error as Error).message}`);
    Deno.exit(2);
  }
}

function absolute(path?: string): string | undefined {
  return path?.startsWith("/") ? path : path && `${Deno.cwd()}/${path}`;
}

/**
 * Writes lines into a file, from its start. Under `deno test` each test file has a
 * trace of its own, so there lines are added to what the file has.
 */
function fileLine(path: string): (line: string) => void {
  const may = Deno.permissions.querySync({ name: "write", path }).state;
  if (may !== "granted") return refuse(`needs --allow-write=${options.out}`);
  try {
    const truncate = WORKER === null && !isTesting();
    const create = WORKER === null;
    if (truncate) Deno.writeTextFileSync(path, "");
    const file = Deno.openSync(path, { append: true, create });
    return (line) => errorLine(line, file);
  } catch (error) {
    return refuse(describeError(error));
  }
}

function refuse(reason: string): never {
  errorLine(`SOCKET_TRACE: out=${options.out} ${reason}`);
  Deno.exit(2);
}

/** Whether a call has one of the names, or one of the ports. */
function isWanted({ name, target, own, peer }: SocketCall): boolean {
  const { filter } = options;
  if (filter.length === 0) return true;
  const names = name.split(/\W+/);
  const ports = [target, own, peer].map(portOf);
  return filter.some((it) => names.includes(it) || ports.includes(it));
}

/** The port of `HOST:PORT`, or of a URL. */
function portOf(address: string): string | undefined {
  if (!/^https?:/.test(address)) return address.split(":").at(-1);
  const { port, protocol } = new URL(address);
  return port || (protocol === "https:" ? "443" : "80");
}

/** What a socket has done. */
interface Summary {
  ends: string;
  calls: number;
  read: number;
  written: number;
  waited: number;
}

function count(call: SocketCall): void {
  if (call.socket === 0) return; // A connect that failed, or fetch().
  const known = summary.get(call.socket) ??
    { ends: "", calls: 0, read: 0, written: 0, waited: 0 };
  summary.set(call.socket, known);
  known.ends ||= [call.own, call.peer].filter((it) => it !== "").join(" - ");
  known.calls++;
  known[call.toPeer ? "written" : "read"] += call.bytes;
  known.waited += call.took;
}

function printSummary(): void {
  const seconds = ((hostTime() - SINCE) / 1000).toFixed(1);
  if (!options.json) {
    print(`${counted(summary.size, "socket")} in ${seconds} s:`);
  }
  for (const [socket, it] of summary) {
    const { ends, calls, read, written, waited } = it;
    print(
      options.json
        ? JSON.stringify({ name: "summary", socket, ...it })
        : `#${socket} ${ends}: ${counted(calls, "call")}, ` +
          `${counted(read, "byte")} read, ${counted(written, "byte")} ` +
          `written, ${durationOf(waited)} waited`,
    );
  }
}
