/** What the runner does with a lesson, whichever it is. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { connectAndReset } from "../../lib/lab/reset_client.ts";
import { exchange, resettingServer } from "../peers.ts";
import {
  descendants,
  fakeProgram,
  FIXTURE,
  hasProgram,
  isFree,
  isRunning,
  LessonProcess,
  onTerminal,
  returnedCalls,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const NAME = "fixture_lesson";
const PROMPT = "Line: ";
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;
const signals = Object.entries(SIGNALS) as [keyof typeof SIGNALS, number][];

/** Starts the fixture's server on a free port. */
const startServer = (...args: string[]) => startServerOf(FIXTURE, args);

/** Starts a client that talks to `port`. */
const startClient = (port: number, ...args: string[]) =>
  new LessonProcess(FIXTURE, ["client", `--port=${port}`, ...args]);

const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });

/** Runs a command of the fixture's by `sh`, which sees it as `"$@"`. */
const by = (script: string) => (command: string[]) => [
  "sh",
  "-c",
  script,
  "sh",
  ...command,
];
/** Waits for a line of input before it starts. */
const late = { wrapper: by('read _; exec "$@"') };

/** What a demo prints before its diagram, without the ready line. */
const spoken = (stdout: string) =>
  stdout.split(/^client {3}/m)[0].trimEnd().split("\n").slice(1);

const SPOKEN = ["one", "two", "client done!!", "server closed"];

Deno.test("runLesson() runs a demo: its server's lines, its own, a diagram", async () => {
  const { code, stdout, stderr } = await run(FIXTURE, []);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listening on 127\.0\.0\.1:\d+\n/);
  assertEquals(spoken(stdout), SPOKEN);
  assertMatch(stdout, /^client +\| +\| server\n/m);
  assertMatch(stdout, /^write 4 bytes "one\\n" +\|-+>\|\n/m);
});

Deno.test("runLesson() leaves trace and diagram out with --quiet", async () => {
  const demo = await run(FIXTURE, ["--quiet"]);
  assertEquals([demo.code, demo.stderr], [0, ""]);
  assertMatch(
    demo.stdout,
    RegExp(`^listening on 127\\.0\\.0\\.1:\\d+\n${SPOKEN.join("\n")}\n$`),
  );
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const client = await run(
    FIXTURE,
    ["client", "--quiet", `--port=${port}`],
    { input: "hello\n" },
  );
  assertEquals(
    [client.code, client.stdout, client.stderr],
    [0, "hello\nclient done!!\n", ""],
  );
  process.kill("SIGTERM");
  assertEquals((await process.result()).stderr, "");
});

Deno.test("runLesson() forks without HOME, and with LD_LIBRARY_PATH", async () => {
  const { code, stdout } = await run(FIXTURE, ["--quiet"], {
    wrapper: (command) => ["env", "-u", "HOME", ...command],
    env: {
      DENO_DIR: Deno.env.get("DENO_DIR") ??
        `${Deno.env.get("HOME")}/.cache/deno`,
      LD_LIBRARY_PATH: "/nowhere",
      LD_PRELOAD: "libc.so.6",
    },
  });
  assertEquals(code, 0);
  assertEquals(spoken(stdout), SPOKEN);
});

Deno.test("runLesson() says that it cannot fork where deno is not on PATH", async () => {
  const env = { PATH: "/nowhere" };
  const { code, stdout, stderr } = await run(FIXTURE, [], { env });
  assertEquals([code, stdout], [1, ""]);
  // Before it, Deno itself says that --allow-run=deno found no such program.
  const lines = stderr.split("\n").filter((line) => !line.includes("Info"));
  assertMatch(
    lines.join("\n"),
    /^fixture_lesson: fork failed!: ENOENT \(.+\)\n$/,
  );
});

Deno.test("runLesson() names the permission that is missing", async () => {
  const cases: [string, string[], string, string][] = [
    ["server", [], "--allow-net", ""],
    ["client", [], "--allow-net", "client done!!\n"],
    ["demo", [], "--allow-run", ""],
    ["demo", ["--allow-net"], "--allow-run", ""],
  ];
  await Promise.all(cases.map(async ([mode, flags, missing, output]) => {
    const { code, stdout, stderr } = await run(FIXTURE, [mode], { flags });
    assertEquals([code, stdout], [1, output]);
    // The failed call may be in the trace as well.
    assertMatch(stderr, /^fixture_lesson: .*\n$/m);
    assert(stderr.includes(missing), stderr);
    assert(!stderr.includes("    at "), stderr);
  }));
});

