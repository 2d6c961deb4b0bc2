import { assert, assertEquals, assertRejects } from "@std/assert";
import { jainsIndex } from "../../lib/lab/load.ts";
import { ReadGate } from "../../lib/read_gate.ts";
import { serve, type ServedConn, type ServeOptions } from "../../lib/serve.ts";
import { exchange, reset } from "../peers.ts";
import { isFree, openFilesLimit, replaced, until } from "../testing.ts";

const hostname = "127.0.0.1";
type Handler = (conn: ServedConn) => Promise<unknown>;

/** Waits, where time is what the test is about. */
const pause = (milliseconds: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

const connect = (port: number) => Deno.connect({ hostname, port });

/** Echoes until the end of the stream. */
async function echo(conn: ServedConn) {
  const buffer = new Uint8Array(1024);
  while (true) {
    const count = await conn.read(buffer);
    if (count === null) break;
    await conn.write(buffer.subarray(0, count));
  }
}

/** Whether a connection is served: what is sent comes back. */
async function isServed(conn: Deno.TcpConn): Promise<boolean> {
  await conn.write(new Uint8Array(4));
  return await conn.read(new Uint8Array(4)) === 4;
}

/** Serves over loopback while `use` does, and then until all have ended. */
async function serving(
  handler: Handler,
  options: ServeOptions,
  use: (
    port: number,
    stop: () => void,
    ended: Promise<{ connections: number }>,
  ) => Promise<unknown>,
): Promise<number> {
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const end = new AbortController();
  const ended = serve(handler, {
    hostname,
    port: 0,
    drainTimeout: 20,
    signal: end.signal,
    onListen: ready.resolve,
    ...options,
  });
  try {
    await use((await ready.promise).port, () => end.abort(), ended);
  } finally {
    end.abort();
  }
  return (await ended).connections;
}

/** What `accept` does, call by call. When there is no more, it waits. */
type Accept = () => Promise<unknown>;

/** Serves what a listener of these tests accepts. */
function servingFakes(
  handler: Handler,
  accepts: Accept[],
  options: ServeOptions = {},
) {
  let asked = 0;
  const closed = Promise.withResolvers<never>();
  const stop = new AbortController();
  using _ = replaced(Deno, "listen", () => ({
    addr: { hostname, port: 1, transport: "tcp" },
    accept() {
      const accept = accepts[asked++] ?? accepts.at(-1);
      return accept === undefined ? closed.promise : accept();
    },
    [Symbol.dispose]: () => closed.reject(new Deno.errors.BadResource()),
  }));
  closed.promise.catch(() => {});
  const ended = serve(handler, {
    signal: stop.signal,
    onListen: () => {},
    drainTimeout: 20,
    ...options,
  });
  ended.catch(() => {}); // It is looked at later.
  return { ended, stop: () => stop.abort(), asked: () => asked };
}

/** A connection of these tests, and what was called. */
function fakeConn(reads: (number | null)[] = [null]) {
  const calls: string[] = [];
  return {
    calls,
    setNoDelay: () => calls.push("setNoDelay"),
    read() {
      calls.push("read");
      return Promise.resolve(reads.shift() ?? null);
    },
    write(p: Uint8Array) {
      calls.push("write");
      return Promise.resolve(p.length);
    },
    [Symbol.dispose]: () => calls.push("close"),
  };
}

const failing = (error: unknown): Accept => () => Promise.reject(error);
const withCode = (code: string) => Object.assign(new Error(code), { code });

Deno.test("serve() serves one client while another one says nothing", async () => {
  const connections = await serving(echo, {}, async (port) => {
    using silent = await connect(port);
    assertEquals(await exchange(port, "hello"), "hello");
    assertEquals(await exchange(port, "again"), "again");
    assert(await isServed(silent));
  });
  assertEquals(connections, 3);
});

Deno.test("serve() gives the handler Deno's addresses, and a half-close", async () => {
  const seen = Promise.withResolvers<Deno.NetAddr[]>();
  await serving(
    async (conn) => {
      seen.resolve([conn.localAddr, conn.remoteAddr]);
      await conn.closeWrite();
      assertEquals(await conn.read(new Uint8Array(9)), 5);
    },
    { report: seen.reject },
    async (port) => {
      using conn = await connect(port);
      assertEquals(await conn.read(new Uint8Array(1)), null);
      await conn.write(new Uint8Array(5));
      assertEquals(await seen.promise, [conn.remoteAddr, conn.localAddr]);
    },
  );
});

Deno.test("serve() closes the connection of a handler that returns", async () => {
  await serving(() => Promise.resolve(), {}, async (port) => {
    using conn = await connect(port);
    assertEquals(await conn.read(new Uint8Array(1)), null);
  });
});

Deno.test("serve() loses a client without a word, and serves the others", async () => {
  const reported: unknown[] = [];
  const options = { report: (error: unknown) => reported.push(error) };
  await serving(echo, options, async (port) => {
    using other = await connect(port);
    await reset(port);
    await reset(port, new Uint8Array(100_000));
    assert(await isServed(other));
    assertEquals(await exchange(port, "hello"), "hello");
  });
  assertEquals(reported, []);
});

Deno.test("serve() goes on when a client was lost in the queue", async () => {
  const conn = fakeConn();
  const { stop } = servingFakes(echo, [
    failing(withCode("ENOTCONN")),
    failing(withCode("ECONNABORTED")),
    () => Promise.resolve(conn),
    () => new Promise(() => {}),
  ]);
  await until(() => conn.calls.includes("close"));
  assertEquals(conn.calls, ["setNoDelay", "read", "close"]);
  stop();
});

for (const isAsync of [true, false]) {
  const how = isAsync ? "rejects" : "throws";
  Deno.test(`serve() reports a handler that ${how}, and ends that client only`, async () => {
    const mistake = new TypeError("a mistake of ours");
    const reported: unknown[] = [];
    let handled = 0;
    await serving(
      (conn) => {
        if (++handled !== 2) return echo(conn);
        if (isAsync) return Promise.reject(mistake);
        throw mistake;
      },
      { report: (error) => reported.push(error) },
      async (port) => {
        using first = await connect(port);
        assert(await isServed(first));
        using second = await connect(port);
        assertEquals(await second.read(new Uint8Array(1)), null);
        assert(await isServed(first));
        assertEquals(await exchange(port, "hello"), "hello");
      },
    );
    assertEquals(reported, [mistake]);
  });
}

Deno.test("serve() reports a closed resource that is not its own doing", async () => {
  const reported: unknown[] = [];
  const error = new Deno.errors.BadResource("another file");
  await serving(() => Promise.reject(error), {
    report: (it) => reported.push(it),
  }, (port) => exchange(port, "").catch(() => {}));
  assertEquals(reported, [error]);
});

Deno.test("serve() reports a mistake behind the end of a client, too", async () => {
  const reported: unknown[] = [];
  const mistake = new TypeError("a mistake of ours");
  const handler = async (conn: ServedConn) => {
    await conn.read(new Uint8Array(1)).catch(() => {});
    throw mistake;
  };
  const options = {
    idleTimeout: 50,
    report: (error: unknown) => reported.push(error),
  };
  await serving(handler, options, async (port) => {
    using conn = await connect(port);
    assertEquals(await conn.read(new Uint8Array(1)), null);
    await until(() => reported.length > 0);
  });
  assertEquals(reported, [mistake]);
});

const ENFILE = new Error("Too many open files in system (os error 23)");
for (
  const error of [
    withCode("EMFILE"),
    ENFILE, // Deno has no code for it.
    withCode("ENOBUFS"),
    withCode("ENOMEM"),
  ]
) {
  Deno.test(`serve() neither ends nor spins for ${error.message}`, async () => {
    const { ended, stop, asked } = servingFakes(echo, [failing(error)]);
    await until(() => asked() >= 2); // It tries again,
    await pause(300);
    assert(asked() <= 8, `${asked()} times`); // but not all the time.
    stop();
    assertEquals(await ended, { connections: 0 });
  });
}

Deno.test("serve() tries again at once when a client leaves its descriptor", async () => {
  const leaves = Promise.withResolvers<void>();
  const handler = () => leaves.promise;
  const { stop, asked } = servingFakes(handler, [
    () => Promise.resolve(fakeConn()),
    failing(withCode("EMFILE")),
    () => new Promise(() => {}),
  ]);
  await until(() => asked() === 2);
  leaves.resolve();
  await pause(0);
  assertEquals(asked(), 3);
  stop();
});

Deno.test("serve() ends with an error of accept, and lets clients finish", async () => {
  const leaves = Promise.withResolvers<void>();
  let isTold = false;
  const { ended } = servingFakes(async (conn) => {
    conn.signal.addEventListener("abort", () => isTold = true);
    await leaves.promise;
  }, [
    () => Promise.resolve(fakeConn()),
    failing(withCode("EINVAL")),
  ], { drainTimeout: 60_000 });
  await until(() => isTold);
  leaves.resolve();
  await assertRejects(() => ended, Error, "EINVAL");
});

Deno.test("serve() throws what listen throws", async () => {
  using listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr;
  await assertRejects(
    () => serve(echo, { hostname, port }),
    Deno.errors.AddrInUse,
  );
});

Deno.test("serve() lets clients beyond maxConnections wait", async () => {
  let handled = 0;
  const handler = (conn: ServedConn) => {
    handled++;
    return echo(conn);
  };
  const options = { maxConnections: 2 };
  const connections = await serving(handler, options, async (port) => {
    const first = await connect(port);
    using second = await connect(port);
    assert(await isServed(first) && await isServed(second));
    using third = await connect(port);
    const waiting = isServed(third);
    // The server has every chance: it serves the others in between.
    for (let i = 0; i < 20; i++) assert(await isServed(second));
    assertEquals(handled, 2);
    first.close();
    assert(await waiting);
  });
  assertEquals(connections, 3);
});

Deno.test("serve() ends although it is full", async () => {
  await serving(echo, { maxConnections: 1 }, async (port, stop, ended) => {
    using conn = await connect(port);
    assert(await isServed(conn));
    stop();
    await ended;
  });
});

Deno.test("serve() lets clients finish when it is to end, and tells their handlers", async () => {
  let drained = 0;
  let isTold = false;
  const options = {
    drainTimeout: 60_000,
    onDrain: (clients: number) => drained = clients,
  };
  const handler = async (conn: ServedConn) => {
    conn.signal.addEventListener("abort", () => isTold = true);
    await echo(conn);
    assert(conn.signal.aborted);
  };
  await serving(handler, options, async (port, stop, ended) => {
    const conns = await Promise.all([connect(port), connect(port)]);
    for (const conn of conns) assert(await isServed(conn));
    assert(!isTold);
    stop();
    await until(() => isFree(port));
    assertEquals([drained, isTold], [2, true]);
    for (const conn of conns) assert(await isServed(conn));
    for (const conn of conns) conn.close();
    assertEquals(await ended, { connections: 2 });
  });
});

Deno.test("serve() lets a handler end by itself", async () => {
  const goodbye = new TextEncoder().encode("goodbye");
  const begun = Promise.withResolvers<void>();
  const handler = async (conn: ServedConn) => {
    begun.resolve();
    const { promise, resolve } = Promise.withResolvers<null>();
    conn.signal.addEventListener("abort", () => resolve(null));
    const reading = conn.read(new Uint8Array(1)).catch(() => null);
    await Promise.race([reading, promise]);
    await conn.write(goodbye);
  };
  const options = { drainTimeout: 60_000 };
  await serving(handler, options, async (port, stop, ended) => {
    using conn = await connect(port);
    await begun.promise;
    stop();
    const buffer = new Uint8Array(20);
    assertEquals(await conn.read(buffer), goodbye.length);
    assertEquals(await conn.read(buffer), null);
    await ended;
  });
});

Deno.test("serve() closes who does not finish in time, and reports nothing", async () => {
  const reported: unknown[] = [];
  const options = { report: (error: unknown) => reported.push(error) };
  await serving(echo, options, async (port, stop, ended) => {
    using conn = await connect(port);
    assert(await isServed(conn));
    stop();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    assertEquals(await ended, { connections: 1 });
  });
  assertEquals(reported, []);
});

Deno.test("serve() does not wait at its end if nobody is there", async () => {
  const options = {
    drainTimeout: 60_000,
    onDrain: () => {
      throw new Error("Nobody is there");
    },
  };
  await serving(echo, options, (port) => exchange(port, "hello"));
});

Deno.test("serve() leaves no listener at the signal", async () => {
  let listeners = 0;
  const { signal } = new AbortController();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = function (...args: unknown[]) {
    listeners++;
    addEventListener.apply(signal, args as never);
  };
  signal.removeEventListener = function (...args: unknown[]) {
    listeners--;
    removeEventListener.apply(signal, args as never);
  };
  const { ended } = servingFakes(echo, [failing(withCode("EINVAL"))], {
    signal,
  });
  await assertRejects(() => ended);
  assertEquals(listeners, 0);
});

for (const nagle of [false, true]) {
  Deno.test(`serve() with nagle: ${nagle}`, async () => {
    const conn = fakeConn([3, null]);
    const { stop } = servingFakes(echo, [
      () => Promise.resolve(conn),
      () => new Promise(() => {}),
    ], { nagle });
    await until(() => conn.calls.includes("close"));
    const rest = ["read", "write", "read", "close"];
    assertEquals(conn.calls, nagle ? rest : ["setNoDelay", ...rest]);
    stop();
  });
}

Deno.test("serve() reads nothing ahead: a client that floods has to wait", async () => {
  const goOn = Promise.withResolvers<void>();
  let read = 0;
  await serving(
    async (conn) => {
      const buffer = new Uint8Array(1024);
      read += await conn.read(buffer) ?? 0;
      await goOn.promise;
    },
    {},
    async (port) => {
      using conn = await connect(port);
      let sent = 0;
      const flooding = (async () => {
        while (true) sent += await conn.write(new Uint8Array(1 << 20));
      })().catch(() => {});
      let before = -1;
      while (sent !== before) {
        before = sent;
        await pause(200);
      }
      assertEquals(read, 1024);
      goOn.resolve();
      await flooding;
    },
  );
});

for (const noGate of [false, true]) {
  Deno.test(`serve() has a gate between two reads, unless noGate: ${noGate}`, async () => {
    const { pass } = ReadGate.prototype;
    let passed = 0;
    using _ = replaced(ReadGate.prototype, "pass", function (this: ReadGate) {
      passed++;
      return pass.call(this, {});
    });
    await serving(echo, { noGate }, (port) => exchange(port, "hello"));
    assertEquals(passed, noGate ? 0 : 1);
  });
}

Deno.test("serve() serves a thousand busy clients alike", {
  ignore: await openFilesLimit() < 2200,
}, async () => {
  const counts: number[] = [];
  const begin = Promise.withResolvers<void>();
  const firstIsDone = Promise.withResolvers<number[]>();
  await serving(
    async (conn) => {
      const number = counts.push(0) - 1;
      const message = new Uint8Array(64);
      await begin.promise;
      while (await conn.read(message) !== null) {
        if (++counts[number] === 50) firstIsDone.resolve(counts.slice());
      }
    },
    {},
    async (port) => {
      using conns = new DisposableStack();
      for (let i = 0; i < 1000; i++) {
        const conn = conns.use(await connect(port));
        await conn.write(new Uint8Array(50 * 64));
      }
      await until(() => counts.length === 1000);
      begin.resolve();
      const reads = await firstIsDone.promise;
      // Without the gate it is 0.13, and 745 have had no turn.
      assert(jainsIndex(reads) > 0.7, `${jainsIndex(reads)}`);
      assertEquals(reads.filter((count) => count === 0), []);
    },
  );
});

Deno.test("serve() with an idleTimeout closes the silent, not the talking", async () => {
  const reported: unknown[] = [];
  const options = {
    idleTimeout: 400,
    report: (error: unknown) => reported.push(error),
  };
  await serving(echo, options, async (port) => {
    using talking = await connect(port);
    using silent = await connect(port);
    const start = performance.now(); // Not later than the server's.
    assert(await isServed(silent));
    let isOver = false;
    const ended = silent.read(new Uint8Array(1)).then((count) => {
      isOver = true;
      return count;
    });
    while (!isOver) {
      assert(await isServed(talking));
      await pause(5);
    }
    assertEquals(await ended, null);
    assert(performance.now() - start >= 399);
    assert(await isServed(talking));
  });
  assertEquals(reported, []);
});

/** Serves one fake, and resolves to what its handler has got. */
async function served(
  conn: Partial<Record<"read" | "write", unknown>>,
  handler: Handler,
): Promise<unknown> {
  const result = Promise.withResolvers<unknown>();
  let isClosed = false;
  const fake = { ...fakeConn(), ...conn };
  fake[Symbol.dispose] = () => {
    isClosed = true;
    return 0;
  };
  const { stop } = servingFakes(
    (conn) =>
      handler(conn).then(() => result.resolve(isClosed), (error) => {
        result.resolve(error);
        throw error;
      }),
    [() => Promise.resolve(fake), () => new Promise(() => {})],
    { idleTimeout: 200 },
  );
  const it = await result.promise;
  stop();
  return it;
}

Deno.test("serve() does not take the handler's own work for silence", async () => {
  const isClosed = await served({}, async (conn) => {
    await pause(500); // Before the first read,
    await conn.read(new Uint8Array(1));
    await pause(500); // after it,
    await conn.write(new Uint8Array(1));
    await pause(500); // and after a write.
  });
  assertEquals(isClosed, false);
});

Deno.test("serve() does not take the wait for its turn for silence", async () => {
  using _ = replaced(ReadGate.prototype, "pass", () => pause(500));
  const isClosed = await served({}, async (conn) => {
    await conn.read(new Uint8Array(1));
    await conn.read(new Uint8Array(1));
  });
  assertEquals(isClosed, false);
});

Deno.test("serve() leaves a client alone that takes an answer in pieces", async () => {
  const write = () => pause(30).then(() => 1);
  // Not only where the handler writes, but also where it reads meanwhile.
  for (const isReading of [false, true]) {
    const reading = Promise.withResolvers<null>();
    const read = () => reading.promise;
    const isClosed = await served({ read, write }, async (conn) => {
      const waiting = isReading ? conn.read(new Uint8Array(1)) : null;
      for (let i = 0; i < 20; i++) await conn.write(new Uint8Array(1));
      reading.resolve(null);
      await waiting;
    });
    assertEquals(isClosed, false);
  }
});

Deno.test("serve() closes a client that takes nothing of an answer", async () => {
  await serving(
    async (conn) => {
      const data = new Uint8Array(1 << 20);
      while (true) await conn.write(data);
    },
    { idleTimeout: 200, drainTimeout: 60_000 },
    async (port, stop, ended) => {
      using _conn = await connect(port);
      await pause(10);
      stop();
      await ended; // Long before the drain's time is over.
    },
  );
});
