import { assertEquals, assertRejects } from "@std/assert";
import { connectPair } from "../../lib/tcp_pair.ts";

Deno.test("connectPair() leaves nothing open if there is no accept", async () => {
  const { listen } = Deno;
  let peer: Promise<Deno.TcpConn> | undefined;
  try {
    Deno.listen = ((options: Deno.TcpListenOptions) => {
      const listener = listen(options);
      peer = listener.accept();
      const accept = () => Promise.reject(new Error("EMFILE"));
      return Object.defineProperty(listener, "accept", { value: accept });
    }) as typeof listen;
    await assertRejects(() => connectPair(), Error, "EMFILE");
  } finally {
    Deno.listen = listen;
  }
  using conn = await peer!;
  assertEquals(await conn.read(new Uint8Array(1)), null); // It is closed.
});
