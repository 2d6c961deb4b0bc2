import { assert, assertEquals } from "@std/assert";
import { isConnectionLost } from "../../lib/connection_lost.ts";
import { reset } from "../peers.ts";
import { kernelRows, until } from "../testing.ts";

Deno.test("isConnectionLost() knows what the kernel says of a peer that is gone", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const errorOf = (promise: Promise<unknown>) =>
    promise.then(() => null, (error) => error);

  await reset(port); // Before its turn.
  // On a busy host the RST may still be on its way.
  await until(() =>
    !kernelRows().some(({ own, state }) =>
      own === port && state === "ESTABLISHED"
    )
  );
  const early = await errorOf(listener.accept());
  assertEquals([early?.code, isConnectionLost(early)], ["ENOTCONN", true]);

  const accepting = listener.accept();
  const resetting = reset(port, new Uint8Array(1));
  using conn = await accepting;
  await resetting;
  let error: unknown = null;
  while (error === null) error = await errorOf(conn.write(new Uint8Array(9)));
  assert(isConnectionLost(error), String(error));
});

Deno.test("isConnectionLost() leaves the server's own errors to it", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept().catch((error) => error);
  listener.close();
  const mine = [
    await accepting,
    Object.assign(new Error(), { code: "EMFILE" }),
    Object.assign(new Error(), { code: 104 }),
    new RangeError("a mistake"),
    "ECONNRESET",
    undefined,
  ];
  for (const error of mine) assertEquals(isConnectionLost(error), false);
});

Deno.test("isConnectionLost() knows errors that Deno has no code for", () => {
  // As Deno words them; accept(2) passes them on from the network.
  const host = new Error("Host is down (os error 112)");
  assert(isConnectionLost(host));
  const icmp = { code: "ECONNREFUSED" };
  assert(isConnectionLost(Object.assign(new Error("read"), icmp)));
  const full = new Error("Too many open files in system (os error 23)");
  assert(!isConnectionLost(full));
});

Deno.test("isConnectionLost() knows the network errors that accept(2) lists", async (t) => {
  // The number is Linux's; what Deno calls the error comes from Deno itself.
  const errors = {
    ENETDOWN: 100,
    EPROTO: 71,
    ENOPROTOOPT: 92,
    EHOSTDOWN: 112,
    ENONET: 64,
    EHOSTUNREACH: 113,
    EOPNOTSUPP: 95,
    ENETUNREACH: 101,
    EPERM: 1,
  };
  const codes: Record<string, string> = {
    EHOSTUNREACH: "EHOSTUNREACH",
    EOPNOTSUPP: "ENOTSUP",
    ENETUNREACH: "ENETUNREACH",
    EPERM: "EPERM",
  };
  for (const [name, number] of Object.entries(errors)) {
    await t.step(name, () => {
      const error = new Error(`In some words (os error ${number})`);
      const code = codes[name];
      assert(isConnectionLost(code ? Object.assign(error, { code }) : error));
    });
  }
  // What accept(2) says of the server itself. EINVAL, ENFILE, ENOMEM, EBADF.
  for (const number of [22, 23, 12, 9, 1000, 10]) {
    const error = new Error(`In some words (os error ${number})`);
    assertEquals(isConnectionLost(error), false, `${number}`);
  }
});
