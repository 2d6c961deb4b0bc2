import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { readFrame, writeFrame } from "../lessons/10_framing.ts";
import { UnexpectedEofError } from "../lib/full_io.ts";
import { reset } from "./peers.ts";
import { isFree, LessonProcess, run } from "./testing.ts";

const LESSON = "10_framing.ts";
const encode = (text: string) => new TextEncoder().encode(text);
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

async function startServer(...args: string[]) {
  const process = new LessonProcess(LESSON, [
    "server",
    "--host=127.0.0.1",
    "--port=0",
    ...args,
  ]);
  return { process, port: await process.port() };
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
    RangeError,
    "Frame of 4294967295 bytes: at most 1048576",
  );
  const four = new Uint8Array([0, 0, 0, 4, 1, 2, 3, 4]);
  await assertRejects(() => readFrame(reader(four), 3), RangeError);
  assertEquals((await readFrame(reader(four), 4))!.length, 4);
  assertEquals((await readFrame(reader(four), () => 4))!.length, 4);
  await assertRejects(() => readFrame(reader(four), NaN), RangeError);
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

Deno.test("10 demo shows what goes wrong without frames, and what does not with", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [table, rest] = stdout.split("\n\n");
  assertMatch(
    table,
    /read as bytes {3}onetwothree {2}\(the end\) {2}\(the end\)$/m,
  );
  assertMatch(table, /read as frames {2}one {10}two {8}three$/m);
  const lines = stdout.slice(stdout.indexOf("listening on")).split("\n");
  assertEquals(lines.slice(1, 6), [
    "hello",
    "",
    "one and the same frame",
    "client done!!",
    "server closed",
  ]);
  assert(rest.length > 0 && stdout.includes('| read frame "ehello"'), stdout);
});

Deno.test("10 demo takes lines of standard input", async () => {
  const args = ["--quiet", "--op=reverse"];
  const { code, stdout, stderr } = await run(LESSON, args, {
    input: "abc\n你好\n👍🏽!\n",
  });
  assertEquals([code, stderr], [0, ""]);
  const lines = stdout.slice(stdout.indexOf("listening on")).split("\n");
  assertEquals(lines.slice(1, 4), ["cba", "好你", "!🏽👍"]);
});

Deno.test("10 answers requests of any content, in their order", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const requests: [Uint8Array, string][] = [
    [encode("eecho"), "+echo"],
    [encode("rabc"), "+cba"],
    [encode("e"), "+"],
    [encode("r"), "+"],
    [new Uint8Array([0x72, 0xff]), "-Not UTF-8"],
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
    assertEquals(decodeRaw((await readFrame(conn))!), answer);
  }
  assertEquals(await readFrame(conn), null);
  await sending;
});

function decodeRaw(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

Deno.test("10 keeps many requests under way, larger than the buffers together", async () => {
  const { process, port } = await startServer("--quiet", "--connections=1");
  await using _ = process;
  const lines = Array.from(
    { length: 32 },
    (_, i) => `${i} ${"x".repeat(500_000)}`,
  );
  const args = ["client", "--quiet", `--port=${port}`];
  const { code, stdout } = await run(LESSON, args, { input: lines.join("\n") });
  assertEquals(code, 0);
  assert(stdout === `${lines.join("\n")}\nclient done!!\n`, "other bytes");
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
  await process.stderrHas("Unexpected end of stream: read 2 of 4 bytes");
  assertEquals(await talk([0, 0, 0, 5, 0x65]), null);
  await process.stderrHas("Unexpected end of stream: read 1 of 5 bytes");
  await reset(port, new Uint8Array([0, 0, 0, 5]));
  await reset(port);
  assertEquals(await talk([0, 0, 0, 2, 0x65, 0x21]), "+!");
});

Deno.test("10 client reports errors among the answers, and goes on", async () => {
  const { process, port } = await startServer("--connections=1", "--quiet");
  await using _ = process;
  const input = new Uint8Array([
    ...encode("ab\n"),
    0xff,
    10,
    ...encode("cd\n"),
  ]);
  const args = ["client", "--quiet", "--op=reverse", `--port=${port}`];
  const { code, stdout, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stdout], [1, "ba\ndc\nclient done!!\n"]);
  assertEquals(stderr, "10_framing: request 2: Not UTF-8\n");
});

