import { assert, assertEquals, assertRejects } from "@std/assert";
import { encode } from "../../lib/encode.ts";
import { LineTooLongError, readLines } from "../../lib/lines.ts";

const KIB = 1024;

/** Reads `chunks`, one a call, or as much of one as is asked for. */
function chunked(chunks: Uint8Array[]) {
  let next = 0;
  let rest: Uint8Array | undefined;
  return {
    read(p: Uint8Array): Promise<number | null> {
      const chunk = rest ?? chunks[next++];
      if (chunk === undefined) return Promise.resolve(null);
      const count = Math.min(chunk.length, p.length);
      p.set(chunk.subarray(0, count));
      rest = count < chunk.length ? chunk.subarray(count) : undefined;
      return Promise.resolve(count);
    },
  };
}

/** Reads the same byte without end, `size` of them at a time. */
function endless(byte: number, size = Infinity) {
  const fake = {
    taken: 0,
    /** The sizes of the buffers that it was given. */
    buffers: new Map<ArrayBufferLike, number>(),
    read(p: Uint8Array): Promise<number> {
      const count = Math.min(size, p.length);
      fake.taken += count;
      fake.buffers.set(p.buffer, p.buffer.byteLength);
      p.fill(byte, 0, count);
      return Promise.resolve(count);
    },
  };
  return fake;
}

async function allLines(chunks: Uint8Array[]): Promise<string[]> {
  const lines = await Array.fromAsync(readLines(chunked(chunks)));
  return lines.map((line) => new TextDecoder("latin1").decode(line));
}

Deno.test("readLines() finds the same lines however the input is cut", async () => {
  const text = "one\n\n\ntwo and more\nlast";
  for (let size = 1; size <= text.length; size++) {
    const chunks: Uint8Array[] = [];
    for (let i = 0; i < text.length; i += size) {
      chunks.push(encode(text.slice(i, i + size)), new Uint8Array());
    }
    assertEquals(
      await allLines(chunks),
      ["one\n", "\n", "\n", "two and more\n", "last"],
    );
  }
});

Deno.test("readLines() keeps every byte", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const lines = await Array.fromAsync(readLines(chunked([bytes])));
  assertEquals(lines, [bytes.slice(0, 11), bytes.slice(11)]);
});

Deno.test("readLines() yields lines that outlive the next read", async () => {
  const lines = readLines(chunked([encode("aaa\n"), encode("bbb\n")]));
  const first = await lines.next();
  await lines.next();
  assertEquals(first.value, encode("aaa\n"));
});

Deno.test("readLines() reads a line of many chunks", async () => {
  const chunk = new Uint8Array(60_000).fill(0x61);
  const chunks = [...Array(100).fill(chunk), encode("\nnext\n")];
  const options = { maxLength: Infinity };
  const lines = await Array.fromAsync(readLines(chunked(chunks), options));
  assertEquals(lines.map((line) => line.length), [6_000_001, 5]);
});

Deno.test("readLines() finds what a split finds, wherever its buffers end", async () => {
  let state = 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  const lengths = Array.from({ length: 300 }, () => random(4) ** 6 * random(9));
  const text = lengths.map((it) => "x".repeat(it)).join("\n");
  const bytes = encode(text);
  for (const most of [1, 100, 5000, 100_000]) {
    const chunks: Uint8Array[] = [];
    for (let i = 0; i < bytes.length;) {
      chunks.push(bytes.subarray(i, i += 1 + random(most)));
    }
    const expected = text.split(/(?<=\n)/).map((line) => line.length);
    const lines = await allLines(chunks);
    assertEquals(lines.map((line) => line.length), expected);
    assertEquals(lines.join(""), text);
  }
});

Deno.test("readLines() takes a line of exactly the limit, and none that is longer", async () => {
  for (
    const [maxLength, options] of [
      [1, { maxLength: 1 }],
      [10, { maxLength: 10 }],
      [5000, { maxLength: 5000 }],
      [64 * KIB, undefined], // By default.
    ] as const
  ) {
    const longest = `${"x".repeat(maxLength - 1)}\n`;
    for (const size of [1, 7, Infinity]) {
      const cut = (text: string) => {
        const bytes = encode(text);
        const chunks: Uint8Array[] = [];
        for (let i = 0; i < bytes.length; i += size) {
          chunks.push(bytes.subarray(i, i + size));
        }
        return readLines(chunked(chunks), options);
      };
      const lines = await Array.fromAsync(cut(longest + longest));
      assertEquals(lines.map((line) => line.length), [maxLength, maxLength]);
      const last = await Array.fromAsync(cut("x".repeat(maxLength)));
      assertEquals(last.map((line) => line.length), [maxLength]);

      for (const tooLong of [`x${longest}`, "x".repeat(maxLength + 1)]) {
        const reading = cut(`\n${tooLong}`);
        assertEquals((await reading.next()).value, encode("\n"));
        await assertRejects(
          () => reading.next(),
          LineTooLongError,
          `Line of more than ${maxLength} bytes`,
        );
        assertEquals((await reading.next()).done, true);
      }
    }
  }
});

Deno.test("readLines() ends at once where no newline comes, whatever is sent", async () => {
  for (const size of [1000, Infinity]) {
    const zeros = endless(0, size);
    await assertRejects(() => readLines(zeros).next(), LineTooLongError);
    assert(zeros.taken <= 65 * KIB, `${zeros.taken} bytes`);
    const sizes = [...zeros.buffers.values()];
    assert(Math.max(...sizes) <= 65 * KIB, `${sizes}`);
  }
});

Deno.test("readLines() needs no more memory for a line that comes byte by byte", async () => {
  const bytes = endless(0x61, 1);
  const maxLength = 256 * KIB;
  const read = () => readLines(bytes, { maxLength }).next();
  await assertRejects(read, LineTooLongError);
  const all = [...bytes.buffers.values()].reduce((sum, it) => sum + it, 0);
  assert(all <= 3 * maxLength, `${all} bytes for a line of ${maxLength}`);
});

Deno.test("readLines() stays small where lines are short", async () => {
  const newlines = endless(0x0a);
  const lines = readLines(newlines, { maxLength: Infinity });
  for (let i = 0; i < 300_000; i++) await lines.next();
  const all = [...newlines.buffers.values()];
  assert(Math.max(...all) <= 64 * KIB, `${all}`);
  assert(all.length <= 10, `${all.length} buffers`);
});

Deno.test("readLines() gives a reader without progress up", async () => {
  const stuck = { read: () => Promise.resolve(0) };
  const error = await assertRejects(() => readLines(stuck).next(), Error);
  assertEquals(error.message, "Reader made no progress in 100 reads");
});

Deno.test("readLines() passes the reader's error through", async () => {
  const broken = { read: () => Promise.reject(new TypeError("broken")) };
  await assertRejects(() => readLines(broken).next(), TypeError);
});