Deno.test("runLesson() prints trace and output in order in one log", async () => {
  const args = ["server", "--host=127.0.0.1", "--port=0"];
  await using process = new LessonProcess(FIXTURE, args, {
    wrapper: by('exec "$@" 2>&1'),
  });
  await exchange(await process.port(), "hi");
  await process.stdoutHas(/:server #2 close(?: after .+)?\n/);
  process.kill("SIGTERM");
  const { stdout } = await process.result();
  const lines = returnedCalls(stdout).trimEnd().split("\n");
  const calls = lines.map((it) =>
    it.replace(
      /^fixture_lesson\.ts\(\d+\):server (#\d \S+)( .*)?$/,
      "trace: $1",
    )
  );
  assertEquals(calls.toSpliced(1, 1), [
    ...["1 socket,", "2 accept", "2 read", "2 write", "2 read:", "2 close"]
      .map((it) => `trace: #${it}`),
    "server closed",
  ]);
  assertMatch(lines[1], /^listening on /);
  assertMatch(stdout, /:server #1 accept: waiting for .+ s\nserver closed\n$/);
});

Deno.test("runLesson() shows at a signal which call waits, before it ends", async () => {
  const args = ["server", "--host=127.0.0.1", "--port=0"];
  await using process = new LessonProcess(FIXTURE, args);
  const port = await process.port();
  process.kill("SIGTERM");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  const lines = stderr.trimEnd().split("\n");
  const start = /^\d+\.\d{3} fixture_lesson\.ts\(\d+\):server #1 /;
  for (const line of lines) assertMatch(line, start);
  const calls = lines.map((line) => line.replace(start, ""));
  assert(calls[0].startsWith(`socket, bind, listen 127.0.0.1:${port}`), stderr);
  // A slow machine has told it before, after a second.
  assert(calls.length >= 2, stderr);
  for (const call of calls.slice(1)) {
    assertMatch(call, /^accept: waiting for \d+\.\d s$/);
  }
});

Deno.test("runLesson() puts an error in one line, without control characters", async () => {
  const { process, port } = await startServer("--quiet", "--fault=error");
  await using _ = process;
  const message = `${NAME}: one two [31mthree \n`;
  const client = await run(
    FIXTURE,
    ["client", `--port=${port}`, "--quiet", "--fault=error"],
  );
  assertEquals(
    [client.code, client.stdout, client.stderr],
    [1, "client done!!\n", message],
  );
  await exchange(port, "fail now").catch(() => {});
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [1, message]);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);

  const demo = await run(FIXTURE, ["--quiet", "--fault=error"]);
  assertEquals([demo.code, demo.stderr], [1, message]);
  assertEquals(spoken(demo.stdout), ["server closed"]);
});

Deno.test("runLesson() lets no control character of --host reach the terminal", async () => {
  const host = "--host=a\x1b[31mb\nc\x07\r\x9bd";
  const modes = { client: "connect", server: "listen", demo: "listen" };
  await Promise.all(
    Object.entries(modes).map(async ([mode, call]) => {
      const { code, stdout, stderr } = await run(FIXTURE, [
        ...[mode, host, "--port=1", "--quiet"],
      ]);
      assertEquals(code, 1);
      assertMatch(stdout, mode === "client" ? /^client done!!\n$/ : /^$/);
      assert(stderr.startsWith(`${NAME}: ${call} a [31mb c d:1: `), stderr);
      assertMatch(stderr, /^\P{Cc}+\n$/u, "one line, and no control character");
    }),
  );
});

Deno.test("runLesson() asks whether a number in place of a host is the port", async () => {
  const { code, stdout, stderr } = await run(FIXTURE, ["client", "9527"]);
  assertEquals([code, stdout], [2, ""]);
  assertEquals(
    stderr,
    `${NAME}: --host 9527 is a number, is it the port?\n`,
  );
});

Deno.test("runLesson() says where it could not connect, listen or resolve", async () => {
  const client = ["client", "--quiet"];
  const refused = await run(FIXTURE, [...client, "--port=1"]);
  assertEquals([refused.code, refused.stdout], [1, "client done!!\n"]);
  assertMatch(
    refused.stderr,
    /^fixture_lesson: connect 127\.0\.0\.1:1: ECONNREFUSED \(Connection refused\): does a server listen there\?\n$/,
  );
  const unknown = await run(FIXTURE, [...client, "--host=no.such.invalid"]);
  assertEquals([unknown.code, unknown.stdout], [1, "client done!!\n"]);
  assertMatch(
    unknown.stderr,
    /^fixture_lesson: connect no\.such\.invalid:9527: failed to lookup .+\n$/,
  );

  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  for (const mode of ["server", "demo"]) {
    const args = [mode, "--host=127.0.0.1", `--port=${port}`, "--quiet"];
    const { code, stdout, stderr } = await run(FIXTURE, args);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(
      stderr,
      `${NAME}: listen 127.0.0.1:${port}: EADDRINUSE (Address already in use): ` +
        `ss -tlnp 'sport = :${port}' says who has it\n`,
    );
  }
  const foreign = await run(FIXTURE, ["server", "--host=192.0.2.1"]);
  assertMatch(
    foreign.stderr,
    /^fixture_lesson: listen 192\.0\.2\.1:9527: EADDRNOTAVAIL \(.+\): no address of this host, ip addr lists those\n$/,
  );
});

Deno.test("runLesson() says once, as an error or in the trace, what has failed", async () => {
  const inOneLog = { wrapper: by('exec "$@" 2>&1') };
  const refused = await run(FIXTURE, ["client", "--port=1"], inOneLog);
  assertMatch(
    refused.stdout,
    /^fixture_lesson: connect 127\.0\.0\.1:1: ECONNREFUSED .+\nclient done!!\n$/,
  );

  // The trace tells what comes before it, and what the program then does.
  await using server = await resettingServer();
  const args = ["client", `--port=${server.port}`];
  const lost = await run(FIXTURE, args, { ...inOneLog, input: "hello\n" });
  assertEquals(lost.code, 1);
  const [connect, write, ...rest] = returnedCalls(lost.stdout).split("\n");
  assertMatch(connect!, /:client #1 socket, connect /);
  assertMatch(write!, /:client #1 write 6 of 6 bytes /);
  assertMatch(
    rest.join("\n"),
    /^\S+:client #1 close\nfixture_lesson: read: ECONNRESET \(.+\): the server has ended the connection by a reset\nclient done!!\n$/,
  );
});

Deno.test("runLesson() shows in the trace a failure that the program catches", async () => {
  const { process, port } = await startServer("--fault=lost");
  await using _ = process;
  await connectAndReset(port);
  await process.traceHas(
    /server #2 read: ECONNRESET \(.+\)\n.+ #2 close\n/,
  );
  process.kill("SIGTERM");
  const { code, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stderr.match(/ECONNRESET/g)?.length, 1, stderr);
});

for (const fault of ["rejection", "uncaught"]) {
  Deno.test(`runLesson() ends on an error that nobody catches: ${fault}`, async () => {
    const text = fault === "rejection"
      ? "nobody awaits it"
      : ".*out of range.*";
    const message = RegExp(`^${NAME}: ${text}\n$`);
    const { process, port } = await startServer("--quiet");
    await using _ = process;
    const args = ["client", `--port=${port}`, "--quiet", `--fault=${fault}`];
    const client = await run(FIXTURE, args);
    assertEquals([client.code, client.stdout], [1, "client done!!\n"]);
    assertMatch(client.stderr, message);

    // And a demo takes its server along.
    const { code, stdout, stderr } = await run(FIXTURE, [`--fault=${fault}`]);
    assertEquals([code, spoken(stdout)], [1, ["server closed"]]);
    assertMatch(stderr, message);
    assertMatch(stdout, /^socket, connect \S+ +\|-+>\|\n/m);
  });
}

Deno.test("runLesson() ends with the code that says how it went", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const args = ["client", `--port=${port}`, "--quiet"];
  const status = await run(FIXTURE, [...args, "--fault=status"]);
  assertEquals([status.code, status.stdout], [3, "client done!!\n"]);
  const usage = await run(FIXTURE, [...args, "--fault=usage"]);
  assertEquals([usage.code, usage.stderr], [2, `${NAME}: not like this\n`]);
  const wrong = await run(FIXTURE, [...args, "--faults=usage"]);
  assertEquals([wrong.code, wrong.stdout], [2, ""]);
  assertMatch(wrong.stderr, /^fixture_lesson: unknown option .*\n$/);
});

for (const [signal, status] of signals) {
  Deno.test(`runLesson() ends server and client on ${signal}, and the port is free at once`, async () => {
    const { process, port } = await startServer();
    await using _ = process;
    await using client = startClient(port);
    await client.type("hello\n");
    await client.stdoutHas("hello\n");
    client.kill(signal);
    const talked = await client.result();
    assertEquals([talked.code, talked.stdout], [
      status,
      "hello\nclient done!!\n",
    ]);
    await process.traceHas("server #2 read: end of stream\n");

    using conn = await connect(port);
    await conn.write(new Uint8Array(5));
    await conn.read(new Uint8Array(5));
    process.kill(signal);
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
    assertEquals(await conn.read(new Uint8Array(1)), null);
    Deno.listen({ hostname: "127.0.0.1", port }).close();
  });

  Deno.test(`runLesson() ends a demo and its server on ${signal}, which may come twice`, async () => {
    await using process = new LessonProcess(FIXTURE, ["--ask"]);
    await process.type("hello\n");
    const port = await process.port();
    await process.stdoutHas("\nhello\n");
    process.kill(signal);
    process.kill(signal);
    const { code, stdout, stderr } = await process.result();
    assertEquals([code, stderr], [status, ""]);
    assertEquals(spoken(stdout), ["hello", "server closed"]);
    assertMatch(stdout, /^write 6 bytes "hello\\n" +\|-+>\|\n/m);
    assert(await isFree(port));
  });

  Deno.test(`runLesson() lets a server drain on ${signal}, which may come twice`, async () => {
    const { process, port } = await startServer("--drain");
    await using _ = process;
    using conn = await connect(port);
    await conn.write(new Uint8Array(1));
    await conn.read(new Uint8Array(1));
    process.kill(signal);
    await until(() => isFree(port));
    process.kill(signal);
    // It still has a client, and all the time that this one takes.
    await conn.write(new Uint8Array(1));
    assertEquals(await conn.read(new Uint8Array(1)), 1);
    conn.closeWrite();
    const { code, stdout, stderr } = await process.result();
    assertEquals(code, 0);
    assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
    const write = /server #2 write 1 of 1 byte "\\x00"\n/g;
    assertEquals(returnedCalls(stderr).match(write)?.length, 2);
  });
}

Deno.test("runLesson() lets a demo say no more once it is told to end", async () => {
  await using process = new LessonProcess(FIXTURE, ["--fault=late", "--quiet"]);
  await process.stdoutHas("\nhalf");
  process.kill("SIGINT");
  const { code, stdout } = await process.result();
  assertEquals(code, 130);
  assertEquals(spoken(stdout), ["half a line", "server closed"]);
});

Deno.test("runLesson() lets the server of a demo speak in a line of its own", async () => {
  await using process = new LessonProcess(FIXTURE, [
    "--fault=stuck",
    "--quiet",
  ]);
  await process.stdoutHas("\nhalf");
  process.kill("SIGINT");
  const { code, stdout } = await process.result();
  assertEquals(code, 130);
  assertEquals(spoken(stdout), ["half", "server closed"]);
});

Deno.test("runLesson() ends a server that fails while it drains", async () => {
  const { process, port } = await startServer("--drain", "--fault=error");
  await using _ = process;
  using conn = await connect(port);
  await process.traceHas("server #2 accept");
  process.kill("SIGTERM");
  await until(() => isFree(port));
  await conn.write(new Uint8Array(1));
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
});

Deno.test("runLesson() ends a demo that only prints, and a client too", async () => {
  const { process: server, port } = await startServer("--quiet");
  await using _ = server;
  const modes = [["demo"], ["client", `--port=${port}`, "--quiet"]];
  for (const args of modes) {
    await using process = new LessonProcess(FIXTURE, [
      ...args,
      "--fault=flood",
    ]);
    await process.stdoutHas("xxx");
    process.kill("SIGTERM");
    const { code, stdout } = await process.result();
    assertEquals(code, 143);
    // Demo and client have an end, which comes behind all of that.
    assert(!stdout.endsWith("x\n"), stdout.slice(-80));
  }
});

Deno.test("runLesson() gives up what is interruptible by SIGINT, and ends by the next one", async () => {
  const { process: server, port } = await startServer("--quiet");
  await using _ = server;
  const args = ["client", `--port=${port}`, "--quiet", "--fault=patience"];
  // It may send itself a signal.
  const flags = ["--allow-net", "--allow-run"];
  await using process = new LessonProcess(FIXTURE, args, { flags });
  await process.stdoutHas("waits for a signal\n");
  process.kill("SIGINT");
  await process.stdoutHas("given up\n");
  await process.type("goes on\n");
  await process.stdoutHas("goes on\n");
  process.kill("SIGINT");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [130, ""]);
  assertEquals(
    stdout,
    "waits for a signal\ngiven up\ngoes on\nclient done!!\n",
  );
});

Deno.test("runLesson() ends by SIGTERM although something is interruptible", async () => {
  const { process: server, port } = await startServer("--quiet");
  await using _ = server;
  const args = ["client", `--port=${port}`, "--quiet", "--fault=patience"];
  await using process = new LessonProcess(FIXTURE, args);
  await process.stdoutHas("waits for a signal\n");
  process.kill("SIGTERM");
  const { code, stdout } = await process.result();
  assertEquals(code, 143);
  assertEquals(stdout, "waits for a signal\nclient done!!\n");
});

Deno.test("runLesson() ends quietly when nobody reads its output any more", async () => {
  await using demo = new LessonProcess(FIXTURE, ["demo"]);
  const port = await demo.port();
  await demo.closeStdout();
  const ended = await demo.result();
  assertEquals([ended.code, ended.stderr], [0, ""]);
  assert(await isFree(port));

  await using flood = new LessonProcess(FIXTURE, ["--fault=flood"]);
  await flood.stdoutHas("xxx");
  await flood.closeStdout();
  const flooded = await flood.result();
  assertEquals([flooded.code, flooded.stderr], [0, ""]);

  const { process, port: other } = await startServer("--quiet");
  await using _ = process;
  await using client = startClient(other, "--quiet");
  await client.type("one\n");
  await client.stdoutHas("one\n");
  await client.closeStdout();
  await until(async () => { // The pipe may still take what comes at once.
    await client.type("more\n").catch(() => {});
    return !isRunning(client.pid);
  });
  const { code, stderr } = await client.result();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("runLesson() ends quietly when nobody ever read its output", async () => {
  for (const args of [["server", "--port=0", "--quiet"], ["--help"]]) {
    await using process = new LessonProcess(FIXTURE, args, late);
    await process.closeStdout();
    await process.type("now\n");
    const { code, stderr } = await process.result();
    assertEquals([code, stderr], [0, ""]);
  }
});

Deno.test("runLesson() reports an error although nobody reads its output", async () => {
  const args = ["client", "--port=1", "--quiet"];
  await using process = new LessonProcess(FIXTURE, args, late);
  await process.closeStdout();
  await process.type("now\n");
  const { code, stderr } = await process.result();
  assertEquals(code, 1);
  assertMatch(stderr, /^fixture_lesson: connect .*ECONNREFUSED .*\n$/);
});

Deno.test("runLesson() reports a standard output that cannot be written, once", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const client = ["client", `--port=${port}`];
  const cases = [["demo"], ["server", "--port=0"], client, ["--help"]];
  await Promise.all(cases.map(async (args) => {
    const quiet = args[0] === "--help" ? [] : ["--quiet"];
    const { code, stderr } = await run(FIXTURE, [...args, ...quiet], {
      wrapper: by('exec "$@" > /dev/full'),
      input: "hello\n",
    });
    assertEquals([code, stderr], [
      1,
      `${NAME}: write stdout: ENOSPC (No space left on device)\n`,
    ], args[0]);
  }));
});

Deno.test("runLesson() does without a standard error that cannot be written", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const full = { wrapper: by('exec "$@" 2> /dev/full') };
  const args = ["client", `--port=${port}`];
  const works = await run(FIXTURE, args, { ...full, input: "hello\n" });
  assertEquals([works.code, works.stdout], [0, "hello\nclient done!!\n"]);
  const refused = await run(FIXTURE, ["client", "--port=1"], full);
  assertEquals([refused.code, refused.stdout], [1, "client done!!\n"]);
});

Deno.test("runLesson() ends on a signal although nobody takes its output", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  for (const mode of ["demo", "client"]) {
    const at = mode === "client" ? [`--port=${port}`] : [];
    const command = new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-net", "--allow-run=deno", FIXTURE, mode]
        .concat("--fault=flood", "--quiet", at),
      cwd: new URL("../../", import.meta.url),
      stdin: "null",
      stdout: "piped",
    });
    await using child = command.spawn();
    // One look, and from then on the pipe is full.
    const reader = child.stdout.getReader();
    await reader.read();
    child.kill("SIGTERM");
    const tooLate = setTimeout(() => child.kill("SIGKILL"), 10_000);
    const { code } = await child.status;
    clearTimeout(tooLate);
    assertEquals(code, 143);
    await reader.cancel();
  }
});

