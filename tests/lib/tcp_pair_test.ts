import { assertRejects, assertThrows } from "@std/assert";
import { connectPair } from "../../lib/tcp_pair.ts";

Deno.test("connectPair() leaves nothing open if there is no accept", async () => {
  const { connect, listen } = Deno;
  let client: Deno.TcpConn | undefined;
  try {
    Deno.listen = ((options: Deno.TcpListenOptions) => {
      const listener = listen(options);
      const accept = () => Promise.reject(new Error("EMFILE"));
      return Object.defineProperty(listener, "accept", { value: accept });
    }) as unknown as typeof listen;
    Deno.connect = (async (options: Deno.ConnectOptions) =>
      client = await connect(options)) as unknown as typeof connect;
    await assertRejects(
      () =>
        connectPair(),
      Error,
      "EMFILE",
    );
  } finally {
    Deno.listen = listen;
    Deno.connect = connect;
  }
  assertThrows(() => client!.close(), Deno.errors.BadResource);
});
