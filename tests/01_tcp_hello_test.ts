import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { client, server } from "../lessons/01_tcp_hello.ts";
import { exchange, reset } from "./peers.ts";
import { isFree, LessonProcess, run, until } from "./testing.ts";

const LESSON = "01_tcp_hello.ts";

/** Starts the lesson's server on a free port. */
async function startServer(...args: string[]) {
  const process = new LessonProcess(LESSON, [
    "server",
    "--host=127.0.0.1",
    "--port=0",
    ...args,
  ]);
  return { process, port: await process.port() };
}

/** Whether the kernel lists a connection to `port` in this state. */
function inState(port: number, state: string): boolean {
  const remote = port.toString(16).toUpperCase().padStart(4, "0");
  return Deno.readTextFileSync("/proc/net/tcp")
    .includes(`0100007F:${remote} ${state} `);
}

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
  assertEquals(
    lane(0, 31),
    twice(
      `socket, connect ${address} write 12 bytes "hello,hello\\n" ` +
        "read 12 bytes close",
    ),
  );
  assertEquals(
    lane(49).replaceAll(/accept 127\.0\.0\.1:\d+/g, "accept"),
    `socket, bind, listen ${address} ` +
      twice('accept read 12 bytes "hello,hello\\n" write 12 bytes close') +
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

Deno.test("01 client prints the reply as it came", async () => {
  const { process, port } = await startServer("--connections=3");
  await using _ = process;
  for (const message of ["hello,hello", "", "你好\t\x1b[31m"]) {
    const args = ["client", `--port=${port}`, `--message=${message}`];
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stdout], [0, `${message}\nclient done!!\n`]);
    assertMatch(
      stderr,
      /^01_tcp_hello\.ts\(\d+\):client socket, connect 127\.0\.0\.1:\d+\n/,
    );
  }
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  assertMatch(
    stderr,
    /^01_tcp_hello\.ts\(\d+\):server accept 127\.0\.0\.1:\d+$/m,
  );
});

Deno.test("01 client --quiet does not trace", async () => {
  const { process, port } = await startServer("--quiet", "--connections=1");
  await using _ = process;
  const args = ["client", "--quiet", `--port=${port}`];
  const { stdout, stderr } = await run(LESSON, args);
  assertEquals([stdout, stderr], ["hello,hello\nclient done!!\n", ""]);
  assertEquals((await process.result()).stderr, "");
});

