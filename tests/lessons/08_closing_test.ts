import { assert, assertEquals, assertMatch } from "@std/assert";
import { dropIncoming, passIncoming } from "../../lib/lab/packet_loss.ts";
import {
  descendants,
  fakeProgram,
  hasProgram,
  isFree,
  isRunning,
  kernelRow,
  LessonProcess,
  onTerminal,
  run,
  runLines,
  until,
} from "../testing.ts";

const LESSON = "08_closing.ts";

/** The rows of a scene's diagram. */
function rowsOf(stdout: string, title: string) {
  const section = stdout.split("\n\n").find((it) => it.startsWith(title))!;
  return section.split("\n").slice(2).map((row) => {
    const match = row.match(/^(.{19})(.{12}) \|(.*?)\| ?(.{0,12})(.*)$/)!;
    const [left, client, arrow, server, right] = match.slice(1)
      .map((part) => part.trim());
    return { what: left || right, client, server, arrow: arrow[0] ?? " " };
  });
}

/**
 * What happened in a scene: who, what, and the states afterwards. Rows of
 * states that pass by themselves are left out: they may be too short to see.
 */
function scene(stdout: string, title: string): string[] {
  // (An end in TIME-WAIT has sent its FIN, so the other one's FIN-WAIT-2 passes.)
  const passing =
    /FIN-WAIT-1|LAST-ACK|CLOSING|SYN-|FIN-WAIT-2\/TIME-WAIT|TIME-WAIT\/FIN-WAIT-2/;
  const result: string[] = [];
  for (const { what, client, server, arrow } of rowsOf(stdout, title)) {
    if (client === "" && server === "") continue; // More of the text above.
    const states = `${client}/${server}`;
    if (what !== "") result.push(`${arrow} ${what.split(" ")[0]} ${states}`);
    else {
      const last = result.pop()!;
      assertMatch(last, passing, "only passing states change by themselves");
      result.push(last.replace(/\S+$/, states));
    }
  }
  return result;
}

const SCENES = [
  "The client closes first",
  "The client gets Ctrl+C",
  "The server gets Ctrl+C",
  "The client ends its side only",
  "Both close at once",
];

/** The states of one side in a scene, each until it changed. */
const pathOf = (states: string[]) =>
  states.filter((state, i) => state !== "" && state !== states[i - 1]);

/** What stands below a scene's diagram. */
function explained(stdout: string, title: string): string[] {
  const sections = stdout.split("\n\n");
  const index = sections.findIndex((it) => it.startsWith(title));
  return sections[index + 1]!.split("\n");
}

