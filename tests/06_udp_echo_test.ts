import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { client, server } from "../lessons/06_udp_echo.ts";
import { hasProgram, LessonProcess, onTerminal, run } from "./testing.ts";

const LESSON = "06_udp_echo.ts";
const encode = (text: string) => new TextEncoder().encode(text);

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

/** Runs the client against `port`, on `input`. */
function runClient(
  port: number,
  input: string | Uint8Array<ArrayBuffer>,
  ...args: string[]
) {
  const all = ["client", "--quiet", `--port=${port}`, ...args];
  return run(LESSON, all, { input });
}

/** A datagram socket of the test's own. */
class Peer implements Disposable {
  #socket: Deno.DatagramConn;
  #buffer = new Uint8Array(65535);

  constructor(hostname = "127.0.0.1") {
    this.#socket = Deno.listenDatagram({ hostname, port: 0, transport: "udp" });
  }

  get port(): number {
    return (this.#socket.addr as Deno.NetAddr).port;
  }

  async send(data: Uint8Array, port: number): Promise<void> {
    const to = { transport: "udp" as const, hostname: "127.0.0.1", port };
    await this.#socket.send(data, to);
  }

  async receive(): Promise<[Uint8Array<ArrayBuffer>, number]> {
    const [data, from] = await this.#socket.receive(this.#buffer);
    return [data.slice() as never, (from as Deno.NetAddr).port];
  }

  [Symbol.dispose]() {
    this.#socket.close();
  }
}

Deno.test("06 demo: datagrams keep their boundaries", async () => {
  for (const args of [[], ["demo", "--script"]]) {
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stderr], [0, ""]);
    const [ready, ...lines] = stdout.trimEnd().split("\n");
    assertMatch(ready, /^listening on 127\.0\.0\.1:\d+$/);
    const title = lines.findIndex((row) => row.startsWith("client   "));
    assertEquals(lines.slice(0, title).toSorted(), [
      "recv:",
      "recv:hello",
      "recv:stay two",
      "recv:two datagrams",
      "server closed",
    ]);
    const rows = lines.slice(title + 1);
    const lane = (from: number, to?: number) =>
      rows.map((row) => row.slice(from, to).trim()).filter((it) => it)
        .join(" ").replaceAll(/ 127\.0\.0\.1:\d+| 0\.0\.0\.0:\d+/g, "");
    assertMatch(
      lane(0, 31),
      /^socket, bind sendto 5 bytes "hello" recvfrom 5 bytes "hello" sendto 0 bytes "" recvfrom 0 bytes "" sendto 13 bytes "two datagrams" sendto 8 bytes "stay two" recvfrom .* recvfrom .* close$/,
    );
    assertMatch(
      lane(49),
      /^socket, bind (recvfrom \d+ bytes ".*?" sendto \d+ bytes ){4}close$/,
    );
    // In true order: none is received before it is sent.
    const count = (what: RegExp) => (row: string) => what.test(row);
    let sent = 0;
    for (const row of rows) {
      if (count(/^sendto/)(row)) sent++;
      if (count(/\| recvfrom/)(row)) assert(--sent >= 0, rows.join("\n"));
    }
  }
});

Deno.test("06 demo takes lines of standard input", async () => {
  const { code, stdout, stderr } = await run(LESSON, ["--quiet"], {
    input: "one\n\ntwo words\nq\nnot this\n",
  });
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.split("\n").slice(1), [
    "recv:one",
    "recv:",
    "recv:two words",
    "server closed",
    "",
  ]);
});

Deno.test("06 server echoes datagrams of every size, byte for byte", async () => {
  const sizes = [0, 1, 1024, 1025, 65507];
  const { process, port } = await startServer(`--messages=${sizes.length}`);
  await using _ = process;
  using peer = new Peer();
  for (const size of sizes) {
    const data = Uint8Array.from({ length: size }, (_, i) => i * 7 + size);
    await peer.send(data, port);
    const [reply, from] = await peer.receive();
    assertEquals(from, port);
    assertEquals(reply.length, size);
    assert(reply.every((byte, i) => byte === data[i]), `${size}`);
  }
  const { code, stdout } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
});