Deno.test("01 client says who refused, and that it is done", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const { code, stdout, stderr } = await run(LESSON, [
    "client",
    "--quiet",
    `--port=${port}`,
  ]);
  assertEquals([code, stdout], [1, "client done!!\n"]);
  assertEquals(
    stderr,
    `01_tcp_hello: connect 127.0.0.1:${port}: ` +
      "ECONNREFUSED (Connection refused)\n",
  );
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

Deno.test("01 demo runs where LD_LIBRARY_PATH is set", async () => {
  const env = { LD_LIBRARY_PATH: "/nowhere", LD_PRELOAD: "libc.so.6" };
  const { code, stderr } = await run(LESSON, ["--quiet"], { env });
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("01 server survives clients that leave, reset, or say nothing", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  // This one occupies the server, so the resets happen before their turn.
  const silent = await Deno.connect({ hostname: "127.0.0.1", port });
  await process.stderrHas("server accept");
  await reset(port);
  await reset(port, new TextEncoder().encode("half a"));
  silent.close();
  assertEquals(await exchange(port, "still there?\n"), "still there?\n");

  // And these while it reads.
  await reset(port);
  await reset(port, new Uint8Array(5000));
  (await Deno.connect({ hostname: "127.0.0.1", port })).close();
  assertEquals(await exchange(port, "and now?\n"), "and now?\n");
  await process.stderrHas("answer read: end of stream");

  process.kill("SIGINT");
  const { code, stderr } = await process.result();
  assertEquals(code, 0);
  assertMatch(stderr, /client is gone: ENOTCONN \(.+\)$/m);
});

Deno.test("01 server answers one read of at most 1024 bytes", async () => {
  const { process, port } = await startServer("--connections=1");
  await using _ = process;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new Uint8Array(3000).fill(0x61));
  let received = 0;
  const buffer = new Uint8Array(4096);
  for (let n; (n = await conn.read(buffer).catch(() => null)) !== null;) {
    received += n;
  }
  assertEquals(received, 1024);
});

Deno.test("01 server --backlog is the one of listen(2)", async () => {
  for (const backlog of [1, 3]) {
    const { process, port } = await startServer(`--backlog=${backlog}`);
    await using _ = process;
    const conns = [await Deno.connect({ hostname: "127.0.0.1", port })];
    await process.stderrHas("server accept");
    // Nobody accepts now. Linux queues one more than it was told.
    for (let i = 0; i <= backlog; i++) {
      conns.push(await Deno.connect({ hostname: "127.0.0.1", port }));
    }
    const stop = new AbortController();
    const waiting = Deno.connect({
      hostname: "127.0.0.1",
      port,
      signal: stop.signal,
    }).then((conn) => conn.close(), () => "aborted");
    await until(() => inState(port, "02")); // SYN_SENT
    stop.abort();
    assertEquals(await waiting, "aborted");
    for (const conn of conns) conn.close();
  }
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`01 server closes on ${signal}, and the port is free at once`, async () => {
    const { process, port } = await startServer();
    await using _ = process;
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await process.stderrHas("server accept");
    process.kill(signal);
    process.kill(signal); // Under `deno task` one Ctrl+C arrives twice.
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
    assertEquals(await conn.read(new Uint8Array(1)), null);
    Deno.listen({ hostname: "127.0.0.1", port }).close();
  });

  Deno.test(`01 client ends on ${signal}`, async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    await using process = new LessonProcess(LESSON, [
      "client",
      `--port=${listener.addr.port}`,
    ]);
    using _conn = await listener.accept();
    await process.stderrHas("client write");
    process.kill(signal);
    const { code, stdout, stderr } = await process.result();
    assertEquals(code, signal === "SIGINT" ? 130 : 143);
    assertEquals(stdout, "client done!!\n");
    assert(!stderr.includes("01_tcp_hello:"), stderr);
  });
}

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
    { wrapper: (command) => ["sh", "-c", 'read _; "$@"', "sh", ...command] },
  );
  await process.closeStdout();
  await process.type("now\n");
  const { code, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("01 reports a standard output that cannot be written", async () => {
  const { process, port } = await startServer("--connections=1", "--quiet");
  await using _ = process;
  for (
    const args of [["demo"], ["server", "--port=0"], [
      "client",
      `--port=${port}`,
    ]]
  ) {
    const { code, stderr } = await run(LESSON, [...args, "--quiet"], {
      wrapper: (command) => ["sh", "-c", '"$@" > /dev/full', "sh", ...command],
    });
    assertEquals([code, stderr], [
      1,
      "01_tcp_hello: write stdout: ENOSPC (No space left on device)\n",
    ]);
  }
});

Deno.test("01 client says what went wrong although nobody reads its output", async () => {
  await using process = new LessonProcess(
    LESSON,
    ["client", "--port=1", "--quiet"],
    { wrapper: (command) => ["sh", "-c", 'read _; "$@"', "sh", ...command] },
  );
  await process.closeStdout();
  await process.type("now\n");
  const { code, stderr } = await process.result();
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^01_tcp_hello: connect 127\.0\.0\.1:1: ECONNREFUSED .*\n$/,
  );
});

Deno.test("01 client ends a reply without a newline with one", async () => {
  const { process, port } = await startServer("--connections=1");
  await using _ = process;
  const message = "m".repeat(1024);
  const args = ["client", `--port=${port}`, `--message=${message}`];
  assertEquals((await run(LESSON, args)).stdout, `${message}\nclient done!!\n`);
});

Deno.test("01 goes on when nobody reads its trace", async () => {
  const { code, stdout } = await run(LESSON, ["client", "--port=1"], {
    wrapper: (command) => ["sh", "-c", '"$@" 2> /dev/full', "sh", ...command],
  });
  assertEquals([code, stdout], [1, "client done!!\n"]);
});