Deno.test("runLesson() ends a child with its standard input, and not before", async () => {
  const { process, port } = await startServer("--child");
  await using _ = process;
  await process.type("not the end");
  assertEquals(await exchange(port, "still there?"), "still there?");
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  assertEquals(stderr, ""); // What traces a child is loaded by its parent.
});

/** Starts a demo that has a server and is connected to it. */
async function startDemo(...args: string[]) {
  const process = new LessonProcess(FIXTURE, ["--ask", ...args]);
  await process.type("hello\n");
  const port = await process.port();
  await process.stdoutHas("\nhello\n");
  return { process, port, children: descendants(process.pid) };
}

Deno.test("runLesson() leaves no process behind when it is killed", async () => {
  const { process, port, children } = await startDemo();
  await using _ = process;
  assert(children.length > 0);
  process.kill("SIGKILL");
  await process.result();
  await until(() => isFree(port));
  await until(() => !children.some(isRunning));
});

Deno.test("runLesson() survives the death of its server, and says how bad it was", async () => {
  const { process, port, children } = await startDemo();
  await using _ = process;
  for (const pid of children) Deno.kill(pid, "SIGKILL");
  await until(() => isFree(port));
  await process.type("again\n");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 137);
  assertMatch(stderr, /^fixture_lesson: .+\n$/);
  assertMatch(stdout, /^write 6 bytes "hello\\n" +\|-+>\|\n/m);
});

