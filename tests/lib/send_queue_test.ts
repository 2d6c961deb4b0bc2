import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { WriteZeroError } from "../../lib/full_io.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { SendQueue, SlowReaderError } from "../../lib/send_queue.ts";
import { readAll } from "../peers.ts";
import { until } from "../testing.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** Takes as much as it is told to, when it is told. */
function steppedWriter() {
  const calls: { text: string; accept: (count: number) => void }[] = [];
  return {
    calls,
    write: (p: Uint8Array) =>
      new Promise<number>((accept) =>
        calls.push({ text: new TextDecoder().decode(p), accept })
      ),
  };
}

/** Lets the functions go on that wait for what is settled already. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("SendQueue writes in order, one write at a time, and all of each message", async () => {
  const writer = steppedWriter();
  const queue = new SendQueue(writer);
  for (const text of ["hello", "", "world"]) assert(queue.send(bytes(text)));
  assertEquals(queue.size, 10);
  let isFlushed = false;
  const flushing = queue.flush().then(() => isFlushed = true);
  for (
    const [text, count, left] of [
      ["hello", 2, 8],
      ["llo", 3, 5],
      ["world", 4, 1],
      ["d", 1, 0],
    ] as const
  ) {
    assertEquals([writer.calls.length, isFlushed], [1, false]);
    const call = writer.calls.pop()!;
    assertEquals(call.text, text);
    call.accept(count);
    await turn();
    assertEquals(queue.size, left);
  }
  await flushing;
  assertEquals(writer.calls.length, 0);
  // And it begins again.
  assert(queue.send(bytes("again")));
  writer.calls.pop()!.accept(5);
  await queue.flush();
  await queue.flush();
});

Deno.test("SendQueue flush() waits for what is sent meanwhile", async () => {
  const writer = steppedWriter();
  const queue = new SendQueue(writer);
  queue.send(bytes("one"));
  let isFlushed = false;
  const flushing = queue.flush().then(() => isFlushed = true);
  queue.send(bytes("two"));
  writer.calls.pop()!.accept(3);
  await turn();
  assertEquals(isFlushed, false);
  writer.calls.pop()!.accept(3);
  await flushing;
});

Deno.test("SendQueue gives up who does not keep up, and writes no more", async () => {
  const writer = steppedWriter();
  const queue = new SendQueue(writer, { maxBytes: 10 });
  assert(queue.send(bytes("12345")));
  assert(queue.send(bytes("67890"))); // Exactly so many may wait.
  const flushing = queue.flush();
  assert(!queue.send(bytes("x")));
  const message = "Reader does not keep up: 10 bytes wait, and 1 more came";
  await assertRejects(() => queue.lost, SlowReaderError, message);
  await assertRejects(() => flushing, SlowReaderError, message);
  await assertRejects(() => queue.flush(), SlowReaderError, message);
  assertEquals([queue.send(bytes("x")), queue.size], [false, 0]);
  writer.calls.pop()!.accept(2); // It reads at last: too late.
  await turn();
  assertEquals([writer.calls.length, queue.size], [0, 0]);
});

Deno.test("SendQueue frees the room of each byte that is written", async () => {
  const writer = steppedWriter();
  const queue = new SendQueue(writer, { maxBytes: 10 });
  assert(queue.send(bytes("1234567890")));
  writer.calls.pop()!.accept(4);
  await turn();
  assert(queue.send(bytes("abcd")));
  assertEquals(queue.size, 10);
  assert(!queue.send(bytes("e")));
});

Deno.test("SendQueue is lost by an error of its writer, and passes it on", async () => {
  const reset = new Deno.errors.ConnectionReset("gone");
  const errors: [() => Promise<number>, unknown][] = [
    [() => Promise.reject(reset), reset],
    [() => {
      throw reset;
    }, reset],
    [() => Promise.resolve(0), WriteZeroError],
    [() => Promise.resolve(NaN), RangeError],
  ];
  for (const [write, expected] of errors) {
    const queue = new SendQueue({ write });
    assert(queue.send(bytes("hello")));
    const error = await queue.lost.catch((it) => it);
    if (expected instanceof Error) assertEquals(error === expected, true);
    else assert(error instanceof (expected as typeof Error), String(error));
    assertEquals([queue.send(bytes("x")), queue.size], [false, 0]);
    await assertRejects(() => queue.flush());
  }
});

Deno.test("SendQueue refuses what can never be right", () => {
  const queue = new SendQueue(steppedWriter(), { maxBytes: 10 });
  assertThrows(
    () => queue.send(new Uint8Array(11)),
    RangeError,
    "Message of 11 bytes: at most 10",
  );
  assert(queue.send(new Uint8Array(10)));
  for (const maxBytes of [0, -1, NaN]) {
    assertThrows(() => new SendQueue(queue as never, { maxBytes }), RangeError);
  }
});

Deno.test("SendQueue over loopback: the reader that stalls loses nothing of what was taken, or is given up", async () => {
  using pair = await connectPair();
  const queue = new SendQueue(pair.server, { maxBytes: 1_000_000 });
  const sent: Uint8Array[] = [];
  // Until the kernel takes no more, and a part of it waits here.
  while (queue.size < 500_000) {
    const message = crypto.getRandomValues(new Uint8Array(30_000));
    assert(queue.send(message));
    sent.push(message);
    if (queue.size > 60_000) await turn();
  }
  const expected = await new Blob(sent as Uint8Array<ArrayBuffer>[]).bytes();
  const got = await readAll(pair.client, expected.length);
  assert(got.every((byte, i) => byte === expected[i]));
  await queue.flush();
  assertEquals(queue.size, 0);

  while (queue.send(new Uint8Array(30_000))) await turn();
  await assertRejects(() => queue.lost, SlowReaderError);
  pair.server.close(); // This ends the write that waits.
  const rest = await readAll(pair.client); // What the kernel has taken.
  assert(rest.length > 0 && rest.every((byte) => byte === 0));
});

Deno.test("SendQueue ends with its connection", async () => {
  using pair = await connectPair();
  const queue = new SendQueue(pair.server, { maxBytes: 2 ** 26 });
  queue.send(new Uint8Array(2 ** 26)); // More than the kernel takes.
  await until(() => queue.size < 2 ** 26);
  pair.server.close();
  await assertRejects(() => queue.lost);
  await assertRejects(() => queue.flush());
});
