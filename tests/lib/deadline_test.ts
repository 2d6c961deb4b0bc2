import { assertEquals, assertRejects } from "@std/assert";
import { withDeadline } from "../../lib/deadline.ts";
import { replaced } from "../testing.ts";

const never = new Promise<never>(() => {});

Deno.test("withDeadline() passes results and errors on, and leaves no timer", async () => {
  assertEquals(await withDeadline(Promise.resolve(1), 60_000), 1);
  const error = new RangeError("mine");
  const giveUp = () => {
    throw new Error("There is nothing to give up");
  };
  const rejected = await assertRejects(
    () => withDeadline(Promise.reject(error), 60_000, giveUp),
    RangeError,
  );
  assertEquals(rejected, error);
});

Deno.test("withDeadline() rejects with TimedOut when the time is over", async () => {
  for (const milliseconds of [1, 0, -5]) {
    await assertRejects(
      () => withDeadline(never, milliseconds),
      Deno.errors.TimedOut,
      `Timed out after ${milliseconds} ms`,
    );
  }
});

Deno.test("withDeadline() waits for ever, or longer than a timer can", async () => {
  for (const milliseconds of [2 ** 31 - 1, 2 ** 31, 2 ** 53, Infinity]) {
    const soon = new Promise((resolve) => setTimeout(resolve, 20, "done"));
    assertEquals(await withDeadline(soon, milliseconds), "done");
  }
});

Deno.test("withDeadline() adds timers up to a wait that one cannot do", async () => {
  const { setTimeout } = globalThis;
  const waits: number[] = [];
  using _ = replaced(globalThis, "setTimeout", (
    call: (...args: unknown[]) => void,
    wait = 0,
    ...args: unknown[]
  ) => {
    waits.push(wait);
    return setTimeout(() => call(...args), 0);
  });
  const most = 2 ** 31 - 1;
  await assertRejects(
    () => withDeadline(never, 2 * most + 5),
    Deno.errors.TimedOut,
    "Timed out after 4294967299 ms",
  );
  assertEquals(waits, [most, most, 5]);
});

Deno.test("withDeadline() takes what was there in time, however busy we were", async () => {
  const bind = { hostname: "127.0.0.1", port: 0, transport: "udp" } as const;
  const socket = Deno.listenDatagram(bind);
  const receiving = socket.receive();
  await new Promise((resolve) => setTimeout(resolve, 5));
  const waiting = withDeadline(receiving, 10);
  await socket.send(new Uint8Array([1]), socket.addr);
  const end = performance.now() + 50;
  while (performance.now() < end);
  assertEquals((await waiting)[0], new Uint8Array([1]));
  socket.close();
});

Deno.test("withDeadline() closes what is too late, and says TimedOut", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const conn = await Deno.connect({ port: listener.addr.port });
  using peer = await listener.accept();
  const reading = conn.read(new Uint8Array(1));
  await assertRejects(
    () => withDeadline(reading, 5, () => conn.close()),
    Deno.errors.TimedOut,
  );
  await assertRejects(() => reading, Deno.errors.Interrupted);
  assertEquals(await peer.read(new Uint8Array(1)), null);
});

Deno.test("withDeadline() gives nothing up that was in time", async () => {
  let gaveUp = false;
  await withDeadline(Promise.resolve(), 1, () => gaveUp = true);
  await new Promise((resolve) => setTimeout(resolve, 10));
  assertEquals(gaveUp, false);
});

Deno.test("withDeadline() ends by its signal, gives up, and leaves no timer", async () => {
  for (const isBefore of [true, false]) {
    const stop = new AbortController();
    const reason = new Error("somebody else was first");
    if (isBefore) stop.abort(reason);
    let gaveUp = 0;
    // Waits for a minute or, by several timers, for longer. A timer that is left
    // fails this test.
    const waits = [60_000, Infinity].map((milliseconds) =>
      withDeadline(never, milliseconds, () => gaveUp++, stop.signal)
    );
    stop.abort(reason);
    for (const wait of await Promise.allSettled(waits)) {
      assertEquals(wait, { status: "rejected", reason });
    }
    assertEquals(gaveUp, 2);
  }
});

Deno.test("withDeadline() heeds no signal that comes after the result", async () => {
  const stop = new AbortController();
  let gaveUp = false;
  const { promise, resolve } = Promise.withResolvers<number>();
  const wait = withDeadline(promise, 60_000, () => gaveUp = true, stop.signal);
  resolve(1);
  stop.abort(); // At once, before anybody could look at the result.
  assertEquals(await wait, 1);
  assertEquals(gaveUp, false);
});

Deno.test("withDeadline() listens to its signal no longer than it waits", async () => {
  const { signal } = new AbortController();
  const listeners: unknown[] = [];
  using _add = replaced(
    signal,
    "addEventListener",
    (_: string, it: unknown) => {
      listeners.push(it);
    },
  );
  using _remove = replaced(
    signal,
    "removeEventListener",
    (_: string, it: unknown) => {
      assertEquals(listeners.pop(), it);
    },
  );
  await withDeadline(Promise.resolve(), 60_000, undefined, signal);
  assertEquals(listeners, []);
});
