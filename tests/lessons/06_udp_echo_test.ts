import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { client, server } from "../../lessons/06_udp_echo.ts";
import {
  canMount,
  hasIpv6,
  hasProgram,
  LessonProcess,
  onTerminal,
  replaced,
  returnedCalls,
  run,
  startServer,
  withHosts,
} from "../testing.ts";

const LESSON = "06_udp_echo.ts";
const encode = (text: string) => new TextEncoder().encode(text);

/** A datagram socket of the test's own. */
class Peer implements Disposable {
  #socket: Deno.DatagramConn;
  #buffer = new Uint8Array(65535);

  constructor(hostname = "127.0.0.1", port = 0) {
    this.#socket = Deno.listenDatagram({ hostname, port, transport: "udp" });
  }

  get port(): number {
    return (this.#socket.addr as Deno.NetAddr).port;
  }

  get hostname(): string {
    return (this.#socket.addr as Deno.NetAddr).hostname;
  }

  async send(
    data: Uint8Array | string,
    port: number,
    hostname = "127.0.0.1",
  ): Promise<void> {
    const to = { transport: "udp" as const, hostname, port };
    const bytes = typeof data === "string" ? encode(data) : data;
    assertEquals(await this.#socket.send(bytes, to), bytes.length);
  }

  async receive(): Promise<[Uint8Array<ArrayBuffer>, number]> {
    const [data, from] = await this.#socket.receive(this.#buffer);
    return [data.slice(), (from as Deno.NetAddr).port];
  }

  /** Receives `text`; resolves to the port that it came from. */
  async expects(text: string): Promise<number> {
    const [data, port] = await this.receive();
    assertEquals(new TextDecoder().decode(data), text);
    return port;
  }

  [Symbol.dispose]() {
    this.#socket.close();
  }
}

/** Runs the server here, until it has answered so many. */
async function withServer<T>(
  options: { hostname?: string; messages: number; bufferSize?: number },
  use: (port: number) => Promise<T>,
): Promise<T> {
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const serving = server({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ready.resolve,
    ...options,
  });
  const { port } = await Promise.race([ready.promise, serving]) as Deno.NetAddr;
  const result = await use(port);
  await serving;
  return result;
}

/** Runs the client here. */
async function talk(
  lines: Iterable<string> | AsyncIterable<string>,
  options: { hostname?: string; port: number; timeout?: number },
) {
  let stdout = "";
  const reported: string[] = [];
  const status = await client({
    timeout: 5000,
    ...options,
    lines: (async function* () {
      for await (const line of lines) yield encode(line);
    })() as never,
    output: {
      write(p: Uint8Array) {
        stdout += new TextDecoder().decode(p);
        return Promise.resolve(p.length);
      },
    },
    report: (error) => reported.push((error as Error).message),
  });
  return { status, stdout, reported };
}

Deno.test("06 demo: datagrams keep their boundaries", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [ready, ...lines] = stdout.trimEnd().split("\n");
  assertMatch(ready, /^listening on 127\.0\.0\.1:\d+$/);
  const title = lines.findIndex((row) => row.startsWith("client   "));
  assertEquals(lines.slice(0, title), [
    "recv:hello",
    "recv:",
    "recv:你好",
    "recv:two datagrams",
    "recv:stay two",
    "server closed",
  ]);
  const rows = lines.slice(title + 1);
  const lane = (from: number, to?: number) =>
    rows.map((row) => row.replace("你好", "2 * 2").slice(from, to).trim())
      .filter((it) => it).join(" ")
      .replaceAll(/ 127\.0\.0\.1:\d+| 0\.0\.0\.0:\d+/g, "");
  assertMatch(
    lane(0, 31),
    /^socket, bind sendto 5 bytes "hello" recvfrom 5 bytes "hello" sendto 0 bytes recvfrom 0 bytes sendto 6 bytes "2 \* 2" recvfrom .* close socket, bind sendto 13 bytes "two datagrams" (recvfrom .*)?sendto 8 bytes "stay two" recvfrom .* close$/,
  );
  assertMatch(
    lane(49),
    /^socket, bind (recvfrom \d+ bytes( ".*?")? sendto \d+ bytes( ".*?")? ?){5}$/,
  );
  // A receive() that its own close() has ended is no news.
  assert(!stdout.includes("EINTR"), stdout);
  // In true order: none is received before it is sent.
  let sent = 0;
  for (const row of rows) {
    if (/^sendto/.test(row)) sent++;
    if (/\| recvfrom/.test(row)) assert(--sent >= 0, rows.join("\n"));
  }
});

Deno.test("06 demo --ask takes lines of standard input, and exits 1 if one failed", async () => {
  const { code, stdout, stderr } = await run(LESSON, ["--ask", "--quiet"], {
    input: `one\n\n${"x".repeat(65508)}\ntwo words\nq\nnot this\n`,
  });
  assertEquals(
    [code, stderr],
    [1, "06_udp_echo: send: EMSGSIZE (Message too long)\n"],
  );
  assertEquals(stdout.split("\n").slice(1), [
    "recv:one",
    "recv:",
    "recv:two words",
    "server closed",
    "",
  ]);
});

Deno.test("06 server echoes ten datagrams of every size, and ends", async () => {
  const { process, port } = await startServer(LESSON, ["--messages=10"]);
  await using _ = process;
  using peer = new Peer();
  for (const size of [0, 1, 2, 3, 0, 1024, 1025, 9000, 65506, 65507]) {
    const data = Uint8Array.from({ length: size }, (_, i) => i * 7 + size);
    await peer.send(data, port);
    const [reply, from] = await peer.receive();
    assertEquals(from, port);
    assertEquals(reply.length, size);
    assert(reply.every((byte, i) => byte === data[i]), `${size}`);
  }
  const { code, stdout, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stdout, `listening on 127.0.0.1:${port}\nserver closed\n`);
  const line = /^06_udp_echo\.ts\(\d+\):server #1 /gm;
  assertEquals(returnedCalls(stderr).match(line)?.length, 22);
});

Deno.test("06 server cuts what is longer than its buffer", async () => {
  const { stdout } = await withServer(
    { messages: 2, bufferSize: 4 },
    (port) => talk(["hello\n", "hi\n"], { port }),
  );
  assertEquals(stdout, "recv:hell\nrecv:hi\n");
});

Deno.test("06 server answers others when one sender is gone", async () => {
  const { status } = await withServer({ messages: 6 }, async (port) => {
    {
      using gone = new Peer();
      for (let i = 0; i < 5; i++) await gone.send("bye", port);
    }
    return talk(["hello\n"], { port });
  });
  assertEquals(status, 0);
});

Deno.test("06 server does not answer itself", async () => {
  const { listenDatagram } = Deno;
  let socket: Deno.DatagramConn;
  const listen = (options: Deno.UdpListenOptions) =>
    socket = listenDatagram({ ...options, transport: "udp" });
  const listening = replaced(Deno, "listenDatagram", listen);
  const received = await withServer({ messages: 1 }, async (port) => {
    listening[Symbol.dispose]();
    // As if somebody had forged the address of the sender.
    await socket.send(encode("round and round"), socket.addr);
    using peer = new Peer();
    await peer.send("hello", port);
    return await peer.receive();
  });
  assertEquals(received[0], encode("hello"));
});

Deno.test("06 client takes the next datagram for its line's reply, and no other", async () => {
  using peer = new Peer();
  using stranger = new Peer();
  await using process = new LessonProcess(LESSON, [
    "client",
    "--quiet",
    `--port=${peer.port}`,
    "--timeout=1000",
  ]);
  // A reply that comes three times.
  await process.type("pay 5\n");
  const from = await peer.expects("pay 5");
  for (let i = 0; i < 3; i++) await peer.send("pay 5", from);
  await process.stdoutHas("recv:pay 5\n");
  await process.type("balance\n");
  await peer.expects("balance");
  await stranger.send("rich", from);
  await peer.send("3 coins", from);
  await process.stdoutHas("recv:3 coins\n");
  // One that comes when nobody waits for it any more.
  await process.type("slow\n");
  await peer.expects("slow");
  await process.stderrHas("no reply from");
  await peer.send("slow", from);
  // A line that cannot be sent, and still takes the late one away.
  await process.type("x".repeat(65508) + "\n");
  await process.type("last\n");
  await peer.expects("last");
  await peer.send("", from);
  await process.endInput();

  const { code, stdout, stderr } = await process.result();
  assertEquals(
    [code, stdout],
    [1, "recv:pay 5\nrecv:3 coins\nrecv:\n"],
  );
  const asked = `127.0.0.1:${peer.port}`;
  assertEquals(stderr.split("\n"), [
    `06_udp_echo: late or double, no line's reply: "pay 5"`,
    `06_udp_echo: late or double, no line's reply: "pay 5"`,
    `06_udp_echo: ignored a datagram from 127.0.0.1:${stranger.port}, asked ${asked}`,
    `06_udp_echo: no reply from ${asked} within 1000 ms`,
    `06_udp_echo: late or double, no line's reply: "slow"`,
    `06_udp_echo: send ${asked}: EMSGSIZE (Message too long)`,
    "",
  ]);
});

Deno.test("06 client: where it cannot tell, the exit code does", async () => {
  using peer = new Peer();
  const serving = Promise.withResolvers<void>();
  async function* lines() {
    yield "one\n";
    yield "two\n";
    await serving.promise;
  }
  const talking = talk(lines(), { port: peer.port });
  await peer.send("one", await peer.expects("one"));
  const from = await peer.expects("two");
  await peer.send("one", from);
  await peer.send("two", from);
  serving.resolve();
  assertEquals(await talking, {
    status: 1,
    stdout: "recv:one\nrecv:one\n", // It has no way to know.
    reported: [`late or double, no line's reply: "two"`],
  });
});

Deno.test("06 client looks for one reply too many behind the last line", async () => {
  using peer = new Peer();
  const talking = talk(["one\n"], { port: peer.port });
  const from = await peer.expects("one");
  for (let i = 0; i < 2; i++) await peer.send("one", from);
  const { status, stdout, reported } = await talking;
  assertEquals([status, stdout, reported.length], [1, "recv:one\n", 1]);
});

Deno.test("06 client keeps its deadlines although others send", async () => {
  using peer = new Peer();
  using stranger = new Peer();
  let isOver = false;
  const talking = talk(["one\n", "two\n"], { port: peer.port, timeout: 50 });
  const from = await peer.expects("one");
  const flood = (async () => {
    while (!isOver) {
      await stranger.send("x", from);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  await peer.expects("two");
  const flooded = (async () => { // And now its own server does not stop.
    while (!isOver) {
      await peer.send("y", from);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  assertEquals((await talking).status, 1);
  isOver = true;
  await Promise.all([flood, flooded]);
});

Deno.test("06 client sends bytes as they are, up to the largest datagram", async () => {
  const { process, port } = await startServer(LESSON, ["--quiet"]);
  await using _ = process;
  // The tutorial's command line: `client IP PORT`.
  const client = ["client", "127.0.0.1", `${port}`, "--quiet"];
  const noise = Uint8Array.from({ length: 600 }, (_, i) => i % 256)
    .filter((byte) => byte !== 10);
  const largest = new Uint8Array(65507).fill(0x61);
  for (const data of [noise, largest]) {
    const { code, bytes } = await run(LESSON, client, { input: data });
    assertEquals(code, 0);
    assertEquals(bytes.length, 5 + data.length + 1);
    assert(data.every((byte, i) => byte === bytes[5 + i]));
  }

  // A signal among many lines.
  await using talking = new LessonProcess(LESSON, client);
  await talking.type("line\n".repeat(12_000));
  await talking.stdoutHas("recv:line\n");
  talking.kill("SIGINT");
  const { code, stderr } = await talking.result();
  assertEquals([code, stderr], [130, ""]);

  process.kill("SIGTERM");
  const served = await process.result();
  assertEquals([served.code, served.stderr], [0, ""]);
  assertEquals(
    served.stdout,
    `listening on 127.0.0.1:${port}\nserver closed\n`,
  );
});

Deno.test("06 client prompts on a terminal", {
  ignore: !await hasProgram("script"),
}, async () => {
  await withServer({ messages: 1 }, async (port) => {
    const args = ["client", `--port=${port}`, "--quiet"];
    await using process = new LessonProcess(LESSON, args, {
      wrapper: onTerminal,
    });
    const prompt = "Input message(q to quit):";
    await process.stdoutHas(prompt);
    await process.type("hello\n");
    await process.stdoutHas(`recv:hello\r\n${prompt}`);
    await process.type("\x04");
    const { code, stdout } = await process.result();
    assertEquals(code, 0);
    assert(stdout.endsWith(`${prompt}\r\n`), stdout);
  });
});

Deno.test("06 works over IPv6, however its address is written", async () => {
  const hosts = ["::1", "0::1", "[::1]", "::"];
  const messages = hosts.length;
  try {
    await withServer({ hostname: "::1", messages }, async (port) => {
      await Promise.all(hosts.map(async (hostname) => {
        const talked = await talk(["six\n"], { hostname, port });
        const expected = { status: 0, stdout: "recv:six\n", reported: [] };
        assertEquals(talked, expected, hostname);
      }));
    });
  } catch (error) { // This host has no IPv6, and the lesson says so.
    assertMatch(String(Object(error).code), /EADDRNOTAVAIL|EAFNOSUPPORT/);
  }
});

/** A link-local address of this host, which needs its scope. */
const linkLocal = Deno.networkInterfaces().find((it) =>
  it.family === "IPv6" && it.address.startsWith("fe80:")
);

Deno.test("06 works over a link-local address with its scope", {
  ignore: linkLocal === undefined,
}, async () => {
  const hostname = `${linkLocal!.address}%${linkLocal!.name}`;
  const talked = await withServer(
    { hostname, messages: 1 },
    (port) => talk(["six\n"], { hostname, port }),
  );
  assertEquals(talked, { status: 0, stdout: "recv:six\n", reported: [] });
});

Deno.test("06 client compares addresses, not names, and knows what 0.0.0.0 is", async () => {
  const options = { hostname: "0.0.0.0", messages: 3 };
  await withServer(options, async (port) => {
    for (const hostname of ["localhost", "0.0.0.0"]) {
      const { status } = await talk(["hello\n"], { hostname, port });
      assertEquals(status, 0, hostname);
    }
    // Its reply comes from 127.0.0.1, as lesson 03 explains.
    const talked = await talk(["hello\n"], {
      hostname: "127.0.0.2",
      port,
      timeout: 500,
    });
    assertEquals(talked, {
      status: 1,
      stdout: "",
      reported: [
        `ignored a datagram from 127.0.0.1:${port}, asked 127.0.0.2:${port}`,
        `no reply from 127.0.0.2:${port} within 500 ms`,
      ],
    });
  });
  await assertRejects(
    () => talk([], { hostname: "no.such.host.invalid", port: 1 }),
    Error,
    "no.such.host.invalid",
  );
});

Deno.test("06 server PORT, as in the tutorial: one that is taken", async () => {
  using taken = new Peer();
  const args = ["server", `${taken.port}`, "--quiet"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stdout], [1, ""]);
  const message = `06_udp_echo: bind 0.0.0.0:${taken.port}: EADDRINUSE`;
  const who = `ss -ulnp 'sport = :${taken.port}' says who has it`;
  assertEquals(stderr, `${message} (Address already in use): ${who}\n`);
});

Deno.test("06 demo --host localhost shows what it shows at an address", async () => {
  const args = ["--host", "localhost", "--quiet"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.split("\n").slice(1), [
    "recv:hello",
    "recv:",
    "recv:你好",
    "recv:two datagrams",
    "recv:stay two",
    "server closed",
    "",
  ]);
});

Deno.test("06 server and client find each other by a name that is ::1 first", {
  ignore: !hasIpv6() || !await canMount(),
}, async () => {
  await using hosts = await withHosts("::1 localhost\n127.0.0.1 localhost\n");
  const { wrapper } = hosts;
  const named = ["--host=localhost", "--quiet"];
  const args = ["server", "--port=0", ...named];
  await using process = new LessonProcess(LESSON, args, { wrapper });
  const port = await process.port();
  // IPv6, unless this host's gai.conf(5) turns them round.
  const first = /^listening on (\[::1\]|127\.0\.0\.1):\d+\n/;
  assertMatch(await process.stdoutHas("\n"), first);
  const talked = await run(LESSON, ["client", `--port=${port}`, ...named], {
    input: "hello\n",
    wrapper,
  });
  assertEquals(
    [talked.code, talked.stdout, talked.stderr],
    [0, "recv:hello\n", ""],
  );
  const demo = await run(LESSON, named, { wrapper });
  assertEquals([demo.code, demo.stderr], [0, ""]);
  assertMatch(demo.stdout, first);
  assert(demo.stdout.includes("\nrecv:stay two\n"), demo.stdout);
});

/**
 * Lets `sender` and then somebody else ask a server on 127.0.0.1 only, and looks
 * what each gets, and how often the server has sent something.
 */
async function assertNoEcho(
  openSender: (port: number) => Peer,
): Promise<void> {
  const { process, port } = await startServer(LESSON);
  await using _ = process;
  using sender = openSender(port);
  using other = new Peer();
  for (let i = 0; i < 5; i++) await sender.send("round and round", port);
  // The server takes one after the other: this echo would be the later one.
  await other.send("hello", port);
  assertEquals(await other.expects("hello"), port);
  await other.send("nothing before this", sender.port, sender.hostname);
  assertEquals(await sender.expects("nothing before this"), other.port);

  process.kill("SIGTERM");
  const { code, stderr } = await process.result();
  assertEquals(code, 0);
  assertEquals(stderr.match(/ recvfrom /g)?.length, 6);
  assertEquals(stderr.match(/ sendto /g)?.length, 1, stderr);
}

/** A socket at a well-known port, or `undefined` for who may not have one. */
function openWellKnown(): Peer | undefined {
  for (let port = 1023; port > 1000; port--) {
    try {
      return new Peer("127.0.0.1", port);
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) return undefined;
    }
  }
}

const isPrivileged = (() => {
  using peer = openWellKnown();
  return peer !== undefined;
})();

Deno.test("06 server sends nothing to a well-known port", {
  ignore: !isPrivileged,
}, async () => {
  await assertNoEcho(() => openWellKnown()!);
});

Deno.test("06 server sends nothing to its own port at another own address", async () => {
  // It might be one that answers whatever comes, as this one does.
  await assertNoEcho((port) => new Peer("127.0.0.2", port));
});

Deno.test("06 says that a permission to answer is missing, and goes on", async () => {
  const args = ["server", "--quiet", "--port=0"];
  const flags = ["--allow-net=0.0.0.0", "--unstable-net"];
  await using server = new LessonProcess(LESSON, args, { flags });
  const port = await server.port();
  const address = { hostname: "127.0.0.1", transport: "udp" } as const;
  for (let i = 0; i < 2; i++) {
    const socket = Deno.listenDatagram({ ...address, port: 0 });
    await socket.send(new Uint8Array(1), { ...address, port });
    const own = (socket.addr as Deno.NetAddr).port;
    const said = `06_udp_echo: send: Requires net access to "127.0.0.1:${own}"`;
    await server.stderrHas(said);
    socket.close();
  }
});
