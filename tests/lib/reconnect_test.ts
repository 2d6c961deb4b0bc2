import { assert, assertEquals, assertRejects } from "@std/assert";
import { readExactly } from "../../lib/full_io.ts";
import { mayRecover, reconnect } from "../../lib/reconnect.ts";

const refused = () =>
  Object.assign(new Deno.errors.ConnectionRefused("Connection refused"), {
    code: "ECONNREFUSED",
  });

Deno.test("reconnect() waits twice as long each time, up to a limit, and gives up", async () => {
  for (const [random, share] of [[() => 1, 1], [() => 0, 0.5]] as const) {
    const waits: number[] = [];
    let attempts = 0;
    const error = refused();
    const failed = await assertRejects(() =>
      reconnect(() => {
        attempts++;
        throw error;
      }, {
        tries: 6,
        firstWait: 1,
        longestWait: 5,
        random,
        onWait: (it, milliseconds) => {
          assertEquals(it, error);
          waits.push(milliseconds);
        },
      })
    );
    assertEquals(failed, error);
    assertEquals(attempts, 6);
    assertEquals(waits, [1, 2, 4, 5, 5].map((it) => it * share));
  }
});

Deno.test("reconnect() waits as long as it says", async () => {
  let waited = 0;
  const start = performance.now();
  await assertRejects(() =>
    reconnect(() => Promise.reject(refused()), {
      tries: 4,
      firstWait: 10,
      onWait: (_, milliseconds) => waited += milliseconds,
    })
  );
  assert(performance.now() - start >= waited - 1);
  assert(waited >= 35 && waited <= 70, `${waited}`);
});

Deno.test("reconnect() does not begin anew because a server accepts, but when it works", async () => {
  const waitsOf = async (isOfUse: boolean) => {
    const waits: number[] = [];
    await assertRejects(() =>
      reconnect((works) => {
        if (isOfUse && waits.length < 3) works();
        return Promise.reject(refused());
      }, {
        tries: 4,
        firstWait: 1,
        random: () => 1,
        onWait: (_, milliseconds) => waits.push(milliseconds),
      })
    );
    return waits;
  };
  assertEquals(await waitsOf(false), [1, 2, 4]);
  assertEquals(await waitsOf(true), [1, 1, 1, 2, 4]);
});

Deno.test("reconnect() passes on what no other attempt helps against", async () => {
  const errors = [
    new Deno.errors.NotCapable("Requires net access"),
    new Error(
      "failed to lookup address information: Name or service not known",
    ),
    new TypeError("a mistake"),
  ];
  for (const error of errors) {
    let attempts = 0;
    const failed = await assertRejects(() =>
      reconnect(() => {
        attempts++;
        throw error;
      })
    );
    assertEquals([failed, attempts], [error, 1]);
  }
});

Deno.test("reconnect() ends by its signal, and leaves no timer", async () => {
  const reason = new Error("enough");
  // Before it begins, while it tells of a failure, while it waits, and meanwhile.
  for (const when of ["before", "told", "waiting", "attempt"]) {
    const stop = new AbortController();
    if (when === "before") stop.abort(reason);
    const start = performance.now();
    let attempts = 0;
    const failed = await assertRejects(() =>
      reconnect(() => {
        attempts++;
        if (when !== "attempt") throw refused();
        stop.abort(reason);
        throw new Deno.errors.BadResource("What it used is closed");
      }, {
        firstWait: 60_000,
        longestWait: 60_000,
        signal: stop.signal,
        onWait: () => {
          if (when === "told") stop.abort(reason);
          else queueMicrotask(() => stop.abort(reason));
        },
      })
    );
    assertEquals([failed, attempts], [reason, when === "before" ? 0 : 1], when);
    assert(performance.now() - start < 30_000, when);
  }
});

Deno.test("reconnect() finds a server again that starts again", async () => {
  const listen = (port = 0) => Deno.listen({ hostname: "127.0.0.1", port });
  let listener = listen();
  const { hostname, port } = listener.addr;
  const failures: string[] = [];
  /** Serves one client, once. */
  const serveOne = async (listener: Deno.TcpListener, data: number[]) => {
    using conn = await listener.accept();
    listener.close();
    await conn.write(new Uint8Array(data));
  };
  const serving = [serveOne(listener, [1])]; // Too little: the client wants two.
  const bytes = await reconnect(async (works) => {
    using conn = await Deno.connect({ hostname, port });
    const bytes = await readExactly(conn, new Uint8Array(2));
    works();
    return bytes;
  }, {
    firstWait: 1,
    onWait: (error) => {
      failures.push((error as Error).name);
      if (failures.length < 3) return;
      listener = listen(port);
      serving.push(serveOne(listener, [1, 2]));
    },
  });
  await Promise.all(serving);
  assertEquals(bytes, new Uint8Array([1, 2]));
  assertEquals(failures, [
    "UnexpectedEofError",
    "ConnectionRefused",
    "ConnectionRefused",
  ]);
});

Deno.test("mayRecover() knows what Deno says", async () => {
  const errorOf = (promise: Promise<unknown>) =>
    promise.then(() => null, (error) => error);
  using listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 0,
  });
  const connect = (signal?: AbortSignal) =>
    Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port, signal });
  using _first = await connect();
  const late = await errorOf(connect(AbortSignal.timeout(10)));
  assert(mayRecover(late), `${late}`);
  const none = await errorOf(
    Deno.connect({ hostname: "nothing.invalid", port: 1 }),
  );
  // Where there is no network, its resolver may not be reached either.
  const isFinal = /not known|not resolve/.test(none.message);
  assertEquals(mayRecover(none), !isFinal, none.message);
  try {
    Deno.listen({ hostname: "192.0.2.1", port: 0 }).close();
  } catch (error) {
    assert(mayRecover(error), `${error}`);
  }
  assert(!mayRecover(undefined));
});
