import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  client,
  FrameTooLongError,
  readFrame,
  server,
  writeFrame,
} from "../../lessons/10_framing.ts";
import { UnexpectedEofError } from "../../lib/full_io.ts";
import { reset, resettingServer } from "../peers.ts";
import {
  hasProgram,
  isFree,
  LessonProcess,
  onTerminal,
  replaced,
  run,
  startServer as startServerOf,
} from "../testing.ts";

const LESSON = "10_framing.ts";
const LOOPBACK = { hostname: "127.0.0.1", port: 0 };
const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) =>
  new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);

/** Reads `bytes`, at most `size` a read. */
function reader(bytes: Uint8Array, size = Infinity) {
  let offset = 0;
  return {
    read(p: Uint8Array): Promise<number | null> {
      const count = Math.min(p.length, size, bytes.length - offset);
      if (count === 0) return Promise.resolve(null);
      p.set(bytes.subarray(offset, offset += count));
      return Promise.resolve(count);
    },
  };
}

/** Keeps what is written, and how often. */
function writer() {
  const fake = {
    calls: 0,
    written: [] as number[],
    write(p: Uint8Array): Promise<number> {
      fake.calls++;
      fake.written.push(...p);
      return Promise.resolve(p.length);
    },
  };
  return fake;
}

/** Starts the lesson's server on a free port. */
const startServer = (...args: string[]) => startServerOf(LESSON, args);

/** Runs the client against `port`. */
function runClient(
  port: number,
  input: string | Uint8Array<ArrayBuffer>,
  ...args: string[]
) {
  const all = ["client", "--quiet", `--port=${port}`, ...args];
  return run(LESSON, all, { input });
}

/** Calls client() with a server that does what `behave` says. */
async function talkTo(
  behave: (conn: Deno.TcpConn) => Promise<unknown>,
  lines: Parameters<typeof client>[0] & object,
) {
  using listener = Deno.listen(LOOPBACK);
  const serving = (async () => {
    using conn = await listener.accept();
    await behave(conn);
  })();
  const output = writer();
  const reported: string[] = [];
  const result = await client({
    port: listener.addr.port,
    output,
    report: (error) => reported.push((error as Error).message),
    ...lines,
  }).catch((error) => error);
  await serving;
  const printed = decode(new Uint8Array(output.written));
  return { result, printed, reported };
}

Deno.test("writeFrame() puts the length in front, in one write", async () => {
  for (const size of [0, 1, 255, 256, 70_000]) {
    const fake = writer();
    await writeFrame(fake, new Uint8Array(size).fill(7));
    assertEquals(fake.calls, 1);
    assertEquals(fake.written.slice(0, 4), [
      0,
      size >> 16,
      (size >> 8) & 255,
      size & 255,
    ]);
    assertEquals(fake.written.length, 4 + size);
  }
});

Deno.test("readFrame() reads what writeFrame() wrote, however it is cut", async () => {
  const fake = writer();
  for (const message of ["one", "", "three"]) {
    await writeFrame(fake, encode(message));
  }
  for (const size of [1, 2, 3, 5, Infinity]) {
    const frames = reader(new Uint8Array(fake.written), size);
    for (const message of ["one", "", "three"]) {
      assertEquals(decode((await readFrame(frames))!), message);
    }
    assertEquals(await readFrame(frames), null);
  }
});

Deno.test("readFrame() refuses a length before it reads or allocates", async () => {
  const huge = reader(new Uint8Array([255, 255, 255, 255]));
  await assertRejects(
    () => readFrame(huge),
    FrameTooLongError,
    "Frame of 4294967295 bytes: at most 1048576",
  );
  const four = new Uint8Array([0, 0, 0, 4, 1, 2, 3, 4]);
  await assertRejects(() => readFrame(reader(four), 3), FrameTooLongError);
  assertEquals((await readFrame(reader(four), 4))!.length, 4);
  await assertRejects(() => readFrame(reader(four), NaN), FrameTooLongError);
});

Deno.test("readFrame() says how much came of a frame that is cut", async () => {
  const frame = new Uint8Array([0, 0, 0, 3, 1, 2, 3]);
  const cases: [number, number, number][] = [
    [1, 1, 4],
    [3, 3, 4],
    [4, 0, 3],
    [6, 2, 3],
  ];
  for (const [cut, came, expected] of cases) {
    const error = await assertRejects(
      () => readFrame(reader(frame.subarray(0, cut))),
      UnexpectedEofError,
    );
    assertEquals([error.partial.length, error.expected], [came, expected]);
  }
});

