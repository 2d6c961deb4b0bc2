/**
 * Plays the transcripts of the guide: what stands in one is typed into real
 * terminals, and what they print has to be what stands there.
 *
 *     1$ deno task tcp_echo server        a command, in the first terminal
 *     1| listening on 0.0.0.0:9527        what is printed there after it
 *     2$ nc 127.0.0.1 9527                a second terminal
 *     2> hello                            typed into the program that runs there,
 *                                         behind its prompt, if it has one
 *     2| hello
 *     2^C                                 a key
 *     1| ...                              lines that are left out
 *
 * With one terminal the number may be left out, and so may the bar. Numbers that
 * differ from run to run stand for themselves: ephemeral ports, times, large ones.
 */
import { assert } from "@std/assert";
import { codeBlocks, ROOT } from "./pages.ts";

/** One line of a transcript. */
export interface Step {
  terminal: string;
  kind: "$" | ">" | "^" | "|";
  text: string;
}

/** How long a line may take to come, in milliseconds. */
const PATIENCE = 30_000;
/** What a terminal's shell prints when it waits for a command. */
const PROMPT = "ready$ ";

/** What programs print when they wait for a line. */
const QUESTION = /^(?:call> |Input message\([qQ] to quit\):)/;

const literal = (text: string) => RegExp(RegExp.escape(text));

/** Takes a transcript apart. */
export function parseTranscript(text: string): Step[] {
  return text.trimEnd().split("\n").map((line) => {
    const [, terminal = "1", kind, rest] = line.match(/^(\d?)([$>|]) ?(.*)$/) ??
      line.match(/^(\d)(\^)(.*)$/) ?? [];
    return kind === undefined
      ? { terminal: "1", kind: "|", text: line }
      : { terminal: terminal || "1", kind: kind as Step["kind"], text: rest! };
  });
}

/** Other numbers than these may be what they are by chance. */
const FIXED = /^(?:\d{1,3}|9000|9527|1000|1024|65507|65508)$/;

/** Numbers, times, addresses, lines of a picture, and space. */
const PARTS = /(\d+(?:,\d{3})+|\d+(?:\.\d+)*(?: ms\b)?|-{2,}|\s+)/;

/** What matches a part of a line, whatever is by chance in it. */
function partPattern(part: string): string {
  if (/^\s/.test(part)) return "\\s+";
  if (part.startsWith("-")) return "-+";
  if (part.endsWith(" ms")) return "[\\d.]+\\s+ms";
  if (/^\d+\.\d+$/.test(part)) return "\\d+\\.\\d+";
  // Four numbers with dots are an address.
  const isFixed = part.includes(".") || FIXED.test(part);
  return isFixed ? `(?<!\\d)${RegExp.escape(part)}(?!\\d)` : "[\\d,]+";
}

/**
 * What matches a line. The same letter several times in a row may be there more
 * or less often: these are the marks of a picture.
 */
export function patternOf(line: string): RegExp {
  const isOpen = line.endsWith(" ...");
  const words = (isOpen ? line.slice(0, -4) : line).trim();
  // A line of the trace says how long a call took only if that was long.
  const isCall = /^\d+\.\d{3} /.test(words);
  const fixed = isCall ? words.replace(/ after [\d.]+ m?s$/, "") : words;
  const pattern = fixed.split(PARTS)
    .map((part, i) => i % 2 === 0 ? RegExp.escape(part) : partPattern(part))
    .join("").replace(
      /(\b[A-Z]\b|\\x[0-9a-f]{2})(?:\\s\+\1)+/g,
      "$1(?:\\s+$1)*",
    );
  const rest = isOpen ? ".*" : isCall ? "(?: after [\\d.]+ m?s)?\\s*" : "\\s*";
  return RegExp(`^\\s*${pattern}${rest}$`, "m");
}

/** The processes on the terminal that a script(1) has made. */
function processesOf(script: number): number[] {
  const children = `/proc/${script}/task/${script}/children`;
  const [shell] = Deno.readTextFileSync(children).split(" ");
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name))
    .filter((pid) => {
      try {
        const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
        const [, , , session] = stat.slice(stat.lastIndexOf(")") + 2).split(
          " ",
        );
        return session === shell;
      } catch {
        return false; // It is no process, or not any more.
      }
    });
}

/** A pseudo-terminal with a shell in it. */
class Terminal implements AsyncDisposable {
  #process: Deno.ChildProcess;
  #writer: WritableStreamDefaultWriter<Uint8Array>;
  #reading: Promise<void>;
  #changed = Promise.withResolvers<void>();
  #output = "";
  #seen = 0;

  constructor(folder: string, network: number) {
    const shell = "exec bash --norc --noprofile --noediting -i";
    this.#process = new Deno.Command("nsenter", {
      // As if nobody had started this by `deno task`, which sets INIT_CWD.
      args: [`--net=/proc/${network}/ns/net`, "env", "-u", "INIT_CWD"]
        .concat("script", "-qfec", shell, "/dev/null"),
      cwd: folder,
      env: {
        ...{ SHELL: "/bin/sh", PS1: PROMPT, NO_COLOR: "1", TERM: "dumb" },
        ...{ HISTFILE: "", LC_ALL: "C.UTF-8" },
      },
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#reading = this.#read();
  }

