import { assert, assertEquals, assertRejects } from "@std/assert";
import { createConnection } from "node:net";
import { encode } from "../../lib/encode.ts";
import { withDeadline } from "../../lib/deadline.ts";
import { forward } from "../../lib/forward.ts";
import { setKeepAliveTimes } from "../../lib/lab/keep_alive.ts";
import { dropIncoming } from "../../lib/lab/packet_loss.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { isConnectionLost } from "../../lib/connection_lost.ts";
import { readAll as readAllOf, writeAll } from "../peers.ts";

/** Reads to the end, but does not wait for ever where none comes. */
const readAll = (conn: Deno.Conn) => withDeadline(readAllOf(conn), 30_000);

/** A client, a server, and the two ends of a proxy between them. */
async function connectProxied() {
  const [one, other] = [await connectPair(), await connectPair()];
  return {
    client: one.client,
    ends: [one.server, other.client] as const,
    server: other.server,
    [Symbol.dispose]() {
      one[Symbol.dispose]();
      other[Symbol.dispose]();
    },
  };
}

/** A peer that can send a RST; Deno's own `close()` would send a FIN first. */
async function connectResettable() {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const peer = createConnection(listener.addr.port, "127.0.0.1");
  peer.on("error", () => {});
  const conn = await listener.accept();
  return { conn, reset: () => void peer.resetAndDestroy() };
}

/** Both are closed: nothing can be read from them any more. */
async function assertClosed(conns: readonly Deno.TcpConn[]) {
  for (const conn of conns) {
    const read = () => conn.read(new Uint8Array(1));
    await assertRejects(read, Deno.errors.BadResource);
  }
}

Deno.test("forward() lets either side end first, and still get the answer", async () => {
  for (const isClientFirst of [true, false]) {
    using all = await connectProxied();
    const forwarding = forward(...all.ends);
    const { client, server } = all;
    const [first, second] = isClientFirst ? [client, server] : [server, client];
    await writeAll(first, encode("How long is it?"));
    await first.closeWrite();
    const request = await readAll(second);
    assertEquals(request, encode("How long is it?"));
    await writeAll(second, encode("15"));
    second.close();
    assertEquals(await readAll(first), encode("15"));
    await forwarding;
    await assertClosed(all.ends);
  }
});

Deno.test("forward() carries 8 MiB both ways at the same time", async () => {
  using all = await connectProxied();
  const forwarding = forward(...all.ends);
  const size = 8 * 1024 * 1024;
  const [there, back] = [1, 2].map((seed) =>
    Uint8Array.from({ length: size }, (_, i) => (i * seed) ^ (i >> 8))
  );
  const [atServer, atClient] = await Promise.all([
    readAll(all.server),
    readAll(all.client),
    writeAll(all.client, there).then(() => all.client.closeWrite()),
    writeAll(all.server, back).then(() => all.server.closeWrite()),
    forwarding,
  ]);
  for (const [got, sent] of [[atServer, there], [atClient, back]]) {
    assertEquals(got.length, size);
    assert(got.every((byte, i) => byte === sent[i]), "other bytes");
  }
});

for (const who of ["first", "second"] as const) {
  Deno.test(`forward() ends both when its ${who} side is reset`, async () => {
    const { conn, reset } = await connectResettable();
    using pair = await connectPair();
    const ends = who === "first"
      ? [conn, pair.server] as const
      : [pair.server, conn] as const;
    const forwarding = assertRejects(
      () => forward(...ends),
      Deno.errors.ConnectionReset,
    );
    const waiting = pair.client.read(new Uint8Array(1));
    reset();
    await forwarding;
    await assertClosed(ends);
    // What looks like a clean end, and a write finds out that it is none.
    assertEquals(await waiting, null);
    const error = await assertRejects(async () => {
      while (true) await pair.client.write(new Uint8Array(1));
    });
    assert(isConnectionLost(error));
  });

  Deno.test(`forward() ends one that still writes when its ${who} side is reset`, async () => {
    const { conn, reset } = await connectResettable();
    using pair = await connectPair();
    const ends = who === "first"
      ? [conn, pair.server] as const
      : [pair.server, conn] as const;
    const forwarding = assertRejects(() => forward(...ends));
    const data = new Uint8Array(64 * 1024);
    const writing = (async () => {
      while (true) await pair.client.write(data);
    })();
    const ended = assertRejects(() => writing);
    reset();
    assert(isConnectionLost(await forwarding));
    assert(isConnectionLost(await ended));
  });
}

Deno.test("forward() ends the other side when the kernel gives a client up", async () => {
  using all = await connectProxied();
  const [end] = all.ends;
  // After 2 s in which nothing comes back.
  setKeepAliveTimes(end, { idle: 1, interval: 1, count: 1 });
  const forwarding = assertRejects(
    () => forward(...all.ends),
    Deno.errors.TimedOut,
  );
  dropIncoming(end); // Its client is still there, but nothing of it comes.
  assertEquals(await all.server.read(new Uint8Array(1)), null);
  await forwarding;
});

Deno.test("forward() ends both when a client's process is gone", async () => {
  const script = `
    const port = Number(Deno.args[0]);
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new Uint8Array(1));
    await new Promise(() => setInterval(() => {}, 1000));`;
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-net", "-", String(listener.addr.port)],
    stdin: "piped",
    stdout: "null",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(encode(script));
  await writer.close();
  const conn = await listener.accept();
  using pair = await connectPair();
  const forwarding = forward(conn, pair.client);
  assertEquals(await pair.server.read(new Uint8Array(1)), 1);
  child.kill("SIGKILL");
  assertEquals(await pair.server.read(new Uint8Array(1)), null);
  pair.server.close();
  await forwarding;
});

Deno.test("forward() reads no more than the other side takes", async () => {
  let reads = 0;
  const endless = {
    read: (p: Uint8Array) => Promise.resolve(++reads && p.length),
    write: (p: Uint8Array) => Promise.resolve(p.length),
    closeWrite: () => Promise.resolve(),
  };
  const failure = Promise.withResolvers<number>();
  const full = {
    read: () => Promise.resolve(null),
    write: () => failure.promise,
    closeWrite: () => Promise.resolve(),
  };
  const forwarding = forward(endless, full);
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertEquals(reads, 1);
  const error = new Error("no more");
  failure.reject(error);
  assertEquals(await assertRejects(() => forwarding), error);
});

Deno.test("forward() gives up a side that makes no progress, or counts wrong", async () => {
  const cases = [
    [0, "Reader made no progress in 100 reads"],
    [1e9, "Reader returned 1000000000: expected an integer from 0 to 65536"],
  ] as const;
  for (const [count, message] of cases) {
    using pair = await connectPair();
    const broken = {
      read: () => Promise.resolve(count),
      write: (p: Uint8Array) => Promise.resolve(p.length),
      closeWrite: () => Promise.resolve(),
    };
    await assertRejects(() => forward(broken, pair.client), Error, message);
    await assertClosed([pair.client]);
    assertEquals(await pair.server.read(new Uint8Array(1)), null);
  }
});