Deno.test("10 server() does not take an impossible read count for a long frame", async () => {
  const conn = {
    ...writer(),
    read: () => Promise.resolve(5), // Of four.
    [Symbol.dispose]() {},
  };
  using _ = replaced(Deno, "listen", () => ({
    addr: { ...LOOPBACK, transport: "tcp" },
    accept: () => Promise.resolve(conn),
    [Symbol.dispose]() {},
  }));
  await assertRejects(
    () => server({ onListen() {} }),
    RangeError,
    "Reader returned 5",
  );
  assertEquals(conn.written, []);
});

Deno.test("10 demo shows what goes wrong without frames, and what does not with", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [table, spoken] = stdout.split("\n\n");
  assertEquals(table.split("\n"), [
    "Three messages, one read for each:",
    "                first        second     third",
    "sent            one          two        three",
    "read as bytes   onetwothree  (the end)  (the end)",
    "read as frames  one          two        three",
  ]);
  assertMatch(spoken, /^listening on 127\.0\.0\.1:\d+\nhello$/);
  const rest = stdout.slice(stdout.indexOf("\nhello\n"));
  assert(
    rest.startsWith(
      "\nhello\n\n你好\nclient done!!\nserver closed\nclient   ",
    ),
    rest,
  );
  // Each frame is one write and two reads, with its length in sight.
  for (
    const row of [
      /^write 10 bytes 00 00 00 06 +\|-+>\|\n"ehello" +\|/m,
      /^ +\| +\| read 4 bytes 00 00 00 06$/m,
      /^ +\| +\| read 6 bytes "ehello"$/m,
      /^write 11 bytes 00 00 00 07 +\|-+>\|\n"e你好" +\|/m,
      /^read 4 bytes 00 00 00 06 +\|/m,
      /^read 6 bytes "\+hello" +\|/m,
    ]
  ) assertMatch(rest, row);
});

Deno.test("10 demo takes lines of standard input, and exits 1 for an error", async () => {
  const input = new Uint8Array([...encode("abc\n你好\n👍🏽!\n"), 0xff, 10]);
  const args = ["--quiet", "--reverse"];
  const { code, stdout, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stderr], [1, "10_framing: request 4: Not UTF-8\n"]);
  const lines = stdout.slice(stdout.indexOf("listening on")).split("\n");
  assertEquals(lines.slice(1), [
    "cba",
    "好你",
    "!🏽👍",
    "client done!!",
    "server closed",
    "",
  ]);
});

Deno.test("10 server answers requests of any content, in their order", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const requests: [Uint8Array, string][] = [
    [encode("eecho"), "+echo"],
    [encode("rabc"), "+cba"],
    [encode("raé你👍\n"), "+\n👍你éa"],
    [encode("e"), "+"],
    [encode("r"), "+"],
    [new Uint8Array([0x72, 0xff]), "-Not UTF-8"],
    [new Uint8Array([0x72, 0xe4, 0xbd]), "-Not UTF-8"], // Cut.
    [new Uint8Array([0x72, 0xed, 0xa0, 0x80]), "-Not UTF-8"], // Half a pair.
    [encode("r\ufeffa"), "+a\ufeff"],
    [encode("x?"), '-Unknown op "x"'],
    [new Uint8Array(), '-Unknown op ""'],
    [encode("estill there"), "+still there"],
  ];
  const sending = (async () => {
    for (const [request] of requests) await writeFrame(conn, request);
    await conn.closeWrite();
  })();
  for (const [, answer] of requests) {
    assertEquals(decode((await readFrame(conn))!), answer);
  }
  assertEquals(await readFrame(conn), null);
  await sending;
});

Deno.test("10 server reverses the longest request that it can be told to take, and goes on", async () => {
  const max = 64 * 1024 * 1024;
  const { process, port } = await startServer("--quiet", `--max-frame=${max}`);
  await using _ = process;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const request = new Uint8Array(max);
  request.set(encode("r!"));
  const character = encode("你");
  for (let i = 2; i < max - 2; i += 3) request.set(character, i);
  request.set(encode("??"), max - 2);
  const sending = (async () => {
    await writeFrame(conn, request);
    await writeFrame(conn, encode("eanother"));
  })();
  const answer = (await readFrame(conn, max))!;
  assertEquals(decode((await readFrame(conn))!), "+another");
  await sending;
  const ends = [answer.subarray(0, 9), answer.subarray(-4)].map(decode);
  assertEquals([answer.length, ...ends], [max, "+??你你", "你!"]);

  // What others wait for is its work, which a loaded machine does not change.
  const proc = (file: string) =>
    Deno.readTextFileSync(`/proc/${process.pid}/${file}`);
  const [user, system] = proc("stat").split(" ").slice(13, 15).map(Number);
  assert(user + system < 600, `${user + system} ticks of 10 ms`);
  const [, kilobytes] = proc("status").match(/^VmHWM:\s+(\d+) kB$/m)!;
  assert(Number(kilobytes) < 6 * max / 1024, `${kilobytes} kB`);
});

