import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { server } from "../../lessons/16_epoll.ts";
import { endOf, parseTcpTable } from "../../lib/lab/tcp_table.ts";
import { exchange, reset, writeAll } from "../peers.ts";
import {
  isFree,
  LessonProcess,
  run,
  type StartOptions,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "16_epoll.ts";
const LOOPBACK = "127.0.0.1";

/** Starts the lesson's server on a free port. */
const startServer = (args?: string[], options?: StartOptions) =>
  startServerOf(LESSON, args, options);

const connect = (port: number) => Deno.connect({ hostname: LOOPBACK, port });

/** Waits until it is asleep each time one looks: until it does not spin. */
async function assertRests({ pid }: LessonProcess) {
  const isAsleep = () =>
    [...Deno.readDirSync(`/proc/${pid}/task`)].every(({ name }) => {
      try {
        const stat = Deno.readTextFileSync(`/proc/${pid}/task/${name}/stat`);
        return /\) S /.test(stat);
      } catch {
        return true; // A thread that has ended just now.
      }
    });
  let looks = 0;
  await until(() => (looks = isAsleep() ? looks + 1 : 0) === 15);
}

/** What a process has in RAM, in kB. */
function memory({ pid }: LessonProcess): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(status.match(/^VmRSS:\s+(\d+) kB$/m)![1]);
}

const descriptors = ({ pid }: LessonProcess) =>
  [...Deno.readDirSync(`/proc/${pid}/fd`)].length;

/** Bytes that do not repeat. */
function someBytes(size: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(size / 4));
  for (let i = 0, state = 1; i < words.length; i++) {
    words[i] = state = Math.imul(state, 1664525) + 1013904223;
  }
  return new Uint8Array(words.buffer, 0, size);
}

/** Reads to the end, and compares each byte with those that were sent. */
async function assertEcho(conn: Deno.Conn, data: Uint8Array) {
  const buffer = new Uint8Array(256 * 1024);
  let size = 0;
  for (let count; (count = await conn.read(buffer)) !== null; size += count) {
    const expected = data.subarray(size, size + count);
    const isSame = expected.every((byte, i) => byte === buffer[i]);
    assert(isSame && expected.length === count, `from byte ${size} on`);
  }
  assertEquals(size, data.length);
}

/** A client that writes until nothing more is taken, and reads nothing. */
async function stopReading(port: number) {
  const conn = await connect(port);
  const data = new Uint8Array(256 * 1024);
  let taken = 0;
  let isOver = false;
  let all = Infinity;
  const writing = (async () => {
    while (!isOver) taken += await conn.write(data);
    all = taken + 1;
    await conn.write(data.subarray(0, 1));
  })();
  writing.catch(() => {}); // Where the test fails, the server is killed.
  // Until bytes wait at both ends in both directions, and do not move.
  let before = "";
  await until(() => {
    const rows = parseTcpTable(Deno.readTextFileSync("/proc/net/tcp"));
    const { localAddr, remoteAddr } = conn;
    const server = { localAddr: remoteAddr, remoteAddr: localAddr };
    const queues = [conn, server].map((it) => endOf(rows, it)!)
      .flatMap(({ sendQueue, receiveQueue }) => [sendQueue, receiveQueue]);
    const isStill = String(queues) === before;
    before = String(queues);
    return isStill && queues.every((it) => it > 0);
  });
  return {
    conn,
    /** Reads what it has written so far, and says whether it was all. */
    async readAll() {
      isOver = true;
      let size = 0;
      while (size < all) size += await conn.read(data) ?? Infinity;
      await writing;
      return size === all;
    },
  };
}

Deno.test("16 server echoes 30 MB, every byte", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using conn = await connect(port);
  const data = someBytes(30_000_000);
  const sending = writeAll(conn, data).then(() => conn.closeWrite());
  await assertEcho(conn, data);
  await sending;
});

