import { assertEquals, assertRejects } from "@std/assert";
import { readLines } from "../../lib/lines.ts";

const encode = (text: string) => new TextEncoder().encode(text);

/** Reads `chunks`, one a call. */
function chunked(chunks: Uint8Array[]) {
  const rest = [...chunks];
  return {
    read(p: Uint8Array): Promise<number | null> {
      const chunk = rest.shift();
      if (chunk === undefined) return Promise.resolve(null);
      p.set(chunk);
      return Promise.resolve(chunk.length);
    },
  };
}

async function allLines(chunks: Uint8Array[]): Promise<string[]> {
  const lines = await Array.fromAsync(readLines(chunked(chunks)));
  return lines.map((line) => new TextDecoder("latin1").decode(line));
}

Deno.test("readLines() finds the same lines however the input is cut", async () => {
  const text = "one\n\n\ntwo and more\nlast";
  for (let size = 1; size <= text.length; size++) {
    const chunks: Uint8Array[] = [];
    for (let i = 0; i < text.length; i += size) {
      chunks.push(encode(text.slice(i, i + size)), new Uint8Array());
    }
    assertEquals(
      await allLines(chunks),
      ["one\n", "\n", "\n", "two and more\n", "last"],
    );
  }
});

Deno.test("readLines() keeps every byte", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const lines = await Array.fromAsync(readLines(chunked([bytes])));
  assertEquals(lines, [bytes.slice(0, 11), bytes.slice(11)]);
});

Deno.test("readLines() yields lines that outlive the next read", async () => {
  const lines = readLines(chunked([encode("aaa\n"), encode("bbb\n")]));
  const first = await lines.next();
  await lines.next();
  assertEquals(first.value, encode("aaa\n"));
});

Deno.test("readLines() reads a line of many chunks", async () => {
  const chunk = new Uint8Array(60_000).fill(0x61);
  const [line] = await allLines([...Array(100).fill(chunk), encode("\n")]);
  assertEquals(line.length, 6_000_001);
});

Deno.test("readLines() gives a reader without progress up", async () => {
  const stuck = { read: () => Promise.resolve(0) };
  const error = await assertRejects(() => readLines(stuck).next(), Error);
  assertEquals(error.message, "Reader made no progress in 100 reads");
});

Deno.test("readLines() passes the reader's error through", async () => {
  const broken = { read: () => Promise.reject(new TypeError("broken")) };
  await assertRejects(() => readLines(broken).next(), TypeError);
});

/** Runs a program on standard input, which is left open if `stays`. */
async function runOn(input: string, program: string, stays = false) {
  const lines = new URL("../../lib/lines.ts", import.meta.url).href;
  const script = `import { askLines, hasInput } from "${lines}"; ${program}`;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(file, script);
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", file],
    stdin: "piped",
    stdout: "piped",
    env: { FORCE_COLOR: "" },
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(encode(input));
  if (!stays) await writer.close();
  const output = await child.stdout.text();
  if (stays) await writer.close().catch(() => {});
  await Deno.remove(file);
  return output;
}

Deno.test("askLines() goes up to a q, and on behind it when it is asked again", async () => {
  const program = `
    const lines = askLines("not on a terminal");
    const text = (line) => JSON.stringify(new TextDecoder().decode(line));
    for (let i = 0; i < 4; i++) {
      console.log((await Array.fromAsync(lines)).map(text).join(" "));
    }`;
  assertEquals(
    await runOn("a\nqq\n q\nQ\nb\nquit\nq\nc\n\nq", program),
    '"a\\n" "qq\\n" " q\\n"\n"b\\n" "quit\\n"\n"c\\n" "\\n"\n\n',
  );
});

Deno.test("hasInput() sees a line that is there, takes none, and does not wait", async () => {
  const program = `
    console.log(await hasInput(), await hasInput());
    for await (const line of askLines("")) console.log(line.length);
    Deno.exit();`;
  assertEquals(
    await runOn("four\nfive5\nq\n", program, true),
    "true true\n5\n6\n",
  );
  assertEquals(await runOn("", program), "false false\n");
  assertEquals(
    await runOn("", "console.log(await hasInput()); Deno.exit();", true),
    "false\n",
  );
});
