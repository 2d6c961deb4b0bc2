import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { client, server } from "../../lessons/01_tcp_hello.ts";
import { exchange, reset } from "../peers.ts";
import {
  isFree,
  LessonProcess,
  portInHex,
  run,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "01_tcp_hello.ts";
const REFUSED =
  /^01_tcp_hello: connect 127\.0\.0\.1:\d+: ECONNREFUSED \(Connection refused\)\n$/;

/** Starts the lesson's server on a free port. */
const startServer = (...args: string[]) => startServerOf(LESSON, args);

const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });

/** Whether the kernel lists a connection to `port` in this state. */
function inState(port: number, state: string): boolean {
  return Deno.readTextFileSync("/proc/net/tcp")
    .includes(`0100007F:${portInHex(port)} ${state} `);
}

/** Runs a command of the lesson's by `sh`, which sees it as `"$@"`. */
const by = (script: string) => (command: string[]) => [
  "sh",
  "-c",
  script,
  "sh",
  ...command,
];

Deno.test("01 demo: a server, two clients, and what they did", async () => {
  const { code, stdout, stderr } = await run(LESSON, [], {
    env: { LD_LIBRARY_PATH: "/nowhere", LD_PRELOAD: "libc.so.6" },
  });
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

Deno.test("01 demo --quiet leaves the diagram out", async () => {
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
  // One read of the server's is at most 1024 bytes: the newline is not in it,
  // and the client adds one.
  for (const message of ["", "你好\t\x1b[31m", "m".repeat(1024)]) {
    const args = ["client", `--port=${port}`, `--message=${message}`];
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stdout], [0, `${message}\nclient done!!\n`]);
    assertMatch(
      stderr,
      /^01_tcp_hello\.ts\(\d+\):client socket, connect 127\.0\.0\.1:\d+\n/,
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
  assertMatch(
    stderr,
    /^01_tcp_hello\.ts\(\d+\):server accept 127\.0\.0\.1:\d+$/m,
  );
  assertEquals(stderr.match(/server read 1024 bytes/g)?.length, 1);
});

Deno.test("01 server's trace and output are in order in one log", async () => {
  const wrapper = (command: string[]) =>
    ["sh", "-c", 'exec "$@" 2>&1', "sh"].concat(command);
  const args = ["server", "--host=127.0.0.1", "--port=0", "--connections=1"];
  await using process = new LessonProcess(LESSON, args, { wrapper });
  await exchange(await process.port(), "hi");
  const lines = (await process.result()).stdout.trimEnd().split("\n");
  assertEquals(
    lines.map((it) => it.replace(/^\S+\):server (\S+)( .*)?$/, "trace: $1")),
    [
      "trace: socket,",
      lines[1],
      ...["accept", "read", "write", "close", "close"].map((it) =>
        `trace: ${it}`
      ),
      "server closed",
    ],
  );
  assertMatch(lines[1], /^listening on /);
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
  assertEquals(stderr, "01_tcp_hello: read failed!: End of stream\n");
});

Deno.test("01 client says who refused, although nobody reads its output or its trace", async () => {
  const args = ["client", "--port=1"];
  const refused = await run(LESSON, [...args, "--quiet"]);
  assertEquals([refused.code, refused.stdout], [1, "client done!!\n"]);
  assertMatch(refused.stderr, REFUSED);

  const fullTrace = await run(LESSON, args, {
    wrapper: by('"$@" 2> /dev/full'),
  });
  assertEquals([fullTrace.code, fullTrace.stdout], [1, "client done!!\n"]);

  await using process = new LessonProcess(LESSON, [...args, "--quiet"], {
    wrapper: by('read _; "$@"'),
  });
  await process.closeStdout();
  await process.type("now\n");
  const { code, stderr } = await process.result();
  assertEquals(code, 1);
  assertMatch(stderr, REFUSED);
});

Deno.test("01 client reports a host that cannot be resolved", async () => {
  const { code, stdout, stderr } = await run(LESSON, [
    "client",
    "--quiet",
    "--host=no.such.host.invalid",
  ]);
  assertEquals([code, stdout], [1, "client done!!\n"]);
  assertMatch(
    stderr,
    /^01_tcp_hello: connect no\.such\.host\.invalid:9527: failed to lookup .+\n$/,
  );
});

Deno.test("01 server reports a port in use", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const address = `127.0.0.1:${listener.addr.port}`;
  for (const mode of ["server", "demo"]) {
    const args = [mode, "--host=127.0.0.1", `--port=${listener.addr.port}`];
    const { code, stdout, stderr } = await run(LESSON, [...args, "--quiet"]);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(
      stderr,
      `01_tcp_hello: listen ${address}: EADDRINUSE (Address already in use)\n`,
    );
  }
});

