/**
 * @title Echo servers side by side, under the same load
 * @run deno run --allow-all tests/bench/bench.ts
 *
 * The servers run at the same time, but only one has anything to do: a round
 * puts a short load on each of them, one after the other, and then comes the
 * next round. What the machine does meanwhile happens to all. Figures are
 * medians of the rounds; a ratio is the median of each round's own ratio.
 *
 * Server and load share a core: what it costs that one core wakes another is not
 * the same from one second to the next on a shared machine. So the rate is that
 * of both, and its ratio to Node's is nearer to 1 than that of the servers alone,
 * which is the ratio of their time on the core.
 *
 * @module
 */

import {
  type Io,
  UsageError,
  type Values,
} from "../../lib/harness/command_line.ts";
import { Progress } from "../../lib/harness/progress.ts";
import { runLesson } from "../../lib/harness/run_lesson.ts";
import { formatTable } from "../../lib/harness/table.ts";
import { textLines } from "../../lib/harness/text_lines.ts";
import { jainsIndex } from "../../lib/lab/load.ts";
import { formatBar } from "./bar.ts";
import type { Load, LoadResult } from "./load.ts";
import { countCalls } from "./system_calls.ts";

const path = (name: string) => new URL(name, import.meta.url).pathname;
const deno = (script: string, ...flags: string[]) => [
  ...[Deno.execPath(), "run", ...flags],
  path(script),
];
const lesson = (name: string, flags: string[], ...options: string[]) => [
  ...deno(`../../lessons/${name}.ts`, ...flags),
  ...["server", "--host=127.0.0.1", "--port=0", "--child"],
  ...options,
];
const lesson17 = (...options: string[]) =>
  lesson(
    "17_production",
    ["--allow-net"],
    ...["--drain-timeout=0", ...options],
  );

const epoll = (...options: string[]) =>
  lesson("16_epoll", ["--allow-ffi"], ...options);
/** Runs a program, and leaves it nowhere; empty where there is no compiler. */
const compiled = (compiler: string[], source: string, ...options: string[]) => {
  const script = `folder=$(mktemp -d) && source=$1 && shift &&
    ${compiler.join(" ")} -o "$folder/server" "$source" &&
    exec 3<"$folder/server" && rm -r "$folder" && exec /proc/self/fd/3 "$@"`;
  const command = ["sh", "-c", script, "sh", path(source), ...options];
  return find(compiler[0]) ? command : [""];
};

const C = "epoll in C";
const EPOLL = "lesson 16";
const LESSON = "lesson 17";
const NO_GATE = "lesson 17 --no-gate";
const NODE = "node:net in Node";
/** Empty where there is none. */
const NODE_PROGRAM = find("node") ?? "";

/** How each server is started. All of them end with their standard input. */
const SERVERS: Record<string, string[]> = {
  [C]: compiled(["cc", "-O2"], "servers/epoll.c"),
  [`${C}, UDP`]: compiled(["cc", "-O2"], "servers/epoll.c", "--udp"),
  [EPOLL]: epoll(),
  [`${EPOLL} --udp`]: epoll("--udp"),
  "Bun": [find("bun") ?? "", path("servers/bun.mjs")],
  "Go": compiled(["go", "build"], "servers/echo.go"),
  [LESSON]: lesson17(),
  [NO_GATE]: lesson17("--no-gate"),
  "--no-gate, IO_EVENTS=100": [
    ...["env", "DENO_TOKIO_MAX_IO_EVENTS_PER_TICK=100"],
    ...lesson17("--no-gate"),
  ],
  "lesson 17, 16 KiB": lesson17("--buffer-size=16384"),
  "17, 16 KiB, --nagle": lesson17("--buffer-size=16384", "--nagle"),
  "lesson 02": lesson("02_tcp_echo", ["--allow-net"]),
  "for await, readable": deno("servers/for_await.ts", "--allow-net"),
  "pipeTo": deno("servers/pipe_to.ts", "--allow-net"),
  "node:net in Deno": deno("servers/node_net.mjs", "--allow-net"),
  "node:net, no Nagle": [
    NODE_PROGRAM,
    path("servers/node_net.mjs"),
    "--no-delay",
  ],
  [NODE]: [NODE_PROGRAM, path("servers/node_net.mjs")],
  "lesson 06": lesson(
    "06_udp_echo",
    ["--allow-net", "--unstable-net"],
    "--messages=0",
  ),
  "for await, datagrams": deno(
    "servers/for_await_udp.ts",
    "--allow-net",
    "--unstable-net",
  ),
  "node:dgram in Deno": deno("servers/node_dgram.mjs", "--allow-net"),
  "node:dgram in Node": [NODE_PROGRAM, path("servers/node_dgram.mjs")],
};

