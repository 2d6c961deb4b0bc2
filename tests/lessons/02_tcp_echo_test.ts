import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/02_tcp_echo.ts";
import { exchange, reset } from "../peers.ts";
import {
  descendants,
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "02_tcp_echo.ts";
const encode = (text: string) => new TextEncoder().encode(text);

/** Starts the lesson's server on a free port. */
const startServer = (...args: string[]) => startServerOf(LESSON, args);

/** Runs the client against `port`, on `input`. */
function runClient(port: number, input: string | Uint8Array<ArrayBuffer>) {
  return run(LESSON, ["client", "--quiet", `--port=${port}`], { input });
}

/** A server that does to its only client what `behave` says. */
async function withPeer<T>(
  behave: (conn: Deno.TcpConn) => Promise<unknown>,
  use: (port: number) => Promise<T>,
): Promise<T> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = (async () => {
    using conn = await listener.accept();
    await behave(conn);
  })();
  const result = await use(listener.addr.port);
  await serving;
  return result;
}

/** The lines of a demo's output before the diagram, without the first. */
const spoken = (stdout: string) =>
  stdout.split(/^client {3}/m)[0].trimEnd().split("\n").slice(1);

/** The two lanes of a demo's diagram. */
function lanes(stdout: string): [string, string] {
  // Of wide characters each takes two columns: here, two characters.
  const rows = stdout.trimEnd().replaceAll(/[你好]/g, "$&$&").split("\n");
  const start = rows.findIndex((row) => /^client +\| +\| server$/.test(row));
  const lane = (from: number, to?: number) =>
    rows.slice(start + 1).map((row) => row.slice(from, to).trim())
      .filter((text) => text !== "").join(" ");
  const narrow = (text: string) => text.replaceAll(/([你好])\1/g, "$1");
  return [narrow(lane(0, 31)), narrow(lane(49))];
}

Deno.test("02 demo --script: two clients on built-in lines, on any input", async () => {
  for (const input of ["", "not read\n"]) {
    const { code, stdout, stderr } = await run(LESSON, ["demo", "--script"], {
      input,
    });
    assertEquals([code, stderr], [0, ""]);
    assertEquals(spoken(stdout), [
      "from server hello",
      "from server 你好",
      "client done!!",
      "from server the second client",
      "from server goes on",
      "client done!!",
      "server closed",
    ]);
    const [clientLane, serverLane] = lanes(stdout);
    assertMatch(
      clientLane,
      /^socket, connect \S+ write 6 bytes "hello\\n" read 6 bytes "hello\\n" write 7 bytes "你好\\n" .* close socket, connect \S+ write .* read 8 bytes "goes on\\n" close$/,
    );
    assertMatch(
      serverLane,
      /^socket, bind, listen \S+ accept \S+ read 6 bytes "hello\\n" write 6 bytes "hello\\n" .* read: end of stream close accept .* close close listener$/,
    );
  }
});

Deno.test("02 demo runs where HOME is not set", async () => {
  const { code, stdout } = await run(LESSON, ["--quiet"], {
    wrapper: (command) => ["env", "-u", "HOME", ...command],
    env: { DENO_DIR: Deno.env.get("DENO_DIR") ?? "" },
  });
  assertEquals(code, 0);
  assertEquals(spoken(stdout).at(-1), "server closed");
});

Deno.test("02 demo takes the built-in lines where the input is empty", async () => {
  const { code, stdout } = await run(LESSON, []);
  assertEquals(code, 0);
  assertEquals(spoken(stdout)[0], "from server hello");
});

Deno.test("02 demo: the second client goes on where the first quit", async () => {
  const cases: [string, string[]][] = [
    ["a\nq\nb\nc\nQ\nd\n", ["a", "", "b", "c", ""]],
    ["a\nb", ["a", "b", "", ""]],
    ["q\nq", ["", ""]],
  ];
  for (const [input, replies] of cases) {
    const { code, stdout, stderr } = await run(LESSON, ["--quiet"], { input });
    assertEquals([code, stderr], [0, ""]);
    const expected = replies.map((reply) =>
      reply === "" ? "client done!!" : `from server ${reply}`
    );
    assertEquals(spoken(stdout), [...expected, "server closed"]);
  }
});

