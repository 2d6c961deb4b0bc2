import { assert, assertEquals } from "@std/assert";
import { writeFull } from "../../lib/full_io.ts";
import { type SocketCall, textOf } from "../../lib/trace/recorder.ts";
import { watchSocketCalls } from "../../lib/trace/socket_calls.ts";

// There is no way back: all of this process is watched from here on.
const calls: SocketCall[] = [];
watchSocketCalls((call) => calls.push(call));

/** The text of the line that a call is said to stand in. */
const SOURCE = Deno.readTextFileSync(new URL(import.meta.url)).split("\n");

Deno.test("watchSocketCalls() knows line and function of the program, through helpers and awaits", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  class Client {
    async run() {
      using conn = await Deno.connect({ port });
      const [, count] = await Promise.all([
        writeFull(conn, new Uint8Array(8 << 20)), // by writeFull, many times
        conn.read(new Uint8Array(1)),
      ]);
      return count;
    }
  }
  async function serve() {
    using conn = await listener.accept();
    let count = 0;
    const buffer = new Uint8Array(1 << 20);
    while (count < 8 << 20) count += await conn.read(buffer) ?? 0;
    await writeFull(conn, new Uint8Array(1));
  }
  calls.length = 0;
  const [count] = await Promise.all([new Client().run(), serve()]);
  assertEquals(count, 1);

  const writes = calls.filter((it) =>
    it.name === "write" && it.function === "run"
  );
  assert(writes.length >= 2, "one write has taken it all");
  for (const { line } of writes) {
    // The first one at its own line, the others where the program waits.
    assert(
      /by writeFull|Promise\.all/.test(SOURCE[line - 1]),
      SOURCE[line - 1],
    );
  }
  let left = 8 << 20;
  for (const { result } of writes) {
    const [, taken, offered] = result.match(/ (\d+) of (\d+) bytes/)!;
    assertEquals(Number(offered), left);
    left -= Number(taken);
  }
  assertEquals(left, 0);
  for (const call of calls) {
    assertEquals([call.file, call.isOfLib], ["socket_calls_test.ts", false]);
    assert(["run", "serve"].includes(call.function), JSON.stringify(call));
  }
});

Deno.test("watchSocketCalls() has the time of the call, or of the return", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = await Deno.connect({ port: listener.addr.port });
  using server = await listener.accept();
  calls.length = 0;
  const now = () => Number(Temporal.Now.instant().epochNanoseconds) / 1e6;
  const reading = client.read(new Uint8Array(9));
  const before = now();
  const writing = server.write(new Uint8Array(3));
  const called = now();
  await Promise.all([reading, writing]);
  const after = now();
  const at = (verb: string) => calls.find((it) => it.name === verb)!.at;
  assert(before <= at("write") && at("write") <= called);
  assert(called <= at("read") && at("read") <= after);
  assert(Math.abs(after - Date.now()) < 60_000);
});

Deno.test("watchSocketCalls() numbers sockets, and has the addresses of both ends", async () => {
  calls.length = 0;
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using one = await Deno.connect({ hostname: "127.0.0.1", port });
  using two = await listener.accept();
  await one.write(new Uint8Array(1));
  await two.read(new Uint8Array(1));
  const [server, client] = [port, one.localAddr.port]
    .map((it) => `127.0.0.1:${it}`);
  const first = calls[0].socket;
  assertEquals(
    calls.map((it) => [textOf(it), it.socket - first, it.own, it.peer]),
    [
      [`socket, bind, listen ${server}`, 0, server, ""],
      [`socket, connect ${server}`, 1, client, server],
      [`accept ${client}`, 2, server, client],
      ['write 1 of 1 byte "\\x00"', 1, client, server],
      ['read 1 byte "\\x00"', 2, server, client],
    ],
  );
  assertEquals(calls.map((it) => it.isOneOfSeveral).at(-1), true);
});

Deno.test("watchSocketCalls() says what goes to the other side", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  calls.length = 0;
  const conn = await Deno.connect({ port: listener.addr.port });
  const peer = await listener.accept();
  await conn.write(new Uint8Array());
  await conn.write(new Uint8Array(2));
  await peer.read(new Uint8Array(2));
  await conn.closeWrite();
  conn.close();
  peer.close();
  await Deno.connect({ port: 1 }).catch(() => {});
  assertEquals(
    calls.map(({ name, toPeer }) => [name.split(",")[0], toPeer]),
    [
      ["socket", true],
      ["accept", false],
      ["write", false],
      ["write", true],
      ["read", false],
      ["closeWrite", true],
      ["close", true],
      ["close", true],
      ["socket", false],
    ],
  );
});

Deno.test("watchSocketCalls() marks what lib does by itself", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using conn = await Deno.connect({ port: listener.addr.port });
  calls.length = 0;
  // Called by a timer, so that lib alone is on the stack.
  const { promise, resolve } = Promise.withResolvers<void>();
  setTimeout(writeFull, 0, conn, new Uint8Array(1));
  setTimeout(resolve, 0);
  await promise;
  assertEquals(calls.map((it) => [it.file, it.isOfLib]), [
    ["full_io.ts", true],
  ]);
});
