import { assertRejects } from "@std/assert";
import { connectAndReset } from "../../lib/lab/reset_client.ts";

Deno.test("connectAndReset() does not wait for a server that has closed", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const resetting = connectAndReset(listener.addr.port);
  (await listener.accept()).close();
  await assertRejects(() => resetting, Error, "The server has closed first");
  const { port } = listener.addr;
  listener.close();
  await assertRejects(() => connectAndReset(port), Error, "ECONNREFUSED");
});
