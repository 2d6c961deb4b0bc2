/**
 * Runs lessons as real processes, with exactly the flags of their headers.
 *
 * @module
 */

const ROOT = new URL("../", import.meta.url);

/** The names of all lessons' files, in order. */
export const LESSONS = [...Deno.readDirSync(new URL("lessons/", ROOT))]
  .map((entry) => entry.name).filter((name) => name.endsWith(".ts"))
  .toSorted();

/** A lesson of the tests' own, for what the runner does with any lesson. */
export const FIXTURE = "tests/harness/fixture_lesson.ts";

/** The path of a lesson: its name alone is enough for those in `lessons/`. */
const pathOf = (lesson: string) =>
  lesson.includes("/") ? lesson : `lessons/${lesson}`;

/** The source text of a lesson. */
export function lessonSource(lesson: string): string {
  return Deno.readTextFileSync(new URL(pathOf(lesson), ROOT));
}

/** The `@run` lines of a lesson's header, by mode. */
export function runLines(lesson: string): Map<string, string[]> {
  const lines = lessonSource(lesson).matchAll(/^ \* @run (.+)$/gm);
  return new Map(
    [...lines].map(([, line]) => {
      const words = line.split(" ");
      const script = words.indexOf(pathOf(lesson));
      return [words[script + 1] ?? "demo", words];
    }),
  );
}

/** No test waits longer than this for anything, in milliseconds. */
const LIMIT = 60_000;

/**
 * The environment of what is started: nobody insists on colors, and no `deno task`
 * has said where its user stands.
 */
const { FORCE_COLOR: _, INIT_CWD: __, ...ENV } = Deno.env.toObject();

/** What is different from a plain run. */
export interface StartOptions {
  /** Replaces the flags of the header. */
  flags?: string[];
  /** Added to the environment. */
  env?: Record<string, string>;
  /** Run this instead, and the lesson's command behind it. */
  wrapper?: (command: string[]) => string[];
}

/** How a process ended, and all it wrote. */
export interface Result {
  code: number;
  stdout: string;
  stderr: string;
  /** `stdout` as it came. */
  bytes: Uint8Array<ArrayBuffer>;
}

/** A lesson that runs. Disposing of it ends it by SIGKILL. */
export class LessonProcess implements AsyncDisposable {
  #child: Deno.ChildProcess;
  #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #out: Output;
  #err: Output;
  #limit: ReturnType<typeof setTimeout>;