Deno.test("08 shows every way to close, with the kernel's states", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const open = [
    "- connect ESTABLISHED/ESTABLISHED",
    "  accept ESTABLISHED/ESTABLISHED",
  ];
  assertEquals(scene(stdout, "The client closes first"), [
    ...open,
    "- close FIN-WAIT-2/CLOSE-WAIT",
    "  read FIN-WAIT-2/CLOSE-WAIT",
    "< close TIME-WAIT/gone",
  ]);
  assertEquals(scene(stdout, "The client gets Ctrl+C"), [
    ...open,
    "- SIGINT FIN-WAIT-2/CLOSE-WAIT",
    "  read FIN-WAIT-2/CLOSE-WAIT",
    "< close TIME-WAIT/gone",
  ]);
  assertEquals(scene(stdout, "The server gets Ctrl+C"), [
    ...open,
    "< SIGINT CLOSE-WAIT/FIN-WAIT-2",
    "  read CLOSE-WAIT/FIN-WAIT-2",
    "- close gone/TIME-WAIT",
  ]);
  assertEquals(scene(stdout, "The client ends its side only"), [
    ...open,
    "- write ESTABLISHED/ESTABLISHED",
    "- closeWrite FIN-WAIT-2/CLOSE-WAIT",
    "  read FIN-WAIT-2/CLOSE-WAIT",
    "  read FIN-WAIT-2/CLOSE-WAIT",
    "< write FIN-WAIT-2/CLOSE-WAIT",
    "  read FIN-WAIT-2/CLOSE-WAIT",
    "< close TIME-WAIT/gone",
    "  read TIME-WAIT/gone",
    "  close TIME-WAIT/gone",
  ]);
  assertEquals(scene(stdout, "Both close at once"), [
    "- closeWrite FIN-WAIT-1/ESTABLISHED",
    "x closeWrite FIN-WAIT-1/FIN-WAIT-1",
    "  each TIME-WAIT/TIME-WAIT",
  ]);

  // Below each diagram: its states again, and what those mean that are new.
  const known = new Set<string>();
  for (const title of SCENES) {
    const rows = rowsOf(stdout, title).filter(({ client }) => client !== "");
    const [client, server, ...meanings] = explained(stdout, title);
    const paths = [
      pathOf(rows.map(({ client }) => client)),
      pathOf(rows.map(({ server }) => server)),
    ];
    assertEquals(client, `client: ${paths[0].join(" -> ")}`);
    assertEquals(server, `server: ${paths[1].join(" -> ")}`);
    const unknown = new Set(paths.flat()).difference(known);
    assertEquals(
      meanings.map((line) => line.match(/^ {2}(\S+) +\S.*$/)?.[1]),
      [...unknown],
    );
    for (const state of unknown) known.add(state);
  }

  const table = (title: string) =>
    stdout.slice(stdout.indexOf(title)).split("\n\n")[0].trimEnd().split("\n")
      .slice(2).map((row) => row.split(/ {2,}/));
  assertEquals(table('"When the server closes').map((row) => row.at(-1)), [
    "ESTABLISHED",
    'read 5 bytes "hello"',
    "ECONNREFUSED",
    "waits, after 200 ms",
    "end of stream",
    "CLOSE-WAIT",
    "gone",
  ]);
  assertEquals(table("Deno's own close()"), [
    ["Deno's close(), data unread", "end of stream", "EPIPE"],
    ["process ends, data unread", "ECONNRESET", "EPIPE"],
    ["close(2), data unread", "ECONNRESET", "EPIPE"],
    ["close(2), SO_LINGER 0", "ECONNRESET", "EPIPE"],
  ]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("08 --mermaid draws pictures, and asks the kernel once for both ends", async () => {
  // Every other reading says something else of all sockets.
  await using cat = await fakeProgram(
    "cat",
    `if rm "$0.odd" 2>/dev/null; then state=01; else : >"$0.odd"; state=05; fi
     cat "$@" | sed "s/^\\( *[0-9]*: [^ ]* [^ ]*\\) [0-9A-F]*/\\1 $state/"`,
  );
  const { env } = cat;
  await using process = new LessonProcess(LESSON, ["--mermaid"], { env });
  const stdout = await process.stdoutHas("The client gets Ctrl+C");
  const rows = stdout.split("\n\n")[0].split("\n").slice(1);
  assertEquals(rows.slice(0, 3), [
    "sequenceDiagram",
    "  participant client",
    "  participant server",
  ]);
  assert(rows.includes("  client->>server: close"), stdout);
  const states = rows.flatMap((row) =>
    row.match(/^ {2}Note over client,server: (\S+) \/ (\S+)$/)?.slice(1) ?? []
  );
  assertEquals(states, [
    ...["FIN-WAIT-2", "FIN-WAIT-2", "ESTABLISHED", "ESTABLISHED"],
    ...["FIN-WAIT-2", "FIN-WAIT-2", "ESTABLISHED", "ESTABLISHED"],
    ...["FIN-WAIT-2", "gone"], // By then there is only one end.
  ]);
});

Deno.test("08 --mermaid draws which ways both ends have taken, and how often", async () => {
  const { code, stdout } = await run(LESSON, ["--mermaid"]);
  assertEquals(code, 0);
  const [last, ...scenes] = stdout.split("\n\n").filter((it) =>
    it.includes("Diagram")
  ).toReversed();
  assertEquals(scenes.length, SCENES.length);
  // Counted from the other diagrams.
  const counts: Record<string, Record<string, number>> = {};
  const seen = new Set<string>();
  for (const text of scenes) {
    const notes = [
      ...text.matchAll(/Note over client,server: (\S+) \/ (\S+)/g),
    ];
    for (const [i, side] of ["client", "server"].entries()) {
      const path = pathOf(notes.map((it) => it[i + 1]!.replaceAll("-", "_")));
      path.forEach((state) => seen.add(state));
      for (const [n, state] of path.entries()) {
        if (n === 0) continue;
        const change = counts[`${path[n - 1]} --> ${state}`] ??= {};
        change[side] = (change[side] ?? 0) + 1;
      }
    }
  }
  const drawn = [...last!.matchAll(/^ {2}(\S+ --> \S+): .*\((.*)\)$/gm)];
  const expected = Object.entries(counts).map((
    [change, { client, server }],
  ) => [
    change,
    [client && `client ${client}`, server && `server ${server}`]
      .filter((it) => it).join(", "),
  ]);
  assertEquals(
    drawn.map(([_, change, sides]) => [change, sides]).toSorted(),
    expected.toSorted(),
  );
  const [, filled] = last!.match(/^ {2}class (\S+) seen$/m)!;
  assertEquals(new Set(filled.split(",")), seen);
});

/** A `peer` on a pipe, which is asked one call at a time. */
class Prompt extends LessonProcess {
  #seen = 0;

  constructor() {
    super(LESSON, ["peer"]);
  }

  /** Waits for what is said next, and returns what stands between it and before. */
  async says(text: RegExp): Promise<string> {
    const next = RegExp(`^([^]{${this.#seen}}[^]*?${text.source})`);
    const [said] = (await this.stdoutHas(next)).match(next)!;
    const before = this.#seen;
    this.#seen = said.length;
    return said.slice(before);
  }

  /** Waits for what came of a call, and for the states of so many sockets. */
  async answers(sockets: number, call = "\\S.*\n"): Promise<string[]> {
    const states = `(  (here|there) .*\n){${sockets}}`;
    const said = await this.says(RegExp(call + states));
    // On a slow machine anything may have to wait.
    return said.replace(/.*: waiting, .*\n/, "").trimEnd().split("\n")
      .map((row) => row.replace(/ +/g, " "));
  }

  /** Makes a call, or none with an empty line. */
  async call(line: string, sockets: number): Promise<string[]> {
    await this.type(`${line}\n`);
    return await this.answers(sockets, line === "" ? "" : undefined);
  }

  /** Makes a call that waits, and gives it up. */
  async giveUp(line: string, sockets: number): Promise<string[]> {
    await this.type(`${line}\n`);
    const [call] = line.split(" ");
    await this.says(RegExp(`${call}: waiting, Ctrl\\+C gives it up\\n`));
    this.kill("SIGINT");
    return await this.answers(sockets);
  }

  /** Listens, and returns the port. */
  async listen(port = 0): Promise<number> {
    const [said] = await this.call(`listen ${port}`, 1);
    return Number(said.split(":")[1]);
  }
}

/** What a program says at the prompt, without the states. */
const answers = (stdout: string) => stdout.replace(/^ {2}.*\n/gm, "");

Deno.test("08 peer makes calls, and says what came of them and how both ends are", async () => {
  await using server = new Prompt();
  await using client = new Prompt();
  const port = await server.listen();
  const P = `127.0.0.1:${port}`;
  const listener = ` here ${P} LISTEN`;
  const [connected, ...open] = await client.call(`connect ${port}`, 2);
  const C = connected.replace("connect as ", "");
  assertMatch(C, /^127\.0\.0\.1:\d+$/);
  const ends = (here: string, there: string) => [
    ` here ${C} ${here}`,
    ` there ${P} ${there}`,
  ];
  const fromServer = (here: string, there: string) => [
    listener,
    ` here ${P} ${here}`,
    ` there ${C} ${there}`,
  ];
  assertEquals(open, ends("ESTABLISHED", "ESTABLISHED"));
  assertEquals(await server.call("", 1), [`${listener}, 1 in its queue`]);
  assertEquals(await server.call("accept", 3), [
    `accept ${C}`,
    ...fromServer("ESTABLISHED", "ESTABLISHED"),
  ]);
  assertEquals(await client.call("write two words", 2), [
    "write 9 bytes",
    ...ends("ESTABLISHED", "ESTABLISHED, 9 bytes to read"),
  ]);
  assertEquals(await client.call("closeWrite", 2), [
    "closeWrite",
    ...ends("FIN-WAIT-2", "CLOSE-WAIT, 9 bytes and the end to read"),
  ]);
  assertEquals(await server.call("read", 3), [
    'read 9 bytes "two words"',
    ...fromServer("CLOSE-WAIT", "FIN-WAIT-2"),
  ]);
  assertEquals(await server.call("read", 3), [
    "read end of stream",
    ...fromServer("CLOSE-WAIT", "FIN-WAIT-2"),
  ]);
  assertEquals(await server.call("close", 3), [
    "close",
    ...fromServer("gone", "TIME-WAIT"),
  ]);
  assertEquals((await client.call("read", 2))[0], "read end of stream");
  // It is closed, and the kernel still has it.
  assertEquals(await client.call("close", 2), [
    "close",
    ...ends("TIME-WAIT", "gone"),
  ]);
  assertEquals((await client.call("write more", 2))[0].split(":")[0], "write");
  assertEquals((await server.call("unlisten", 2))[0], "unlisten");
  await until(() => isFree(port));
  await client.type("q\n");
  const { code, stderr } = await client.result();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("08 peer shows how it is when what was written is acknowledged", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using process = new Prompt();
  await process.call(`connect ${listener.addr.port}`, 2);
  using conn = await listener.accept();
  for (
    const [line, here, there] of [
      ["write hi", "ESTABLISHED", "ESTABLISHED, 2 bytes to read"],
      ["closeWrite", "FIN-WAIT-2", "CLOSE-WAIT, 2 bytes and the end to read"],
    ]
  ) {
    dropIncoming(conn);
    await process.type(`${line}\n`);
    await process.says(/\S.*\n/); // The call is done.
    passIncoming(conn);
    const states = (await process.answers(2, "")).map((row) =>
      row.replace(/^ \w+ \S+ /, "")
    );
    assertEquals(states, [here, there]);
  }
});

Deno.test("08 peer says why a call cannot be made, and which calls there are", async () => {
  const input = "read\naccept\nunlisten\nclose\nlisten 0x2\nlisten 70000\n" +
    "connect\nwrite a\u2028b\ntoString\nnonsense\nhelp\n"; // No end of a line.
  const { code, stdout, stderr } = await run(LESSON, ["peer"], { input });
  assertEquals([code, stderr], [0, ""]);
  const rows = stdout.trimEnd().split("\n");
  const conn = "No connection: listen and accept, or connect";
  const names = "listen, accept, connect, read, write, closeWrite, close, " +
    "unlisten, pid, exit";
  assertEquals(rows.slice(0, 11), [
    `read: ${conn}`,
    "accept: Nothing listens: listen first",
    "unlisten: Nothing listens: listen first",
    `close: ${conn}`,
    'listen: Not a port: "0x2"',
    'listen: Not a port: "70000"',
    'connect: Not a port: ""',
    `write: ${conn}`,
    `toString: one of ${names}, help`,
    `nonsense: one of ${names}, help`,
    "help",
  ]);
  const helped = rows.slice(11).map((row) =>
    row.match(/^ {2}(\w+) {2,}\S/)?.[1]
  );
  assertEquals(helped, [...names.split(", "), "q", undefined]);
});

Deno.test("08 peer lets go of what it closes, and ends by SIGTERM while it waits", async () => {
  await using process = new Prompt();
  const port = await process.listen();
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.call("accept", 3);
  await process.call("write hello", 3);
  await process.call("close", 3);
  const buffer = new Uint8Array(64);
  assertEquals(await conn.read(buffer), 5);
  assertEquals(await conn.read(buffer), null);
  // Another listener takes the place of the first one.
  const other = await process.listen();
  assert(other !== port);
  assert(await isFree(port));
  await process.type("accept\n");
  await process.says(/accept: waiting.*\n/);
  process.kill("SIGTERM");
  assertEquals((await process.result()).code, 143);
});

Deno.test("08 peer loses nothing of a read that was given up", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  await using process = new Prompt();
  await process.call(`connect ${port}`, 2);
  using conn = await listener.accept();
  const [given] = await process.giveUp("read", 2);
  assertEquals(given, "read: given up, but it goes on");
  await conn.write(new TextEncoder().encode("one"));
  // It is not in the queue any more: the read that was given up has it.
  await until(async () =>
    (await process.call("", 2))[0].endsWith(" ESTABLISHED")
  );
  await conn.write(new TextEncoder().encode("two"));
  assertEquals((await process.call("read", 2))[0], 'read 3 bytes "one"');
  assertEquals((await process.call("read", 2))[0], 'read 3 bytes "two"');
  // On another connection there is another read.
  await process.giveUp("read", 2);
  await process.call(`connect ${port}`, 2);
  using other = await listener.accept();
  await other.write(new TextEncoder().encode("three"));
  assertEquals((await process.call("read", 2))[0], 'read 5 bytes "three"');
});

Deno.test("08 peer writes a new line where it is told to", async () => {
  await using process = new Prompt();
  const port = await process.listen();
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.call("accept", 3);
  assertEquals((await process.call("write \\n", 3))[0], "write 1 byte");
  const buffer = new Uint8Array(9);
  assertEquals([await conn.read(buffer), buffer[0]], [1, 0x0a]);
});

Deno.test("08 peer: an accept that was given up holds neither port nor client", async () => {
  await using process = new Prompt();
  const port = await process.listen();
  const connect = async () => {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    // It is in the queue no more: the accept that was given up has it.
    await until(async () => {
      const rows = await process.call("", 1);
      return rows[0].endsWith(" LISTEN");
    });
    return conn;
  };
  const [given] = await process.giveUp("accept", 1);
  assertEquals(given, "accept: given up, but it goes on");
  assertEquals(await process.listen(port), port);

  await process.giveUp("accept", 1);
  using unclaimed = await connect();
  assertEquals(await process.listen(port), port);
  assertEquals(await unclaimed.read(new Uint8Array(1)), null);

  await process.giveUp("accept", 1);
  using conn = await connect();
  const client = `127.0.0.1:${conn.localAddr.port}`;
  assertEquals((await process.call("accept", 3))[0], `accept ${client}`);
});

Deno.test("08 peer gives up to connect, and connects later", async () => {
  const hostname = "127.0.0.1";
  using listener = Deno.listen({ hostname, port: 0, tcpBacklog: 1 });
  const { port } = listener.addr;
  // One more than asked for has room in the kernel's queue.
  using _first = await Deno.connect({ hostname, port });
  using _second = await Deno.connect({ hostname, port });
  await using process = new Prompt();
  const [given] = await process.giveUp(`connect ${port}`, 0);
  assertEquals(given, "connect: given up");
  (await listener.accept()).close();
  (await listener.accept()).close();
  const [connected] = await process.call(`connect ${port}`, 2);
  assertMatch(connected, /^connect as /);
});

Deno.test("08 peer: a write that was given up goes on, and the FIN comes last", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using process = new Prompt();
  await process.call(`connect ${listener.addr.port}`, 2);
  using conn = await listener.accept();
  const length = 8 * 1024 * 1024;
  let told = 0;
  let said = "";
  while (said !== "write: given up, but it goes on") {
    await process.type(`write ${"x".repeat(length)}\n`);
    said = await process.says(/write(:| \d).*\n/);
    if (said.includes("waiting")) {
      process.kill("SIGINT");
      [said] = await process.answers(2);
    }
    told += Number(said.match(/write (\d+)/)?.[1] ?? 0);
  }
  await process.type("closeWrite\n");
  await process.says(/closeWrite: waiting.*\n/);
  let count = 0;
  const buffer = new Uint8Array(1 << 20);
  for (let n; (n = await conn.read(buffer)) !== null;) count += n;
  assert(count > told && count <= told + length, `${count} of ${told}`);
  await process.says(/closeWrite\n/);
});

const onlyWithScript = { ignore: !await hasProgram("script") };

/** A `peer` on a terminal. */
const onTerminalPeer = () =>
  new LessonProcess(LESSON, ["peer"], { wrapper: onTerminal });

Deno.test(
  "08 peer on a terminal: the prompt comes after the result",
  onlyWithScript,
  async () => {
    await using process = onTerminalPeer();
    await process.stdoutHas("call> ");
    await process.type("listen\n");
    const ready = await process.stdoutHas(/LISTEN\r\ncall> /);
    assertMatch(
      ready,
      /^call> listen\r\nlisten (\S+)\r\n {2}here {3}\1 +LISTEN\r\ncall> $/,
    );
    const port = Number(ready.match(/:(\d+)\r/)![1]);
    // What is typed while a call waits is the next call, behind a prompt of its own.
    await process.type("accept\npid\n");
    const waiting = await process.stdoutHas("gives it up\r\n");
    assert(waiting.endsWith("\r\naccept: waiting, Ctrl+C gives it up\r\n"));
    assertEquals(waiting.split("call> ").length, 3, waiting);
    using _conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const said = await process.stdoutHas(/\r\npid \d+\r\n( +.*\r\n){3}call> $/);
    assertMatch(
      said.slice(waiting.length),
      /^accept \S+\r\n( +.*\r\n){3}call> pid\r\npid \d+\r\n( +.*\r\n){3}call> $/,
    );
    await process.type("q\n");
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assert(stdout.endsWith("call> q\r\n"), stdout);
  },
);

Deno.test(
  "08 peer on a terminal: Ctrl+C gives up a call, and ends it at the prompt",
  onlyWithScript,
  async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    await using process = onTerminalPeer();
    await process.stdoutHas("call> ");
    await process.type(`connect ${listener.addr.port}\n`);
    await process.stdoutHas(/there .*\r\ncall> $/);
    using conn = await listener.accept();
    await process.type("read\n");
    await process.stdoutHas("read: waiting, Ctrl+C gives it up\r\n");
    await process.type("\x03");
    const given = await process.stdoutHas(
      /given up, .*\r\n( +.*\r\n){2}call> $/,
    );
    assertMatch(
      given,
      /gives it up\r\n(\^C)?\r\nread: given up, but it goes on\r\n/,
    );
    await conn.write(new TextEncoder().encode("hi"));
    await process.type("read\n");
    await process.stdoutHas(/read 2 bytes "hi"\r\n( +.*\r\n){2}call> $/);
    await process.type("\x03");
    const { code, stdout } = await process.result();
    assertEquals(code, 130);
    assertMatch(stdout, /call> (\^C)?\r\n$/);
  },
);

