import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  connectWithDeadline,
  readWithDeadline,
  writeFullWithDeadline,
} from "../../lib/conn_deadline.ts";
import { withDeadline } from "../../lib/deadline.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { kernelRow, replaced, until } from "../testing.ts";

const { TimedOut, BadResource, Interrupted } = Deno.errors;

Deno.test("connectWithDeadline() connects, or passes the error on", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { addr } = listener;
  using conn = await connectWithDeadline(addr, 60_000);
  assertEquals(conn.remoteAddr.port, addr.port);
  using _accepted = await listener.accept();
  // Nobody listens on port 1; on one that was free just now somebody else may.
  await assertRejects(
    () => connectWithDeadline({ ...addr, port: 1 }, 60_000),
    Deno.errors.ConnectionRefused,
  );
});

Deno.test("connectWithDeadline() gives up where the queue is full", async () => {
  const options = { hostname: "127.0.0.1", port: 0, tcpBacklog: 0 };
  using listener = Deno.listen(options);
  // The kernel completes one connection more than the backlog says, or some
  // more. Each that it has completed stays here until the end.
  using queued = new DisposableStack();
  await assertRejects(async () => {
    while (true) queued.use(await connectWithDeadline(listener.addr, 50));
  }, TimedOut);
});

Deno.test("connectWithDeadline() closes what has connected too late", async () => {
  const connecting = Promise.withResolvers<Deno.TcpConn>();
  using _ = replaced(Deno, "connect", () => connecting.promise);
  const address = { hostname: "127.0.0.1", port: 1 };
  await assertRejects(() => connectWithDeadline(address, 1), TimedOut);
  let isClosed = false;
  const late = { [Symbol.dispose]: () => isClosed = true };
  connecting.resolve(late as never);
  await connecting.promise;
  assert(isClosed);
});

Deno.test("readWithDeadline() reads what comes in time", async () => {
  using pair = await connectPair();
  await pair.client.write(new Uint8Array([1, 2, 3]));
  const buffer = new Uint8Array(10);
  assertEquals(await readWithDeadline(pair.server, buffer, 60_000), 3);
  assertEquals([...buffer.subarray(0, 3)], [1, 2, 3]);
  await pair.client.closeWrite();
  assertEquals(await readWithDeadline(pair.server, buffer, 60_000), null);
});

Deno.test("readWithDeadline() closes the connection when nothing comes", async () => {
  using pair = await connectPair();
  const { server } = pair;
  const buffer = new Uint8Array(10);
  await assertRejects(() => readWithDeadline(server, buffer, 5), TimedOut);
  const again = () => withDeadline(server.read(buffer), 30_000);
  await assertRejects(again, BadResource);
  const reading = pair.client.read(buffer);
  assertEquals(await withDeadline(reading, 30_000), null);
});

Deno.test("writeFullWithDeadline() writes all, or closes the connection", async () => {
  using pair = await connectPair();
  const { client, server } = pair;
  const data = new Uint8Array(1000);
  assertEquals(await writeFullWithDeadline(client, data, 60_000), 1000);
  // More than the buffers of both sides hold, and nobody reads.
  const large = new Uint8Array(64 * 1024 * 1024);
  const reading = client.read(new Uint8Array(1));
  const interrupted = assertRejects(() => reading, Interrupted);
  await assertRejects(
    () => writeFullWithDeadline(client, large, 50),
    TimedOut,
  );
  await withDeadline(interrupted, 30_000);
  const again = () => withDeadline(client.write(data), 30_000);
  await assertRejects(again, BadResource);
  const some = await server.read(data);
  assertEquals(some, 1000); // What was written before has been sent.
});

Deno.test("deadlines of a connection that is closed already say so", async () => {
  using pair = await connectPair();
  pair.client.close();
  const data = new Uint8Array(1);
  await assertRejects(
    () => readWithDeadline(pair.client, data, 60_000),
    BadResource,
  );
  await assertRejects(
    () => writeFullWithDeadline(pair.client, data, 60_000),
    BadResource,
  );
});

// Why Deno 2.9.5 is the least: before it, a write that waits keeps its socket open
// although the connection is closed.
Deno.test("writeFullWithDeadline() closes the socket, although nobody reads", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using _peer = await listener.accept();
  const own = conn.localAddr.port;
  await assertRejects(
    () => writeFullWithDeadline(conn, new Uint8Array(64 << 20), 50),
    Deno.errors.TimedOut,
  );
  await until(() => kernelRow(own, port)?.state !== "ESTABLISHED");
});
