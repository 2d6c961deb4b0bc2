import { assert, assertEquals, assertMatch } from "@std/assert";
import { endianness } from "node:os";
import { run } from "./testing.ts";

const LESSON = "05_byte_order.ts";
const ORDER = endianness() === "LE" ? "little-endian" : "big-endian";

/** The rows for the numbers, cell by cell. */
const numbers = (stdout: string) =>
  stdout.split("\n\n")[1].split("\n").slice(1)
    .map((row) => row.trim().split(/ {2,}/));

Deno.test("05 shows the tutorial's numbers where none are given", async () => {
  for (const args of [[], ["demo"], ["--quiet"]]) {
    const { code, stdout, stderr } = await run(LESSON, args);
    assertEquals([code, stderr], [0, ""]);
    assert(stdout.startsWith(`This host is ${ORDER}: `), stdout);
    assertEquals(
      numbers(stdout),
      ORDER === "little-endian"
        ? [
          ["9527", "0x2537", "37 25", "25 37", "htons", "0x3725"],
          [
            "305419896",
            "0x12345678",
            "78 56 34 12",
            "12 34 56 78",
            "htonl",
            "0x78563412",
          ],
        ]
        : [
          ["9527", "0x2537", "25 37", "25 37", "htons", "0x2537"],
          [
            "305419896",
            "0x12345678",
            "12 34 56 78",
            "12 34 56 78",
            "htonl",
            "0x12345678",
          ],
        ],
    );
    assert(stdout.includes("2130706433 (0x7f000001)"), stdout);
  }
});

Deno.test("05 takes numbers of up to 65535 as 16 bits, others as 32", async () => {
  const args = ["0", "65535", "0X10000", "0xffffffff", "00080"];
  const { code, stdout } = await run(LESSON, args);
  assertEquals(code, 0);
  assertEquals(numbers(stdout).map((row) => [row[0], row[3], row[4]]), [
    ["0", "00 00", "htons"],
    ["65535", "ff ff", "htons"],
    ["65536", "00 01 00 00", "htonl"],
    ["4294967295", "ff ff ff ff", "htonl"],
    ["80", "00 50", "htons"],
  ]);
});

Deno.test("05 shows a sockaddr_in whose bytes are what it says", async () => {
  const { stdout } = await run(LESSON, []);
  const [family, port, address, zero] = stdout.trimEnd().split("\n").slice(-4)
    .map((row) => row.trim().split(/ {2,}/));
  assertMatch(family.join(" "), /^0 sin_family (02 00|00 02) 2, /);
  const [high, low] = port[2].split(" ").map((byte) => parseInt(byte, 16));
  assertEquals(parseInt(port[3]), high * 256 + low);
  assertEquals(address, ["4", "sin_addr", "7f 00 00 01", "127.0.0.1"]);
  assertEquals(zero[2], "00 00 00 00 00 00 00 00");
});

Deno.test("05 refuses what is no number", async () => {
  for (
    const text of ["4294967296", "1.5", "abc", "", " 1", "1e3", "0x", "0b1"]
  ) {
    const { code, stdout, stderr } = await run(LESSON, ["demo", text]);
    assertEquals([code, stdout], [2, ""], text);
    assert(
      stderr.startsWith("05_byte_order: NUMBER must be an integer"),
      stderr,
    );
    assert(stderr.endsWith(`got ${JSON.stringify(text)}\n`), stderr);
  }
  assertEquals((await run(LESSON, ["-1"])).code, 2);
});

Deno.test("05 names the permission that is missing", async () => {
  const { code, stderr } = await run(LESSON, [], { flags: [] });
  assertEquals(code, 1);
  assertMatch(stderr, /^05_byte_order: .*--allow-ffi.*\n$/);
});
