import { assert, assertEquals, assertMatch } from "@std/assert";
import { readFull, writeFull } from "../../lib/full_io.ts";
import {
  describeLoad,
  jainsIndex,
  type LoadOptions,
  type LoadReport,
  putLoad,
} from "../../lib/lab/load.ts";

const SIZE = 8;
type Serve = (conn: Deno.TcpConn, number: number) => Promise<unknown>;

/** A load on a server that does to its clients what `serve` says. */
async function load(
  options: LoadOptions,
  serve: Serve,
): Promise<LoadReport> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving: Promise<unknown>[] = [];
  const accepting = (async () => {
    for (let i = 0; i < options.clients!; i++) {
      const conn = await listener.accept();
      serving.push(serve(conn, i).finally(() => conn[Symbol.dispose]()));
    }
  })();
  const { port } = listener.addr;
  const report = await putLoad({ size: SIZE, ...options, port });
  await accepting;
  await Promise.allSettled(serving);
  return report;
}

/** Echoes so many messages, or all. */
async function echo(conn: Deno.TcpConn, messages = Infinity) {
  const buffer = new Uint8Array(SIZE);
  for (let i = 0; i < messages; i++) {
    if (await readFull(conn, buffer) === null) return;
    await writeFull(conn, buffer);
  }
}

/** The counts of a report. */
const counts = ({ messages, lost, corrupted }: LoadReport) => ({
  messages,
  lost,
  corrupted,
});

Deno.test("putLoad() loses nothing with a server that echoes", async () => {
  const parts: number[] = [];
  const report = await load({
    clients: 5,
    messages: 20,
    onProgress: (part) => parts.push(part),
  }, (conn) => echo(conn));
  assertEquals(counts(report), { messages: 100, lost: 0, corrupted: 0 });
  assertEquals([report.error, report.when, report.starved], [
    undefined,
    "when the first one was done",
    0,
  ]);
  assert(report.rate > 0 && report.p50! > 0 && report.p99! >= report.p50!);
  assertEquals(parts, parts.toSorted((a, b) => a - b));
  assertEquals([parts.length, parts.at(-1)], [100, 1]);
});

Deno.test("putLoad() counts what is lost and what is corrupted", async () => {
  const report = await load({ clients: 2, messages: 4 }, async (conn, i) => {
    if (i === 1) return await echo(conn, 3);
    await echo(conn, 1);
    const buffer = new Uint8Array(SIZE);
    await readFull(conn, buffer);
    buffer[3] ^= 1; // One bit of one echo.
    await writeFull(conn, buffer);
    await echo(conn, 1);
  });
  assertEquals(counts(report), { messages: 8, lost: 2, corrupted: 1 });
  assert(report.error instanceof Error);
});

Deno.test("putLoad() takes another message's echo for corrupted", async () => {
  const report = await load({ clients: 1, messages: 3 }, async (conn) => {
    let last = new Uint8Array(SIZE);
    for (let i = 0; i < 3; i++) {
      const message = await readFull(conn, new Uint8Array(SIZE));
      await writeFull(conn, last); // The message before: of the same length.
      last = message!;
    }
  });
  assertEquals(counts(report), { messages: 3, lost: 0, corrupted: 3 });
});

Deno.test("putLoad() takes bytes behind the last echo for corrupted", async () => {
  const report = await load({ clients: 1, messages: 2 }, async (conn) => {
    await echo(conn);
    await conn.write(new Uint8Array(1));
  });
  assertEquals(counts(report), { messages: 2, lost: 0, corrupted: 1 });
});

Deno.test("putLoad() compares sizes that are no multiple of four", async () => {
  const options = { clients: 1, messages: 3, size: 5 };
  const report = await load(options, async (conn) => {
    const buffer = new Uint8Array(5);
    for (let i = 0; i < 3; i++) {
      await readFull(conn, buffer);
      if (i === 1) buffer[4] ^= 1;
      await writeFull(conn, buffer);
    }
  });
  assertEquals(counts(report), { messages: 3, lost: 0, corrupted: 1 });
});

