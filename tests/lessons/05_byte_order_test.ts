import { assert, assertEquals, assertThrows } from "@std/assert";
import { endianness } from "node:os";
import { demo } from "../../lessons/05_byte_order.ts";
import { UsageError } from "../../lib/harness/command_line.ts";
import { hasProgram, LessonProcess, onTerminal, run } from "../testing.ts";

const LESSON = "05_byte_order.ts";
const IS_LITTLE = endianness() === "LE";
const ORDER = IS_LITTLE ? "little-endian" : "big-endian";

/** The rows for the numbers, cell by cell. */
const numbers = (stdout: string) =>
  stdout.split("\n\n")[1].split("\n").slice(1)
    .map((row) => row.trim().split(/ {2,}/));

Deno.test("05 shows the tutorial's numbers, an address and a sockaddr_in", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  assert(stdout.startsWith(`This host is ${ORDER}: `), stdout);
  const host = (little: string, big: string) => IS_LITTLE ? little : big;
  assertEquals(numbers(stdout), [
    [
      "9527",
      "0x2537",
      host("37 25", "25 37"),
      "25 37",
      "htons",
      host("0x3725", "0x2537"),
    ],
    [
      "305419896",
      "0x12345678",
      host("78 56 34 12", "12 34 56 78"),
      "12 34 56 78",
      "htonl",
      host("0x78563412", "0x12345678"),
    ],
  ]);
  assert(stdout.includes("2130706433 (0x7f000001)"), stdout);
  assert(
    stdout.includes(`they are ${host("0x0100007f", "0x7f000001")}.`),
    stdout,
  );

  const [family, port, address, zero] = stdout.trimEnd().split("\n").slice(-4)
    .map((row) => row.trim().split(/ {2,}/));
  assertEquals(family, [
    "0",
    "sin_family",
    host("02 00", "00 02"),
    "host",
    "2",
  ]);
  // The bytes are in network byte order; the number that they stand for is a
  // number as any other.
  const [high, low] = port[2].split(" ").map((byte) => parseInt(byte, 16));
  const number = `${high * 256 + low}`;
  assertEquals(port, ["2", "sin_port", port[2], "network", number]);
  assertEquals(
    address,
    ["4", "sin_addr", "7f 00 00 01", "network", "127.0.0.1"],
  );
  assertEquals(zero, ["8", "sin_zero", "00 ".repeat(8).trim(), "-", "-"]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
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

Deno.test("05 refuses what is no number", async () => {
  const refusal = (text: string) =>
    "NUMBER must be an integer from 0 to 4294967295, in decimal or with 0x," +
    ` got ${JSON.stringify(text)}`;
  for (
    const text of ["4294967296", "1.5", "abc", "", " 1", "1e3", "0x", "0b1"]
  ) {
    let printed = "";
    assertThrows(
      () => demo({ operands: ["1", text], print: (it) => printed += it }),
      UsageError,
      refusal(text),
    );
    assertEquals(printed, "");
  }
  const { code, stdout, stderr } = await run(LESSON, ["demo", "1", "2x"]);
  assertEquals([code, stdout], [2, ""]);
  assertEquals(stderr, `05_byte_order: ${refusal("2x")}\n`);
});

Deno.test("05 asks for FFI on a terminal, and takes yes for an answer", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using process = new LessonProcess(LESSON, ["9527"], {
    flags: [],
    env: { NO_COLOR: "1" },
    wrapper: onTerminal,
  });
  await process.stdoutHas(/Allow\?.* > /);
  // Deno throws away what is typed until 100 ms have passed without any, so that
  // nobody says yes by mistake.
  const typing = setInterval(() => {
    process.type("y\n").catch(() => {}); // It may have ended.
  }, 300);
  try {
    await process.stdoutHas("This host is");
  } finally {
    clearInterval(typing);
  }
  const { code, stdout } = await process.result();
  assertEquals(code, 0, stdout);
  assert(stdout.includes(`This host is ${ORDER}: `), stdout);
  assert(/^ *0 +sin_family /m.test(stdout), stdout);
  assert(/^ *8 +sin_zero( +00){8} /m.test(stdout), stdout);
});