Deno.test("06 server ends after ten datagrams, as the tutorial's does", async () => {
  const { process, port } = await startServer("--quiet");
  await using _ = process;
  using peer = new Peer();
  for (let i = 0; i < 10; i++) {
    await peer.send(new Uint8Array([i]), port);
    assertEquals([...(await peer.receive())[0]], [i]);
  }
  const { code, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("06 server --buffer-size cuts what is longer", async () => {
  const { process, port } = await startServer(
    "--messages=0",
    "--buffer-size=4",
  );
  await using _ = process;
  const { stdout } = await runClient(port, "hello\nhi\n");
  assertEquals(stdout, "recv:hell\nrecv:hi\n");
});

Deno.test("06 server answers others when one sender is gone", async () => {
  const { process, port } = await startServer("--messages=0");
  await using _ = process;
  {
    using gone = new Peer();
    for (let i = 0; i < 5; i++) await gone.send(encode("bye"), port);
  }
  await process.stderrHas(/(recvfrom.*[^]*){5}/);
  assertEquals((await runClient(port, "hello\n")).stdout, "recv:hello\n");
  process.kill("SIGINT");
  assertEquals((await process.result()).code, 0);
});

Deno.test("06 client sends bytes as they are, up to the largest datagram", async () => {
  const { process, port } = await startServer("--messages=0", "--quiet");
  await using _ = process;
  const noise = Uint8Array.from({ length: 600 }, (_, i) => i % 256)
    .filter((byte) => byte !== 10);
  const largest = new Uint8Array(65507).fill(0x61);
  for (const data of [noise, largest]) {
    const { code, bytes } = await runClient(port, data);
    assertEquals(code, 0);
    assertEquals(bytes.length, 5 + data.length + 1);
    assert(data.every((byte, i) => byte === bytes[5 + i]));
  }
});

Deno.test("06 client refuses a line that is too long, and goes on", async () => {
  const { process, port } = await startServer("--messages=0", "--quiet");
  await using _ = process;
  const input = `before\n${"x".repeat(65508)}\nafter\n`;
  const { code, stdout, stderr } = await runClient(port, input);
  assertEquals([code, stdout], [1, "recv:before\nrecv:after\n"]);
  assertEquals(
    stderr,
    `06_udp_echo: send 127.0.0.1:${port}: EMSGSIZE (Message too long)\n`,
  );
});

Deno.test("06 client gives up a reply that does not come, and goes on", async () => {
  using deaf = new Peer();
  const { code, stdout, stderr } = await runClient(
    deaf.port,
    "one\ntwo\n",
    "--timeout=50",
  );
  assertEquals([code, stdout], [1, ""]);
  const line =
    `06_udp_echo: no reply from 127.0.0.1:${deaf.port} within 50 ms\n`;
  assertEquals(stderr, line + line);
});

Deno.test("06 client does not take a late reply for another line's", async () => {
  using peer = new Peer();
  await using process = new LessonProcess(LESSON, [
    "client",
    `--port=${peer.port}`,
    "--timeout=300",
  ]);
  await process.type("early\n");
  const [early, from] = await peer.receive();
  await process.stderrHas("no reply from");
  await process.type("later\n");
  const [later] = await peer.receive();
  await peer.send(early, from);
  await peer.send(later, from);
  await process.stdoutHas("recv:later\n");
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stdout], [1, "recv:later\n"]);
  assertMatch(stderr, /ignored: a reply to an earlier line$/m);
});

Deno.test("06 client takes a reply that comes twice once", async () => {
  using peer = new Peer();
  const serving = (async () => {
    for (let i = 0; i < 4; i++) {
      const [data, from] = await peer.receive();
      await peer.send(data, from);
      await peer.send(data, from);
    }
  })();
  const lines = "one\ntwo\nthree\nfour\n";
  const { code, stdout } = await runClient(peer.port, lines);
  await serving;
  assertEquals([code, stdout], [0, lines.replaceAll(/^(?=.)/gm, "recv:")]);
});

Deno.test("06 client tells replies by their bytes", async () => {
  using peer = new Peer();
  await using process = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    "--timeout=200",
    `--port=${peer.port}`,
  ]);
  // Never answered in time; then its reply comes before that of the second.
  await process.type("abc\n");
  const [first, from] = await peer.receive();
  await process.stderrHas("no reply");
  await process.type("abcd\n");
  const [second] = await peer.receive();
  await peer.send(first, from);
  await peer.send(second.subarray(0, 2), from); // Cut by a small buffer.
  await process.stdoutHas("recv:ab\n");
  await process.type("something else\n");
  await peer.receive();
  await peer.send(encode("no echo at all"), from);
  await process.stdoutHas("recv:no echo at all\n");
  await process.endInput();
  const { code, stdout } = await process.result();
  assertEquals([code, stdout], [1, "recv:ab\nrecv:no echo at all\n"]);
});