Deno.test("01 client ends on SIGINT while its connect waits", async () => {
  const { process, port } = await startServer("--backlog=0");
  await using _ = process;
  const conns = [await Deno.connect({ hostname: "127.0.0.1", port })];
  await process.stderrHas("server accept");
  conns.push(await Deno.connect({ hostname: "127.0.0.1", port })); // The queue.
  await using client = new LessonProcess(LESSON, ["client", `--port=${port}`]);
  await until(() => inState(port, "02")); // SYN_SENT
  client.kill("SIGINT");
  const { code, stdout } = await client.result();
  assertEquals([code, stdout], [130, "client done!!\n"]);
  for (const conn of conns) conn.close();
});

Deno.test("01 server ends on a signal that comes together with a client", async () => {
  for (let i = 0; i < 5; i++) {
    const { process, port } = await startServer();
    await using _ = process;
    process.kill("SIGSTOP");
    using _conn = await Deno.connect({ hostname: "127.0.0.1", port });
    process.kill("SIGINT");
    process.kill("SIGCONT");
    assertEquals((await process.result()).code, 0);
  }
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

Deno.test("01 server() ends when accept() itself fails", async () => {
  const listen = () => ({
    addr: { hostname: "127.0.0.1", port: 1 },
    accept: () => Promise.reject(new RangeError("broken")),
    [Symbol.dispose]() {},
  });
  await withFakes({ listen }, async () => {
    const error = await assertRejects(() => server(), Error, "accept");
    assert(error.cause instanceof RangeError);
  });
});

Deno.test("01 server() does not start when the signal is aborted", async () => {
  const signal = AbortSignal.abort(new RangeError("enough"));
  await assertRejects(() => server({ port: 0, signal }), RangeError, "enough");
});

Deno.test("01 client() sends all of its message, says so first, and closes", async () => {
  const steps: string[] = [];
  const written: number[] = [];
  const conn = {
    read(p: Uint8Array) {
      steps.push("read");
      p.set(written);
      return Promise.resolve(written.length);
    },
    write(p: Uint8Array) {
      steps.push("write");
      written.push(...p.subarray(0, 4)); // A short write.
      return Promise.resolve(Math.min(4, p.length));
    },
    [Symbol.dispose]: () => steps.push("close"),
  };
  const connect = () => {
    steps.push("connect");
    return Promise.resolve(conn);
  };
  let printed = "";
  const output = {
    write(p: Uint8Array) {
      printed += new TextDecoder().decode(p);
      return Promise.resolve(p.length);
    },
  };
  await withFakes({ connect }, () =>
    client({
      message: "hello",
      output,
      trace: (what, crossing) =>
        steps.push(`${what.split(/,? /)[0]}${crossing ? " ->" : ""}`),
    }));
  assertEquals(printed, "hello\nclient done!!\n");
  assertEquals(steps, [
    "socket ->",
    "connect",
    "write ->",
    "write",
    "write",
    "read",
    "read",
    "close ->",
    "close",
  ]);
});

Deno.test("01 client() rejects with the signal's reason, and has closed", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const stop = new AbortController();
  const output = { write: (p: Uint8Array) => Promise.resolve(p.length) };
  const talking = assertRejects(
    () => client({ port: listener.addr.port, output, signal: stop.signal }),
    RangeError,
    "enough",
  );
  using conn = await listener.accept();
  await conn.read(new Uint8Array(100));
  stop.abort(new RangeError("enough"));
  await talking;
  assertEquals(await conn.read(new Uint8Array(100)), null);
});

Deno.test("01 server() and client() can be called from other code", async () => {
  const stop = new AbortController();
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const closed = server({
    hostname: "127.0.0.1",
    port: 0,
    signal: stop.signal,
    onListen: ready.resolve,
  });
  const { port } = await ready.promise;
  const chunks: string[] = [];
  const output = {
    write(p: Uint8Array) {
      chunks.push(new TextDecoder().decode(p));
      return Promise.resolve(p.length);
    },
  };
  await client({ port, message: "hi", output });
  assertEquals(chunks.join(""), "hi\nclient done!!\n");
  stop.abort();
  await closed;
  assert(await isFree(port));
});
