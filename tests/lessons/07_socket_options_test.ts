import { assert, assertEquals, assertMatch } from "@std/assert";
import { fakeProgram, run, tableBehind } from "../testing.ts";

const LESSON = "07_socket_options.ts";

/** What a new socket of the kernel's says, asked without the lessons' lib. */
function independent(type: number, option: number, value?: number): number {
  const library = Deno.dlopen("libc.so.6", {
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
    setsockopt: {
      parameters: ["i32", "i32", "i32", "buffer", "u32"],
      result: "i32",
    },
    getsockopt: {
      parameters: ["i32", "i32", "i32", "buffer", "buffer"],
      result: "i32",
    },
    close: { parameters: ["i32"], result: "i32" },
  });
  const libc = library.symbols;
  const fd = libc.socket(2, type, 0);
  const result = new Int32Array([value ?? 0]);
  if (value !== undefined) libc.setsockopt(fd, 1, option, result, 4);
  libc.getsockopt(fd, 1, option, result, new Uint32Array([4]));
  libc.close(fd);
  library.close();
  return result[0];
}

const SNDBUF = 7;
const RCVBUF = 8;
const INT_MAX = 2 ** 31 - 1;

/** A number as the tables have it. */
const written = (number: number) => number.toLocaleString("en-US");
/** A number of a table. */
const toNumber = (cell: string) => Number(cell.replaceAll(",", ""));

/** The tutorial's six lines, with the kernel's own numbers. */
const tutorialLines = (asked: number) => [
  "SOCK_STREAM:1",
  "SOCK_DGRAM:2",
  "tcp_sock type is :1",
  "udp_sock type is :2",
  `tcp_sock send buffer size is :${independent(1, SNDBUF)}`,
  `*tcp_sock send buffer size is :${independent(1, SNDBUF, asked)}`,
];

/** `wmem_max` or `rmem_max`, which a container may hide. */
function limitOf(name: string): number | undefined {
  try {
    return Number(Deno.readTextFileSync(`/proc/sys/net/core/${name}`));
  } catch {
    return undefined;
  }
}

Deno.test("07 shows what the kernel makes of each option", async () => {
  const args = ["--receive-buffer=6000"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.split("\n").slice(0, 6), tutorialLines(16384));

  const rows = tableBehind(stdout, "What becomes of a value");
  const find = (option: string, socket: string) =>
    rows.find((row) => row[0] === option && row[1] === socket)!.slice(2);
  assertEquals(rows.length, 7 * 3);
  assertEquals(find("SO_SNDBUF", "TCP"), [
    written(independent(1, SNDBUF)),
    "16,384",
    written(independent(1, SNDBUF, 16384)),
  ]);
  for (const [name, type] of [["TCP", 1], ["UDP", 2]] as const) {
    assertEquals(find("SO_RCVBUF", name), [
      written(independent(type, RCVBUF)),
      "6,000",
      written(independent(type, RCVBUF, 6000)),
    ]);
  }
  for (const socket of ["TCP", "UDP", "Deno"]) {
    assertEquals(find("SO_REUSEADDR", socket), ["0", "1", "1"]);
    assertEquals(find("SO_KEEPALIVE", socket), ["0", "1", "1"]);
    assertEquals(find("SO_TYPE", socket)[2], "ENOPROTOOPT");
    assertEquals(find("SO_ERROR", socket)[2], "ENOPROTOOPT");
  }
  assertEquals(find("TCP_NODELAY", "Deno"), ["0", "1", "1"]);
  assertEquals(find("TCP_NODELAY", "UDP")[0], "EOPNOTSUPP");

  const limits = (option: number, name: string) => {
    const limit = limitOf(name);
    const most = independent(1, option, INT_MAX);
    return [
      0,
      independent(1, option, 0),
      INT_MAX,
      most,
      limit ?? "unknown",
      limit === undefined ? "unknown" : most / limit,
    ].map((it) => typeof it === "number" ? written(it) : it);
  };
  assertEquals(tableBehind(stdout, "Buffer sizes"), [
    ["SO_SNDBUF", ...limits(SNDBUF, "wmem_max")],
    ["SO_RCVBUF", ...limits(RCVBUF, "rmem_max")],
  ]);
  assertEquals(tableBehind(stdout, "Deno's two calls"), [
    ["conn.setNoDelay(false)", "TCP_NODELAY", "1", "0"],
    ["conn.setKeepAlive(false)", "SO_KEEPALIVE", "1", "0"],
  ]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("07 asks for the buffers that it is told to ask for", async () => {
  const sizes = [0, 8192, INT_MAX];
  const results = await Promise.all(
    sizes.map((size) => run(LESSON, [`--send-buffer=${size}`])),
  );
  for (const [i, { code, stdout, stderr }] of results.entries()) {
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout.split("\n").slice(0, 6), tutorialLines(sizes[i]));
    for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  }
  const [usual, small] = tableBehind(results[1].stdout, "Lesson 04's first");
  assertEquals(toNumber(small[0]), independent(1, SNDBUF, 8192));
  assert(toNumber(small[1]) > 0 && toNumber(small[1]) < toNumber(usual[1]));
  for (const [, accepted, here, there] of [usual, small]) {
    assertEquals(toNumber(here) + toNumber(there), toNumber(accepted));
  }
  // What is said of a value is about the value.
  const reasons = results.map(({ stdout }) =>
    stdout.match(/the tutorial's socket got [\d,]*\d([^.]*)\./)![1]
  );
  assertMatch(reasons[0], /^, the least that a socket gets$/);
  assertMatch(reasons[1], /^: it doubles a value/);
  assertMatch(reasons[2], /^: it cuts a value to\s+the limit/);

  const { code, stderr } = await run(LESSON, ["--send-buffer=2147483648"]);
  assertEquals(code, 2);
  assertMatch(stderr, /--send-buffer must be an integer from 0 to 2147483647/);
});

Deno.test("07 shows what it can where the limits are hidden", async () => {
  await using cat = await fakeProgram("cat", "exit 1");
  const { code, stdout } = await run(LESSON, [], { env: cat.env });
  assertEquals(code, 0);
  for (const row of tableBehind(stdout, "Buffer sizes")) {
    assertEquals(row.slice(-2), ["unknown", "unknown"]);
  }
});
