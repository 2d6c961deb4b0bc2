import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  common,
  helpText,
  parseCommandLine,
  UsageError,
} from "../../lib/harness/command_line.ts";

const run = () => Promise.resolve();
const count = { default: 7, min: 1, max: 10, help: "how many" };
const MODES = {
  demo: {
    help: "",
    flags: [],
    options: { count, fast: { default: false, help: "" } },
    run,
  },
  server: {
    help: "",
    flags: ["--allow-net"],
    options: common.server,
    operands: ["port"],
    show: "trace" as const,
    run,
  },
  client: {
    help: "",
    flags: [],
    options: {
      ...common.client,
      message: { default: "hello", help: "" },
      maxFrame: { default: 1, help: "" },
    },
    show: "trace" as const,
    run,
  },
};

const parse = (...args: string[]) => parseCommandLine(MODES, args);

Deno.test("parseCommandLine() gives every option of the mode its value", () => {
  assertEquals(parse(), {
    name: "demo",
    help: false,
    values: { count: 7, fast: false },
    args: [],
  });
  assertEquals(parse("demo", "--fast", "--count", "10").values, {
    count: 10,
    fast: true,
  });
  assertEquals(parse("--count=1").values.count, 1);
  assertEquals(parse("client", "--max-frame", "5").values.maxFrame, 5);
  assertEquals(parse("--count", "1", "--count", "002").values.count, 2);
  assertEquals(parse("server").values, {
    hostname: "0.0.0.0",
    port: 9527,
    child: false,
    quiet: false,
  });
  assertEquals(parse("client").values, {
    hostname: "127.0.0.1",
    port: 9527,
    message: "hello",
    maxFrame: 1,
    quiet: false,
  });
});

Deno.test("parseCommandLine() takes text as it is", () => {
  for (
    const text of ["", "-", "-1", "-x", "a=b", "7", "a\nb", "true", "你好"]
  ) {
    assertEquals(parse("client", "--message", text).values.message, text);
    assertEquals(parse("client", `--message=${text}`).values.message, text);
  }
  assertEquals(parse("client", "--message=--quiet").values.message, "--quiet");
  assertEquals(parse("client", "--message=--quiet").values.quiet, false);
});

Deno.test("parseCommandLine() takes operands for options", () => {
  assertEquals(parse("server", "9000").values.port, 9000);
  assertEquals(parse("server", "--quiet", "9000").values.port, 9000);
});

Deno.test("parseCommandLine() passes many operands on", () => {
  const options = { fast: { default: false, help: "" } };
  const demo = { help: "", flags: [], options, operands: "NUMBER", run };
  const parseMany = (...argv: string[]) => {
    const { name, args } = parseCommandLine({ demo }, argv);
    return [name, ...args];
  };
  assertEquals(parseMany(), ["demo"]);
  assertEquals(parseMany("demo"), ["demo"]);
  assertEquals(parseMany("1", "0x2", "--fast", "x"), ["demo", "1", "0x2", "x"]);
  assertEquals(parseMany("demo", "demo"), ["demo", "demo"]);
  assertThrows(() => parseMany("-1"), UsageError, 'unknown option "-1"');
});

Deno.test("parseCommandLine() knows --help anywhere", () => {
  const cases = [["-h"], ["--help"], ["server", "-h"], ["x", "--help"]];
  for (const args of cases) {
    assertEquals(parse(...args).help, true);
  }
});

