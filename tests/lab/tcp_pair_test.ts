import { assertRejects, assertThrows } from "@std/assert";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { replaced } from "../testing.ts";

Deno.test("connectPair() leaves nothing open if there is no accept", async () => {
  const { connect, listen } = Deno;
  let client: Deno.TcpConn | undefined;
  using _listen = replaced(Deno, "listen", (options: Deno.TcpListenOptions) => {
    const accept = () => Promise.reject(new Error("EMFILE"));
    return Object.defineProperty(listen(options), "accept", { value: accept });
  });
  using _connect = replaced(
    Deno,
    "connect",
    async (options: Deno.ConnectOptions) => client = await connect(options),
  );
  await assertRejects(connectPair, Error, "EMFILE");
  assertThrows(() => client!.close(), Deno.errors.BadResource);
});