  async #read() {
    const decoder = new TextDecoder();
    for await (const chunk of this.#process.stdout) {
      const start = this.#output.lastIndexOf("\n") + 1;
      const line = this.#output.slice(start) +
        decoder.decode(chunk, { stream: true });
      // As a terminal does: what is behind a \r replaces what is before it.
      this.#output = this.#output.slice(0, start) +
        line.replaceAll("\r\n", "\n").replace(/[^\n]*\r(?=[^\n])/g, "")
          .replaceAll("\x1b[K", "");
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
    }
  }

  /** Waits until this was printed, behind what was awaited before. */
  async see(pattern: RegExp, what: string): Promise<string> {
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, PATIENCE);
    try {
      for (const end = Date.now() + PATIENCE; Date.now() < end;) {
        const found = this.#output.slice(this.#seen).match(pattern);
        if (found) {
          this.#seen += found.index! + found[0].length;
          return found[0];
        }
        await Promise.race([this.#changed.promise, late.promise]);
      }
    } finally {
      clearTimeout(timer);
    }
    throw new Error(
      `${what} is not printed, but:\n${this.#output}`,
    );
  }

  /** Types something. */
  async type(text: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(text));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its terminal is gone then, so the kernel tells the shell and what runs in it
    // to end. (An strace may wait for what it has stopped itself, and not end.)
    const left = processesOf(this.#process.pid);
    this.#process.kill("SIGKILL");
    for (const pid of left) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    }
    await this.#writer.close().catch(() => {});
    await this.#process.status;
    await this.#reading;
  }
}

/** A network of one's own, so that each port is free. */
class Network implements AsyncDisposable {
  #process = new Deno.Command("unshare", {
    args: ["-n", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  #reader = this.#process.stdout.getReader();

  /** A process in it. */
  async pid(): Promise<number> {
    await this.#reader.read();
    return this.#process.pid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stdin.close();
    await this.#process.status;
    await this.#reader.cancel();
  }
}

/**
 * Plays a transcript.
 *
 * @param text The transcript.
 * @param folder Where its terminals stand.
 * @throws {Error} If a line of it does not come.
 */
export async function playTranscript(
  text: string,
  folder: string,
): Promise<void> {
  await using network = new Network();
  const pid = await network.pid();
  await using terminals = new AsyncDisposableStack();
  const open = new Map<string, Terminal>();
  for (const { terminal: name, kind, text: words } of parseTranscript(text)) {
    if (!open.has(name)) {
      open.set(name, terminals.use(new Terminal(folder, pid)));
    }
    const terminal = open.get(name)!;
    const what = `${name}${kind} ${words}`;
    if (kind === "$") {
      await terminal.see(/^ready\$ $/m, `a prompt for ${what}`);
      await terminal.type(`${words}\n`);
      await terminal.see(/\n/, what); // Its echo.
    } else if (kind === ">") {
      // What is typed stands behind the prompt, which comes first.
      const [prompt] = words.match(QUESTION) ?? [""];
      if (prompt !== "") await terminal.see(literal(prompt), what);
      const typed = words.slice(prompt.length);
      await terminal.type(`${typed}\n`);
      await terminal.see(literal(`${typed}\n`), what); // Its echo.
    } else if (kind === "^") {
      await terminal.type(String.fromCharCode(words.charCodeAt(0) - 64));
    } else if (words !== "...") {
      await terminal.see(patternOf(words), what);
    }
  }
}

/** What a command is not to say, if it is right. */
const WRONG = /not found|unexpected|unknown|usage:|No such|invalid|denied/i;

/**
 * Runs a command that is not in a transcript, until it has printed something.
 *
 * @param command The command.
 * @throws {Error} If it is a wrong command, by what it prints.
 */
export async function tryCommand(command: string): Promise<void> {
  const folder = await makeFolder();
  try {
    await using network = new Network();
    await using terminal = new Terminal(
      `${folder}/repository`,
      await network.pid(),
    );
    await terminal.see(/^ready\$ $/m, "a prompt");
    await terminal.type(`${command}\n`);
    await terminal.see(/\n/, command);
    const line = await terminal.see(
      /^(?!Task |strace: Process |ready\$ ).*\S.*\n|ready\$ |^ *Every \S+:/m,
      `something of ${command}`,
    );
    assert(!WRONG.test(line), `${command}: ${line}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A folder with the repository in it: what is saved beside that stands here. */
async function makeFolder(): Promise<string> {
  const folder = await Deno.makeTempDir();
  await Deno.mkdir(`${folder}/repository`);
  for (const { name } of Deno.readDirSync(ROOT)) {
    if (name === ".git") continue;
    await Deno.symlink(
      `${ROOT.pathname}${name}`,
      `${folder}/repository/${name}`,
    );
  }
  return folder;
}

/** The commands in a transcript. */
export const commandsOf = (text: string): string[] =>
  text.match(/(?<=^\d?\$ ).+/gm) ?? [];

/**
 * Plays a section of the guide: each transcript, and before it the programs that
 * stand above it, whose first line says where they are saved.
 *
 * @param section The section, in Markdown.
 * @param canPlay Whether commands can be run here.
 * @throws {Error} If a line of a transcript does not come.
 */
export async function playSection(
  section: string,
  canPlay: (commands: string[]) => Promise<boolean>,
): Promise<void> {
  const folder = await makeFolder();
  try {
    for (const { language, text } of codeBlocks(section)) {
      const [, path] = text.match(/^\/\/ \.\.\/(\w+\.ts)\n/) ?? [];
      if (language.startsWith("ts") && path !== undefined) {
        await Deno.writeTextFile(`${folder}/${path}`, text);
      } else if (language === "console" && await canPlay(commandsOf(text))) {
        await patiently(() => playTranscript(text, `${folder}/repository`));
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Tries again what fails: the programs in a transcript have time limits of their
 * own, which a very busy machine may miss. What is false fails each time.
 */
async function patiently(play: () => Promise<void>, tries = 3): Promise<void> {
  try {
    await play();
  } catch (error) {
    if (tries === 1) throw error;
    await patiently(play, tries - 1);
  }
}