/** Lets processes go on that hang, if they have not been killed. */
function wakeUp(pids: number[]) {
  for (const pid of pids.filter(isRunning)) Deno.kill(pid, "SIGCONT");
}

Deno.test("runLesson() ends in time although its server hangs", async () => {
  // With a diagram, for which it reads the trace of its server, and without.
  await Promise.all([[], ["--quiet"]].map(async (args) => {
    const { process, children } = await startDemo(...args);
    await using _ = process;
    for (const pid of children) Deno.kill(pid, "SIGSTOP");
    process.kill("SIGINT");
    process.kill("SIGINT"); // It must not cut the cleaning up short.
    const { code, stderr } = await process.result();
    assertEquals([code, stderr], [130, ""]);
    wakeUp(children); // An npm installation has a launcher, which is killed.
    await until(() => !children.some(isRunning));
  }));
});

Deno.test("runLesson() ends in time although its server's launcher is all it can kill", async () => {
  const real = Deno.execPath();
  await using launcher = await fakeProgram("deno", `'${real}' "$@"; exit`);
  await using process = new LessonProcess(FIXTURE, ["--ask"], {
    env: launcher.env,
  });
  await process.type("hello\n");
  const port = await process.port();
  await process.stdoutHas("\nhello\n");
  const children = descendants(process.pid);
  assert(children.length >= 2);
  for (const pid of children) Deno.kill(pid, "SIGSTOP");
  process.kill("SIGINT");
  // Its standard error is the server's as well, and stays open.
  await until(() => !isRunning(process.pid));
  wakeUp(children);
  const { code } = await process.result();
  assertEquals(code, 130);
  await until(() => isFree(port));
});

