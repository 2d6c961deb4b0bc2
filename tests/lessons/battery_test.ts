/**
 * One battery of bad clients against every echo server: lessons 02, 10, 12, 16
 * and 17.
 * After each of them the server must serve a good one, and every byte that is
 * echoed is compared. Then what a server has around it: too few descriptors, and
 * output that nobody reads.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { readAll, reset, writeAll } from "../peers.ts";
import { hasProgram, LessonProcess, runLines, until } from "../testing.ts";

const SEED = crypto.getRandomValues(new Uint32Array(1))[0];

/** Numbers from 0 to 1 that are the same for the same seed. */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const random = randomNumbers(SEED);
const NOISE = Uint8Array.from({ length: 1_000_000 }, () => random() * 256);
const randomBytes = (size: number) => NOISE.slice(0, size);

/** How a lesson's server is spoken to, so that it echoes. */
interface Target {
  lesson: string;
  args: string[];
  /** Data as it is sent. */
  request(data: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
  /** The same data as it comes back. */
  reply(data: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>;
}

/** One frame of lesson 10: a length, and data. */
function frame(data: Uint8Array<ArrayBuffer>) {
  const bytes = new Uint8Array(4 + data.length);
  new DataView(bytes.buffer).setUint32(0, data.length);
  bytes.set(data, 4);
  return bytes;
}

const ECHO: Target = {
  lesson: "02_tcp_echo.ts",
  args: ["--connections=0", "--backlog=128"],
  request: (data) => data,
  reply: (data) => data,
};
const FRAMES: Target = {
  lesson: "10_framing.ts",
  args: ["--backlog=128"],
  request: frame,
  reply: frame,
};
const CONCURRENT: Target = {
  ...ECHO,
  lesson: "12_concurrent_echo.ts",
  args: [],
};
const PRODUCTION: Target = {
  ...ECHO,
  lesson: "17_production.ts",
  args: ["--drain-timeout=50"],
};
const TARGETS = [ECHO, FRAMES, CONCURRENT, PRODUCTION];
const EPOLL: Target = { ...ECHO, lesson: "16_epoll.ts", args: [] };

const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });

function assertSame(actual: Uint8Array, expected: Uint8Array) {
  assertEquals(actual.length, expected.length, `seed ${SEED}`);
  assert(actual.every((byte, i) => byte === expected[i]), `seed ${SEED}`);
}

/** Sends `data` as `send` likes it, and compares what comes back. */
async function exchange(
  target: Target,
  port: number,
  data: Uint8Array<ArrayBuffer>,
  send = writeAll,
) {
  using conn = await connect(port);
  const sendAll = async () => {
    await send(conn, target.request(data));
    await conn.closeWrite();
  };
  // Both may fail, when the server is gone: then neither is left alone.
  const [reply] = await Promise.all([readAll(conn), sendAll()]);
  assertSame(reply, target.reply(data));
}

type Attack = (target: Target, port: number) => Promise<unknown>;

