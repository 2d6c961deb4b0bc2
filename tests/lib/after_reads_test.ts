import { assertEquals } from "@std/assert";
import { afterReads } from "../../lib/after_reads.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";

Deno.test("afterReads() calls after a read that the kernel has data for", async () => {
  using pair = await connectPair();
  for (let i = 0; i < 20; i++) {
    const order: string[] = [];
    const reading = pair.server.read(new Uint8Array(1))
      .then(() => order.push("read"));
    await pair.client.write(new Uint8Array(1));
    const looked = new Promise<void>((resolve) =>
      afterReads(() => {
        order.push("looked");
        resolve();
      })
    );
    await Promise.all([reading, looked]);
    assertEquals(order, ["read", "looked"]);
  }
});

Deno.test("afterReads() does so where the loop has always something to do", async () => {
  using pair = await connectPair();
  let isOver = false;
  const work = () => void (isOver || setImmediate(work));
  work();
  const order: string[] = [];
  const reading = pair.server.read(new Uint8Array(1))
    .then(() => order.push("read"));
  await pair.client.write(new Uint8Array(1));
  await new Promise<void>((resolve) => afterReads(resolve));
  order.push("looked");
  isOver = true;
  await reading;
  assertEquals(order, ["read", "looked"]);
});

Deno.test("afterReads() can be called off", async () => {
  let calls = 0;
  const cancel = afterReads(() => calls++);
  cancel();
  cancel(); // And once more.
  await new Promise<void>((resolve) => afterReads(resolve));
  await new Promise<void>((resolve) => afterReads(resolve));
  assertEquals(calls, 0);
});