for (const signal of ["SIGINT", "SIGKILL"] as const) {
  Deno.test(`08 demo leaves no process behind after ${signal}`, async () => {
    await using process = new LessonProcess(LESSON, []);
    await process.stdoutHas("The client closes first");
    // The next scene's two processes.
    await until(() => descendants(process.pid).length >= 2);
    const peers = descendants(process.pid);
    const start = performance.now();
    process.kill(signal);
    const { code, stderr } = await process.result();
    if (signal !== "SIGKILL") {
      assertEquals([code, stderr], [130, ""]);
      // It waits for them, but not for ever.
      const isPatient = performance.now() - start < 2500;
      if (isPatient) assertEquals(peers.filter(isRunning), []);
    }
    await until(() => !peers.some(isRunning));
  });
}

/** Tells on standard error which ports each connection of the program has. */
const TELL_PORTS = `data:text/javascript,${
  encodeURIComponent(`
    const { connect } = Deno;
    Deno.connect = async (...options) => {
      const conn = await connect(...options);
      const ports = [conn.localAddr.port, conn.remoteAddr.port];
      console.error("connected " + ports.join(" to "));
      return conn;
    };
  `)
}`;

Deno.test("08 both that close at once wait in TIME-WAIT, says the kernel", async () => {
  const flags = runLines(LESSON).get("demo")!.filter((it) => it[0] === "-");
  await using process = new LessonProcess(LESSON, [], {
    flags: [...flags, `--preload=${TELL_PORTS}`],
  });
  // In the scenes before it is the peers that connect.
  const told = await process.stderrHas(/connected \d+ to \d+\n/);
  const [client, server] = told.match(/\d+/g)!.map(Number);
  await process.stdoutHas('"When the server closes');
  const ends = [kernelRow(client, server), kernelRow(server, client)];
  assertEquals(
    ends.map((it) => [it?.state, it?.timer]),
    [["TIME-WAIT", "timewait"], ["TIME-WAIT", "timewait"]],
  );
});