Deno.test("01 names the permission that is missing", async () => {
  const cases: [string, string[], string, string][] = [
    ["server", [], "--allow-net", ""],
    ["client", [], "--allow-net", "client done!!\n"],
    ["demo", ["--allow-net"], "--allow-run", ""],
  ];
  for (const [mode, flags, missing, output] of cases) {
    const args = [mode, "--quiet"];
    const { code, stdout, stderr } = await run(LESSON, args, { flags });
    assertEquals([code, stdout], [1, output]);
    assertMatch(stderr, /^01_tcp_hello: .*\n$/);
    assert(stderr.includes(missing), stderr);
  }
});

Deno.test("01 demo without deno on PATH says that it cannot fork", async () => {
  const env = { PATH: "/nowhere" };
  const { code, stderr } = await run(LESSON, ["--quiet"], { env });
  assertEquals(code, 1);
  // Before it, Deno itself says that --allow-run=deno found no such program.
  const lines = stderr.split("\n").filter((line) => !line.includes("Info"));
  assertMatch(
    lines.join("\n"),
    /^01_tcp_hello: fork failed!: ENOENT \(.+\)\n$/,
  );
});

Deno.test("01 server survives clients that leave, reset, or say nothing", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  // This one occupies the server, so the resets happen before their turn.
  const silent = await connect(port);
  await process.stderrHas("server accept");
  await reset(port);
  await reset(port, new TextEncoder().encode("half a"));
  silent.close();
  assertEquals(await exchange(port, "still there?\n"), "still there?\n");

  // And these while it reads.
  await reset(port);
  await reset(port, new Uint8Array(5000));
  (await connect(port)).close();
  assertEquals(await exchange(port, "and now?\n"), "and now?\n");
  await process.stderrHas("server read: end of stream");

  // A client that comes together with the signal.
  process.kill("SIGSTOP");
  using _conn = await connect(port);
  process.kill("SIGINT");
  process.kill("SIGCONT");
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  assertMatch(stderr, /:server accept: ENOTCONN \(.+\)$/m);
  assert(!stderr.includes("01_tcp_hello:"), stderr);
});

Deno.test("01 server --backlog is the one of listen(2)", async () => {
  for (const backlog of [1, 3]) {
    const args = backlog === 3 ? [] : [`--backlog=${backlog}`];
    const { process, port } = await startServer(...args);
    await using _ = process;
    const conns = [await connect(port)];
    await process.stderrHas("server accept");
    // Nobody accepts now. Linux queues one more than it was told.
    for (let i = 0; i <= backlog; i++) conns.push(await connect(port));
    await using late = new LessonProcess(LESSON, ["client", `--port=${port}`]);
    await until(() => inState(port, "02")); // SYN_SENT
    late.kill("SIGINT");
    const { code, stdout } = await late.result();
    assertEquals([code, stdout], [130, "client done!!\n"]);
    for (const conn of conns) conn.close();
  }
});

Deno.test("01 demo ends quietly when nobody reads its output", async () => {
  await using process = new LessonProcess(LESSON, ["demo"]);
  const port = await process.port();
  await process.closeStdout();
  const { code, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assert(await isFree(port));
});

Deno.test("01 server ends quietly when nobody ever read its output", async () => {
  await using process = new LessonProcess(
    LESSON,
    ["server", "--port=0", "--quiet"],
    { wrapper: by('read _; "$@"') },
  );
  await process.closeStdout();
  await process.type("now\n");
  const { code, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("01 reports a standard output that cannot be written", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const answering = (async () => {
    using conn = await listener.accept();
    await conn.write(new Uint8Array([10]));
  })();
  for (
    const args of [["demo"], ["server", "--port=0"], [
      "client",
      `--port=${listener.addr.port}`,
    ]]
  ) {
    const { code, stderr } = await run(LESSON, [...args, "--quiet"], {
      wrapper: by('"$@" > /dev/full'),
    });
    assertEquals([code, stderr], [
      1,
      "01_tcp_hello: write stdout: ENOSPC (No space left on device)\n",
    ]);
  }
  await answering;
});

/** Lets `f` run while `Deno.listen` and `Deno.connect` are replaced. */
async function withFakes(
  fakes: { listen?: unknown; connect?: unknown },
  f: () => Promise<void>,
): Promise<void> {
  const { listen, connect } = Deno;
  Object.assign(Deno, fakes);
  try {
    await f();
  } finally {
    Object.assign(Deno, { listen, connect });
  }
}

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
  const listen = () => ({
    addr: { hostname: "127.0.0.1", port: 1 },
    accept: () => Promise.reject(new RangeError("broken")),
    [Symbol.dispose]: () => closed++,
  });
  await withFakes({ listen }, async () => {
    const running = () => server({ connections: 1, onListen() {} });
    await assertRejects(running, RangeError, "broken");
  });
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
  const { output, text } = collect();
  await withFakes(
    { connect: () => Promise.resolve(conn) },
    () => client({ message: "hello", output }),
  );
  assertEquals(await message(), "hello\n");
  assertEquals(await text(), "reply\nclient done!!\n");
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
  assertEquals(await text(), "hi\nclient done!!\n");
  await closed;
  assert(await isFree(port));
});
