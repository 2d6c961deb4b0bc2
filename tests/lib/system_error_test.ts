import { assertEquals } from "@std/assert";
import { isSystemError } from "../../lib/system_error.ts";

Deno.test(
  "isSystemError() tells the system's answers from the program's own errors",
  {
    permissions: { net: ["127.0.0.1"] },
  },
  async () => {
    const errorOf = (promise: Promise<unknown>) =>
      promise.then(() => null, (error) => error);
    const loopback = { hostname: "127.0.0.1", transport: "udp" } as const;
    const socket = Deno.listenDatagram({ ...loopback, port: 0 });
    const send = (size: number, hostname: string) =>
      errorOf(
        socket.send(new Uint8Array(size), { ...loopback, hostname, port: 9 }),
      );

    const refused = await errorOf(
      Deno.connect({ hostname: "127.0.0.1", port: 1 }),
    );
    assertEquals(isSystemError(refused), true, `${refused}`);
    const tooLong = await send(65508, "127.0.0.1");
    assertEquals(isSystemError(tooLong), true, `${tooLong}`);

    const forbidden = await send(1, "192.0.2.1");
    assertEquals(forbidden instanceof Deno.errors.NotCapable, true);
    assertEquals(isSystemError(forbidden), false);
    socket.close();
    const closed = await send(1, "127.0.0.1");
    assertEquals(isSystemError(closed), false, `${closed}`);
    for (const mine of [new TypeError("a mistake"), "os error 1", undefined]) {
      assertEquals(isSystemError(mine), false);
    }
  },
);
