import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  descendants,
  fakeProgram,
  isFree,
  isRunning,
  kernelRow,
  LessonProcess,
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
  const passing = /FIN-WAIT-1|LAST-ACK|CLOSING|SYN-/;
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

Deno.test("08 peer obeys calls, and says what came of them", async () => {
  await using server = new LessonProcess(LESSON, ["peer"]);
  await using client = new LessonProcess(LESSON, ["peer"]);
  await server.type("listen 0\n");
  const ready = await server.stdoutHas(/listen 127\.0\.0\.1:\d+\n/);
  const port = Number(ready.trim().split(":")[1]);

  await client.type(`read\naccept\nnonsense\nconnect ${port}\n`);
  const said = await client.stdoutHas("connect as");
  assertMatch(said, /^read: No connection.*\naccept: Nothing listens.*\n/);
  assertMatch(said, /\nnonsense: one of listen, accept, connect, .*\n/);
  await server.type("accept\n");
  await server.stdoutHas(/accept 127\.0\.0\.1:\d+\n/);
  await client.type("write hi\ncloseWrite\n");
  await client.stdoutHas("write 2 bytes\ncloseWrite\n");
  await server.type("read\nread\nclose\nunlisten\n");
  await server.stdoutHas('read 2 bytes "hi"\nread end of stream\nclose\n');
  await until(() => isFree(port));
  await client.type("read\nclose\nq\n");
  const { code, stdout } = await client.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("read end of stream\nclose\n"), stdout);
});

Deno.test("08 peer keeps what it is told, and lets go of what it closes", async () => {
  await using process = new LessonProcess(LESSON, ["peer"]);
  await process.type("listen 0\n");
  const ready = await process.stdoutHas(/listen 127\.0\.0\.1:\d+\n/);
  const port = Number(ready.trim().split(":")[1]);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.type("accept\nwrite two words\nclose\nread\n");
  await process.stdoutHas("write 9 bytes\nclose\nread: No connection");
  const buffer = new Uint8Array(64);
  const count = await conn.read(buffer);
  assertEquals(
    new TextDecoder().decode(buffer.subarray(0, count!)),
    "two words",
  );
  await process.type("write a\u2028b\n"); // No end of a line here.
  await process.stdoutHas("write: No connection");
  await process.type("unlisten\naccept\nlisten 0x2\nlisten 70000\nlisten\n");
  await process.stdoutHas(
    'listen: Not a port: "0x2"\nlisten: Not a port: "70000"',
  );
  assertMatch(await process.stdoutHas("listen 127"), /accept: Nothing listens/);
  // Whatever it waits for, a signal ends it.
  await process.type("accept\n");
  await process.type("pid\n"); // Is not read any more.
  process.kill("SIGINT");
  assertEquals((await process.result()).code, 130);
});

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

Deno.test("08 peer --piped ends with its input, although it waits in accept", async () => {
  await using process = new LessonProcess(LESSON, ["peer", "--piped"]);
  await process.type("listen\naccept\n");
  await process.stdoutHas(/^listen 127\.0\.0\.1:\d+\n/);
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listen \S+\n$/);
});

Deno.test("08 peer goes on with what was piped when its input has ended", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  await using process = new LessonProcess(LESSON, ["peer"]);
  await process.type(`connect ${port}\nread\nclose\npid\n`);
  await process.endInput();
  await process.stdoutHas(/^connect as \S+\n/);
  using conn = await listener.accept();
  await conn.write(new Uint8Array([0x68, 0x69]));
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertMatch(stdout, /\nread 2 bytes "hi"\nclose\npid \d+\n$/);
});