const CONCURRENT = [EPOLL, LESSON, NO_GATE, "for await, readable", "pipeTo"]
  .concat("node:net in Deno", NODE);
const ONE_BY_ONE = [EPOLL, LESSON, "lesson 02", ...CONCURRENT.slice(3)];

type Options = Io & Values<typeof OPTIONS>;
const OPTIONS = {
  rounds: { default: 5, min: 1, max: 1000, help: "each server once in each" },
  time: { default: 250, min: 10, max: 60_000, help: "milliseconds of a load" },
};

/** What can be run alone, by name. */
const PARTS: Record<string, (options: Options) => Promise<void>> = {
  c: compareWithC,
  calls: systemCalls,
  full_io: fullIo,
  messages: (options) =>
    compare(options, "64-byte messages, 100 connections", CONCURRENT, {
      connections: 100,
      size: 64,
    }),
  one: (options) =>
    compare(options, "64-byte messages, one connection", ONE_BY_ONE, {
      connections: 1,
      size: 64,
    }),
  stream: (options) =>
    compare(
      options,
      "A stream in writes of 64 KiB, one connection",
      ONE_BY_ONE,
      {
        connections: 1,
        size: 64 * 1024,
        stream: true,
      },
    ),
  large: (options) =>
    compare(options, "64-KiB messages, 300 connections", [
      ...[LESSON, NO_GATE, "lesson 17, 16 KiB", "17, 16 KiB, --nagle"],
      ...["node:net in Deno", "node:net, no Nagle", NODE],
    ], { connections: 300, size: 64 * 1024 }),
  datagrams: (options) =>
    compare(options, "64-byte datagrams, 100 sockets", [
      ...[`${EPOLL} --udp`, "lesson 06", "for await, datagrams"],
      ...["node:dgram in Deno", "node:dgram in Node"],
    ], { connections: 100, size: 64, udp: true }),
  connections: manyConnections,
  fairness,
  memory,
  start,
};

/**
 * A process that prints lines. It is killed when it is disposed of and when the
 * benchmark is aborted, and ends with its standard input where that is killed.
 */
class Child implements AsyncDisposable {
  readonly pid: number;
  readonly #child: Deno.ChildProcess;
  readonly #signal: AbortSignal;
  readonly #lines: AsyncGenerator<string, undefined>;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;