Deno.test("putLoad() says who has had nothing when the first one is done", async () => {
  const done = Promise.withResolvers<void>();
  let left = 2;
  const report = await load({ clients: 4, messages: 3 }, async (conn, i) => {
    if (i >= 2) return await done.promise; // These are never served.
    await echo(conn);
    if (--left === 0) done.resolve();
  });
  assertEquals(counts(report), { messages: 12, lost: 6, corrupted: 0 });
  assertEquals([report.when, report.starved], [
    "when the first one was done",
    2,
  ]);
});

Deno.test("putLoad() goes on for a duration, and loses nothing", async () => {
  const options = { clients: 3, messages: 1, duration: 100 };
  const report = await load(options, (conn) => echo(conn));
  assert(report.messages > 3, `${report.messages} messages`);
  assertEquals([report.lost, report.corrupted, report.error], [
    0,
    0,
    undefined,
  ]);
  assertEquals(report.when, "after 100 ms");
});

for (const duration of [0, 50]) {
  const how = duration > 0 ? "by time" : "by number";
  Deno.test(`putLoad() ${how} gives up a server that swallows an echo`, async () => {
    const options = { clients: 2, messages: 3, duration, timeout: 200 };
    const report = await load(options, async (conn, i) => {
      if (i === 0) return await echo(conn);
      await echo(conn, 1);
      await readFull(conn, new Uint8Array(SIZE)); // And no echo.
      await conn.read(new Uint8Array(1));
    });
    assertMatch(String(report.error), /^Error: No echo for 200 ms$/);
    assert(report.lost > 0);
  });
}

Deno.test("putLoad() gives up a server that does not accept", async () => {
  using listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 0,
  });
  const { port } = listener.addr;
  const report = await putLoad({ port, clients: 4, messages: 1, timeout: 100 });
  assertEquals(counts(report), { messages: 4, lost: 4, corrupted: 0 });
  assertMatch(String(report.error), /^Error: No echo for 100 ms$/);
});

Deno.test("putLoad() waits for a slow echo as long as some of it comes", async () => {
  const options = { clients: 1, messages: 1, timeout: 150 };
  const report = await load(options, async (conn) => {
    const buffer = await readFull(conn, new Uint8Array(SIZE));
    for (const byte of buffer!) {
      await new Promise((resolve) => setTimeout(resolve, 60));
      await conn.write(new Uint8Array([byte]));
    }
    await conn.read(buffer!);
  });
  assertEquals([report.error, report.lost], [undefined, 0]);
});

Deno.test("describeLoad() has a line for each thing, also without an echo", () => {
  const report: LoadReport = {
    clients: 4,
    messages: 20,
    lost: 1,
    corrupted: 2,
    rate: 1234.5,
    p50: 0.123,
    p99: 10,
    when: "at the end",
    most: 19,
    starved: 3,
    index: 0.25,
  };
  assertEquals(
    describeLoad(report),
    "4 clients, 20 messages, 1 lost, 2 corrupted\n" +
      "1,235 messages/s, half of the echoes within 0.12 ms, " +
      "99 % within 10.00 ms\n" +
      "at the end: 3 clients without an echo, Jain's index 0.250\n" +
      "(the index is 1 if all have as many echoes, 1/4 if one has them all)",
  );
  assertMatch(
    describeLoad({ ...report, most: 9 }),
    /\n\(but nobody had more than 9: too few to compare clients\)$/,
  );
  assertMatch(
    describeLoad({ ...report, rate: 0, p50: undefined, p99: undefined }),
    /^0 messages\/s, half of the echoes within - ms, 99 % within - ms$/m,
  );
});

Deno.test("jainsIndex() is 1 for all the same, 1/n for one with all", () => {
  assertEquals(jainsIndex([5, 5, 5, 5]), 1);
  assertEquals(jainsIndex([0, 0, 7, 0]), 0.25);
  assertEquals(jainsIndex([1, 3]), 0.8);
  assertEquals(jainsIndex([0, 0]), 0);
});