Deno.test("02 demo draws 200 exchanges in their order", async () => {
  const lines = Array.from({ length: 200 }, (_, i) => `line ${i}\n`);
  const { code, stdout } = await run(LESSON, [], { input: lines.join("") });
  assertEquals(code, 0);
  const rows = stdout.split("\n").filter((row) =>
    /(read|write) \d+ bytes/.test(row)
  );
  assertEquals(rows.length, 800);
  for (const [i, row] of rows.entries()) {
    const size = lines[Math.floor(i / 4)].length;
    const where = [
      /^write \d+ bytes.*\|-+>\|$/,
      /^ +\| +\| read/,
      /^ +\|<-+\| write/,
      /^read .*\| +\|$/,
    ];
    assertMatch(row, where[i % 4]);
    assert(row.includes(` ${size} bytes`), row);
  }
});

Deno.test("02 client sends bytes as they are, and one newline more at most", async () => {
  const { process, port } = await startServer("--connections=0", "--quiet");
  await using _ = process;
  const noise = Uint8Array.from({ length: 256 }, (_, i) => 255 - i);
  const cases: [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>[]][] = [
    [encode(""), []],
    [encode("\n"), [encode("\n")]],
    [encode("a\0b\nlast"), [encode("a\0b\n"), encode("last\n")]],
    [encode("one\nQ\ntwo\n"), [encode("one\n")]],
    [encode("one\nq"), [encode("one\n")]],
    [encode("quit\n"), [encode("quit\n")]],
    [noise, [
      noise.slice(0, 246),
      new Uint8Array([...noise.slice(246), 10]),
    ]],
  ];
  for (const [input, replies] of cases) {
    const { code, bytes, stderr } = await runClient(port, input);
    assertEquals([code, stderr], [0, ""]);
    const expected = replies.flatMap((it) => [encode("from server "), it]);
    assertEquals(
      bytes,
      await new Blob([...expected, "client done!!\n"]).bytes(),
    );
  }
});

Deno.test("02 carries a line of 64 MiB, which writing first would lock up", async () => {
  const { process, port } = await startServer("--connections=1", "--quiet");
  await using _ = process;
  const line = new Uint8Array(64 * 1024 * 1024);
  for (let i = 0; i < line.length; i++) line[i] = 0x20 + (i ^ i >> 9) % 0x5f;
  line[line.length - 1] = 10;
  const { code, bytes, stderr } = await runClient(port, line);
  assertEquals([code, stderr], [0, ""]);
  const reply = bytes.subarray(12, 12 + line.length);
  assert(reply.every((byte, i) => byte === line[i]), "bytes differ");
  assertEquals(
    new TextDecoder().decode(bytes.subarray(12 + line.length)),
    "client done!!\n",
  );
  assertEquals((await process.result()).code, 0);
});

Deno.test("02 server ends after as many clients as it was told", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  assertEquals(await exchange(port, "one"), "one");
  assertEquals(await exchange(port, ""), "");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  assertMatch(
    stderr,
    /^02_tcp_echo\.ts\(\d+\):server accept 127\.0\.0\.1:\d+$/m,
  );
  assertMatch(
    stderr,
    /^02_tcp_echo\.ts\(\d+\):server write 3 of 3 bytes "one"$/m,
  );
  assertMatch(stderr, /^02_tcp_echo\.ts\(\d+\):server read: end of stream$/m);
  assert(await isFree(port));
});

Deno.test("02 server survives clients that leave, reset, or stop midway", async () => {
  const { process, port } = await startServer("--connections=0");
  await using _ = process;
  // This one occupies the server, so the resets happen before their turn.
  const silent = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.stderrHas("server accept");
  await reset(port);
  await reset(port, encode("half a line"));
  silent.close();
  assertEquals(await exchange(port, "still there?\n"), "still there?\n");

  // And these in the middle of their exchange.
  await reset(port, new Uint8Array(100_000));
  (await Deno.connect({ hostname: "127.0.0.1", port })).close();
  assertEquals(await exchange(port, "half a li"), "half a li");
  const deaf = await Deno.connect({ hostname: "127.0.0.1", port });
  await deaf.write(new Uint8Array(1000));
  deaf.close();
  assertEquals(await exchange(port, "and now?\n"), "and now?\n");

  process.kill("SIGTERM");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("\nserver closed\n"));
  assertMatch(stderr, /:server accept: ENOTCONN \(.+\)$/m);
  assert(!stderr.includes("    at "), stderr);
});

