import { assertEquals, assertMatch } from "@std/assert";
import { encode } from "../../lib/encode.ts";
import { hasProgram, onTerminal } from "../testing.ts";

const MODULE = new URL("../../lib/ask_lines.ts", import.meta.url).href;
const PROMPT = "Say something:";
/** No program runs longer, in milliseconds. */
const LIMIT = 60_000;

/** A command that runs a program which may call `askLines`. */
function command(program: string): string[] {
  const script = `import { askLines } from "${MODULE}"; ${program}`;
  return [Deno.execPath(), "eval", "--no-check", script];
}

/** Asks three times, and prints what it gets each time. */
const ASK_THREE_TIMES = command(`
  const lines = () => askLines("${PROMPT}");
  const text = (line) => JSON.stringify(new TextDecoder().decode(line));
  for (let i = 0; i < 3; i++) {
    console.log((await Array.fromAsync(lines())).map(text).join(" "));
  }`);

/** Sends back each line. */
const ECHO = command(`
  for await (const line of askLines("${PROMPT}")) {
    await Deno.stdout.write(line);
  }`);

/** Starts a command, whose standard input and output are pipes. */
function start([program, ...args]: string[]) {
  return new Deno.Command(program, {
    args,
    env: { FORCE_COLOR: "", NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    signal: AbortSignal.timeout(LIMIT),
  }).spawn();
}

/** Runs a command on standard input that is no terminal. */
async function runOn(
  input: string | Uint8Array<ArrayBuffer>,
  argv: string[],
): Promise<string> {
  await using child = start(argv);
  const writer = child.stdin.getWriter();
  const writing = writer.write(
    typeof input === "string" ? encode(input) : input,
  ).then(() => writer.close());
  const [output] = await Promise.all([child.stdout.bytes(), writing]);
  return new TextDecoder("latin1").decode(output);
}

/** Runs a command on a terminal: types when it has printed what is awaited. */
async function runOnTerminal(
  wrapped: string[],
  steps: [awaited: string, typed: string][],
): Promise<string> {
  await using child = start(onTerminal(wrapped));
  const writer = child.stdin.getWriter();
  let output = "";
  let seen = 0;
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    output += text;
    while (steps.length > 0) {
      const [awaited, typed] = steps[0];
      const found = output.indexOf(awaited, seen);
      if (found < 0) break;
      seen = found + awaited.length;
      steps.shift();
      await writer.write(encode(typed));
    }
  }
  await writer.close().catch(() => {});
  return output;
}

Deno.test("askLines() goes up to a q, and on behind it when it is asked again", async () => {
  assertEquals(
    await runOn("a\nqq\n q\nQ\nb\nquit\nq\nc\n\nq", ASK_THREE_TIMES),
    '"a\\n" "qq\\n" " q\\n"\n"b\\n" "quit\\n"\n"c\\n" "\\n"\n',
  );
  assertEquals(await runOn("a\nb", ASK_THREE_TIMES), '"a\\n" "b"\n\n\n');
  assertEquals(await runOn("", ASK_THREE_TIMES), "\n\n\n");
});

Deno.test("askLines() keeps each byte, and takes a line of any length", async () => {
  const bytes = new Uint8Array([0xff, 10, 0, 10, 0x71, 0xe9, 10]);
  assertEquals(await runOn(bytes, ECHO), "\xff\n\0\nq\xe9\n");
  const line = "x".repeat(1_000_000);
  assertEquals((await runOn(line, ECHO)).length, line.length);
});

Deno.test("askLines() says that standard input cannot be read", async () => {
  const program = command(`
    await Array.fromAsync(askLines("")).catch(({ message, cause }) =>
      console.log(message, cause.code)
    );`);
  const onFolder = ["sh", "-c", 'exec "$@" < /', "sh", ...program];
  assertEquals(await runOn("", onFolder), "read stdin EISDIR\n");
});

Deno.test("askLines() prompts on a terminal, for each line", {
  ignore: !await hasProgram("script"),
}, async () => {
  const quit = await runOnTerminal(ECHO, [
    [PROMPT, "hello\n"],
    [`\r\nhello\r\n${PROMPT}`, "one\ntwo\n"], // Ahead of the second prompt.
    [`one\r\n${PROMPT}two\r\n${PROMPT}`, "Q\n"],
  ]);
  assertMatch(quit, /:Q\r\n$/);
  // What comes after the end does not stand behind the prompt.
  const ended = await runOnTerminal(ECHO, [[PROMPT, "\x04"]]); // Ctrl+D
  assertMatch(ended, /^(\^D[\b]*)?Say something:(\^D[\b]*)?\r\n$/);
});

Deno.test("askLines() does not prompt into a file", {
  ignore: !await hasProgram("script"),
}, async () => {
  const file = await Deno.makeTempFile();
  const intoFile = ["sh", "-c", `echo go; "$@" > ${file}`, "sh", ...ECHO];
  await runOnTerminal(intoFile, [["go", "hello\nq\n"]]);
  assertEquals(await Deno.readTextFile(file), "hello\n");
  await Deno.remove(file);
});