const ATTACKS: Record<string, Attack> = {
  "leaves at once": async (_, port) => (await connect(port)).close(),
  "resets at once": (_, port) => reset(port),
  "resets in the middle": (target, port) =>
    reset(port, target.request(randomBytes(50_000)).subarray(0, 20_000)),
  "resets without reading": (target, port) =>
    reset(port, target.request(randomBytes(50_000))),
  "ends its side, then reads all": async (target, port) => {
    using conn = await connect(port);
    const data = randomBytes(10_000);
    await writeAll(conn, target.request(data));
    await conn.closeWrite();
    assertSame(await readAll(conn), target.reply(data));
  },
  "sends one byte at a time": (target, port) =>
    exchange(target, port, randomBytes(500), async (conn, data) => {
      for (const byte of data) await writeAll(conn, new Uint8Array([byte]));
    }),
  "sends chunks of random sizes": (target, port) =>
    exchange(target, port, randomBytes(300_000), async (conn, data) => {
      const random = randomNumbers(SEED);
      for (let sent = 0; sent < data.length;) {
        const end = sent + 1 + Math.floor(random() * 9999);
        await writeAll(conn, data.subarray(sent, end));
        sent = end;
      }
    }),
  "stops reading for a while": async (target, port) => {
    using conn = await connect(port);
    const data = randomBytes(1_000_000);
    const reply = target.reply(data);
    const readLate = async () => {
      const first = await readAll(conn, 1);
      await new Promise((resolve) => setTimeout(resolve, 50));
      const rest = await readAll(conn, reply.length - first.length);
      return await new Blob([first, rest]).bytes();
    };
    const sending = writeAll(conn, target.request(data));
    const [got] = await Promise.all([readLate(), sending]);
    assertSame(got, reply);
  },
  "sends random bytes": async (_, port) => {
    using conn = await connect(port);
    await writeAll(conn, randomBytes(5000));
    await conn.closeWrite();
    await readAll(conn).catch(() => {}); // To lesson 10 it is nonsense.
  },
  "announces more than it sends": async (_, port) => {
    using conn = await connect(port);
    await writeAll(conn, new Uint8Array([0, 0, 255, 255, 1, 2, 3]));
    await conn.closeWrite();
    await readAll(conn);
  },
  "announces too much": async (_, port) => {
    using conn = await connect(port);
    await writeAll(conn, new Uint8Array([255, 255, 255, 255, 1, 2, 3]));
    await conn.closeWrite();
    await readAll(conn).catch(() => {});
  },
};

for (const target of [...TARGETS, EPOLL]) {
  Deno.test(`${target.lesson} survives the battery`, async (t) => {
    await using process = new LessonProcess(target.lesson, [
      "server",
      "--host=127.0.0.1",
      "--port=0",
      ...target === EPOLL ? [] : ["--quiet"], // It has no trace.
      ...target.args,
    ]);
    const port = await process.port();
    const descriptors = () =>
      [...Deno.readDirSync(`/proc/${process.pid}/fd`)].length;
    await exchange(target, port, randomBytes(100));
    const before = descriptors();
    for (const [name, attack] of Object.entries(ATTACKS)) {
      await t.step(`a client that ${name}`, async () => {
        for (let i = 0; i < 5; i++) await attack(target, port);
        await exchange(target, port, randomBytes(100));
      });
    }
    await t.step("and keeps no descriptor open", async () => {
      for (let i = 0; descriptors() > before && i < 500; i++) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      assert(descriptors() <= before, `${descriptors()}, before ${before}`);
    });
    await t.step("and ends in the middle of traffic", async () => {
      using conn = await connect(port);
      const data = target.request(randomBytes(500));
      const traffic = (async () => {
        for (;;) {
          await writeAll(conn, data);
          await readAll(conn, data.length);
        }
      })().catch(() => {});
      await conn.read(new Uint8Array(1)).catch(() => {});
      process.kill("SIGTERM");
      const { code, stdout, stderr } = await process.result();
      conn.close();
      await traffic;
      assertEquals([code, stderr], [0, ""]);
      assert(stdout.endsWith("\nserver closed\n"), stdout);
    });
  });
}

/** Runs what it wraps with so many file descriptors. */
const withDescriptors = (limit: number) => (command: string[]) => [
  "sh",
  "-c",
  `ulimit -n ${limit}; exec "$@"`,
  "sh",
  ...command,
];

/** Sends a datagram, and returns what comes back. */
async function askByDatagram(port: number, data: Uint8Array<ArrayBuffer>) {
  const local = { hostname: "127.0.0.1", port: 0, transport: "udp" as const };
  const socket = Deno.listenDatagram(local);
  try {
    await socket.send(data, { ...local, port });
    const [reply] = await socket.receive();
    return reply;
  } finally {
    socket.close();
  }
}

