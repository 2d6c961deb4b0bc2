import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  client,
  FrameTooLongError,
  readFrame,
  server,
  writeFrame,
} from "../../lessons/10_framing.ts";
import { encode } from "../../lib/encode.ts";
import { UnexpectedEofError } from "../../lib/full_io.ts";
import { reset } from "../peers.ts";
import { replaced, run, startServer as startServerOf } from "../testing.ts";

const LESSON = "10_framing.ts";
const LOOPBACK = { hostname: "127.0.0.1", port: 0 };
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

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

/** What client() rejects with when a server does what `behave` says. */
async function talkTo(
  behave: (conn: Deno.TcpConn) => Promise<unknown>,
  lines: Uint8Array<ArrayBuffer>[],
): Promise<Error | undefined> {
  using listener = Deno.listen(LOOPBACK);
  const { port } = listener.addr;
  const talking = client({ port, lines, output: writer() })
    .then(() => undefined, (error) => error);
  {
    using conn = await listener.accept();
    await behave(conn);
  }
  return await talking;
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
  const [said, diagram] = spoken.split(/^(?=client {3})/m);
  const [ready, ...lines] = said.trimEnd().split("\n");
  assertMatch(ready, /^listening on 127\.0\.0\.1:\d+$/);
  assertEquals(lines, [
    "from server hello",
    "from server 你好",
    "client done!!",
    "from server the second client",
    "from server goes on",
    "client done!!",
    "server closed",
  ]);
  // Each frame is one write and two reads, with its length in sight.
  for (
    const row of [
      /^write 10 bytes 00 00 00 06 +\|-+>\|\n"hello\\n" +\|/m,
      /^ +\| +\| read 4 bytes 00 00 00 06$/m,
      /^ +\| +\| read 6 bytes "hello\\n"$/m,
      /^write 11 bytes 00 00 00 07 +\|-+>\|\n"你好\\n" +\|/m,
      /^read 4 bytes 00 00 00 06 +\|/m,
      /^read 6 bytes "hello\\n" +\|/m,
    ]
  ) assertMatch(diagram, row);
});

Deno.test("10 demo --ask takes lines of standard input", async () => {
  const input = new Uint8Array([...encode("a\n\nQ\n"), 0xff, 10, 0, 10]);
  const args = ["--quiet", "--ask"];
  const { code, bytes, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stderr], [0, ""]);
  const text = new TextDecoder("latin1").decode(bytes);
  assertEquals(text.slice(text.indexOf("listening on")).split("\n").slice(1), [
    "from server a",
    "from server ",
    "client done!!",
    "from server \xff",
    "from server \0",
    "client done!!",
    "server closed",
    "",
  ]);
});

Deno.test("10 server answers each message with the same one, in their order", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const messages = [
    encode("hello"),
    new Uint8Array(),
    Uint8Array.from({ length: 256 }, (_, i) => i),
    new Uint8Array(1024 * 1024).fill(7), // The longest by default.
    encode("still there"),
  ];
  const sending = (async () => {
    for (const message of messages) await writeFrame(conn, message);
    await conn.closeWrite();
  })();
  for (const message of messages) {
    const echo = (await readFrame(conn))!;
    assertEquals(echo.length, message.length);
    assert(echo.every((byte, i) => byte === message[i]), "other bytes");
  }
  assertEquals(await readFrame(conn), null);
  await sending;
});

Deno.test("10 server refuses what is no frame, and serves the next client", async () => {
  const { process, port } = await startServer("--max-frame=10", "--quiet");
  await using _ = process;
  const talk = async (bytes: number[]) => {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new Uint8Array(bytes));
    await conn.closeWrite().catch(() => {}); // It may have been reset already.
    // What it has not read makes a reset of its close.
    return await readFrame(conn).catch(() => null);
  };
  assertEquals(await talk([255, 255, 255, 255]), null);
  assertEquals(await talk([0, 0, 0, 11, ...encode("0123456789a")]), null);
  assertEquals(
    await talk([0, 0, 0, 10, ...encode("0123456789")]),
    encode("0123456789"),
  );
  assertEquals(await talk([0, 0]), null);
  assertEquals(await talk([0, 0, 0, 5, 0x65]), null);
  await reset(port, new Uint8Array([0, 0, 0, 5]));
  await reset(port);
  assertEquals(await talk([0, 0, 0, 2, 0x65, 0x21]), encode("e!"));

  // A client that is still writing says that the server has gone.
  for (const size of [20, 3_000_000]) {
    const input = `ok\n${"x".repeat(size)}\nnext\n`;
    const { code, stdout, stderr } = await runClient(port, input);
    assertEquals([code, stdout], [1, "from server ok\nclient done!!\n"]);
    assertMatch(
      stderr,
      /^10_framing: (The server has closed the connection|(read|write): (ECONNRESET|EPIPE) \(.+\))\n$/,
    );
  }
});

Deno.test("10 client takes a frame of 8 MiB where both sides are told to", async () => {
  const size = 8 * 1024 * 1024;
  const option = `--max-frame=${size}`;
  const { process, port } = await startServer(option, "--quiet");
  await using _ = process;
  const line = new Uint8Array(size);
  for (let i = 0; i < size; i++) line[i] = 0x20 + (i ^ i >> 9) % 0x5f;
  const { code, bytes, stderr } = await runClient(port, line, option);
  assertEquals([code, stderr], [0, ""]);
  const echo = bytes.subarray("from server ".length);
  assert(line.every((byte, i) => byte === echo[i]), "other bytes");
  assertEquals(decode(echo.subarray(size)), "\nclient done!!\n");
});

Deno.test("10 client() rejects when the server goes away or cuts an answer", async () => {
  const cases: [number[], string][] = [
    [[], "The server has closed the connection"],
    [[0, 0], "Unexpected end of stream: read 2 of 4 bytes"],
    [[0, 0, 0, 9], "Unexpected end of stream: read 0 of 9 bytes"],
    [[0, 0, 0, 9, 0x2b], "Unexpected end of stream: read 1 of 9 bytes"],
    [[255, 255, 255, 255], "Frame of 4294967295 bytes: at most 1048576"],
  ];
  for (const [answer, message] of cases) {
    const error = await talkTo(async (conn) => {
      await readFrame(conn);
      if (answer.length > 0) await conn.write(new Uint8Array(answer));
    }, [encode("hi\n")]);
    assertEquals(error?.message, message);
  }
});

Deno.test("10 client() notices a server that ends its side and reads no more", async () => {
  using listener = Deno.listen(LOOPBACK);
  const { port } = listener.addr;
  const lines = [new Uint8Array(32 * 1024 * 1024)];
  const talking = client({ port, lines, output: writer() });
  const rejected = assertRejects(
    () => talking,
    Error,
    "The server has closed the connection",
  );
  using conn = await listener.accept();
  await conn.closeWrite();
  await rejected;
});
