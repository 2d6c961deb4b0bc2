import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  readExactly,
  readFull,
  readSome,
  UnexpectedEofError,
  writeFull,
  WriteZeroError,
} from "../../lib/full_io.ts";

const DATA = new Uint8Array([1, 2, 3, 4, 5, 6, 7]);

/** Returns `counts` one after the other, and writes `DATA` along. */
function fakeReader(counts: (number | null | Error)[]) {
  let offset = 0;
  const calls: number[] = [];
  return {
    calls,
    read(p: Uint8Array): Promise<number | null> {
      calls.push(p.length);
      const count = counts.length > 1 ? counts.shift()! : counts[0];
      if (count instanceof Error) return Promise.reject(count);
      p.set(DATA.subarray(offset, offset + Math.min(count ?? 0, p.length)));
      offset += count ?? 0;
      return Promise.resolve(count);
    },
  };
}

/** Accepts `counts` one after the other. */
function fakeWriter(counts: (number | Error)[]) {
  const written: number[] = [];
  const calls: number[] = [];
  return {
    calls,
    written,
    write(p: Uint8Array): Promise<number> {
      calls.push(p.length);
      const count = counts.length > 1 ? counts.shift()! : counts[0];
      if (count instanceof Error) return Promise.reject(count);
      written.push(...p.subarray(0, Math.max(count, 0)));
      return Promise.resolve(count);
    },
  };
}

Deno.test("readSome() returns what one read brings", async () => {
  const reader = fakeReader([3, 7, 1, null]);
  const buffer = new Uint8Array(7);
  assertEquals(await readSome(reader, buffer), 3);
  assertEquals(buffer, new Uint8Array([1, 2, 3, 0, 0, 0, 0]));
  assertEquals(await readSome(reader, buffer), 7);
  assertEquals(await readSome(reader, buffer), 1);
  assertEquals(await readSome(reader, buffer), null);
  assertEquals(reader.calls, [7, 7, 7, 7]);
});

Deno.test("readSome() goes on after reads of 0 bytes, up to the end", async () => {
  const reader = fakeReader([...Array(99).fill(0), 3, 0, null]);
  assertEquals(await readSome(reader, new Uint8Array(7)), 3);
  assertEquals(await readSome(reader, new Uint8Array(7)), null);
  assertEquals(reader.calls.length, 102);
});

Deno.test("readSome() gives a reader without progress up after 100 reads", async () => {
  const reader = fakeReader([0]);
  const error = await assertRejects(
    () => readSome(reader, new Uint8Array(7)),
    Error,
  );
  assertEquals(error.message, "Reader made no progress in 100 reads");
  assertEquals(reader.calls.length, 100);
});

Deno.test("readSome() refuses impossible counts", async () => {
  for (const count of [-1, 8, 0.5, NaN, Infinity, undefined as never]) {
    await assertRejects(
      () => readSome(fakeReader([0, count]), new Uint8Array(7)),
      RangeError,
      `Reader returned ${count}: expected an integer from 0 to 7`,
    );
  }
});

Deno.test("readSome() passes the reader's error through", async () => {
  const error = new Error("k");
  const read = () => readSome(fakeReader([0, error]), new Uint8Array(7));
  assert(await assertRejects(read) === error);
});

Deno.test("readFull() fills the buffer in one read when all is there", async () => {
  const reader = fakeReader([7, null]);
  const buffer = new Uint8Array(7);
  assert(await readFull(reader, buffer) === buffer);
  assertEquals(buffer, DATA);
  assertEquals(reader.calls, [7]);
});

Deno.test("readFull() fills the buffer one byte at a time", async () => {
  const reader = fakeReader([1]);
  assertEquals(await readFull(reader, new Uint8Array(7)), DATA);
  assertEquals(reader.calls, [7, 6, 5, 4, 3, 2, 1]);
});

Deno.test("readFull() goes on after reads of 0 bytes", async () => {
  const counts = [...Array(99).fill(0), 3, ...Array(99).fill(0), 4];
  assertEquals(await readFull(fakeReader(counts), new Uint8Array(7)), DATA);
});

Deno.test("readFull() gives a reader without progress up after 100 reads", async () => {
  const reader = fakeReader([3, 0]);
  const error = await assertRejects(
    () => readFull(reader, new Uint8Array(7)),
    Error,
  );
  assertEquals(error.message, "Reader made no progress in 100 reads");
  assertEquals(reader.calls.length, 101);
});

Deno.test("readFull() returns null at the end of the stream", async () => {
  assertEquals(await readFull(fakeReader([null]), new Uint8Array(7)), null);
  const afterEmptyRead = fakeReader([0, null]);
  assertEquals(await readFull(afterEmptyRead, new Uint8Array(7)), null);
});

Deno.test("readFull() keeps what came before an end midway", async () => {
  const buffer = new Uint8Array(7);
  const error = await assertRejects(
    () => readFull(fakeReader([2, 1, null]), buffer),
    UnexpectedEofError,
  );
  buffer.fill(0);
  assert(error instanceof Deno.errors.UnexpectedEof);
  assertEquals(error.name, "UnexpectedEofError");
  assertEquals(error.partial, new Uint8Array([1, 2, 3]));
  assertEquals(error.expected, 7);
  assertEquals(error.message, "Unexpected end of stream: read 3 of 7 bytes");
});

