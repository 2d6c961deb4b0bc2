import { assertEquals, assertRejects } from "@std/assert";
import { isQuit, LineReader } from "../lib/lines.ts";

const encode = (text: string) => new TextEncoder().encode(text);

/** Reads `chunks`, one a call. */
function chunked(chunks: Uint8Array[]) {
  const rest = [...chunks];
  return {
    read(p: Uint8Array): Promise<number | null> {
      const chunk = rest.shift();
      if (chunk === undefined) return Promise.resolve(null);
      p.set(chunk);
      return Promise.resolve(chunk.length);
    },
  };
}

async function allLines(lines: LineReader): Promise<string[]> {
  const all: string[] = [];
  for (let line; (line = await lines.readLine()) !== null;) {
    all.push(new TextDecoder("latin1").decode(line));
  }
  return all;
}

Deno.test("LineReader finds the same lines however the input is cut", async () => {
  const text = "one\n\n\ntwo and more\nlast";
  for (let size = 1; size <= text.length; size++) {
    const chunks: Uint8Array[] = [];
    for (let i = 0; i < text.length; i += size) {
      chunks.push(encode(text.slice(i, i + size)), new Uint8Array());
    }
    assertEquals(
      await allLines(new LineReader(chunked(chunks))),
      ["one\n", "\n", "\n", "two and more\n", "last"],
    );
  }
});

Deno.test("LineReader keeps every byte", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const lines = new LineReader(chunked([bytes]));
  assertEquals(await lines.readLine(), bytes.subarray(0, 11));
  assertEquals(await lines.readLine(), bytes.subarray(11));
  assertEquals(await lines.readLine(), null);
});

Deno.test("LineReader.readLine() returns lines that outlive the next read", async () => {
  const lines = new LineReader(chunked([encode("aaa\n"), encode("bbb\n")]));
  const first = await lines.readLine();
  await lines.readLine();
  assertEquals(first, encode("aaa\n"));
});

Deno.test("LineReader reads a line of many chunks", async () => {
  const chunk = new Uint8Array(60_000).fill(0x61);
  const lines = new LineReader(
    chunked([...Array(100).fill(chunk), encode("\n")]),
  );
  assertEquals((await lines.readLine())?.length, 6_000_001);
});

Deno.test("LineReader.atEnd() takes nothing away", async () => {
  const lines = new LineReader(chunked([encode("a\n")]));
  assertEquals(await lines.atEnd(), false);
  assertEquals(await lines.readLine(), encode("a\n"));
  assertEquals(await lines.atEnd(), true);
  assertEquals(await lines.readLine(), null);
});

Deno.test("LineReader.readLine() rejects when the signal is aborted", async () => {
  const stop = new AbortController();
  const never = { read: () => new Promise<number>(() => {}) };
  const lines = new LineReader(never, { signal: stop.signal });
  const waiting = assertRejects(() => lines.readLine(), Error, "enough");
  stop.abort(new Error("enough"));
  await waiting;
  await assertRejects(() => lines.readLine(), Error, "enough");
});

Deno.test("LineReader gives a reader without progress up", async () => {
  const stuck = { read: () => Promise.resolve(0) };
  const error = await assertRejects(
    () => new LineReader(stuck).readLine(),
    Error,
  );
  assertEquals(error.message, "Reader made no progress in 100 reads");
});

Deno.test("LineReader passes the reader's error through", async () => {
  const broken = { read: () => Promise.reject(new TypeError("broken")) };
  await assertRejects(() => new LineReader(broken).readLine(), TypeError);
});

Deno.test("isQuit() knows q and Q alone on a line", () => {
  for (const line of ["q\n", "Q\n", "q", "Q"]) {
    assertEquals(isQuit(encode(line)), true, line);
  }
  for (
    const line of ["", "\n", "qq", "q ", " q\n", "quit\n", "q\nq", "q\n\n"]
  ) {
    assertEquals(isQuit(encode(line)), false, line);
  }
});