  /** Starts it on one core, if there is `taskset`. */
  constructor(signal: AbortSignal, command: string[], core: string) {
    if (find("taskset")) command = ["taskset", "-c", core, ...command];
    const child = new Deno.Command(command[0], {
      args: command.slice(1),
      stdin: "piped",
      stdout: "piped",
      detached: true, // From Ctrl+C: this process ends it, in good order.
    }).spawn();
    this.pid = child.pid;
    this.#child = child;
    this.#signal = signal;
    signal.addEventListener("abort", this.#kill);
    this.#lines = textLines(child.stdout);
    this.#input = child.stdin.getWriter();
  }

  async write(line: string): Promise<void> {
    // Of a process that has ended, line() will tell.
    await this.#input.write(new TextEncoder().encode(line + "\n"))
      .catch(() => {});
  }

  /** The next line that it prints. */
  async line(): Promise<string> {
    const { value } = await this.#lines.next();
    this.#signal.throwIfAborted();
    if (value === undefined) throw new Error("A process ended too soon");
    return value;
  }

  /** How long it has run on a core, all its threads, in microseconds. */
  cpuTime(): number {
    let nanoseconds = 0;
    for (const { name } of Deno.readDirSync(`/proc/${this.pid}/task`)) {
      try {
        const file = `/proc/${this.pid}/task/${name}/schedstat`;
        nanoseconds += Number(Deno.readTextFileSync(file).split(" ")[0]);
      } catch {
        // A thread that has ended just now, as helpers of V8's do.
      }
    }
    return nanoseconds / 1000;
  }

  /** How much of its memory is in RAM, in bytes. */
  memory(): number {
    const status = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return 1024 * Number(status.match(/^VmRSS:\s+(\d+) kB$/m)![1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    this.#signal.removeEventListener("abort", this.#kill);
    await this.#child.status;
    await this.#lines.return(undefined);
    await this.#input.abort().catch(() => {});
  }

  #kill = () => {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
}

/** A server that runs, and where it listens. */
interface Running {
  name: string;
  child: Child;
  port: number;
}

/** Starts servers, and hands them to `use` when they listen. */
async function withServers(
  { signal }: Options,
  names: string[],
  use: (servers: Running[]) => Promise<void>,
): Promise<void> {
  await using children = new AsyncDisposableStack();
  const servers: Running[] = [];
  for (const name of names) {
    signal.throwIfAborted();
    if (SERVERS[name][0] === "") continue; // There is no Node.
    const child = children.use(
      new Child(signal, SERVERS[name], cores()[0]),
    );
    const port = Number((await child.line()).split(":").at(-1));
    servers.push({ name, child, port });
  }
  await use(servers);
}

/** Starts a load generator, on a core of its own if it is to be `beside`. */
function loadGenerator({ signal }: Options, beside = false): Child & {
  make(load: Load, onConnected?: () => void): Promise<LoadResult>;
} {
  const child = new Child(
    signal,
    deno("load.ts", "--allow-ffi"),
    cores()[beside ? 1 : 0] ?? cores()[0],
  );
  return Object.assign(child, {
    async make(load: Load, onConnected = () => {}): Promise<LoadResult> {
      await child.write(JSON.stringify(load));
      await child.line();
      onConnected();
      if (load.duration > 0) await child.write("now");
      return JSON.parse(await child.line());
    },
  });
}

/** Where a load runs that is beside the server. */
function besideNote(): string {
  return find("taskset") ? `, load on core ${cores()[1] ?? cores()[0]}` : "";
}

/** What one load on one server showed. */
interface Sample {
  /** Messages in a second. */
  rate: number;
  /** What a message cost the server, in microseconds of a core. */
  cpu: number;
  /** How many messages each connection had. */
  messages: number[];
}

/** A load without what all have in common. */
type LoadKind =
  & Omit<Load, "port" | "warmUp" | "duration">
  & Partial<Pick<Load, "warmUp" | "duration">>;

/** Puts a load on each server in turn, again and again. */
async function sample(
  options: Options,
  title: string,
  servers: Running[],
  load: LoadKind,
  beside = false,
): Promise<Map<string, Sample[]>> {
  await using generator = loadGenerator(options, beside);
  const samples = new Map(servers.map(({ name }) => [name, [] as Sample[]]));
  const total = (options.rounds + 1) * servers.length;
  using progress = new Progress(title, total);
  let done = 0;
  for (let round = 0; round <= options.rounds; round++) {
    for (let i = 0; i < servers.length; i++) {
      options.signal.throwIfAborted();
      // Each round begins with another one.
      const { name, child, port } = servers[(round + i) % servers.length];
      let cpuTime = 0;
      const { elapsed, messages, total } = await generator.make({
        ...{ duration: options.time, warmUp: 50, ...load },
        port,
      }, () => cpuTime = child.cpuTime());
      cpuTime = child.cpuTime() - cpuTime;
      const counted = messages.reduce((sum, one) => sum + one, 0);
      progress.update(++done);
      // Till the server has seen that its clients have left.
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (round === 0) continue; // The first round only warms up.
      samples.get(name)!.push({
        rate: counted / elapsed * 1000,
        cpu: cpuTime / total,
        messages,
      });
    }
  }
  return samples;
}

/** What is nearest to the system calls, and how near others come to it. */
async function compareWithC(options: Options): Promise<void> {
  const rows: [name: string, tcp: string, udp?: string][] = [
    [C, C, `${C}, UDP`],
    [EPOLL, EPOLL, `${EPOLL} --udp`],
    ["Bun", "Bun"],
    ["Go", "Go"],
    ["lesson 17, 06", LESSON, "lesson 06"],
    ["Node", NODE, "node:dgram in Node"],
  ];
  const loads: [title: string, load: LoadKind][] = [
    ["100 connections", { connections: 100, size: 64 }],
    ["1000", { connections: 1000, size: 64 }],
    ["a stream", { connections: 1, size: 64 * 1024, stream: true }],
    ["UDP, 50 sockets", { connections: 50, size: 64, udp: true }],
  ];
  const columns: Map<string, string>[] = [];
  const all = rows.flatMap(([, tcp, udp]) => udp ? [tcp, udp] : [tcp]);
  await withServers(options, all, async (servers) => {
    for (const [title, load] of loads) {
      const names = rows.map(([, tcp, udp]) => load.udp ? udp : tcp);
      const some = servers.filter(({ name }) => names.includes(name));
      const samples = await sample(options, title, some, load, true);
      const first = [...samples.values()][0]; // C's, if there is a compiler.
      const ratio = (all: Sample[], of: (mine: Sample, c: Sample) => number) =>
        median(all.map((mine, i) => of(mine, first[i]))).toFixed(2);
      columns.push(
        new Map([...samples].map(([name, all]) => {
          const rate = ratio(all, (mine, c) => mine.rate / c.rate);
          const cpu = ratio(all, (mine, c) => c.cpu / mine.cpu);
          return [name, `${rate} (${cpu})`];
        })),
      );
    }
  });
  const table = rows.map(([name, tcp, udp = ""]) => [
    name,
    ...columns.map((it, i) => it.get(loads[i][1].udp ? udp : tcp) ?? "-"),
  ]).filter((cells) => cells.slice(1).some((cell) => cell !== "-"));
  const title = `Messages a second, relative to ${table[0][0]} ` +
    `(in brackets: for a second on a core)${besideNote()}`;
  const head = ["server", ...loads.map(([title]) => title)];
  await print(options, title, formatTable(head, table));
}

/** How many system calls a message takes. */
async function systemCalls(options: Options): Promise<void> {
  const title = "System calls for a message, 64 bytes, 100 connections";
  if (!find("strace")) {
    await options.print(`${title}: there is no strace\n`);
    return;
  }
  const names = [C, EPOLL, LESSON].filter((name) => SERVERS[name][0] !== "");
  const rows: (string | number)[][] = [];
  {
    using progress = new Progress(title, names.length);
    for (const name of names) {
      const counts = await countCalls(SERVERS[name], options.signal);
      const { recv, send, epoll } = counts;
      rows.push([name, ...[recv, send, epoll].map((it) => it.toFixed(2))]);
      progress.update(rows.length);
    }
  }
  const head = ["server", "recv", "send", "epoll_wait"];
  await print(options, title, formatTable(head, rows));
}

/** Compares servers under one load, in a table with bars. */
async function compare(
  options: Options,
  title: string,
  names: string[],
  load: LoadKind,
): Promise<void> {
  await withServers(options, names, async (servers) => {
    const samples = await sample(options, title, servers, load);
    const reference = samples.get(names.at(-1)!); // Node's, if it is there.
    // Bytes tell more where messages are large.
    const [unit, scale] = load.size >= 1024
      ? ["MB/s", load.size / 1e6]
      : ["messages/s", 1];
    const rates = [...samples.values()].map((all) =>
      median(all.map(({ rate }) => rate * scale))
    );
    const rows = [...samples].map(([name, all], i) => [
      name,
      Math.round(rates[i]),
      spread(all.map(({ rate }) => rate * scale)),
      timesNode(all, reference, (mine, node) => mine.rate / node.rate),
      median(all.map(({ cpu }) => cpu)).toFixed(1),
      timesNode(all, reference, (mine, node) => node.cpu / mine.cpu),
      formatBar(rates[i], Math.max(...rates)),
    ]);
    const head = ["server", unit, "least..most", "x Node"]
      .concat("us of CPU", "x Node", "");
    await print(options, title, formatTable(head, rows));
  });
}

/** How much better than Node, in the median of the rounds. */
function timesNode(
  samples: Sample[],
  reference: Sample[] | undefined,
  ratio: (mine: Sample, node: Sample) => number,
): string {
  if (reference === undefined) return "-"; // There is no node on PATH.
  return median(samples.map((mine, i) => ratio(mine, reference[i]))).toFixed(2);
}

/** What a message costs as connections grow. */
async function manyConnections(options: Options): Promise<void> {
  const title = "64-byte messages, microseconds for each";
  const counts = [1, 10, 100, 1000];
  const names = [LESSON, NO_GATE, NODE];
  await withServers(options, names, async (servers) => {
    const columns: Map<string, number>[] = [];
    for (const connections of counts) {
      const part = `${title}, ${connections} connections`;
      const load = { connections, size: 64 };
      const samples = await sample(options, part, servers, load);
      columns.push(
        new Map([...samples].map(([name, all]) => [
          name,
          1e6 / median(all.map(({ rate }) => rate)),
        ])),
      );
    }
    const most = Math.max(...columns.flatMap((it) => [...it.values()]));
    const rows = servers.flatMap(({ name }) =>
      counts.map((count, i) => {
        const cost = columns[i].get(name)!;
        return [name, count, cost.toFixed(1), formatBar(cost, most)];
      })
    );
    const head = ["server", "connections", "us a message", ""];
    await print(options, title, formatTable(head, rows));
  });
}

/** Who gets how much of a second. */
async function fairness(options: Options): Promise<void> {
  const duration = options.time * 4; // A second, if nothing else is said.
  const title = `${duration} ms of 64-byte messages, 1000 connections` +
    besideNote();
  const names = [EPOLL, LESSON, NO_GATE, "--no-gate, IO_EVENTS=100"]
    .concat("node:net in Deno", NODE);
  await withServers(options, names, async (servers) => {
    // The load is beside the server here: where they take turns on one core,
    // the server gets all messages at once, and has time for all of them.
    const load = { connections: 1000, size: 64, warmUp: 0, duration };
    const samples = await sample(options, title, servers, load, true);
    const reference = samples.get(NODE);
    const rows = [...samples].map(([name, all]) => {
      const index = median(all.map(({ messages }) => jainsIndex(messages)));
      const starved = all.map(({ messages }) =>
        messages.filter((count) => count === 0).length
      );
      return [
        name,
        Math.round(median(all.map(({ rate }) => rate))),
        timesNode(all, reference, (mine, node) => mine.rate / node.rate),
        index.toFixed(4),
        Math.max(...starved),
        formatBar(index, 1),
      ];
    });
    const head = ["server", "messages/s", "x Node", "Jain's index"];
    await print(
      options,
      title,
      formatTable([...head, "most without an echo", ""], rows),
    );
  });
}

/** What a connection costs that has nothing to say. */
async function memory(options: Options): Promise<void> {
  const connections = Math.min(5000, maxOpenFiles() - 100);
  const title = `Memory, ${connections} idle connections, measured once`;
  const names = [EPOLL, LESSON, "for await, readable", "pipeTo"]
    .concat("node:net in Deno", NODE);
  const rows: (string | number)[][] = [];
  await withServers(options, names, async (servers) => {
    using progress = new Progress(title, servers.length);
    for (const { name, child, port } of servers) {
      options.signal.throwIfAborted();
      await using generator = loadGenerator(options);
      const load = { size: 64, warmUp: 0, port };
      await generator.make({ ...load, connections: 100, duration: 300 });
      const before = child.memory();
      await generator.make({ ...load, connections, duration: 0 });
      const bytes = (child.memory() - before) / connections;
      rows.push([name, Math.round(bytes)]);
      progress.update(rows.length);
    }
  });
  const most = Math.max(...rows.map(([, bytes]) => Number(bytes)));
  const head = ["server", "bytes for each", ""];
  const table = rows.map((row) => [...row, formatBar(Number(row[1]), most)]);
  await print(options, title, formatTable(head, table));
}

/** From the start of a process to its first echo. */
async function start(options: Options): Promise<void> {
  const title = "From start to first echo";
  const names = ["lesson 02", LESSON, "node:net in Deno", NODE]
    .filter((name) => SERVERS[name][0] !== "");
  const times = names.map(() => [] as number[]);
  {
    using progress = new Progress(title, options.rounds * names.length);
    let done = 0;
    for (let round = 0; round < options.rounds; round++) {
      for (const [i, name] of names.entries()) {
        const before = performance.now();
        await withServers(options, [name], async ([{ port }]) => {
          using conn = await Deno.connect({ hostname: "127.0.0.1", port });
          await conn.write(new Uint8Array(1));
          await conn.read(new Uint8Array(1));
          times[i].push(performance.now() - before);
        });
        progress.update(++done);
      }
    }
  }
  const medians = times.map(median);
  const rows = names.map((name, i) => [
    name,
    Math.round(medians[i]),
    spread(times[i]),
    formatBar(medians[i], Math.max(...medians)),
  ]);
  const head = ["server", "ms", "least..most", ""];
  await print(options, title, formatTable(head, rows));
}

/** `readFull` and `writeFull` against the same by hand, by `deno bench`. */
async function fullIo(options: Options): Promise<void> {
  const title = "readFull and writeFull, nanoseconds";
  const times = new Map<string, number[]>();
  for (let round = 1; round <= options.rounds; round++) {
    using progress = new Progress(title, options.rounds);
    progress.update(round - 1);
    const { success, stdout, stderr } = await new Deno.Command(
      Deno.execPath(),
      {
        args: ["bench", "--json", "--allow-net", path("full_io_bench.ts")],
        detached: true,
        signal: options.signal,
      },
    ).output();
    options.signal.throwIfAborted();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    const { benches } = JSON.parse(new TextDecoder().decode(stdout));
    for (const { group, name, results: [{ ok }] } of benches) {
      const key = `${group}, ${name}`;
      // Each run is 1000 calls. The least of the runs is without interruption.
      times.set(key, [...times.get(key) ?? [], ok.min / 1000]);
    }
  }
  const all = [...times];
  const rows = all.map(([key, mine], i) => {
    const byHand = all[i - i % 2][1]; // They come in pairs.
    const more = median(mine.map((time, round) => time - byHand[round]));
    const ratio = median(mine.map((time, round) => time / byHand[round]));
    return [key, median(mine).toFixed(1)]
      .concat(i % 2 === 0 ? ["", ""] : [more.toFixed(1), ratio.toFixed(3)]);
  });
  const head = ["what", "ns", "more", "ratio"];
  await print(options, title, formatTable(head, rows));
}

/** Prints a table under its title. */
async function print(options: Options, title: string, table: string) {
  await options.print(`${title}\n\n${table}\n`);
}

function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle]
    : (sorted[middle - 1] + sorted[middle]) / 2;
}

function spread(numbers: number[]): string {
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return `${Math.round(least)}..${Math.round(most)}`;
}

/** The cores that this process may run on. */
function cores(): string[] {
  const status = Deno.readTextFileSync("/proc/self/status");
  const list = status.match(/^Cpus_allowed_list:\s+(\S+)$/m)![1];
  return list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => `${first + i}`);
  });
}