const onlyWithScript = { ignore: !await hasProgram("script") };

Deno.test(
  "runLesson() on a terminal: prompts, Ctrl+D, Ctrl+C",
  onlyWithScript,
  async () => {
    const { process, port } = await startServer("--quiet");
    await using _ = process;
    const args = ["client", `--port=${port}`, "--quiet"];
    const start = () =>
      new LessonProcess(FIXTURE, args, { wrapper: onTerminal });

    await using quitting = start();
    await quitting.stdoutHas(PROMPT);
    await quitting.type("hello\n");
    await quitting.stdoutHas(`hello\r\n${PROMPT}`);
    await quitting.type("Q\n");
    const quit = await quitting.result();
    assertEquals(quit.code, 0);
    assert(
      quit.stdout.endsWith(`${PROMPT}Q\r\nclient done!!\r\n`),
      quit.stdout,
    );

    await using ending = start();
    await ending.stdoutHas(PROMPT);
    await ending.type("\x04"); // Ctrl+D
    const end = await ending.result();
    assertEquals(end.code, 0);
    assert(end.stdout.endsWith(`${PROMPT}\r\nclient done!!\r\n`), end.stdout);

    await using stopping = start();
    await stopping.stdoutHas(PROMPT);
    await stopping.type("\x03"); // Ctrl+C
    const stop = await stopping.result();
    assertEquals(stop.code, 130);
    assertMatch(stop.stdout, /: (\^C)?\r\nclient done!!\r\n$/);
  },
);