Deno.test("16 server sends what is left after a client has ended its side", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using conn = await connect(port);
  // As much as the kernel takes while nobody reads: that is more than the
  // server's own buffers hold.
  const data = someBytes(3_000_000);
  await writeAll(conn, data);
  await conn.closeWrite();
  assertEquals(await exchange(port, "another client"), "another client");
  await assertEcho(conn, data);
});

Deno.test("16 server: who does not read costs little, and harms nobody", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  assertEquals(await exchange(port, "warm"), "warm");
  const before = memory(process);
  const deaf = await Promise.all(
    Array.from({ length: 10 }, () => stopReading(port)),
  );
  assertEquals(await exchange(port, "one who reads"), "one who reads");
  const kB = memory(process) - before;
  assert(kB < 10_000, `${kB} kB more`); // They have sent some MB, each of them.
  await assertRests(process);
  for (const { readAll } of deaf) assert(await readAll());
  await assertRests(process);
  for (const { conn } of deaf) conn.close();
});

Deno.test("16 server: three hundred resets harm nobody", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  assertEquals(await exchange(port, "before all"), "before all");
  const before = descriptors(process);
  for (let i = 0; i < 100; i++) {
    await Promise.all([
      reset(port),
      reset(port, new Uint8Array(50)),
      reset(port, new Uint8Array(100_000)),
    ]);
  }
  assertEquals(await exchange(port, "after all"), "after all");
  await until(() => descriptors(process) <= before);
});

Deno.test("16 server waits where there are no descriptors, and comes back", async () => {
  const { process, port } = await startServer([], {
    wrapper: (command) => [
      ...["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"],
      ...command,
    ],
  });
  await using _ = process;
  const clients = await Promise.all(
    Array.from({ length: 100 }, () => connect(port)),
  );
  let served = 0;
  const echoes = clients.map(async (conn) => {
    await conn.write(new Uint8Array(1));
    if (await conn.read(new Uint8Array(1)) === 1) served++;
  });
  await until(() => served > 0 && descriptors(process) >= 64);
  await assertRests(process);
  assert(served < 64, `${served} served`);
  // Each who leaves makes room for one who waits.
  for (const [i, conn] of clients.entries()) {
    await echoes[i];
    conn.close();
  }
  assertEquals(served, 100);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`16 server ends by ${signal}, idle and busy`, async () => {
    const { process, port } = await startServer();
    await using _ = process;
    using conn = await connect(port);
    const traffic = (async () => {
      for (;;) await conn.write(new Uint8Array(1 << 16));
    })().catch(() => {});
    if (signal === "SIGINT") { // Busy: it takes the echoes as well.
      const buffer = new Uint8Array(1 << 16);
      (async () => {
        while (await conn.read(buffer) !== null);
      })().catch(() => {});
    }
    assertEquals(await exchange(port, "served"), "served");
    using idle = await connect(port);
    await idle.write(new Uint8Array(1));
    assertEquals(await idle.read(new Uint8Array(1)), 1);
    process.kill(signal);
    const { code, stdout, stderr } = await process.result();
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
    conn.close();
    await traffic;
    assert(await isFree(port));
    // The server was the first to close this one, which leaves TIME-WAIT behind.
    assertEquals(await idle.read(new Uint8Array(1)), null);
    idle.close();
    const again = ["server", "--host=127.0.0.1", `--port=${port}`];
    await using next = new LessonProcess(LESSON, again);
    assertEquals(await next.port(), port);
  });
}

Deno.test("16 server: idle clients take no memory and no time", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  const clients: Deno.TcpConn[] = [];
  // The first ones warm it up. Then some hundreds take no more than 1 kB each.
  await until(async () => {
    assert(clients.length < 3000);
    const before = memory(process);
    await Promise.all(Array.from({ length: 300 }, async () => {
      const conn = await connect(port);
      clients.push(conn);
      await conn.write(new Uint8Array(1));
      assertEquals(await conn.read(new Uint8Array(1)), 1);
    }));
    return memory(process) - before < 300;
  });
  await assertRests(process);
  for (const conn of clients) conn.close();
});