Deno.test("02 server on IPv6 says so with brackets", async () => {
  await using process = new LessonProcess(LESSON, [
    "server",
    "--host=::1",
    "--port=0",
    "--connections=1",
  ]);
  let ready: string;
  try {
    ready = await process.stdoutHas("\n");
  } catch {
    assertMatch(await process.stderrHas("\n"), /EADDRNOTAVAIL|EAFNOSUPPORT/);
    return; // This host has no IPv6, and the lesson says so.
  }
  const port = ready.match(/^listening on \[::1\]:(\d+)\n$/)![1];
  const { code, stdout } = await run(LESSON, [
    "client",
    "--host=::1",
    `--port=${port}`,
  ], { input: "six\n" });
  assertEquals([code, stdout], [0, "from server six\nclient done!!\n"]);
});

Deno.test("02 client ends on a signal although nobody takes its output", async () => {
  const { process, port } = await startServer("--connections=1", "--quiet");
  await using _ = process;
  // What comes back is more than a pipe holds, and nobody reads it.
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-net", "lessons/02_tcp_echo.ts", "client", "--quiet"]
      .concat(`--port=${port}`),
    cwd: new URL("../../", import.meta.url),
    stdin: "piped",
    stdout: "piped",
  });
  await using client = command.spawn();
  const writer = client.stdin.getWriter();
  const big = encode(`${"x".repeat(4000)}\n`);
  for (let i = 0; i < 20; i++) await writer.write(big);
  const reader = client.stdout.getReader();
  await reader.read();
  client.kill("SIGTERM");
  const { code } = await client.status;
  assertEquals(code, 143);
  await writer.close().catch(() => {});
  await reader.cancel();
});

Deno.test("02 client reports every way a server can go away", async () => {
  const line = encode("hello\n");
  const read = (conn: Deno.TcpConn) => conn.read(new Uint8Array(64));
  const cases: [RegExp, (conn: Deno.TcpConn) => Promise<unknown>][] = [
    [/^02_tcp_echo: read failed!: End of stream\n$/, read],
    [
      /^02_tcp_echo: Unexpected end of stream: read 3 of 6 bytes\n$/,
      async (conn) => {
        await read(conn);
        await conn.write(line.subarray(0, 3));
      },
    ],
  ];
  for (const [message, behave] of cases) {
    const { code, stdout, stderr } = await withPeer(
      behave,
      (port) => runClient(port, "hello\n"),
    );
    assertEquals([code, stdout], [1, "client done!!\n"]);
    assertMatch(stderr, message);
  }
});

Deno.test("02 client notices a server that ends its side and reads no more", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const running = runClient(listener.addr.port, new Uint8Array(32 << 20));
  using conn = await listener.accept();
  await conn.closeWrite();
  const { code, stderr } = await running;
  assertEquals(code, 1);
  assertEquals(stderr, "02_tcp_echo: read failed!: End of stream\n");
});

Deno.test("02 client notices a server that is killed between two lines", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  await using talking = new LessonProcess(LESSON, [
    "client",
    `--port=${port}`,
    "--quiet",
  ]);
  await talking.type("hello\n");
  await talking.stdoutHas("from server hello\n");
  process.kill("SIGKILL");
  await process.result();
  await talking.type("anybody?\n");
  const { code, stdout, stderr } = await talking.result();
  assertEquals([code, stdout], [1, "from server hello\nclient done!!\n"]);
  assertMatch(stderr, /^02_tcp_echo: (read|write)( failed!)?: .+\n$/);
});

