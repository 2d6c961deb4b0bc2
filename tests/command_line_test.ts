import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  clientOptions,
  describeError,
  failed,
  flagOption,
  integerOption,
  mode,
  parseCommandLine,
  serverOptions,
  textOption,
  UsageError,
} from "../lib/command_line.ts";

const run = () => Promise.resolve();
const LESSON = {
  url: import.meta.url,
  title: "Test",
  modes: {
    demo: mode({
      help: "",
      flags: [],
      options: { count: integerOption("", 7, 1, 10), fast: flagOption("") },
      run,
    }),
    server: mode({
      help: "",
      flags: [],
      options: serverOptions,
      operands: ["port"],
      run,
    }),
    client: mode({
      help: "",
      flags: [],
      options: { ...clientOptions, message: textOption("", "hello") },
      run,
    }),
  },
};

const parse = (...args: string[]) => parseCommandLine(LESSON, args);

Deno.test("parseCommandLine() gives every option of the mode its value", () => {
  assertEquals(parse(), {
    mode: "demo",
    values: { count: 7, fast: false },
    args: [],
  });
  assertEquals(parse("demo", "--fast", "--count", "10").values, {
    count: 10,
    fast: true,
  });
  assertEquals(parse("--count=1", "demo").values.count, 1);
  assertEquals(parse("--count", "1", "--count", "002").values.count, 2);
  assertEquals(parse("server").values, {
    host: "0.0.0.0",
    port: 9527,
    child: false,
    quiet: false,
  });
  assertEquals(parse("client").values, {
    host: "127.0.0.1",
    port: 9527,
    message: "hello",
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
  assertEquals(parse("--quiet", "server", "9000").values.port, 9000);
});

Deno.test("parseCommandLine() passes many operands on", () => {
  const options = { fast: flagOption("") };
  const demo = mode({ help: "", flags: [], options, operands: "NUMBER", run });
  const lesson = { ...LESSON, modes: { demo } };
  const parseMany = (...args: string[]) => {
    const { mode, args: operands } = parseCommandLine(lesson, args);
    return [mode, ...operands];
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
    assertEquals(parse(...args).mode, "help");
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
    [["--port", "1"], 'unknown option "--port" for demo'],
    [["--quiet"], 'unknown option "--quiet" for demo'],
    [["server", "--fast"], 'unknown option "--fast" for server'],
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

Deno.test("describeError() makes one line without numbers of errors", () => {
  const error = (message: string, code?: unknown) =>
    Object.assign(new Error(message), { code });
  assertEquals(
    describeError(error("Connection refused (os error 111)", "ECONNREFUSED")),
    "ECONNREFUSED (Connection refused)",
  );
  assertEquals(describeError(error("a\n  b")), "a b");
  assertEquals(describeError(error("a\x1b[31m\0b")), "a [31m b");
  const outer = new Error("connect a\nb:1", { cause: error("no\nway") });
  assertEquals(describeError(outer), "connect a b:1: no way");
  assertEquals(describeError(error("odd", 23)), "odd");
  assertEquals(describeError("text"), "text");
  assertEquals(describeError(new Deno.errors.TimedOut("deadline")), "TimedOut");
  assertEquals(
    describeError(new DOMException("Signal timed out.", "TimeoutError")),
    "TimedOut",
  );
});

Deno.test("failed() names the call and keeps the cause", async () => {
  const cause = new TypeError("no");
  const error = await assertRejects(
    () => Promise.reject(cause).catch(failed("connect [::1]:1")),
    Error,
  );
  assertEquals(error.message, "connect [::1]:1");
  assertEquals(describeError(error), "connect [::1]:1: no");
  assertEquals(error.cause, cause);
});