/** What 1000 connections need, and what else is open. */
const OPEN_FILES = 1100;

/** How many descriptors a process may have, as far as it can be raised. */
function maxOpenFiles(): number {
  const limits = Deno.readTextFileSync("/proc/self/limits");
  const [, most] = limits.match(/^Max open files +\d+ +(\w+)/m)!;
  return most === "unlimited" ? Infinity : Number(most);
}

/** Where a program is on PATH, or `undefined`. */
function find(program: string): string | undefined {
  const folders = (Deno.env.get("PATH") ?? "").split(":");
  return folders.map((folder) => `${folder}/${program}`).find((file) => {
    // Where there is no node, Deno puts itself there under that name.
    if (file.includes("node_compat_bin")) return false;
    try {
      return Deno.statSync(file).isFile;
    } catch {
      return false;
    }
  });
}

await runLesson(
  import.meta.url,
  {
    bench: {
      help: "all parts, or those named: " + Object.keys(PARTS).join(", "),
      options: OPTIONS,
      operands: "PART...",
      endsOnSignal: true,
      async run(options) {
        const names = options.operands.length > 0
          ? options.operands
          : Object.keys(PARTS);
        for (const name of names) {
          if (Object.hasOwn(PARTS, name)) continue;
          const all = Object.keys(PARTS).join(", ");
          throw new UsageError(
            `unknown part ${JSON.stringify(name)}, expected some of ${all}`,
          );
        }
        if (maxOpenFiles() < OPEN_FILES) {
          throw new Error(
            `${OPEN_FILES} open files are needed, the limit is ${maxOpenFiles()}`,
          );
        }
        const pinned = find("taskset")
          ? `servers and load on core ${cores()[0]}, unless stated otherwise`
          : "no taskset: servers and load on any core";
        await options.print(
          `Deno ${Deno.version.deno}, ${cores().length} cores, ` +
            `${new Date().toISOString().slice(0, 10)}; ${options.rounds} ` +
            `rounds of ${options.time} ms; ${pinned}\n`,
        );
        for (const name of names) await PARTS[name](options);
      },
    },
  },
);