/** Every server, and how to see that it serves. */
const SERVERS: [
  lesson: string,
  args: string[],
  use: (port: number) => Promise<unknown>,
][] = [
  [
    "01_tcp_hello.ts",
    ["--connections=0"],
    (port) => exchange(ECHO, port, randomBytes(100)),
  ],
  ...TARGETS.map((target): typeof SERVERS[number] => [
    target.lesson,
    target.args,
    (port) => exchange(target, port, randomBytes(100)),
  ]),
  [
    "06_udp_echo.ts",
    ["--messages=0"],
    async (port) => {
      const data = randomBytes(100);
      assertSame(await askByDatagram(port, data), data);
    },
  ],
  [
    "11_deadlines.ts",
    [],
    async (port) => {
      const data = new Uint8Array([0, 0, 0, 7, 0x61]);
      const reply = await askByDatagram(port, data);
      assertSame(reply.subarray(0, 5), data);
    },
  ],
];

const LISTEN = ["server", "--host=127.0.0.1", "--port=0"];

Deno.test("few descriptors: servers that serve one at a time need no more", async () => {
  for (const [lesson, args, use] of SERVERS) {
    if (!/^(02|06|10)/.test(lesson)) continue;
    await using process = new LessonProcess(
      lesson,
      [...LISTEN, "--quiet", ...args],
      { wrapper: withDescriptors(40) },
    );
    const port = await process.port();
    await Promise.all(Array.from({ length: 60 }, () => use(port)));
    process.kill("SIGTERM");
    const { code, stderr } = await process.result();
    assertEquals([code, stderr], [0, ""], lesson);
  }
});

/** Takes all descriptors, as soon as the program has its socket. */
const TAKE_ALL = `data:text/javascript,${
  encodeURIComponent(`
    const { listen, listenDatagram } = Deno;
    const taken = [];
    const take = () => {
      try {
        for (;;) taken.push(listen({ hostname: "127.0.0.1", port: 0 }));
      } catch {} // There are no more.
    };
    Deno.listen = (options) => {
      const listener = listen(options);
      take();
      const { accept } = listener;
      listener.accept = () => {
        take(); // Deno itself may have closed one meanwhile.
        return accept.call(listener);
      };
      return listener;
    };
    Deno.listenDatagram = (options) => {
      const socket = listenDatagram(options);
      take();
      return socket;
    };
  `)
}`;

Deno.test("no descriptor left: a server says so in one line, or needs none", async () => {
  for (const [lesson, args, use] of SERVERS) {
    if (!/^(02|06|10)/.test(lesson)) continue;
    const flags = runLines(lesson).get("server")!
      .filter((word) => word.startsWith("--"));
    await using process = new LessonProcess(
      lesson,
      [...LISTEN, "--quiet", ...args],
      {
        flags: [...flags, `--preload=${TAKE_ALL}`],
        // Deno reads these certificates when it likes, and warns if it cannot.
        wrapper: (command) => [
          ...["env", "-u", "NODE_EXTRA_CA_CERTS"],
          ...withDescriptors(40)(command),
        ],
      },
    );
    const port = await process.port();
    if (lesson.startsWith("06")) {
      await use(port);
      process.kill("SIGTERM");
    } else while (await use(port).then(() => true, () => false));
    const { code, stdout, stderr } = await process.result();
    assert(stdout.endsWith("\nserver closed\n"), stdout);
    if (lesson.startsWith("06")) assertEquals([code, stderr], [0, ""]);
    else {
      assertEquals(code, 1);
      assertMatch(
        stderr,
        /^\w+: accept: EMFILE \(Too many open files\): ulimit -n says .+\n$/,
      );
    }
  }
});

/** Lets a program write into a pipe whose reader sleeps, and which is full. */
const withFullPipe =
  (output: "stdout" | "stderr", fifo: string) => (command: string[]) => [
    "sh",
    "-c",
    `mkfifo "$0" && exec 9<>"$0" && head -c 65536 /dev/zero >&9 &&
    exec "$@" ${output === "stdout" ? ">&9" : "2>&9"}`,
    fifo,
    ...command,
  ];

