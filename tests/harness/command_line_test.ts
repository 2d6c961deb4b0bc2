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
    options: { count, fast: { default: false, help: "" } },
    run,
  },
  server: {
    help: "",
    options: common.server,
    show: "trace" as const,
    run,
  },
  client: {
    help: "",
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
    operands: [],
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
    step: false,
  });
  assertEquals(parse("client").values, {
    hostname: "127.0.0.1",
    port: 9527,
    message: "hello",
    maxFrame: 1,
    quiet: false,
    step: false,
  });
});

Deno.test("parseCommandLine() takes text as it is", () => {
  for (const text of ["a=b", "7", "a\nb", "true", "你好", " "]) {
    assertEquals(parse("client", "--message", text).values.message, text);
    assertEquals(parse("client", `--message=${text}`).values.message, text);
  }
  for (const text of ["-", "-1", "-x", "--quiet"]) {
    const { values } = parse("client", `--message=${text}`);
    assertEquals([values.message, values.quiet], [text, false]);
  }
});

Deno.test("parseCommandLine() takes the mode wherever it stands", () => {
  const { name, values } = parse("--port", "9000", "client");
  assertEquals([name, values.port], ["client", 9000]);
  assertEquals(parse("--quiet", "server", "9000").values.port, 9000);
  assertEquals(parse("--message=server", "client").name, "client");
});

Deno.test("parseCommandLine() takes the tutorial's operands for options", () => {
  assertEquals(parse("server", "9000").values.port, 9000);
  assertEquals(parse("server", "--quiet", "9000").values.port, 9000);
  const cases = [
    ["client", "::1", "9000"],
    ["client", "--quiet", "::1", "9000"],
    ["client", "::1", "--port=9000"],
    ["client", "--", "::1", "9000"],
  ];
  for (const args of cases) {
    const { hostname, port } = parse(...args).values;
    assertEquals([hostname, port], ["::1", 9000], args.join(" "));
  }
  assertEquals(parse("client", "::1").values.port, 9527);
  for (const host of ["127.1", "80.example", "9527x", "[::1]", "::", "1::9"]) {
    assertEquals(parse("client", host).values.hostname, host);
  }
});

Deno.test("parseCommandLine() passes many operands on", () => {
  const options = { fast: { default: false, help: "" } };
  const demo = { help: "", options, operands: "NUMBER", run };
  const parseMany = (...argv: string[]) => {
    const { name, operands } = parseCommandLine({ demo }, argv);
    return [name, ...operands];
  };
  assertEquals(parseMany(), ["demo"]);
  assertEquals(parseMany("demo"), ["demo"]);
  assertEquals(parseMany("1", "0x2", "--fast", "x"), ["demo", "1", "0x2", "x"]);
  assertEquals(parseMany("demo", "demo"), ["demo", "demo"]);
  assertThrows(() => parseMany("-1"), UsageError, 'unknown option "-1"');
});

Deno.test("parseCommandLine() knows --help anywhere", () => {
  const cases = [
    ["-h"],
    ["--help"],
    ["server", "-h"],
    ["x", "--help"],
    ["--port=x", "--help"],
    ["-h=1"],
    ["--help=1"],
  ];
  for (const args of cases) {
    assertEquals(parse(...args).help, true);
  }
});