Deno.test(
  "runLesson() on a terminal: Ctrl+C reaches a demo and its server at once",
  onlyWithScript,
  async () => {
    await using process = new LessonProcess(FIXTURE, ["--ask", "--quiet"], {
      wrapper: onTerminal,
    });
    const port = await process.port();
    await process.stdoutHas(PROMPT);
    await process.type("hello\n");
    await process.stdoutHas(`hello\r\n${PROMPT}`);
    await process.type("\x03");
    const { code, stdout } = await process.result();
    assertEquals(code, 130);
    assertMatch(stdout, /: (\^C)?\r\nserver closed\r\n$/);
    assert(await isFree(port));
  },
);

for (const [name, value] of [["in color", ""], ["with NO_COLOR", "1"]]) {
  Deno.test(
    `runLesson() on a terminal draws ${name}`,
    onlyWithScript,
    async () => {
      const { code, stdout } = await run(FIXTURE, [], {
        wrapper: onTerminal,
        env: { NO_COLOR: value },
      });
      assertEquals(code, 0);
      // Built-in lines: nobody is asked.
      assert(!stdout.includes(PROMPT), stdout);
      const arrow = "------------->";
      assert(
        stdout.includes(value ? `|${arrow}|` : `\x1b[36m${arrow}\x1b[39m|`),
        stdout,
      );
      assertEquals(stdout.includes("\x1b"), value === "");
    },
  );
}