  /** Starts `deno run [flags] lesson args...`. */
  constructor(lesson: string, args: string[], options: StartOptions = {}) {
    const modes = runLines(lesson);
    const words = modes.get(args[0]) ?? modes.get("demo")!;
    const flags = options.flags ?? words.slice(2).filter((it) => it[0] === "-");
    const path = new URL(pathOf(lesson), ROOT).pathname;
    let command = [Deno.execPath(), "run", ...flags, path, ...args];
    if (options.wrapper) command = options.wrapper(command);
    this.#child = new Deno.Command(command[0], {
      args: command.slice(1),
      clearEnv: true,
      env: { ...ENV, ...options.env },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#limit = setTimeout(() => this.#giveUp(), LIMIT);
    this.#stdin = this.#child.stdin.getWriter();
    this.#out = new Output(this.#child.stdout);
    this.#err = new Output(this.#child.stderr);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Resolves when standard output holds `text`, to all of it so far. */
  stdoutHas(text: string | RegExp): Promise<string> {
    return this.#out.has(text);
  }

  /** Resolves when standard error holds `text`, to all of it so far. */
  stderrHas(text: string | RegExp): Promise<string> {
    return this.#err.has(text);
  }

  /**
   * Resolves when the trace on standard error holds `text`, to all of it so far,
   * as {@linkcode returnedCalls} leaves it.
   */
  async traceHas(text: string | RegExp): Promise<string> {
    return await this.#err.has(text, returnedCalls);
  }

  /** Resolves to the port of the ready line. */
  async port(): Promise<number> {
    const ready = /^listening on \S+:(\d+)\r?\n/m;
    return Number((await this.#out.has(ready)).match(ready)![1]);
  }

  /** Writes to standard input. */
  async type(text: string | Uint8Array<ArrayBuffer>): Promise<void> {
    const bytes = typeof text === "string"
      ? new TextEncoder().encode(text)
      : text;
    await this.#stdin.write(bytes);
  }

  /** Ends standard input. */
  async endInput(): Promise<void> {
    await this.#stdin.close().catch(() => {});
  }

  /** Stops reading standard output, as `head` does when it has its lines. */
  async closeStdout(): Promise<void> {
    await this.#out.cancel();
  }

  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  #giveUp(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended, but something that it has started has its output.
      this.#out.cancel();
      this.#err.cancel();
    }
  }

  /** Waits for its end. */
  async result(): Promise<Result> {
    const [bytes, err, { code }] = await Promise.all([
      this.#out.all,
      this.#err.all,
      this.#child.status,
    ]);
    clearTimeout(this.#limit);
    await this.endInput();
    const decoder = new TextDecoder();
    const stdout = decoder.decode(bytes);
    const stderr = withoutDownloads(decoder.decode(err));
    return { code, bytes, stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.result();
  }
}

/** All that comes out of a stream, and whether some text has come yet. */
class Output {
  readonly all: Promise<Uint8Array<ArrayBuffer>>;
  #reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #ended = false;
  #news = Promise.withResolvers<void>();

  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.#reader = stream.getReader();
    this.all = this.#collect();
  }

  async #collect(): Promise<Uint8Array<ArrayBuffer>> {
    for (;;) {
      const { value, done } = await this.#reader.read();
      if (value) this.#chunks.push(value);
      this.#ended = done;
      this.#news.resolve();
      this.#news = Promise.withResolvers();
      if (done) return await new Blob(this.#chunks).bytes();
    }
  }

  async has(text: string | RegExp, view = (all: string) => all) {
    for (;;) {
      const news = this.#news.promise;
      const ended = this.#ended;
      const all = view(await new Blob(this.#chunks).text());
      if (typeof text === "string" ? all.includes(text) : text.test(all)) {
        return all;
      }
      if (ended) throw new Error(`Ended without ${text}: ${all}`);
      await news;
    }
  }

  async cancel(): Promise<void> {
    await this.#reader.cancel();
  }
}

/** Runs a lesson to its end. */
export async function run(
  lesson: string,
  args: string[],
  options: StartOptions & { input?: string | Uint8Array<ArrayBuffer> } = {},
): Promise<Result> {
  await using process = new LessonProcess(lesson, args, options);
  const typing = (async () => {
    await process.type(options.input ?? "");
    await process.endInput();
  })().catch(() => {}); // It need not read all of its input.
  const result = await process.result();
  await typing;
  return result;
}

/** Starts a lesson's server on a free port, and waits until it listens. */
export async function startServer(
  lesson: string,
  args: string[] = [],
  options: StartOptions = {},
): Promise<{ process: LessonProcess; port: number }> {
  const all = ["server", "--host=127.0.0.1", "--port=0", ...args];
  const process = new LessonProcess(lesson, all, options);
  return { process, port: await process.port() };
}

/** Runs `deno` with any arguments, without a terminal and without colors. */
export async function runDeno(
  args: string[],
  cwd: string | URL = ROOT,
  env: Record<string, string> = {},
): Promise<Omit<Result, "bytes">> {
  const command = new Deno.Command(Deno.execPath(), {
    args,
    cwd,
    stdin: "null",
    clearEnv: true,
    env: { ...ENV, NO_COLOR: "1", ...env },
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: withoutDownloads(decoder.decode(stderr)),
  };
}

/** With a new cache Deno itself says, in color or not, what it fetches. */
function withoutDownloads(stderr: string): string {
  const line = /^(?:\P{L}+m)*Download(?:\P{L}+m)? https?:.*\n/gmu;
  return stderr.replaceAll(line, "");
}

/** The lines of a trace without when each was, and how long its call took. */
export function withoutTimes(trace: string): string {
  return trace.replaceAll(/^\d+\.\d{3} /gm, "")
    .replaceAll(/ after [\d.]+ m?s$/gm, "");
}

/**
 * What a trace says of the calls that have returned, without their times. How many
 * lines are about calls that wait depends on how fast the machine is.
 */
export function returnedCalls(trace: string): string {
  return withoutTimes(trace).replaceAll(/^.+: waiting for [\d.]+ s.*\n/gm, "");
}

/** The cells of the table behind `title`, without its head. */
export function tableBehind(stdout: string, title: string): string[][] {
  const section = stdout.slice(stdout.indexOf(title)).split("\n\n")[0];
  return section.trimEnd().split("\n").slice(2)
    .map((row) => row.trim().split(/ {2,}/));
}

/** Waits until `condition` holds, for something the kernel will do in time. */
export async function until(
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + LIMIT;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Never came: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/**
 * The processes that `pid` has started, and theirs: with an npm installation,
 * `deno` is a launcher that starts the real one.
 */
export function descendants(pid: number): number[] {
  let list: string;
  try {
    list = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`);
  } catch {
    return []; // It has ended meanwhile, as a `cat` soon does.
  }
  const children = list.trim().split(" ").filter((it) => it !== "").map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

/** Whether a process runs, and has not ended without being waited for. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

/** Puts something in the place of `owner[key]`, until it is disposed of. */
export function replaced<T extends object, K extends keyof T>(
  owner: T,
  key: K,
  value: unknown,
): Disposable {
  const original = owner[key];
  owner[key] = value as T[K];
  return { [Symbol.dispose]: () => void (owner[key] = original) };
}

/** What the kernel lists of a TCP socket of this host's. */
export interface KernelRow {
  /** Its own port, and the one at the other end. */
  own: number;
  other: number;
  /** Its state. The tests need no other ones than those that have a name. */
  state: string;
  /** What it waits for: `on` is a retransmission. */
  timer: "off" | "on" | "keepalive" | "timewait" | "probe";
  /** How long the timer still runs. */
  seconds: number;
  retransmits: number;
  /** Bytes without an acknowledgement, and that wait. */
  sendQueue: number;
  inode: string;
}

const STATES: Record<string, string> = {
  "01": "ESTABLISHED",
  "02": "SYN-SENT",
  "06": "TIME-WAIT",
  "08": "CLOSE-WAIT",
  "09": "LAST-ACK",
};
const TIMERS = ["off", "on", "keepalive", "timewait", "probe"] as const;

/** The kernel's own list of TCP sockets over IPv4, read without lib. */
export function kernelRows(): KernelRow[] {
  const lines = Deno.readTextFileSync("/proc/net/tcp").trim().split("\n");
  return lines.slice(1).map((line) => {
    const fields = line.trim().split(/\s+/);
    const [own, other] = fields.slice(1, 3)
      .map((address) => parseInt(address.split(":")[1], 16));
    const [timer, ticks] = fields[5].split(":").map((it) => parseInt(it, 16));
    return {
      own,
      other,
      state: STATES[fields[3]] ?? fields[3],
      timer: TIMERS[timer],
      seconds: ticks / 100,
      sendQueue: parseInt(fields[4].split(":")[0], 16),
      retransmits: parseInt(fields[6], 16),
      inode: fields[9],
    };
  });
}

/** What the kernel lists of one end of a connection. */
export const kernelRow = (own: number, other: number) =>
  kernelRows().find((row) => row.own === own && row.other === other);

/**
 * How many segments the kernel has sent again on a connection, as ss(8) knows it
 * by netlink: `undefined` where there is no `ss`, or no such connection any more.
 */
export async function sentAgain(
  own: number,
  other: number,
): Promise<number | undefined> {
  const command = new Deno.Command("sh", {
    args: ["-c", `ss -Htian sport = :${own} and dport = :${other}`],
  });
  const text = new TextDecoder().decode((await command.output()).stdout);
  if (text === "") return undefined;
  return Number(text.match(/ retrans:\d+\/(\d+)/)?.[1] ?? 0);
}

/** Whether nobody listens on this port of 127.0.0.1 any more. */
export async function isFree(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return true;
    // It was still in the queue of a server that ended just now.
    if (error instanceof Deno.errors.ConnectionReset) return false;
    throw error;
  }
}

/** `ulimit -n` of what is started here. */
export async function openFilesLimit(): Promise<number> {
  const command = new Deno.Command("sh", { args: ["-c", "ulimit -n"] });
  const text = new TextDecoder().decode((await command.output()).stdout);
  return text.startsWith("unlimited") ? Infinity : Number(text);
}

/** Whether a program is on PATH. */
export async function hasProgram(name: string): Promise<boolean> {
  const command = new Deno.Command("sh", {
    args: ["-c", `command -v ${name}`],
  });
  return (await command.output()).success;
}

/** Wraps a command so that it runs on a pseudo-terminal, by `script(1)`. */
export function onTerminal(command: string[]): string[] {
  const quoted = command.map((word) => `'${word.replaceAll("'", "'\\''")}'`);
  // Script takes the user's shell. Without `exec` some shells (dash) stay in
  // between, and Ctrl+C ends them too.
  const script = ["script", "-qec", `exec ${quoted.join(" ")}`, "/dev/null"];
  return ["env", "SHELL=/bin/sh", ...script];
}

/**
 * Makes a program that is found before the real one of that name, with `env`.
 * Disposing of it removes it.
 *
 * @param name Its name on PATH.
 * @param script What it does, for `sh`; it finds the real one on PATH.
 */
export async function fakeProgram(name: string, script: string) {
  const folder = await Deno.makeTempDir();
  const text = `#!/bin/sh\nPATH=\${PATH#*:}\n${script}\n`;
  await Deno.writeTextFile(`${folder}/${name}`, text, { mode: 0o755 });
  return {
    folder,
    env: { PATH: `${folder}:${Deno.env.get("PATH")}` },
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

/** Whether tests may make networks of their own, by unshare(1). */
export async function canUnshare(): Promise<boolean> {
  const command = new Deno.Command("sh", {
    args: ["-c", "unshare -n sh -c 'ip link set lo up'"],
    stdout: "null",
    stderr: "null",
  });
  return (await command.output()).success;
}

/** Runs what it wraps in a network of its own, which a script for `sh` makes. */
export const inNetwork = (script: string) => (command: string[]) => [
  ...["unshare", "-n", "sh", "-c"],
  `ip link set lo up && ${script} && exec "$@"`,
  "sh",
  ...command,
];

/** Whether tests may mount files of their own over others. */
export async function canMount(): Promise<boolean> {
  const command = new Deno.Command("sh", {
    args: ["-c", "unshare -m mount --bind /etc/hosts /etc/hosts"],
    stdout: "null",
    stderr: "null",
  });
  return (await command.output()).success;
}

/**
 * Runs what it wraps with another `/etc/hosts`, which nobody else sees.
 *
 * @param text What stands in it.
 */
export async function withHosts(text: string) {
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, text);
  await Deno.chmod(file, 0o644);
  return {
    wrapper: (command: string[]) => [
      ...["unshare", "-m", "sh", "-c"],
      'mount --bind "$0" /etc/hosts && exec "$@"',
      file,
      ...command,
    ],
    [Symbol.asyncDispose]: () => Deno.remove(file),
  };
}

/** Whether this host has `::1`. */
export function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}
