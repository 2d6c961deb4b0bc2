import { assert, assertEquals, assertMatch } from "@std/assert";
import { run, tableBehind } from "./testing.ts";

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

Deno.test("07 prints the tutorial's lines, with the kernel's numbers", async () => {
  for (const asked of [16384, 0, 5000, INT_MAX]) {
    const args = asked === 16384 ? [] : [`--send-buffer=${asked}`];
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout.split("\n").slice(0, 6), [
      "SOCK_STREAM:1",
      "SOCK_DGRAM:2",
      "tcp_sock type is :1",
      "udp_sock type is :2",
      `tcp_sock send buffer size is :${independent(1, SNDBUF)}`,
      `*tcp_sock send buffer size is :${independent(1, SNDBUF, asked)}`,
    ]);
    for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  }
});

Deno.test("07 shows each option before and after, and refusals", async () => {
  const { stdout } = await run(LESSON, ["--receive-buffer=6000"]);
  const rows = tableBehind(stdout, "What becomes of a value");
  const find = (option: string, socket: string) =>
    rows.find((row) => row[0] === option && row[1] === socket)!.slice(2);
  assertEquals(rows.length, 7 * 3);
  assertEquals(find("SO_SNDBUF", "TCP"), [
    `${independent(1, SNDBUF)}`,
    "16384",
    `${independent(1, SNDBUF, 16384)}`,
  ]);
  assertEquals(find("SO_RCVBUF", "TCP"), [
    `${independent(1, RCVBUF)}`,
    "6000",
    `${independent(1, RCVBUF, 6000)}`,
  ]);
  assertEquals(
    find("SO_RCVBUF", "UDP"),
    [`${independent(2, RCVBUF)}`, "6000", `${independent(2, RCVBUF, 6000)}`],
  );
  for (const socket of ["TCP", "UDP", "Deno"]) {
    assertEquals(find("SO_REUSEADDR", socket), ["0", "1", "1"]);
    assertEquals(find("SO_KEEPALIVE", socket), ["0", "1", "1"]);
    assertEquals(find("SO_TYPE", socket)[2], "ENOPROTOOPT");
    assertEquals(find("SO_ERROR", socket)[2], "ENOPROTOOPT");
  }
  assertEquals(find("TCP_NODELAY", "Deno"), ["0", "1", "1"]);
  assertEquals(find("TCP_NODELAY", "UDP")[0], "EOPNOTSUPP");
});

Deno.test("07 shows least, most and limit of the buffers", async () => {
  const { stdout } = await run(LESSON, []);
  const limit = (name: string) =>
    Number(Deno.readTextFileSync(`/proc/sys/net/core/${name}`));
  const row = (option: number, name: string) => {
    const most = independent(1, option, INT_MAX);
    return [
      "0",
      `${independent(1, option, 0)}`,
      `${INT_MAX}`,
      `${most}`,
      `${limit(name)}`,
      `${most / limit(name)}`,
    ];
  };
  assertEquals(tableBehind(stdout, "Buffer sizes"), [
    ["SO_SNDBUF", ...row(SNDBUF, "wmem_max")],
    ["SO_RCVBUF", ...row(RCVBUF, "rmem_max")],
  ]);
});

Deno.test("07 shows Deno's calls and a shorter write from the kernel's side", async () => {
  const { stdout } = await run(LESSON, ["--send-buffer=8192"]);
  assertEquals(tableBehind(stdout, "Deno's two calls"), [
    ["conn.setNoDelay(true)", "TCP_NODELAY", "0", "1"],
    ["conn.setKeepAlive(true)", "SO_KEEPALIVE", "0", "1"],
  ]);
  const [usual, small] = tableBehind(stdout, "Lesson 04's first write");
  assertEquals(Number(small[0]), independent(1, SNDBUF, 8192));
  assert(Number(small[1]) > 0 && Number(small[1]) < Number(usual[1]), stdout);
});

Deno.test("07 refuses sizes that are none", async () => {
  for (const value of ["-1", "2147483648", "abc", "1.5", "0x10", ""]) {
    for (const option of ["--send-buffer", "--receive-buffer"]) {
      const { code, stderr } = await run(LESSON, [option, value]);
      assertEquals(code, 2);
      assertEquals(
        stderr,
        `07_socket_options: ${option} must be an integer from 0 to ` +
          `2147483647, got ${JSON.stringify(value)}\n`,
      );
    }
  }
});

Deno.test("07 names the flag that is missing", async () => {
  const all = ["--allow-net", "--allow-ffi", "--allow-run=cat"];
  for (const missing of all) {
    const flags = all.filter((flag) => flag !== missing);
    const { code, stderr } = await run(LESSON, [], { flags });
    assertEquals(code, 1);
    assertMatch(stderr, /^07_socket_options: .*\n$/);
    assert(stderr.includes(missing.split("=")[0]), stderr);
  }
});
