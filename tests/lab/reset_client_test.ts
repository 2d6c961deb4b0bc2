import { assertEquals, assertRejects } from "@std/assert";
import { connectAndReset } from "../../lib/lab/reset_client.ts";

Deno.test("connectAndReset() does not wait for a server that has closed", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const resetting = connectAndReset(listener.addr.port);
  (await listener.accept()).close();
  await assertRejects(() => resetting, Error, "The server has closed first");
  await assertRejects(() => connectAndReset(1), Error, "ECONNREFUSED");
});

Deno.test("connectAndReset() waits for `when`, and not for an answer", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { promise: when, resolve } = Promise.withResolvers<void>();
  const message = "Ada\n";
  const resetting = connectAndReset(listener.addr.port, { message, when });
  using conn = await listener.accept();
  await conn.write(new Uint8Array(5));
  const buffer = new Uint8Array(8);
  assertEquals(await conn.read(buffer), 4);
  await conn.write(new Uint8Array(5));
  const reading = conn.read(buffer);
  const soon = new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals(await Promise.race([reading, soon]), undefined);
  resolve();
  await assertRejects(() => reading, Deno.errors.ConnectionReset);
  await resetting;
});