Deno.test("10 client keeps many requests under way, larger than the buffers together", async () => {
  const { process, port } = await startServer("--quiet", "--connections=1");
  await using _ = process;
  const lines = Array.from(
    { length: 32 },
    (_, i) => `${i} ${"x".repeat(500_000)}`,
  );
  const { code, stdout } = await runClient(port, lines.join("\n"));
  assertEquals(code, 0);
  assert(stdout === `${lines.join("\n")}\nclient done!!\n`, "other bytes");
});

Deno.test("10 client sends the second request before the first is answered", async () => {
  const { result, printed } = await talkTo(async (conn) => {
    const requests = [await readFrame(conn), await readFrame(conn)];
    assertEquals(requests.map((it) => decode(it!)), ["eone", "etwo"]);
    await writeFrame(conn, encode("+1"));
    await writeFrame(conn, encode("+2"));
    assertEquals(await readFrame(conn), null);
  }, { lines: ["one\n", "two"].map(encode) });
  assertEquals([result, printed], [0, "1\n2\nclient done!!\n"]);
});

Deno.test("10 server refuses what is no frame, and serves the next client", async () => {
  const { process, port } = await startServer("--max-frame=10");
  await using _ = process;
  const talk = async (bytes: number[]) => {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new Uint8Array(bytes));
    await conn.closeWrite();
    const answer = await readFrame(conn);
    assertEquals(await conn.read(new Uint8Array(1)).catch(() => null), null);
    return answer === null ? null : decode(answer);
  };
  const huge = await talk([255, 255, 255, 255]);
  assertEquals(huge, "-Frame of 4294967295 bytes: at most 10");
  assertEquals(
    await talk([0, 0, 0, 11, ...encode("e0123456789")]),
    "-Frame of 11 bytes: at most 10",
  );
  assertEquals(
    await talk([0, 0, 0, 10, ...encode("e012345678")]),
    "+012345678",
  );
  assertEquals(await talk([0, 0]), null);
  assertEquals(await talk([0, 0, 0, 5, 0x65]), null);
  await reset(port, new Uint8Array([0, 0, 0, 5]));
  await reset(port);
  assertEquals(await talk([0, 0, 0, 2, 0x65, 0x21]), "+!");

  // What it said before it closed is read also by one that is still writing.
  const input = `ok\n${"x".repeat(3_000_000)}\nnext\n`;
  const { code, stdout, stderr } = await runClient(port, input);
  assertEquals([code, stdout], [1, "ok\nclient done!!\n"]);
  assertMatch(
    stderr,
    /^10_framing: request 2: Frame of 3000001 bytes: at most 10\n10_framing: .+\n$/,
  );
});

Deno.test("10 client reports errors among the answers, and goes on", async () => {
  const { result, printed, reported } = await talkTo(async (conn) => {
    for (const answer of ["+one", "-no", "+three"]) {
      await readFrame(conn);
      await writeFrame(conn, encode(answer));
    }
    assertEquals(await readFrame(conn), null);
  }, { lines: ["1\n", "2\n", "3\n"].map(encode) });
  assertEquals(result, 1);
  assertEquals(printed, "one\nthree\nclient done!!\n");
  assertEquals(reported, ["request 2: no"]);
});

Deno.test("10 client takes a frame of several MiB where both sides are told to", async () => {
  const { process, port } = await startServer("--max-frame=5000000", "--quiet");
  await using _ = process;
  const input = "x".repeat(4_000_000);
  const { code, stdout } = await runClient(port, input, "--max-frame=5000000");
  assertEquals(code, 0);
  assert(stdout === `${input}\nclient done!!\n`, "other bytes");
});