Deno.test("02 demo survives its server's death, and says how bad it was", async () => {
  await using process = new LessonProcess(LESSON, ["demo"]);
  await process.type("hello\n");
  const port = await process.port();
  await process.stdoutHas("from server hello\n");
  for (const pid of descendants(process.pid)) Deno.kill(pid, "SIGKILL");
  await until(() => isFree(port));
  await process.type("again\n");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 137);
  assertMatch(stderr, /^02_tcp_echo: (read|write|connect)\S* .+\n$/);
  assert(lanes(stdout)[0].startsWith("socket, connect"), stdout);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`02 server closes all on ${signal}, and the port is free at once`, async () => {
    const { process, port } = await startServer();
    await using _ = process;
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(encode("hello"));
    await conn.read(new Uint8Array(5));
    process.kill(signal);
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
    assertEquals(await conn.read(new Uint8Array(1)), null);
    Deno.listen({ hostname: "127.0.0.1", port }).close();
  });

  Deno.test(`02 client and demo clean up on ${signal}`, async () => {
    const status = signal === "SIGINT" ? 130 : 143;
    const { process, port } = await startServer();
    await using _ = process;
    await using talking = new LessonProcess(LESSON, [
      "client",
      `--port=${port}`,
    ]);
    await process.stderrHas("server accept");
    talking.kill(signal);
    const ended = await talking.result();
    assertEquals([ended.code, ended.stdout], [status, "client done!!\n"]);
    await process.stderrHas("server read: end of stream");

    await using demo = new LessonProcess(LESSON, ["demo"]);
    await demo.type("hello\n");
    const demoPort = await demo.port();
    await demo.stdoutHas("from server hello\n");
    demo.kill(signal);
    demo.kill(signal);
    const { code, stdout, stderr } = await demo.result();
    assertEquals([code, stderr], [status, ""]);
    assertEquals(spoken(stdout), [
      "from server hello",
      "client done!!",
      "server closed",
    ]);
    assert(await isFree(demoPort));
  });
}

Deno.test("02 demo leaves no server behind even when it is killed", async () => {
  await using process = new LessonProcess(LESSON, ["demo"]);
  await process.type("hello\n");
  const port = await process.port();
  await process.stdoutHas("from server hello\n");
  process.kill("SIGKILL");
  await process.result();
  await until(() => isFree(port));
});

Deno.test("02 client ends quietly when nobody reads its output", async () => {
  const { process, port } = await startServer("--connections=1");
  await using _ = process;
  await using talking = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    `--port=${port}`,
  ]);
  await talking.type("one\n");
  await talking.stdoutHas("from server one\n");
  await talking.closeStdout();
  await talking.type("two\nthree\n");
  const { code, stderr } = await talking.result();
  assertEquals([code, stderr], [0, ""]);
  assertEquals((await process.result()).code, 0);
});

Deno.test("02 server talks to nc", {
  ignore: !await hasProgram("nc"),
}, async () => {
  const { process, port } = await startServer("--connections=1");
  await using _ = process;
  // There are three programs of this name, and two have no -N: they end their
  // side by themselves when their input ends, or not before the server does.
  const script = `if nc -h 2>&1 | grep -q -- -N; then N=-N; else N=; fi
    printf 'hello\\nworld' | timeout 2 nc $N 127.0.0.1 ${port}; exit 0`;
  const command = new Deno.Command("sh", { args: ["-c", script] });
  const { stdout } = await command.output();
  assertEquals(new TextDecoder().decode(stdout), "hello\nworld");
});

Deno.test("02 client prompts on a terminal, and never there alone", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer("--connections=0");
  await using _ = process;
  const prompt = "Input message(Q to quit):";
  const start = () =>
    new LessonProcess(LESSON, ["client", `--port=${port}`, "--quiet"], {
      wrapper: onTerminal,
    });

  await using quitting = start();
  await quitting.stdoutHas(prompt);
  await quitting.type("hello\n");
  await quitting.stdoutHas(`from server hello\r\n${prompt}`);
  await quitting.type("Q\n");
  const quit = await quitting.result();
  assertEquals(quit.code, 0);
  assert(quit.stdout.endsWith(`${prompt}Q\r\nclient done!!\r\n`), quit.stdout);

  await using ending = start();
  await ending.stdoutHas(prompt);
  await ending.type("\x04"); // Ctrl+D
  const end = await ending.result();
  assertEquals(end.code, 0);
  assert(end.stdout.endsWith(`${prompt}\r\nclient done!!\r\n`), end.stdout);

  await using stopping = start();
  await stopping.stdoutHas(prompt);
  await stopping.type("\x03"); // Ctrl+C
  const stop = await stopping.result();
  assertEquals(stop.code, 130);
  assertMatch(stop.stdout, /:(\^C)?\r\nclient done!!\r\n$/);
});

