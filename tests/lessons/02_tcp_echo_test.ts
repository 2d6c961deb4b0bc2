import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/02_tcp_echo.ts";
import { exchange, reset } from "../peers.ts";
import {
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  returnedCalls,
  run,
  startServer as startServerOf,
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

Deno.test("02 demo: two clients on built-in lines, whatever the input is", async () => {
  for (const input of ["", "not read\n"]) {
    const { code, stdout, stderr } = await run(LESSON, ["demo"], { input });
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

Deno.test("02 demo --ask: the second client goes on where the first quit", async () => {
  const cases: [string, string[]][] = [
    ["a\nq\nb\nc\nQ\nd\n", ["a", "", "b", "c", ""]],
    ["a\nb", ["a", "b", "", ""]],
    ["q\nq", ["", ""]],
  ];
  for (const [input, replies] of cases) {
    const { code, stdout, stderr } = await run(LESSON, ["--ask", "--quiet"], {
      input,
    });
    assertEquals([code, stderr], [0, ""]);
    const expected = replies.map((reply) =>
      reply === "" ? "client done!!" : `from server ${reply}`
    );
    assertEquals(spoken(stdout), [...expected, "server closed"]);
  }
});

Deno.test("02 demo draws 200 exchanges in their order", async () => {
  const lines = Array.from({ length: 200 }, (_, i) => `line ${i}\n`);
  const { code, stdout } = await run(LESSON, ["--ask"], {
    input: lines.join(""),
  });
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
  const { process, port } = await startServer("--quiet");
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
  const { process, port } = await startServer("--connections=2");
  await using _ = process;
  assertEquals(await exchange(port, "one"), "one");
  assertEquals(await exchange(port, ""), "");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  const calls = returnedCalls(stderr).trimEnd().split("\n").map((line) => {
    const [, call] = line.match(/^02_tcp_echo\.ts\(\d+\):server (.+)$/)!;
    return call.replace(/(accept 127\.0\.0\.1):\d+ /, "$1:PORT ");
  });
  assertEquals(calls, [
    `#1 socket, bind, listen 127.0.0.1:${port}`,
    `#2 accept 127.0.0.1:PORT at 127.0.0.1:${port}`,
    '#2 read 3 bytes "one"',
    '#2 write 3 of 3 bytes "one"',
    "#2 read: end of stream",
    "#2 close",
    `#3 accept 127.0.0.1:PORT at 127.0.0.1:${port}`,
    "#3 read: end of stream",
    "#3 close",
    "#1 close listener",
  ]);
  assert(await isFree(port));
});

Deno.test("02 server survives clients that leave, reset, or stop midway", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  // This one occupies the server, so the resets happen before their turn.
  const silent = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.traceHas("server #2 accept");
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
  assertMatch(returnedCalls(stderr), /:server #1 accept: ENOTCONN \(.+\)$/m);
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

Deno.test("02 client reports every way a server can go away", async () => {
  const line = encode("hello\n");
  const read = (conn: Deno.TcpConn) => conn.read(new Uint8Array(64));
  const cases: [RegExp, (conn: Deno.TcpConn) => Promise<unknown>][] = [
    [
      /^02_tcp_echo: Unexpected end of stream: read 0 of 6 bytes: the server has closed the connection\n$/,
      read,
    ],
    [
      /^02_tcp_echo: Unexpected end of stream: read 3 of 6 bytes: the server has closed the connection\n$/,
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
  const size = 32 << 20;
  assertEquals(
    stderr,
    `02_tcp_echo: Unexpected end of stream: read 0 of ${size} bytes: ` +
      "the server has closed the connection\n",
  );
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
  assertMatch(stderr, /^02_tcp_echo: (read|write|Unexpected end of).+\n$/);
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

Deno.test(
  "02 demo --ask on a terminal: a prompt for each line, for two clients",
  {
    ignore: !await hasProgram("script"),
  },
  async () => {
    await using process = new LessonProcess(LESSON, ["--ask", "--quiet"], {
      wrapper: onTerminal,
    });
    const prompt = "Input message(Q to quit):";
    await process.stdoutHas(prompt);
    await process.type("hello\n");
    await process.stdoutHas(`from server hello\r\n${prompt}`);
    await process.type("q\n");
    await process.stdoutHas(`client done!!\r\n${prompt}`);
    await process.type("\x04"); // Ctrl+D
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assert(
      stdout.endsWith(`${prompt}\r\nclient done!!\r\nserver closed\r\n`),
      stdout,
    );
  },
);

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
    "from server a\nfrom server b\n",
  );
  await closed;
  assert(await isFree(port));
});