Deno.test("10 client reports a server that goes away or cuts an answer", async () => {
  const cases: [number[], RegExp][] = [
    [[], /read failed!: End of stream after 0 answers\n$/],
    [
      [255, 255, 255, 255],
      /read failed!: Frame of 4294967295 bytes: at most 1027\n$/,
    ],
    [
      [0, 0, 0, 9, 0x2b],
      /read failed!: Unexpected end of stream: read 1 of 9 /,
    ],
  ];
  for (const [answer, message] of cases) {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const serving = (async () => {
      using conn = await listener.accept();
      await readFrame(conn);
      await conn.read(new Uint8Array(1)); // The end.
      if (answer.length > 0) await conn.write(new Uint8Array(answer));
    })();
    const args = ["client", "--quiet", `--port=${listener.addr.port}`];
    const { code, stdout, stderr } = await run(LESSON, args, { input: "hi\n" });
    await serving;
    assertEquals([code, stdout], [1, "client done!!\n"]);
    assertMatch(stderr, message);
  }
});

Deno.test("10 client reads what the server said before it closed", async () => {
  const { process, port } = await startServer("--max-frame=10", "--quiet");
  await using _ = process;
  const input = `ok\n${"x".repeat(3_000_000)}\nnext\n`;
  const args = ["client", "--quiet", `--port=${port}`];
  const { code, stdout, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stdout], [1, "ok\nclient done!!\n"]);
  assertMatch(
    stderr,
    /^10_framing: request 2: Frame of 3000001 bytes: at most 10$/m,
  );
  assertMatch(stderr, /(write|read) failed!/);
});

Deno.test("10 client ends when the server does, while nobody types", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  const all = ["client", "--quiet", `--port=${port}`];
  await using talking = new LessonProcess(LESSON, all);
  await talking.type("hello\n");
  await talking.stdoutHas("hello\n");
  process.kill("SIGTERM");
  const { code, stdout, stderr } = await talking.result();
  assertEquals([code, stdout], [1, "hello\nclient done!!\n"]);
  assertMatch(stderr, /^10_framing: read failed!: .*\n$/);
});

Deno.test("10 carries a frame of several MiB where the server allows it", async () => {
  const { process, port } = await startServer("--max-frame=5000000", "--quiet");
  await using _ = process;
  const args = ["client", "--quiet", `--port=${port}`];
  const input = "x".repeat(4_000_000);
  const { code, stdout } = await run(LESSON, args, { input });
  assertEquals(code, 0);
  assert(stdout === `${input}\nclient done!!\n`, "other bytes");
});

Deno.test("10 demo exits 1 when a request could not be carried out", async () => {
  const input = new Uint8Array([0xff, 10]);
  const args = ["--quiet", "--op=reverse"];
  const { code, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stderr], [1, "10_framing: request 1: Not UTF-8\n"]);
});

Deno.test("10 demo --connections 0 ends with its client", async () => {
  const { code, stdout } = await run(LESSON, ["--quiet", "--connections=0"]);
  assertEquals(code, 0);
  assert(stdout.endsWith("server closed\n"), stdout);
});

Deno.test("10 refuses an op that there is not", async () => {
  for (const mode of ["client", "demo"]) {
    const { code, stderr } = await run(LESSON, [mode, "--op=upper"]);
    assertEquals(code, 2);
    assertEquals(
      stderr,
      '10_framing: --op must be echo or reverse, got "upper"\n',
    );
  }
  for (const value of ["0", "-1", "4294967296", "x"]) {
    const { code } = await run(LESSON, ["server", "--max-frame", value]);
    assertEquals(code, 2, value);
  }
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`10 server, client and demo end on ${signal}`, async () => {
    const status = signal === "SIGINT" ? 130 : 143;
    const { process, port } = await startServer();
    await using _ = process;
    await using client = new LessonProcess(LESSON, [
      "client",
      `--port=${port}`,
    ]);
    await client.type("hello\n");
    await client.stdoutHas("hello\n");
    client.kill(signal);
    const ended = await client.result();
    assertEquals([ended.code, ended.stdout], [
      status,
      "hello\nclient done!!\n",
    ]);
    process.kill(signal);
    assertEquals((await process.result()).code, 0);

    await using demo = new LessonProcess(LESSON, ["demo", "--quiet"]);
    await demo.type("hello\n");
    const demoPort = await demo.port();
    await demo.stdoutHas("\nhello\n");
    demo.kill(signal);
    const { code, stderr } = await demo.result();
    assertEquals([code, stderr], [status, ""]);
    assert(await isFree(demoPort));
  });
}
