import { assertEquals, assertRejects } from "@std/assert";
import {
  GivenUpError,
  PendingCalls,
  untilGivenUp,
} from "../../lib/lab/pending_calls.ts";

Deno.test("untilGivenUp() returns or throws what the call does", async () => {
  const { signal } = new AbortController();
  assertEquals(await untilGivenUp(Promise.resolve(1), signal), 1);
  const error = new Error("mine");
  assertEquals(
    await assertRejects(() => untilGivenUp(Promise.reject(error), signal)),
    error,
  );
});

Deno.test("untilGivenUp() waits no longer, and the call's later error is nobody's", async () => {
  const call = Promise.withResolvers<number>();
  const giveUp = new AbortController();
  const waiting = untilGivenUp(call.promise, giveUp.signal);
  giveUp.abort();
  await assertRejects(() => waiting, GivenUpError, "given up, but it goes on");
  call.reject(new Error("late")); // Would fail this test if it were unhandled.
});

Deno.test("PendingCalls waits for the call that was given up, on its own socket", async () => {
  const made: { socket: object; resolve: (value: string) => void }[] = [];
  const calls = new PendingCalls((socket: object) => {
    const { promise, resolve } = Promise.withResolvers<string>();
    made.push({ socket, resolve });
    return promise;
  });
  const [one, other] = [{}, {}];
  const { signal } = new AbortController();
  const giveUp = () =>
    assertRejects(() => calls.wait(one, AbortSignal.abort()), GivenUpError);
  await giveUp();
  await giveUp(); // Once more: it is the same call.
  assertEquals(made.length, 1);
  const waiting = calls.wait(other, signal);
  assertEquals(made.map(({ socket }) => socket === one), [true, false]);
  made[1].resolve("other");
  assertEquals(await waiting, "other");

  assertEquals(calls.on(other), undefined);
  made[0].resolve("one");
  assertEquals(await calls.on(one), "one"); // And it is still there.
  assertEquals(await calls.wait(one, signal), "one");
  assertEquals(calls.on(one), undefined);
  calls.wait(one, signal);
  assertEquals(made.length, 3); // A result is given out once.
});

Deno.test("PendingCalls tells the error of a call that was given up once", async () => {
  const made: ((error: Error) => void)[] = [];
  const calls = new PendingCalls((_: object) => {
    const { promise, reject } = Promise.withResolvers<never>();
    made.push(reject);
    return promise;
  });
  const socket = {};
  const { signal } = new AbortController();
  const wait = (signal: AbortSignal) => () => calls.wait(socket, signal);
  await assertRejects(wait(AbortSignal.abort()), GivenUpError);
  made[0](new Error("first"));
  await assertRejects(wait(signal), Error, "first");
  const next = assertRejects(wait(signal), Error, "second");
  made[1](new Error("second"));
  await next;
});