Deno.test("parseCommandLine() refuses what the mode does not have", () => {
  const cases: [string[], string][] = [
    [["serve"], 'unknown mode "serve", expected one of demo, server, client'],
    [["toString"], 'unknown mode "toString"'],
    [["__proto__"], 'unknown mode "__proto__"'],
    [["-"], 'unknown mode "-"'],
    [["--nothing"], 'unknown option "--nothing"'],
    [["--prot", "80"], 'unknown option "--prot"'],
    [["--nothing=1"], 'unknown option "--nothing=1"'],
    [["-x"], 'unknown option "-x"'],
    [["-1"], 'unknown option "-1"'],
    [["--count.x", "1"], 'unknown option "--count.x"'],
    [["--constructor"], 'unknown option "--constructor"'],
    [["--__proto__=1"], 'unknown option "--__proto__=1"'],
    [["--no-fast"], 'unknown option "--no-fast"'],
    [["--port=1"], 'unknown option "--port=1", see --help'],
    [["--quiet"], 'unknown option "--quiet", see --help'],
    [["demo", "--child"], 'unknown option "--child", see --help'],
    [["server", "--fast"], 'unknown option "--fast", see --help'],
    [["--fast", "false"], 'unknown mode "false"'],
    [["demo", "--fast", "true"], 'unexpected argument "true"'],
    [["server", "--quiet", "false"], "--port must be an integer"],
    [["client", "more"], 'unexpected argument "more"'],
    [["client", "--", "--more"], 'unexpected argument "--more"'],
    [["server", "80", "more"], 'unexpected argument "more"'],
    [["server", "80", "--port=80"], "port given twice"],
    [["server", "0x50"], '--port must be an integer from 0 to 65535, got "0x5'],
    [["--fast=true"], "--fast takes no value"],
    [["--help=1"], "--help takes no value"],
    [["--help.x"], 'unknown option "--help.x"'],
    [["-hq"], 'unknown option "-hq"'],
    [["-h=1"], 'unknown option "-h=1"'],
    [["--_"], 'unknown option "--_"'],
    [["--_=x"], 'unknown option "--_=x"'],
    [["--="], 'unknown option "--="'],
    [["client", "--host="], "--host must not be empty"],
    [["client", "--host"], "--host needs a value"],
    [["client", "--host", "--quiet"], "--host needs a value"],
    [["client", "--message", "-h"], "--message needs a value"],
    [["client", "--", "--port"], 'unexpected argument "--port"'],
    [
      ["--count=99999999999999999999"],
      "--count must be an integer from 1 to 10",
    ],
  ];
  for (const [args, message] of cases) {
    assertThrows(() => parse(...args), UsageError, message, args.join(" "));
  }
});

Deno.test("parseCommandLine() takes numbers in decimal digits only", () => {
  const values = [
    "abc",
    "-1",
    "+1",
    "65536",
    "1.5",
    "0x50",
    "1e3",
    " 80",
    "80 ",
  ];
  values.push("", "99999999999999999999", "٣", "1_000", "Infinity", "NaN");
  for (const value of values) {
    for (const args of [["--port", value], [`--port=${value}`]]) {
      assertThrows(
        () => parse("server", ...args),
        UsageError,
        "--port must be an integer from 0 to 65535, got " +
          JSON.stringify(value),
      );
    }
  }
  assertThrows(() => parse("client", "--port", "0"), UsageError, "from 1 to");
  assertEquals(parse("server", "--port", "0").values.port, 0);
  assertEquals(parse("server", "--port", "65535").values.port, 65535);
});

Deno.test("helpText() has every mode, its command and its options", () => {
  const url = new URL("../../lessons/01%20x.ts", import.meta.url).href;
  const text = helpText(url, "Title", MODES);
  const lines = text.split("\n");
  assertEquals(lines.slice(0, 3), [
    "Title",
    "",
    "Usage: deno run [flags] 'lessons/01 x.ts' [demo|server|client] [options]",
  ]);
  assert(lines.includes("  deno run --allow-net 'lessons/01 x.ts' server"));
  assert(lines.includes("server [PORT]: "));
  assert(lines.includes("  --count N                 how many [7]"));
  for (const flag of ["--fast", "--max-frame N", "--host TEXT", "--quiet"]) {
    assert(lines.some((line) => line.startsWith(`  ${flag} `)), flag);
  }
});

Deno.test("parseCommandLine() takes a flag whose name begins with no-", () => {
  const options = { noGate: { default: false, help: "" } };
  const modes = { demo: { help: "", flags: [], options, run } };
  assertEquals(parseCommandLine(modes, ["--no-gate"]).values, { noGate: true });
});