/** On a terminal of this size. */
const onSmall = (columns: number, rows: number) => (command: string[]) =>
  onTerminal(by(`stty cols ${columns} rows ${rows}; exec "$@"`)(command));

Deno.test(
  "runLesson() on a terminal breaks prose between words, and nowhere else",
  onlyWithScript,
  async () => {
    const args = ["--fault=prose", "--quiet"];
    const narrow = await run(FIXTURE, args, { wrapper: onSmall(30, 24) });
    assert(
      narrow.stdout.includes(
        "\nA line that is written for\r\neighty columns, and goes on\r\nhere.\r\n",
      ),
      narrow.stdout,
    );
    const piped = await run(FIXTURE, args);
    assert(
      piped.stdout.includes("for eighty columns, and\ngoes on here.\n"),
      piped.stdout,
    );
  },
);

Deno.test(
  "runLesson() repeats the heading of a diagram that is taller than the terminal",
  onlyWithScript,
  async () => {
    const env = { NO_COLOR: "1" };
    const heading = /^client +\| +\| server\r?\n/gm;
    const headings = async (
      ...args: [wrapper?: typeof onTerminal, mode?: string]
    ) => {
      const [wrapper, mode] = args;
      const { stdout } = await run(FIXTURE, mode ? [mode] : [], {
        env,
        ...wrapper && { wrapper },
      });
      return { count: stdout.match(heading)?.length ?? 0, stdout };
    };
    const low = await headings(onSmall(80, 10));
    assertEquals(low.count, 2, low.stdout);
    assertMatch(low.stdout, /\nclient +\| +\| server\r\n$/);
    assertEquals((await headings(onSmall(80, 60))).count, 1);
    assertEquals((await headings()).count, 1);
    assertEquals((await headings(onSmall(80, 10), "--mermaid")).count, 0);
  },
);

Deno.test(
  "runLesson() on a terminal, into a file: no prompt",
  onlyWithScript,
  async () => {
    const { process, port } = await startServer("--quiet");
    await using _ = process;
    const file = await Deno.makeTempFile();
    const { code } = await run(
      FIXTURE,
      ["client", `--port=${port}`, "--quiet"],
      {
        wrapper: (command) => onTerminal(by(`exec "$@" > ${file}`)(command)),
        input: "hello\nq\n",
      },
    );
    const output = await Deno.readTextFile(file);
    await Deno.remove(file);
    assertEquals([code, output], [0, "hello\nclient done!!\n"]);
  },
);