Deno.test("16 server --udp sends each datagram back to its sender", async () => {
  const { process, port } = await startServer(["--udp"]);
  await using _ = process;
  const bind = (hostname: string, port = 0) =>
    Deno.listenDatagram({ hostname, port, transport: "udp" });
  const peer = { hostname: LOOPBACK, port, transport: "udp" as const };
  const sockets = Array.from({ length: 8 }, () => bind(LOOPBACK));
  // With the server's own port, as a forged sender would have, it gets nothing.
  const forged = bind("127.0.0.2", port);
  let isAnswered = false;
  const answer = forged.receive().then(() => isAnswered = true).catch(() => {});
  await forged.send(new Uint8Array(1), peer);
  // What is lost never comes: then the test fails, and does not wait.
  const closeAll = () => {
    for (const socket of [...sockets, forged]) socket.close();
  };
  const limit = setTimeout(closeAll, 20_000);
  try {
    for (const size of [0, 1, 1000, 65507]) {
      const data = someBytes(size);
      await sockets[0].send(data, peer);
      const [echo] = await sockets[0].receive(new Uint8Array(65536));
      assertEquals(echo.length, size);
      assert(echo.every((byte, i) => byte === data[i]));
    }
    // Many at once, each with a length of its own, and each sender its own.
    const texts = (number: number) =>
      Array.from({ length: 8 }, (_, i) => `${number} `.repeat(i));
    await Promise.all(sockets.map(async (socket, number) => {
      for (const text of texts(number)) {
        await socket.send(new TextEncoder().encode(text), peer);
      }
    }));
    for (const [number, socket] of sockets.entries()) {
      for (const text of texts(number)) {
        const [data] = await socket.receive();
        assertEquals(new TextDecoder().decode(data), text);
      }
    }
    assert(!isAnswered);
  } finally {
    clearTimeout(limit);
    try {
      closeAll();
    } catch {
      // The limit has.
    }
    await answer;
  }
});

Deno.test("16 server says what failed, in one line", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const [busy, name, denied] = await Promise.all([
    run(LESSON, ["server", "--host=127.0.0.1", `--port=${port}`]),
    run(LESSON, ["server", "--host=localhost"]),
    run(LESSON, ["server"], { flags: [] }),
  ]);
  assertEquals([busy.code, busy.stdout], [1, ""]);
  const inUse = "EADDRINUSE (Address already in use)";
  const who = `ss -tulnp 'sport = :${port}' says who has it`;
  assertEquals(
    busy.stderr,
    `16_epoll: bind 127.0.0.1:${port}: ${inUse}: ${who}\n`,
  );
  assertEquals([name.code, name.stdout], [1, ""]);
  assertEquals(name.stderr, "16_epoll: Not an IPv4 address: localhost\n");
  assertEquals(denied.code, 1);
  assertMatch(denied.stderr, /^16_epoll: .*--allow-ffi.*\n$/);

  // Whoever calls it is left without an open library. (Nor descriptors.)
  const again = () => server({ hostname: LOOPBACK, port });
  const error = await assertRejects(again, Error, "bind");
  assertEquals((error as { code?: string }).code, "EADDRINUSE");
});

Deno.test("16 demo puts the same load on both servers", async () => {
  const args = ["--duration=100", "--clients=20"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  const rows = stdout.trim().split("\n").slice(2)
    .map((row) => row.trim().split(/ {2,}/));
  assertEquals(rows.map(([it]) => it), ["16_epoll", "17_production"]);
  for (const [, ...numbers] of rows) {
    assertEquals(numbers.length, 3);
    for (const number of numbers) {
      assert(Number(number.replaceAll(",", "")) > 0, stdout);
    }
  }
});

Deno.test("16 demo says which of its servers could not start", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const { code, stderr } = await run(LESSON, [`--port=${port}`]);
  const inUse = "EADDRINUSE (Address already in use)";
  const who = `ss -tulnp 'sport = :${port}' says who has it`;
  assertEquals([code, stderr], [
    1,
    `16_epoll: bind 127.0.0.1:${port}: ${inUse}: ${who}\n`,
  ]);
});