Deno.test("06 client keeps its deadline although strangers send", async () => {
  using peer = new Peer();
  using stranger = new Peer();
  await using process = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    "--timeout=200",
    `--port=${peer.port}`,
  ]);
  await process.type("hello\n");
  const [, from] = await peer.receive();
  const noise = setInterval(() => stranger.send(encode("x"), from), 20);
  await process.stderrHas("no reply");
  clearInterval(noise);
  await process.endInput();
  assertEquals((await process.result()).code, 1);
});

Deno.test("06 works over IPv6, however its address is written", async () => {
  await using process = new LessonProcess(LESSON, [
    "server",
    "--host=::1",
    "--port=0",
    "--messages=3",
  ]);
  let ready: string;
  try {
    ready = await process.stdoutHas("\n");
  } catch {
    assertMatch(await process.stderrHas("\n"), /EADDRNOTAVAIL|EAFNOSUPPORT/);
    return; // This host has no IPv6, and the lesson says so.
  }
  const port = Number(ready.match(/^listening on \[::1\]:(\d+)\n$/)![1]);
  for (const host of ["::1", "0::1", "[::1]"]) {
    const { code, stdout } = await runClient(port, "six\n", `--host=${host}`);
    assertEquals([code, stdout], [0, "recv:six\n"], host);
  }
});

Deno.test("06 demo on 0.0.0.0 answers", async () => {
  const args = ["--quiet", "--script", "--host=0.0.0.0"];
  const { code, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
});

Deno.test("06 demo with a line that is too long exits 1", async () => {
  const { code, stdout } = await run(LESSON, [], {
    input: `${"x".repeat(65508)}\n`,
  });
  assertEquals(code, 1);
  assert(stdout.includes("sendto failed"), stdout);
});

Deno.test("06 client is quiet when a signal ends it among many lines", async () => {
  const { process, port } = await startServer("--messages=0", "--quiet");
  await using _ = process;
  await using client = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    `--port=${port}`,
  ]);
  await client.type("line\n".repeat(12_000));
  await client.stdoutHas("recv:line\n");
  client.kill("SIGINT");
  const { code, stderr } = await client.result();
  assertEquals([code, stderr], [130, ""]);
});

Deno.test("06 client() rejects with the signal's reason, whenever it comes", async () => {
  using peer = new Peer();
  for (const moment of ["before", "at the first step", "while it asks"]) {
    const stop = new AbortController();
    const abort = (now: string) => {
      if (now === moment) stop.abort(new RangeError("enough"));
    };
    abort("before");
    await assertRejects(
      () =>
        client({
          port: peer.port,
          output: { write: (p) => Promise.resolve(p.length) },
          report: () => {},
          signal: stop.signal,
          trace: () => abort("at the first step"),
          next() {
            abort("while it asks");
            return new Promise(() => {});
          },
        }),
      RangeError,
      "enough",
    );
  }
});

Deno.test("06 client ignores strangers, and names them", async () => {
  using peer = new Peer();
  using stranger = new Peer();
  await using process = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    "--timeout=30000",
    `--port=${peer.port}`,
  ]);
  await process.type("hello\n");
  const [data, from] = await peer.receive();
  await stranger.send(encode("hello"), from);
  await process.stderrHas("ignored");
  await peer.send(data, from);
  await process.endInput();
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stdout], [0, "recv:hello\n"]);
  assertEquals(
    stderr,
    `06_udp_echo: ignored a datagram from 127.0.0.1:${stranger.port}, ` +
      `asked 127.0.0.1:${peer.port}\n`,
  );
});

Deno.test("06 client that asks 127.0.0.2 gets no reply from there", async () => {
  await using process = new LessonProcess(LESSON, [
    "server",
    "--port=0",
    "--messages=1",
  ]);
  const port = await process.port();
  const { code, stdout, stderr } = await runClient(
    port,
    "hello\n",
    "--host=127.0.0.2",
    "--timeout=2000",
  );
  assertEquals([code, stdout], [1, ""]);
  assert(
    stderr.includes(
      `ignored a datagram from 127.0.0.1:${port}, asked 127.0.0.2:${port}\n`,
    ),
    stderr,
  );
});

Deno.test("06 client resolves host names before it compares", async () => {
  const { process, port } = await startServer("--messages=1", "--quiet");
  await using _ = process;
  const { code, stdout } = await runClient(port, "hello\n", "--host=localhost");
  assertEquals([code, stdout], [0, "recv:hello\n"]);
  const unknown = await runClient(port, "", "--host=no.such.host.invalid");
  assertEquals(unknown.code, 1);
  assertMatch(
    unknown.stderr,
    /^06_udp_echo: lookup no\.such\.host\.invalid: .+\n$/,
  );
});