for (const output of ["stdout", "stderr"] as const) {
  Deno.test(`nobody reads a server's ${output}: it serves, and ends`, async () => {
    const folder = await Deno.makeTempDir();
    await Promise.all(SERVERS.map(async ([lesson, args, use]) => {
      const fifo = `${folder}/${lesson}`;
      // A trace that nobody reads lets the program wait, as under strace(1). The
      // cure is --quiet.
      const quiet = output === "stderr" ? ["--quiet"] : [];
      const all = [...LISTEN, ...args, ...quiet];
      await using process = new LessonProcess(lesson, all, {
        wrapper: withFullPipe(output, fifo),
      });
      const [, port] = output === "stdout"
        ? (await process.traceHas(BOUND)).match(BOUND)!
        : [, await process.port()];
      for (let i = 0; i < 20; i++) await use(Number(port));
      process.kill("SIGTERM");
      assertEquals((await process.result()).code, 0, lesson);
    }));
    await Deno.remove(folder, { recursive: true });
  });
}

Deno.test("nobody reads what is left of a program: a signal ends it", async () => {
  const folder = await Deno.makeTempDir();
  const args = [...LISTEN, "--connections=1"];
  await using server = new LessonProcess("01_tcp_hello.ts", args, {
    wrapper: withFullPipe("stdout", `${folder}/stdout`),
  });
  const [, port] = (await server.traceHas(BOUND)).match(BOUND)!;
  await exchange(ECHO, Number(port), randomBytes(100));
  await server.traceHas("#1 close listener\n"); // It has done its work.

  const refused = ["client", "--port=1", "--quiet"];
  await using client = new LessonProcess("01_tcp_hello.ts", refused, {
    wrapper: withFullPipe("stderr", `${folder}/stderr`),
  });
  await client.stdoutHas("client done!!"); // And now it reports the error.

  for (const process of [server, client]) process.kill("SIGTERM");
  assertEquals((await server.result()).code, 0);
  assertEquals((await client.result()).code, 1); // It had failed before.
  await Deno.remove(folder, { recursive: true });
});
const BOUND = / #1 socket, bind(?:, listen)? 127\.0\.0\.1:(\d+)\n/;

/** What accept(2) passes on from the network, or from a firewall. */
const ACCEPT_ERRORS = [
  ...["EPERM", "EOPNOTSUPP", "EPROTO", "ENETDOWN", "EHOSTUNREACH"],
];

/**
 * strace(1), to make calls of `accept4` fail, and to write down all of them. The
 * program that it watches is the process itself, and gets its signals.
 */
const failingAccept = (error: string, file: string) => [
  ...["strace", "-D", "-f", "-qq", "-o", file, "-e", "trace=accept4"],
  // The first one, and then every other one.
  ...["-e", `inject=accept4:error=${error}:when=1+2`],
];

/** Whether there is a strace here that may do that. */
async function canInject(): Promise<boolean> {
  if (!await hasProgram("strace")) return false;
  const [program, ...args] = failingAccept("EPERM", "/dev/null");
  const command = new Deno.Command(program, {
    args: [...args, "true"],
    stderr: "null",
  });
  return (await command.output()).success;
}

for (const target of [ECHO, CONCURRENT]) {
  Deno.test(`${target.lesson} survives what accept(2) passes on`, {
    ignore: !await canInject(),
  }, async () => {
    const folder = await Deno.makeTempDir();
    const args = [...LISTEN, "--quiet", ...target.args];
    await Promise.all(ACCEPT_ERRORS.map(async (error) => {
      const file = `${folder}/${error}`;
      await using process = new LessonProcess(target.lesson, args, {
        wrapper: (command) => [...failingAccept(error, file), ...command],
      });
      const port = await process.port();
      const serve = async () => {
        for (let i = 0; i < 3; i++) {
          await exchange(target, port, randomBytes(100));
        }
      };
      // If the server ends, its queue is reset: its own words are worth more.
      const served = await serve().then(() => true, () => false);
      process.kill("SIGTERM");
      const { code, stdout, stderr } = await process.result();
      assertEquals([served, code, stderr], [true, 0, ""], error);
      assert(stdout.endsWith("\nserver closed\n"), stdout);
      // And it has met the error.
      const failed = new RegExp(`= -1 ${error} .*INJECTED`);
      await until(async () => failed.test(await Deno.readTextFile(file)));
    }));
    await Deno.remove(folder, { recursive: true });
  });
}