Deno.test("08 demo ends with one line when a peer is killed before it connects", async () => {
  // The client's first call is connect, the server's is listen.
  await using fake = await fakeProgram(
    "deno",
    `echo $$ >>"$0.pids"
     read -r call
     case $call in connect*) kill -9 $$; esac
     { echo "$call"; cat; } | deno "$@"`,
  );
  const { code, stdout, stderr } = await run(LESSON, [], { env: fake.env });
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /^08_closing: connect \d+: the process has ended\n$/);
  const pids = await Deno.readTextFile(`${fake.folder}/deno.pids`);
  const peers = pids.trim().split("\n").map(Number);
  assertEquals(peers.length, 2);
  await until(() => !peers.some(isRunning));
});

Deno.test("08 peer --piped says one line a call, and ends with its input although it waits", async () => {
  await using process = new LessonProcess(LESSON, ["peer", "--piped"]);
  await process.type("listen\nnonsense\npid\naccept\n");
  await process.stdoutHas(/^listen 127\.0\.0\.1:\d+\nnonsense: .*\npid \d+\n/);
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listen \S+\nnonsense: .*\npid \d+\n$/);
});

Deno.test("08 peer goes on with what was piped when its input has ended", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  await using process = new LessonProcess(LESSON, ["peer"]);
  await process.type(`connect ${port}\nread\nclose\npid\n`);
  await process.endInput();
  using conn = await listener.accept();
  await conn.write(new Uint8Array([0x68, 0x69]));
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertMatch(
    answers(stdout).replace(/.*: waiting.*\n/g, ""),
    /^connect as \S+\nread 2 bytes "hi"\nclose\npid \d+\n$/,
  );
});