Deno.test("06 takes the tutorial's positional arguments", async () => {
  using taken = new Peer();
  const server = await run(LESSON, ["server", `${taken.port}`, "--quiet"]);
  assertEquals(server.code, 1);
  assertEquals(
    server.stderr,
    `06_udp_echo: bind 0.0.0.0:${taken.port}: ` +
      "EADDRINUSE (Address already in use)\n",
  );

  const { process, port } = await startServer("--messages=0", "--quiet");
  await using _ = process;
  const args = ["client", "127.0.0.1", `${port}`, "--quiet"];
  const talked = await run(LESSON, args, { input: "hi\n" });
  assertEquals([talked.code, talked.stdout], [0, "recv:hi\n"]);

  for (
    const args of [
      ["server", "http"],
      ["server", "70000"],
      ["server", "1", "2"],
      ["client", "127.0.0.1", "0"],
      ["client", "127.0.0.1", "x"],
      ["client", "127.0.0.1", "1", "2"],
      ["client", "127.0.0.1", "--host=::1"],
      ["server", "--buffer-size=0"],
      ["server", "--buffer-size=65536"],
      ["client", "--timeout=0"],
      ["client", "--messages=1"],
    ]
  ) assertEquals((await run(LESSON, args)).code, 2, args.join(" "));
});

Deno.test("06 names the flag that is missing", async () => {
  for (const mode of ["server", "client"]) {
    const all = ["--allow-net", "--unstable-net"];
    for (const missing of all) {
      const flags = all.filter((flag) => flag !== missing);
      const { code, stdout, stderr } = await run(LESSON, [mode], { flags });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^06_udp_echo: .*\n$/);
      assert(stderr.includes(missing), stderr);
    }
  }
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`06 server, client and demo end on ${signal}`, async () => {
    const status = signal === "SIGINT" ? 130 : 143;
    const { process, port } = await startServer();
    await using _ = process;
    await using client = new LessonProcess(LESSON, [
      "client",
      `--port=${port}`,
    ]);
    await client.type("hello\n");
    await client.stdoutHas("recv:hello\n");
    client.kill(signal);
    assertEquals((await client.result()).code, status);
    process.kill(signal);
    process.kill(signal);
    const served = await process.result();
    assertEquals(served.code, 0);
    assertEquals(
      served.stdout,
      `listening on 127.0.0.1:${port}\nserver closed\n`,
    );

    await using demo = new LessonProcess(LESSON, ["demo", "--quiet"]);
    await demo.type("hello\n");
    await demo.stdoutHas("recv:hello\n");
    demo.kill(signal);
    const { code, stdout, stderr } = await demo.result();
    assertEquals([code, stderr], [status, ""]);
    assert(stdout.endsWith("recv:hello\nserver closed\n"), stdout);
  });
}

Deno.test("06 client prompts on a terminal", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { process, port } = await startServer("--messages=0");
  await using _ = process;
  await using client = new LessonProcess(
    LESSON,
    ["client", `--port=${port}`, "--quiet"],
    { wrapper: onTerminal },
  );
  const prompt = "Input message(q to quit):";
  await client.stdoutHas(prompt);
  await client.type("hello\n");
  await client.stdoutHas(`recv:hello\r\n${prompt}`);
  await client.type("\x04");
  const { code, stdout } = await client.result();
  assertEquals(code, 0);
  assert(stdout.endsWith(`${prompt}\r\n`), stdout);
});

Deno.test(
  "06 server talks to nc",
  { ignore: !await hasProgram("nc") },
  async () => {
    const { process, port } = await startServer("--messages=1");
    await using _ = process;
    const script = `printf hello | nc -u -w1 127.0.0.1 ${port}`;
    const command = new Deno.Command("sh", { args: ["-c", script] });
    const { stdout } = await command.output();
    assertEquals(new TextDecoder().decode(stdout), "hello");
  },
);

Deno.test("06 server() can be called from other code", async () => {
  const stop = new AbortController();
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const closed = server({
    hostname: "127.0.0.1",
    port: 0,
    messages: 0,
    signal: stop.signal,
    onListen: ready.resolve,
  });
  const { port } = await ready.promise;
  using peer = new Peer();
  await peer.send(encode("hi"), port);
  assertEquals((await peer.receive())[0], encode("hi"));
  stop.abort();
  await closed;
});