Deno.test("parseCommandLine() refuses what the mode does not have", () => {
  const unknown = [
    "--nothing",
    "--nothing=1",
    "-x",
    "-1",
    "-hq",
    "--count.x",
    "--help.x",
    "--host.a=1",
    "--constructor",
    "--hasOwnProperty",
    "--__proto__=1",
    "--no-fast",
    "--no-port",
    "--no-help",
    "---fast",
    "--_",
    "--_=x",
    "--=",
  ];
  const cases: [string[], string][] = [
    ...unknown.map((it): [string[], string] => [
      [it],
      `unknown option ${JSON.stringify(it)}, see --help`,
    ]),
    [["serve"], 'unknown mode "serve", expected one of demo, server, client'],
    [["toString"], 'unknown mode "toString"'],
    [["__proto__"], 'unknown mode "__proto__"'],
    [["-"], 'unknown mode "-"'],
    [["--fast", "--", "true"], 'unknown mode "true"'],
    [["--prot", "80"], 'unknown option "--prot"'],
    [["--port=1"], 'unknown option "--port", see --help'],
    [["--quiet"], 'unknown option "--quiet", see --help'],
    [["demo", "--child"], 'unknown option "--child", see --help'],
    [["server", "--fast"], 'unknown option "--fast", see --help'],
    [["server", "--port", "-1"], 'unknown option "-1", see --help'],
    [["client", "--message", "-1"], 'unknown option "-1", see --help'],
    [["--fast", "false"], "--fast takes no value"],
    [["demo", "--fast", "true"], "--fast takes no value"],
    [["server", "--quiet", "false"], "--quiet takes no value"],
    [["--fast=true"], "--fast takes no value"],
    [["--help=false"], "--help takes no value"],
    [["demo", "more"], 'unexpected argument "more"'],
    [["server", "80", "more"], 'unexpected argument "more"'],
    [["client", "a", "1", "b"], 'unexpected argument "b"'],
    [["client", "a", "--", "1", "--b"], 'unexpected argument "--b"'],
    [["--port", "80", "client", "a", "server"], "port given twice"],
    [["client", "a", "b"], "--port must be an integer from 1 to 65535"],
    [["server", "80", "--port=80"], "port given twice"],
    [["client", "a", "--host=a"], "host given twice"],
    [["client", "", "80"], "host needs a value"],
    [["client", "9527"], "--host 9527 is a number, is it the port?"],
    [["client", "--quiet", "080"], "--host 080 is a number, is it the port?"],
    [["client", "--host=1"], "--host 1 is a number, is it the port?"],
    [["server", "--host", "80"], "--host 80 is a number, is it the port?"],
    [
      ["client", "127.0.0.1:9527"],
      "127.0.0.1:9527 is host and port, give them apart: --host 127.0.0.1 --port 9527",
    ],
    [["client", "--host=a:1", "--port=2"], "apart: --host a --port 1"],
    [["client", "a:"], "apart: --host a --port PORT"],
    [["client", "[::1]:9527"], "apart: --host ::1 --port 9527"],
    [["server", "[::1]:9527"], "apart: --host ::1 --port 9527"],
    [["server", ":80"], "apart: --host HOST --port 80"],
    [["server", "--quiet", "--step"], "--step does not go together with"],
    [["demo", "--step", "--quiet"], 'unknown option "--quiet"'],
    [["client", "--host="], "--host needs a value"],
    [["client", "--host"], "--host needs a value"],
    [["client", "--host", ""], "--host needs a value"],
    [["client", "--host", "--quiet"], "--host needs a value"],
    [["client", "--message", ""], "--message needs a value"],
    [["client", "--message", "--"], "--message needs a value"],
    [["server", "--port=", "1"], "--port needs a value"],
    [["server", "--port"], "--port needs a value"],
    [["--count="], "--count needs a value"],
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
  const values = ["abc", "-1", "+1", "65536", "1.5", "0x50", "1e3", " 80"];
  values.push("80 ", "99999999999999999999", "٣", "1_000", "Infinity", "NaN");
  for (const value of values) {
    const ways = [[`--port=${value}`], ["--port", value], [value]];
    for (const args of value === "-1" ? ways.slice(0, 1) : ways) {
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
  const commands = new Map([
    ["", "deno run --allow-net --allow-run=deno lessons/01_x.ts"],
    ["server", "deno run --allow-net lessons/01_x.ts server"],
    ["client", "deno run --allow-net lessons/01_x.ts client"],
  ]);
  const lines = helpText({ title: "Title", commands }, MODES).split("\n");
  assertEquals(lines.slice(0, 5), [
    "Title",
    "",
    "Usage: deno run [flags] lessons/01_x.ts [demo|server|client] [options]",
    "",
    "demo: ",
  ]);
  for (const command of commands.values()) {
    assert(lines.includes(`  ${command}`));
  }
  assert(lines.includes("server [PORT]: "));
  assert(lines.includes("client [HOST] [PORT]: "));
  assert(lines.includes("  --count N                 how many [7]"));
  for (const flag of ["--fast", "--max-frame N", "--host TEXT", "--quiet"]) {
    assert(lines.some((line) => line.startsWith(`  ${flag} `)), flag);
  }
});

Deno.test("parseCommandLine() takes a flag whose name begins with no-", () => {
  const options = { noGate: { default: false, help: "" } };
  const modes = { demo: { help: "", options, run } };
  assertEquals(parseCommandLine(modes, ["--no-gate"]).values, { noGate: true });
});
