/** Programs that somebody goes through step by step, on a pseudo-terminal. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  descendants,
  hasProgram,
  isRunning,
  kernelRow,
  LessonProcess,
  onTerminal,
  run,
  until,
} from "../testing.ts";
import { programFolder } from "./programs.ts";

const STEP = new URL("../../lib/trace/step.ts", import.meta.url).pathname;
const QUESTION = "r: run on ";
const ENTER = "\r";
const CTRL_C = "\x03";
const CTRL_D = "\x04";
const ignore = !await hasProgram("script");

/** What is on the screen, and a keyboard. */
class Terminal implements AsyncDisposable {
  readonly process: LessonProcess;
  #questions = 0;

  constructor(path: string, args: string[], flags: string[]) {
    this.process = new LessonProcess(path, args, {
      flags,
      env: { NO_COLOR: "1" },
      wrapper: onTerminal,
    });
  }

  /** Waits for the next question, and returns all that is on the screen. */
  async asked(): Promise<string> {
    this.#questions++;
    const part = `(?:(?!${QUESTION})[^])*${QUESTION}`; // It looks at no place twice.
    // One that another call has interrupted is asked again.
    const pattern = RegExp(`^(?:${part}){${this.#questions},}$`);
    const text = await this.process.stdoutHas(pattern);
    this.#questions = text.split(QUESTION).length - 1;
    return text.replaceAll("\r\n", "\n");
  }

  /** What stands between the last two questions. */
  async block(): Promise<string> {
    return (await this.asked()).split(QUESTION).at(-2)!.trimStart();
  }

  type(keys: string): Promise<void> {
    return this.process.type(keys);
  }

  async [Symbol.asyncDispose]() {
    await this.process[Symbol.asyncDispose]();
  }
}

