import { assert, assertEquals } from "@std/assert";
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
  await pause(200);
  assertEquals(calls, 1);
});

Deno.test("IdleTimer begins anew with reset(), and pause() stops the time", async () => {
  let calls = 0;
  using idle = new IdleTimer(200, () => calls++);
  for (let i = 0; i < 15; i++) {
    idle.reset();
    await pause(30);
  }
  assertEquals(calls, 0);
  idle.pause();
  await pause(400);
  assertEquals(calls, 0);
  idle.reset();
  while (calls === 0) await pause(10);
});

Deno.test("IdleTimer never calls for 0 ms, nor when it is disposed of", async () => {
  const calls: string[] = [];
  using _never = new IdleTimer(0, () => calls.push("never"));
  const disposed = new IdleTimer(10, () => calls.push("disposed"));
  disposed[Symbol.dispose]();
  await pause(150);
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
