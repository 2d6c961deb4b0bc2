import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { client, server } from "../../lessons/01_tcp_hello.ts";
import { exchange, reset } from "../peers.ts";
import {
  isFree,
  kernelRows,
  LessonProcess,
  replaced,
  returnedCalls,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "01_tcp_hello.ts";
/** Starts the lesson's server on a free port. */
const startServer = (...args: string[]) => startServerOf(LESSON, args);

const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });

Deno.test("01 demo: a server, two clients, and what they did", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [ready, ...lines] = stdout.trimEnd().split("\n");
  const [, address] = ready.match(/^listening on (127\.0\.0\.1:\d+)$/)!;
  assertEquals(lines.slice(0, 5), [
    "hello,hello",
    "client done!!",
    "hello,hello",
    "client done!!",
    "server closed",
  ]);
  // The tutorial's step lists can be read off the two lanes.
  const rows = lines.slice(6);
  const lane = (from: number, to?: number) =>
    rows.map((row) => row.slice(from, to).trim()).filter((it) => it).join(" ");
  const twice = (steps: string) => `${steps} ${steps}`;
  const text = '12 bytes "hello,hello\\n"';
  assertEquals(
    lane(0, 31),
    twice(`socket, connect ${address} write ${text} read ${text} close`),
  );
  assertEquals(
    lane(49).replaceAll(/accept 127\.0\.0\.1:\d+/g, "accept"),
    `socket, bind, listen ${address} ` +
      twice(`accept read ${text} write ${text} close`) +
      " close listener",
  );
});

Deno.test("01 demo runs as many clients as it is told, with any message", async () => {
  const { code, stdout, stderr } = await run(LESSON, [
    "--quiet",
    "--message=hi",
    "--connections=1",
  ]);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(
    stdout,
    /^listening on 127\.0\.0\.1:\d+\nhi\nclient done!!\nserver closed\n$/,
  );
});

Deno.test("01 client prints the reply as it came, and server counts its clients", async () => {
  const { process, port } = await startServer("--connections=4");
  await using _ = process;
  for (const message of [" ", "你好\t\x1b[31m", "m".repeat(1000)]) {
    const args = ["client", `--port=${port}`, `--message=${message}`];
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stdout], [0, `${message}\nclient done!!\n`]);
    assertMatch(
      returnedCalls(stderr),
      /^01_tcp_hello\.ts\(\d+\):client #1 socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+\n/,
    );
  }
  const quiet = await run(LESSON, ["client", "--quiet", `--port=${port}`]);
  assertEquals(
    [quiet.stdout, quiet.stderr],
    ["hello,hello\nclient done!!\n", ""],
  );
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  const trace = returnedCalls(stderr);
  // Its own socket is the first one.
  for (const number of [2, 3, 4, 5]) {
    assertMatch(
      trace,
      RegExp(
        `^01_tcp_hello\\.ts\\(\\d+\\):server #${number} accept ` +
          `127\\.0\\.0\\.1:\\d+ at 127\\.0\\.0\\.1:${port}$`,
        "m",
      ),
    );
  }
  assertEquals(trace.match(/server #4 read 1001 bytes/g)?.length, 1);
  assertEquals(trace.match(/server #\d+ read 1001 bytes/g)?.length, 1);
});

Deno.test("01 client reports a server that closes without a reply", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const closing = (async () => {
    using conn = await listener.accept();
    await conn.read(new Uint8Array(1024));
  })();
  const args = ["client", "--quiet", `--port=${listener.addr.port}`];
  const { code, stdout, stderr } = await run(LESSON, args);
  await closing;
  assertEquals([code, stdout], [1, "client done!!\n"]);
  assertEquals(stderr, "01_tcp_hello: The server has closed the connection\n");
});

Deno.test("01 server survives clients that leave, reset, or say nothing", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  // This one occupies the server, so the resets happen before their turn.
  const silent = await connect(port);
  await process.traceHas("server #2 accept");
  await reset(port);
  await reset(port, new TextEncoder().encode("half a"));
  silent.close();
  assertEquals(await exchange(port, "still there?\n"), "still there?\n");

  // And these while it reads.
  await reset(port);
  await reset(port, new Uint8Array(5000));
  (await connect(port)).close();
  assertEquals(await exchange(port, "and now?\n"), "and now?\n");
  await process.traceHas(/server #\d+ read: end of stream\n/);

  // A client that comes together with the signal.
  process.kill("SIGSTOP");
  using _conn = await connect(port);
  process.kill("SIGINT");
  process.kill("SIGCONT");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  assertMatch(returnedCalls(stderr), /:server #1 accept: ENOTCONN \(.+\)$/m);
  assert(!stderr.includes("01_tcp_hello:"), stderr);
});

Deno.test("01 server --backlog is the one of listen(2)", async () => {
  for (const backlog of [1, 3]) {
    const args = backlog === 3 ? [] : [`--backlog=${backlog}`];
    const { process, port } = await startServer(...args);
    await using _ = process;
    const conns = [await connect(port)];
    await process.traceHas("server #2 accept");
    // Nobody accepts now. Linux queues one more than it was told.
    for (let i = 0; i <= backlog; i++) conns.push(await connect(port));
    await using late = new LessonProcess(LESSON, ["client", `--port=${port}`]);
    await until(() =>
      kernelRows().some(({ other, state }) =>
        other === port && state === "SYN-SENT"
      )
    );
    late.kill("SIGINT");
    const { code, stdout } = await late.result();
    assertEquals([code, stdout], [130, "client done!!\n"]);
    for (const conn of conns) conn.close();
  }
});

/** An output that keeps what is written to it, a few bytes at a time. */
function collect() {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const output = {
    write(p: Uint8Array) {
      chunks.push(p.slice(0, 4)); // A short write.
      return Promise.resolve(Math.min(4, p.length));
    },
  };
  return { output, text: () => new Blob(chunks).text() };
}

Deno.test("01 server() ends when accept() itself fails", async () => {
  let closed = 0;
  using _ = replaced(Deno, "listen", () => ({
    addr: { hostname: "127.0.0.1", port: 1 },
    accept: () => Promise.reject(new RangeError("broken")),
    [Symbol.dispose]: () => closed++,
  }));
  const running = () => server({ connections: 1, onListen() {} });
  await assertRejects(running, RangeError, "broken");
  assertEquals(closed, 1);
});

Deno.test("01 client() sends all of its message before it reads, and closes", async () => {
  const steps: string[] = [];
  const { output: written, text: message } = collect();
  const conn = {
    read(p: Uint8Array) {
      steps.push("read");
      return Promise.resolve(new TextEncoder().encodeInto("reply", p).written);
    },
    write(p: Uint8Array) {
      steps.push("write");
      return written.write(p);
    },
    [Symbol.dispose]: () => steps.push("close"),
  };
  using _ = replaced(Deno, "connect", () => Promise.resolve(conn));
  const { output, text } = collect();
  await client({ message: "hello", output });
  assertEquals(await message(), "hello\n");
  assertEquals(await text(), "reply\n"); // A terminal wants a whole line.
  assertEquals(steps, ["write", "write", "read", "close"]);
});

Deno.test("01 server() and client() can be called from other code", async () => {
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const closed = server({
    hostname: "127.0.0.1",
    port: 0,
    connections: 1,
    onListen: ready.resolve,
  });
  const { port } = await ready.promise;
  const { output, text } = collect();
  await client({ port, message: "hi", output });
  assertEquals(await text(), "hi\n");
  await closed;
  assert(await isFree(port));
});
