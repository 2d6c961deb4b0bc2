import { assertEquals, assertRejects } from "@std/assert";
import { openReadable } from "../../lib/open_readable.ts";

/** Gives one byte a read, and counts the reads. */
function oneByteEach(bytes: number[], end: () => number | null = () => null) {
  let reads = 0;
  return {
    reads: () => reads,
    read(p: Uint8Array): Promise<number | null> {
      reads++;
      const byte = bytes.shift();
      if (byte === undefined) return Promise.try(end);
      p[0] = byte;
      return Promise.resolve(1);
    },
  };
}

Deno.test("openReadable() has the bytes of each read, and then the end", async () => {
  const reader = oneByteEach([1, 2, 3]);
  const chunks = await Array.fromAsync(openReadable(reader));
  assertEquals(chunks, [[1], [2], [3]].map((it) => new Uint8Array(it)));
  assertEquals(reader.reads(), 4);
});

Deno.test("openReadable() reads only when it is read", async () => {
  const reader = oneByteEach([1, 2, 3]);
  const chunks = openReadable(reader).getReader();
  assertEquals(reader.reads(), 0);
  await chunks.read();
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(reader.reads(), 1);
});

Deno.test("openReadable() passes an error of the reader through", async () => {
  const error = new Deno.errors.ConnectionReset("gone");
  const reader = oneByteEach([1], () => {
    throw error;
  });
  const chunks = openReadable(reader).getReader();
  assertEquals((await chunks.read()).value, new Uint8Array([1]));
  assertEquals(await chunks.read().catch((reason) => reason), error);
});

Deno.test("openReadable() does not wait on a reader that reads nothing", async () => {
  const reader = oneByteEach([], () => 0);
  await assertRejects(() => openReadable(reader).getReader().read(), TypeError);
});

Deno.test("openReadable() leaves the connection open when it is cancelled", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = await Deno.connect({ port: listener.addr.port });
  using conn = await listener.accept();
  await client.write(new Uint8Array([1]));
  for await (const _ of openReadable(conn)) break;
  await conn.write(new Uint8Array([2]));
  assertEquals(await client.read(new Uint8Array(9)), 1);
});

Deno.test("openReadable() reads again after a read of nothing", async () => {
  const counts = [2, 0, 3, null];
  const reader = { read: () => Promise.resolve(counts.shift()!) };
  const chunks = await Array.fromAsync(openReadable(reader));
  assertEquals(chunks.map((it) => it.length), [2, 3]);
});