Deno.test("10 client() rejects when the server goes away or cuts an answer", async () => {
  const cases: [number[], string][] = [
    [[], "read failed!: End of stream after 0 answers"],
    [[255, 255, 255, 255], "Frame of 4294967295 bytes: at most 1048576"],
    [[0, 0, 0, 9, 0x2b], "Unexpected end of stream: read 1 of 9 bytes"],
    [[0, 0, 0, 1, 0x2b, 0, 0, 0, 1, 0x2b], "An answer to no request"],
    [[0, 0, 0, 2, 0x3f, 0x61], 'Not an answer: "?a"'],
    [[0, 0, 0, 0], 'Not an answer: ""'],
  ];
  for (const [answer, message] of cases) {
    const { result } = await talkTo(async (conn) => {
      await readFrame(conn);
      assertEquals(await readFrame(conn), null);
      if (answer.length > 0) await conn.write(new Uint8Array(answer));
    }, { lines: [encode("hi\n")] });
    assertEquals(result.message, message);
  }
});

Deno.test("10 client() says that it was reset, if a write is the one to find out", async () => {
  await using peer = await resettingServer();
  const output = writer();
  const lines = (async function* () {
    yield encode("one\n");
    await peer.wasReset;
    yield encode("two\n"); // Before the loop looks whether there is an answer.
  })();
  const { port } = peer;
  await assertRejects(
    () => client({ port, lines, output }),
    Deno.errors.ConnectionReset,
  );
  assertEquals(decode(new Uint8Array(output.written)), "client done!!\n");
});

Deno.test("10 client() ends when the server does, while nobody types", async () => {
  const { result, printed } = await talkTo(async (conn) => {
    await writeFrame(conn, (await readFrame(conn))!.fill(0x2b, 0, 1));
  }, {
    lines: (async function* () {
      yield encode("hello\n");
      await new Promise(() => {});
    })(),
  });
  assertEquals(result.message, "read failed!: End of stream after 1 answers");
  assertEquals(printed, "hello\nclient done!!\n");
});

Deno.test("10 client() whose input fails gets what it asked for, and then rejects", async () => {
  const { result, printed } = await talkTo(async (conn) => {
    await writeFrame(conn, (await readFrame(conn))!.fill(0x2b, 0, 1));
    assertEquals(await readFrame(conn), null);
  }, {
    lines: (function* () {
      yield encode("hello\n");
      throw new Error("no more");
    })(),
  });
  assertEquals(result.message, "no more");
  assertEquals(printed, "hello\nclient done!!\n");
});

Deno.test("10 client ends when its standard input cannot be read, and on a signal", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const { code, stdout, stderr } = await run(
    LESSON,
    ["client", "--quiet", `--port=${port}`],
    {
      wrapper: (command) => ["sh", "-c", 'exec "$@" < /tmp', "sh", ...command],
    },
  );
  assertEquals([code, stdout], [1, "client done!!\n"]);
  assertEquals(stderr, "10_framing: read stdin: EISDIR (Is a directory)\n");

  await using talking = new LessonProcess(LESSON, [
    "client",
    `--port=${port}`,
  ]);
  await talking.type("hello\n");
  await talking.stdoutHas("hello\n");
  talking.kill("SIGINT");
  const ended = await talking.result();
  assertEquals([ended.code, ended.stdout], [130, "hello\nclient done!!\n"]);
});

Deno.test("10 demo ends on SIGTERM, and leaves no server behind", async () => {
  await using demo = new LessonProcess(LESSON, ["demo", "--quiet"]);
  await demo.type("hello\n");
  const port = await demo.port();
  await demo.stdoutHas("\nhello\n");
  demo.kill("SIGTERM");
  const { code, stdout, stderr } = await demo.result();
  assertEquals([code, stderr], [143, ""]);
  assert(stdout.endsWith("\nhello\nclient done!!\nserver closed\n"), stdout);
  assert(await isFree(port));
});

Deno.test("10 client prompts on a terminal, each time behind the answer", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const prompt = "Input message(Q to quit):";
  await using client = new LessonProcess(
    LESSON,
    ["client", `--port=${port}`, "--quiet", "--reverse"],
    { wrapper: onTerminal },
  );
  await client.stdoutHas(prompt);
  await client.type("abc\n");
  await client.stdoutHas(`cba\r\n${prompt}`);
  await client.type("one\ntwo\n"); // Ahead of the prompt.
  await client.stdoutHas(`eno\r\n${prompt}owt\r\n${prompt}`);
  await client.type("Q\n");
  const { code, stdout } = await client.result();
  assertEquals(code, 0);
  assert(stdout.endsWith(`${prompt}Q\r\nclient done!!\r\n`), stdout);
});