Deno.test("readFull() does not read for an empty buffer", async () => {
  const reader = fakeReader([null]);
  assertEquals(await readFull(reader, new Uint8Array()), new Uint8Array());
  assertEquals(reader.calls, []);
});

Deno.test("readFull() refuses impossible counts", async () => {
  for (const count of [-1, 8, 0.5, NaN, Infinity, undefined as never]) {
    await assertRejects(
      () => readFull(fakeReader([count]), new Uint8Array(7)),
      RangeError,
      `Reader returned ${count}: expected an integer from 0 to 7`,
    );
  }
  await assertRejects(
    () => readFull(fakeReader([3, 5]), new Uint8Array(7)),
    RangeError,
    "Reader returned 5: expected an integer from 0 to 4",
  );
});

Deno.test("readExactly() fills the buffer, as readFull() does", async () => {
  const reader = fakeReader([1, 0, 4, 2]);
  const buffer = new Uint8Array(7);
  assert(await readExactly(reader, buffer) === buffer);
  assertEquals(buffer, DATA);
  const unread = fakeReader([null]);
  assertEquals(await readExactly(unread, new Uint8Array()), new Uint8Array());
  assertEquals(unread.calls, []);
});

Deno.test("readExactly() takes an end for an error, wherever it comes", async () => {
  const cases: [(number | null)[], number[]][] = [
    [[null], []],
    [[0, null], []],
    [[2, 1, null], [1, 2, 3]],
  ];
  for (const [counts, partial] of cases) {
    const error = await assertRejects(
      () => readExactly(fakeReader(counts), new Uint8Array(7)),
      UnexpectedEofError,
      `Unexpected end of stream: read ${partial.length} of 7 bytes`,
    );
    assertEquals([...error.partial], partial);
    assertEquals(error.expected, 7);
  }
});

Deno.test("readExactly() passes on what readFull() throws", async () => {
  const error = new Error("k");
  const read = () => readExactly(fakeReader([1, error]), new Uint8Array(7));
  assertEquals(await assertRejects(read), error);
  await assertRejects(
    () => readExactly(fakeReader([8]), new Uint8Array(7)),
    RangeError,
  );
});

Deno.test("readFull() and writeFull() pass errors through unchanged", async () => {
  for (const error of [new Error("k"), new Deno.errors.Interrupted("closed")]) {
    const reader = fakeReader([1, 2, error]);
    const read = assertRejects(
      () => readFull(reader, new Uint8Array(7)),
      Error,
    );
    assert(await read === error);
    assertEquals(reader.calls.length, 3);

    const writer = fakeWriter([1, 2, error]);
    const write = assertRejects(() => writeFull(writer, DATA), Error);
    assert(await write === error);
    assertEquals(writer.calls.length, 3);
  }
});

Deno.test("writeFull() writes all in one call when it is all accepted", async () => {
  const writer = fakeWriter([7]);
  assertEquals(await writeFull(writer, DATA), 7);
  assertEquals(writer.calls, [7]);
  assertEquals(writer.written, [...DATA]);
});

Deno.test("writeFull() writes the rest after short writes", async () => {
  const writer = fakeWriter([1, 3, 2, 1]);
  assertEquals(await writeFull(writer, DATA), 7);
  assertEquals(writer.calls, [7, 6, 3, 1]);
  assertEquals(writer.written, [...DATA]);
});

Deno.test("writeFull() does not spin on a write of 0 bytes", async () => {
  const writer = fakeWriter([3, 0]);
  const error = await assertRejects(
    () => writeFull(writer, DATA),
    WriteZeroError,
  );
  assert(error instanceof Deno.errors.WriteZero);
  assertEquals(error.name, "WriteZeroError");
  assertEquals([error.written, error.expected], [3, 7]);
  assertEquals(writer.calls, [7, 4]);
});

Deno.test("writeFull() does not write when there is nothing", async () => {
  const writer = fakeWriter([0]);
  assertEquals(await writeFull(writer, new Uint8Array()), 0);
  assertEquals(writer.calls, []);
});

Deno.test("writeFull() refuses impossible counts", async () => {
  for (const count of [-1, 8, 0.5, NaN, undefined as never]) {
    await assertRejects(
      () => writeFull(fakeWriter([count]), DATA),
      RangeError,
      `Writer returned ${count}: expected an integer from 0 to 7`,
    );
  }
});

Deno.test("writeFull() and readFull() carry 32 MiB past a reader that stalls", async () => {
  const data = new Uint8Array(32 * 1024 * 1024);
  const words = new Uint32Array(data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2654435761);

  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept();
  using conn = await Deno.connect({ port: listener.addr.port });
  using peer = await accepting;

  let calls = 0;
  let reading: Promise<Uint8Array | null> | undefined;
  const writer = {
    async write(p: Uint8Array) {
      // The reader starts only when the kernel has accepted less than all.
      if (++calls === 2) reading = readFull(peer, new Uint8Array(data.length));
      return await conn.write(p);
    },
  };
  assertEquals(await writeFull(writer, data), data.length);
  assert(calls > 1, "the first write took all: nothing was tested");
  const received = await reading!;
  // Not assertEquals: its report of a difference would never end.
  assert(received!.every((byte, i) => byte === data[i]), "bytes differ");
});