Deno.test("02 demo on a terminal: prompts, replies, a colored diagram", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["demo"], {
    wrapper: onTerminal,
    env: { NO_COLOR: "" },
  });
  const prompt = "Input message(Q to quit):";
  await process.stdoutHas(prompt);
  await process.type("hello\n");
  await process.stdoutHas(`from server hello\r\n${prompt}`);
  await process.type("q\n");
  await process.stdoutHas(`client done!!\r\n${prompt}`);
  await process.type("Q\n");
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(stdout.includes("\x1b[36m------------->\x1b[39m|"), stdout);
});

Deno.test("02 demo on a terminal with NO_COLOR draws without escapes", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["demo", "--script"], {
    wrapper: onTerminal,
    env: { NO_COLOR: "1" },
  });
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(stdout.includes("|------------->|"), stdout);
  assert(!stdout.includes("\x1b"), stdout);
});

Deno.test("02 client into a file on a terminal does not prompt", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer("--connections=1", "--quiet");
  await using _ = process;
  const file = await Deno.makeTempFile();
  await using client = new LessonProcess(
    LESSON,
    ["client", `--port=${port}`, "--quiet"],
    {
      wrapper: (command) =>
        onTerminal(["sh", "-c", `"$@" > ${file}`, "sh", ...command]),
    },
  );
  await client.type("hello\nq\n");
  assertEquals((await client.result()).code, 0);
  const output = await Deno.readTextFile(file);
  await Deno.remove(file);
  assertEquals(output, "from server hello\nclient done!!\n");
});

Deno.test("02 demo --script on a terminal asks for nothing", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["demo", "--script"], {
    wrapper: onTerminal,
  });
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assert(!stdout.includes("Input message"), stdout);
});

Deno.test("02 server --child ends with its standard input, and not before", async () => {
  const { process, port } = await startServer("--connections=0", "--child");
  await using _ = process;
  await process.type("not the end");
  assertEquals(await exchange(port, "still there?"), "still there?");
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
  assertEquals(stderr, ""); // What traces a child is loaded by its parent.
});

Deno.test("02 client ends on SIGINT while it waits for an echo", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using process = new LessonProcess(LESSON, [
    "client",
    `--port=${listener.addr.port}`,
  ]);
  await process.type("hello\n");
  using conn = await listener.accept();
  await conn.read(new Uint8Array(64));
  process.kill("SIGINT");
  const { code, stdout } = await process.result();
  assertEquals([code, stdout], [130, "client done!!\n"]);
});

Deno.test("02 demo ends in time although its server hangs", async () => {
  await using process = new LessonProcess(LESSON, ["demo", "--quiet"]);
  await process.type("hello\n");
  const port = await process.port();
  await process.stdoutHas("from server hello\n");
  const children = descendants(process.pid);
  for (const pid of children) Deno.kill(pid, "SIGSTOP");
  process.kill("SIGINT");
  await process.stdoutHas("client done!!\n");
  process.kill("SIGINT"); // The second one must not cut the cleaning up short.
  const { code } = await process.result();
  assertEquals(code, 130);
  // An npm installation's launcher is killed before the server it started.
  for (const pid of children) {
    try {
      Deno.kill(pid, "SIGCONT");
    } catch {
      // It has been killed, as it should.
    }
  }
  await until(() => isFree(port));
});

Deno.test("02 server() and client() can be called from other code", async () => {
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const closed = server({
    hostname: "127.0.0.1",
    port: 0,
    connections: 1,
    onListen: ready.resolve,
  });
  const { port } = await ready.promise;
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  await client({
    port,
    lines: [encode("a\n"), encode("b")],
    output: {
      write(p: Uint8Array) {
        chunks.push(p.slice(0, 3)); // Takes its time.
        return Promise.resolve(Math.min(3, p.length));
      },
    },
  });
  assertEquals(
    await new Blob(chunks).text(),
    "from server a\nfrom server b\nclient done!!\n",
  );
  await closed;
  assert(await isFree(port));
});
