import { assert, assertEquals } from "@std/assert";
import { afterReads } from "../../lib/after_reads.ts";
import { IdleTimer } from "../../lib/idle_timer.ts";
import { replaced } from "../testing.ts";

const pause = (milliseconds: number) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Does not go back to the loop for so long, as if the process were stopped. */
function block(milliseconds: number) {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

Deno.test("IdleTimer calls once, when nothing has happened for so long", async () => {
  const start = performance.now();
  let calls = 0;
  let elapsed = 0;
  using _idle = new IdleTimer(50, () => {
    calls++;
    elapsed = performance.now() - start;
  });
  while (calls === 0) await pause(10);
  assert(elapsed >= 50, `${elapsed} ms`);
});

/** A clock that stands still, unless it is told how much time goes by. */
function fakeClock() {
  let now = 0;
  let timers: { at: number; call: () => void }[] = [];
  const using = [
    replaced(performance, "now", () => now),
    replaced(globalThis, "setTimeout", (call: () => void, wait: number) => {
      timers.push({ at: now + wait, call });
      return timers.at(-1);
    }),
    replaced(globalThis, "clearTimeout", (timer: unknown) => {
      timers = timers.filter((it) => it !== timer);
    }),
  ];
  return {
    /** Calls what is due, and waits for the second look. */
    async advance(milliseconds: number) {
      now += milliseconds;
      const due = timers.filter(({ at }) => at <= now);
      timers = timers.filter(({ at }) => at > now);
      for (const { call } of due) call();
      await new Promise<void>((resolve) => afterReads(resolve));
    },
    [Symbol.dispose]() {
      for (const it of using) it[Symbol.dispose]();
    },
  };
}

Deno.test("IdleTimer begins anew with reset(), and pause() stops the time", async () => {
  using clock = fakeClock();
  let calls = 0;
  using idle = new IdleTimer(200, () => calls++);
  for (let i = 0; i < 15; i++) {
    await clock.advance(150);
    idle.reset();
  }
  assertEquals(calls, 0);
  idle.pause();
  await clock.advance(1000);
  assertEquals(calls, 0);
  idle.reset();
  await clock.advance(199);
  assertEquals(calls, 0);
  await clock.advance(200); // It looks again when it was called too soon.
  assertEquals(calls, 1);
  await clock.advance(1000);
  assertEquals(calls, 1);
});

Deno.test("IdleTimer never calls for 0 ms, nor when it is disposed of", async () => {
  using clock = fakeClock();
  const calls: string[] = [];
  using _never = new IdleTimer(0, () => calls.push("never"));
  const disposed = new IdleTimer(10, () => calls.push("disposed"));
  disposed[Symbol.dispose]();
  await clock.advance(1000);
  assertEquals(calls, []);
});

Deno.test("IdleTimer sees what came while the process was stopped", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = await Deno.connect({ port: listener.addr.port });
  using conn = await listener.accept();
  let isOver = false;
  using idle = new IdleTimer(200, () => isOver = true);
  const reading = conn.read(new Uint8Array(1)).then(() => idle.reset());
  await client.write(new Uint8Array(1));
  block(250); // Now the timer is due, and the byte is there.
  await reading;
  assertEquals(isOver, false);
  await pause(150); // The second look has been.
  assertEquals(isOver, false);
});

Deno.test("IdleTimer takes a time that is longer than any timer", () => {
  const waits: unknown[] = [];
  const setTimeout = (_: unknown, wait: unknown) => waits.push(wait);
  using _ = replaced(globalThis, "setTimeout", setTimeout);
  using _idle = new IdleTimer(Infinity, () => {});
  assertEquals(waits, [2 ** 31 - 1]);
});