/** Starts a program step by step. */
async function stepProgram(script: string, flags = ["--allow-run=cat"]) {
  const folder = await programFolder(script);
  const all = [`--preload=${STEP}`, "--no-check", "--unstable-net"]
    .concat("--allow-net", flags);
  const terminal = new Terminal(folder.file, [], all);
  return {
    terminal,
    async [Symbol.asyncDispose]() {
      await terminal[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const PAIR = `const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
const { port } = listener.addr;
const serving = (async () => {
  using conn = await listener.accept();
  await conn.read(new Uint8Array(8));
})();
const conn = await Deno.connect({ port });
await conn.write(new Uint8Array([104, 105]));
await serving;
conn.close();
listener.close();
console.log("done");`;

Deno.test({
  name: "step shows each call, its source, and what the kernel knows",
  ignore,
  async fn() {
    await using stepped = await stepProgram(PAIR);
    const { terminal } = stepped;
    assertEquals(
      await terminal.block(),
      "Each call waits for you, and so does setTimeout, but not the kernel.\n" +
        "> program.ts(1): socket, bind, listen 127.0.0.1:0\n" +
        '      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });\n' +
        "Enter: let it happen, ",
    );
    await terminal.type(ENTER);
    const both = await terminal.block();
    // One would wait, so Enter lets the other one happen.
    assertMatch(both, /^ {2}program\.ts\(4\): #1 accept \(would wait\)\n/m);
    assertMatch(both, /^> program\.ts\(7\): socket, connect 127\.0\.0\.1:/m);
    await terminal.type(ENTER);
    const queued = await terminal.block();
    assertMatch(queued, /^ {2}#1 127\.0\.0\.1:\d+ LISTEN, 1 in its queue$/m);
    assertMatch(queued, /^> program\.ts\(4\): #1 accept\n/m);
    // Another one than that: by the number of its socket.
    await terminal.type(`2${ENTER}`);
    const written = await terminal.block();
    assertMatch(written, /^\S+ program\.ts\(8\): #2 write 2 of 2 bytes "hi"/m);
    await terminal.type(ENTER);
    const [, own, other] = (await terminal.block())
      .match(/#3 accept 127\.0\.0\.1:(\d+) at 127\.0\.0\.1:(\d+)/)!;
    const row = kernelRow(Number(other), Number(own))!;
    assertEquals(row.state, "ESTABLISHED");
    await terminal.type(ENTER);
    const closing = await terminal.block();
    assertMatch(closing, /^\S+ program\.ts\(5\): #3 read 2 bytes "hi"/m);
    assertMatch(closing, /^> program\.ts\(5\): #3 close\n/m);
    await terminal.type(`r${ENTER}`);
    const { code, stdout } = await terminal.process.result();
    assertEquals(code, 0);
    assert(stdout.endsWith("done\r\n"), stdout);
  },
});

Deno.test({
  name: "step goes through 02's demo by Enter alone",
  ignore,
  async fn() {
    const flags = ["--allow-net", "--allow-run=deno,cat"];
    await using terminal = new Terminal("02_tcp_echo.ts", ["--step"], flags);
    const stdout = await enterToTheEnd(terminal);
    const lines = stdout.split("\n");
    for (const line of lines) assert(line.length <= 80, line);
    const inOrder = [
      /^socket, connect +ESTABLISHED \|-+>\| ESTABLISHED$/,
      /server #1 \S+ LISTEN, 1 in its queue$/,
      /^ +ESTABLISHED \| +\| ESTABLISHED accept$/,
      /^write 6 bytes +ESTABLISHED \|-+>\| ESTABLISHED$/,
      /server #2 \S+ ESTABLISHED, 6 bytes to read$/,
      /^> server .*:server #2 read$/,
      /^ +ESTABLISHED \| +\| ESTABLISHED read 6 bytes$/,
      /^from server hello$/,
      /^close +FIN-WAIT-\d \|-+>\| CLOSE-WAIT$/,
      /client #1 \S+ FIN-WAIT-2 \(closed\)$/,
      /server #2 \S+ CLOSE-WAIT/,
      /^ +TIME-WAIT \|<-+\| gone +close$/,
      /client #1 \S+ TIME-WAIT \(closed\)$/,
      /^from server goes on$/,
      /^ +TIME-WAIT \|<-+\| gone +close$/,
      /^server closed$/,
    ];
    let from = 0;
    for (const pattern of inOrder) {
      const at = lines.findIndex((line, i) => i >= from && pattern.test(line));
      assert(at !== -1, `${pattern} after line ${from} of ${stdout}`);
      from = at + 1;
    }
  },
});

/** Presses Enter until the program has ended, and returns all that it said. */
async function enterToTheEnd(terminal: Terminal): Promise<string> {
  while (true) {
    try {
      await terminal.asked();
    } catch {
      break; // It has ended.
    }
    await terminal.type(ENTER);
  }
  const { code, stdout } = await terminal.process.result();
  assertEquals(code, 0, stdout);
  return stdout.replaceAll("\r\n", "\n");
}

Deno.test({
  name: "step leaves calls in the program's order, where that matters",
  ignore,
  async fn() {
    const script = `
      const local = { hostname: "127.0.0.1", port: 0 };
      const listener = Deno.listen(local);
      const { port } = listener.addr;
      const [conn, peer] = await Promise.all([Deno.connect({ port }), listener.accept()]);
      const writing = [conn.write(new Uint8Array(1)), conn.write(new Uint8Array(2))];
      conn.close();
      console.log("written", await Promise.all(writing));
      console.log("read", await peer.read(new Uint8Array(9)));
      const [other, far] = await Promise.all([Deno.connect({ port }), listener.accept()]);
      const reading = other.read(new Uint8Array(9)).catch((error) => error.name);
      other.close();
      console.log("read", await reading);
      far.close();
      const stream = peer.writable.getWriter();
      const done = stream.write(new Uint8Array(1)).catch((error) => error.name);
      peer.close();
      console.log("stream", await done);
      const accepting = listener.accept().catch((error) => error.name);
      listener.close();
      try {
        Deno.listen({ ...local, port });
        console.log("listens");
      } catch (error) {
        console.log(error.name);
      }
      console.log(await accepting);
      Deno.exit();`;
    const said = (text: string) =>
      text.match(/^(?:written|read|stream|listens|AddrInUse|BadResource).*$/gm);
    await using plain = await programFolder(script);
    const { stdout } = await run(plain.file, [], {
      flags: ["--no-check", "--allow-net"],
    });
    const expected = said(stdout);
    assertEquals(expected?.slice(0, 3), [
      "written [ 1, 2 ]",
      "read 3",
      "read Interrupted",
    ]);
    assertEquals(expected?.slice(4), ["AddrInUse", "BadResource"]);
    for (const keys of ["", "r"]) {
      await using stepped = await stepProgram(script);
      const { terminal } = stepped;
      if (keys !== "") {
        await terminal.asked();
        await terminal.type(`${keys}${ENTER}`);
      }
      assertEquals(said(await enterToTheEnd(terminal)), expected);
    }
  },
});

Deno.test({
  name: "step lets the program's deadlines stand still, and shows what waits",
  ignore,
  async fn() {
    await using stepped = await stepProgram(`
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const { port } = listener.addr;
      Deno.stdout.writeSync(new TextEncoder().encode("in a line "));
      const { setTimeout: later } = process.getBuiltinModule("node:timers");
      later(() => console.log("long enough"), 1500); // Node's timers go on.
      const timer = setTimeout(() => console.log("too late"), 1000);
      const accepting = listener.accept();
      const conn = await Deno.connect({ port, signal: AbortSignal.timeout(1000) });
      clearTimeout(timer);
      (await accepting).close();
      conn.close();
      console.log("in time");
      await new Promise((resolve) => setTimeout((word) => resolve(console.log(word)), 100, "a timer"));
      listener.close();
      AbortSignal.timeout(100).addEventListener("abort", ({ target }) => console.log(target.reason.message));`);
    const { terminal } = stepped;
    await terminal.asked();
    await terminal.type(ENTER);
    await terminal.asked();
    await terminal.type(`1${ENTER}`); // The accept(), which has to wait.
    const screen = await terminal.asked();
    // What the program has begun to write is no part of a line of the stepper's.
    assertMatch(screen, /^in a line $/m);
    assertMatch(
      screen,
      /^> program\.ts\(9\): socket, connect \S+\n.+\n {2}program\.ts\(8\): #1 accept: waiting$/m,
    );
    await terminal.process.stdoutHas("long enough"); // Somebody thinks.
    await terminal.type(ENTER);
    const text = await enterToTheEnd(terminal);
    assertMatch(text, /^in time$/m);
    assertMatch(text, /^a timer$/m);
    assertMatch(text, /^The operation was aborted due to timeout$/m);
    assert(!text.includes("too late"), text);
  },
});

Deno.test({
  name: "step draws a demo's diagram at its end, if it was to run on",
  ignore,
  async fn() {
    const flags = ["--allow-net", "--allow-run=deno,cat"];
    await using terminal = new Terminal("01_tcp_hello.ts", ["--step"], flags);
    for (let i = 0; i < 3; i++) {
      await terminal.asked();
      await terminal.type(i === 2 ? `r${ENTER}` : ENTER);
    }
    const text = await enterToTheEnd(terminal);
    const [, diagram] = text.split("server closed\n");
    const rows = diagram.split("\n").map((row) => row.trim());
    assertMatch(rows[0], /^client +\| +\| server$/);
    assertMatch(rows[1], /^\| +\| socket, bind, listen$/);
    assertMatch(diagram, /^socket, connect \S+ \|-+>\|$/m);
    assertMatch(diagram, /^ +\| +\| close listener$/m);
  },
});

Deno.test({
  name:
    "step folds lines that are too wide, and shows no more than a screen has",
  ignore,
  async fn() {
    await using stepped = await stepProgram(`
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const { port } = listener.addr;
      async function connectAndWriteToWhoeverListensThere() {
        const conn = await Deno.connect({ hostname: "127.0.0.1", port }); // 你好 你好 你好 你好 你好
        await conn.write(new Uint8Array(1));
      }
      await Promise.all(Array.from({ length: 20 }, connectAndWriteToWhoeverListensThere));
      Deno.exit();`);
    const { terminal } = stepped;
    const text = await enterToTheEnd(terminal);
    const width = (line: string) =>
      [...line].reduce((sum, it) => sum + (it > "\u2e80" ? 2 : 1), 0);
    const own = text.split("\n").filter((it) => !it.startsWith("Enter: "));
    for (const line of own) assert(width(line) <= 80, line);
    const blocks = text.split(QUESTION);
    for (const block of blocks) assert(block.split("\n").length <= 24, block);
    assertMatch(text, /^ {2}and \d+ more calls$/m);
    assertMatch(text, /^ {2}\d+ older sockets, and$/m);
  },
});

Deno.test({
  name: "step ends by Ctrl+C, runs on by Ctrl+D, and keeps a listener's word",
  ignore,
  async fn() {
    const listening =
      'Deno.addSignalListener("SIGINT", () => { console.log("mine"); Deno.exit(7); });\n' +
      "setInterval(() => {}, 1000);\n" + PAIR;
    for (
      const [script, enters, key, expected, text] of [
        [PAIR, 0, CTRL_C, 130, ""], // It stands still in listen.
        [PAIR, 1, CTRL_C, 130, ""], // It waits in accept and connect.
        [listening, 0, CTRL_C, 7, "mine"],
        [listening, 1, CTRL_C, 7, "mine"],
        [PAIR, 1, CTRL_D, 0, "done"],
      ] as const
    ) {
      await using stepped = await stepProgram(script);
      const { terminal } = stepped;
      for (let i = 0; i < enters; i++) {
        await terminal.asked();
        await terminal.type(ENTER);
      }
      await terminal.asked();
      await terminal.type(key);
      const { code, stdout } = await terminal.process.result();
      assertEquals(code, expected, stdout);
      assert(stdout.includes(text), stdout);
    }
  },
});

Deno.test({
  name: "step leaves standard input to a program that reads it",
  ignore,
  async fn() {
    await using stepped = await stepProgram(
      `const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      console.log("what?");
      const buffer = new Uint8Array(64);
      const count = await Deno.stdin.read(buffer);
      console.log("got " + new TextDecoder().decode(buffer.subarray(0, count)).trim());
      listener.close();
      for await (const chunk of Deno.stdin.readable) { console.log(chunk.length + " more"); break; }`,
    );
    const { terminal } = stepped;
    await terminal.asked();
    await terminal.type(ENTER);
    await terminal.process.stdoutHas("what?");
    await terminal.type(`a line${ENTER}`);
    const text = await terminal.asked();
    assertMatch(text, /^got a line$/m);
    assertMatch(text, /> program\.ts\(6\): #1 close listener\n/);
    await terminal.type(ENTER);
    await terminal.process.stdoutHas("#1 close listener\r\n");
    await terminal.type(`xyz${ENTER}`);
    const { code, stdout } = await terminal.process.result();
    assertEquals(code, 0);
    assertMatch(stdout, /^4 more\r$/m);
  },
});

Deno.test({
  name: "step stops streams, datagrams, and node:net",
  ignore,
  async fn() {
    await using stepped = await stepProgram(
      `import net from "node:net";
      const address = { hostname: "127.0.0.1", port: 0, transport: "udp" };
      const [one, two] = [Deno.listenDatagram(address), Deno.listenDatagram(address)];
      await one.send(new Uint8Array(3), two.addr);
      await two.receive();
      one.close(); two.close();
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const socket = net.connect(listener.addr.port, "127.0.0.1");
      const conn = await listener.accept();
      socket.write("hello");
      const reader = conn.readable.getReader(); await null;
      console.log((await reader.read()).value.length);
      await conn.writable.getWriter().write(new Uint8Array(2));
      socket.destroy(); conn.close(); listener.close();`,
    );
    const { terminal } = stepped;
    let screen = "";
    for (;;) {
      try {
        screen = await terminal.asked();
      } catch {
        break; // It has ended.
      }
      await terminal.type(ENTER);
    }
    const { code, stdout } = await terminal.process.result();
    assertEquals(code, 0, stdout);
    const stops = [
      ...screen.matchAll(/^> program\.ts\((\d+)\):\w* (?:#\d+ )?(\w+)/gm),
    ]
      .map(([, line, call]) => `${line} ${call}`);
    assertEquals(stops, [
      ...[
        "3 socket",
        "3 socket",
        "4 sendto",
        "5 recvfrom",
        "6 close",
        "6 close",
      ],
      ...[
        "7 socket",
        "8 socket",
        "9 accept",
        "10 write",
        "12 read",
        "13 write",
      ],
      ...["14 close", "14 close", "14 close"],
    ]);
    assertMatch(screen, /^ {2}#2 \S+, datagrams to receive\n> .*recvfrom$/m);
  },
});

Deno.test("step needs a terminal, and says so", async () => {
  await using program = await programFolder(PAIR);
  const flags = [`--preload=${STEP}`, "--no-check", "--allow-net"];
  const stepped = await run(program.file, [], { flags });
  assertEquals(
    [stepped.code, stepped.stdout, stepped.stderr],
    [2, "", "step: standard input and standard error must be a terminal\n"],
  );
  const lesson = await run("02_tcp_echo.ts", ["--step"]);
  assertEquals(
    [lesson.code, lesson.stdout, lesson.stderr],
    [
      2,
      "",
      "02_tcp_echo: --step: standard input and standard error must be a terminal\n",
    ],
  );
});

Deno.test({
  name: "step claims nothing of the kernel where it may not ask it",
  ignore,
  async fn() {
    await using stepped = await stepProgram(PAIR, ["--deny-run"]);
    const { terminal } = stepped;
    for (let i = 0; i < 3; i++) {
      await terminal.asked();
      await terminal.type(ENTER);
    }
    const screen = await terminal.asked();
    assertMatch(screen, /^What the kernel knows needs --allow-run=cat\.$/m);
    for (const word of ["gone", "ESTABLISHED", "LISTEN", "would wait"]) {
      assert(!screen.includes(word), screen);
    }
    await terminal.type(`r${ENTER}`);
    assertEquals((await terminal.process.result()).code, 0);
  },
});

Deno.test({
  name: "step leaves no process behind when it is killed in the middle",
  ignore,
  async fn() {
    const flags = ["--allow-net", "--allow-run=deno,cat"];
    const terminal = new Terminal("02_tcp_echo.ts", ["--step"], flags);
    for (let i = 0; i < 3; i++) {
      await terminal.asked();
      await terminal.type(ENTER);
    }
    await terminal.asked();
    const pids = descendants(terminal.process.pid);
    assert(pids.length >= 2, "there is no server");
    Deno.kill(pids[0], "SIGKILL");
    await terminal.process.result();
    await until(() => !pids.some(isRunning));
  },
});
