/** What a user asks of the trace by `SOCKET_TRACE`. */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  parseTraceOptions,
  type TraceOptions,
} from "../../lib/trace/trace_options.ts";
import { returnedCalls } from "../testing.ts";
import { programFolder, runProgram, TRACE } from "./programs.ts";

/** Two listeners, and a connection on the first one. */
const SCRIPT = `
const [one, two] = [0, 0].map((port) => Deno.listen({ hostname: "127.0.0.1", port }));
async function talk() {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: one.addr.port });
  const peer = await one.accept();
  await conn.write(new TextEncoder().encode("a long message"));
  await peer.read(new Uint8Array(64));
  await peer.write(new TextEncoder().encode("short"));
  await conn.read(new Uint8Array(64));
  conn.close();
  peer.close();
}
await talk();
one.close();
two.close();
console.log("done");`;

/** Runs it with these options. */
async function traced(
  options: string,
  flags = ["--allow-env=SOCKET_TRACE"],
  script = SCRIPT,
) {
  await using program = await programFolder(script, { log: "old\n" });
  const { folder } = program;
  const words = options.replaceAll("FOLDER", folder);
  const result = await runProgram(
    program.file,
    [`--preload=${TRACE}`, ...flags.map((it) => it.replace("FOLDER", folder))],
    { SOCKET_TRACE: words },
  );
  const lines = returnedCalls(result.stderr).split("\n").slice(0, -1);
  const file = await Deno.readTextFile(`${folder}/log`);
  return { ...result, lines, file, folder };
}

/** Its trace without any options. */
const ALL = [
  /^program\.ts\(2\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/,
  /^program\.ts\(2\): #2 socket, bind, listen 127\.0\.0\.1:\d+$/,
  /^program\.ts\(4\):talk #3 socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+$/,
  /^program\.ts\(5\):talk #4 accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/,
  /^program\.ts\(6\):talk #3 write 14 of 14 bytes "a long message"$/,
  /^program\.ts\(7\):talk #4 read 14 bytes "a long message"$/,
  /^program\.ts\(8\):talk #4 write 5 of 5 bytes "short"$/,
  /^program\.ts\(9\):talk #3 read 5 bytes "short"$/,
  /^program\.ts\(10\):talk #3 close$/,
  /^program\.ts\(11\):talk #4 close$/,
  /^program\.ts\(14\): #1 close listener$/,
  /^program\.ts\(15\): #2 close listener$/,
];

function assertLines(lines: string[], expected: RegExp[]): void {
  assertEquals(lines.length, expected.length, lines.join("\n"));
  for (const [i, line] of expected.entries()) assertMatch(lines[i], line);
}

Deno.test("parseTraceOptions() reads each word, in any order, and the last of several", () => {
  const none: TraceOptions = {
    filter: [],
    json: false,
    summary: false,
    hasPlaces: true,
  };
  const cases: [text: string, different: Partial<TraceOptions>][] = [
    ["", {}],
    [" \n\t ", {}],
    ["bytes=0", { bytes: 0 }],
    ["bytes=64 bytes=3", { bytes: 3 }],
    ["filter=read", { filter: ["read"] }],
    ["filter=read,9527, filter=write", { filter: ["read", "9527", "write"] }],
    ["out=/a/b=c,d", { out: "/a/b=c,d" }],
    ["json", { json: true }],
    ["summary", { summary: true }],
    ["noplaces", { hasPlaces: false }],
    [" summary  json\tout=x noplaces\nbytes=1", {
      summary: true,
      json: true,
      out: "x",
      hasPlaces: false,
      bytes: 1,
    }],
  ];
  for (const [text, different] of cases) {
    assertEquals(parseTraceOptions(text), { ...none, ...different }, text);
  }
});

Deno.test("parseTraceOptions() throws for any other word, and names it", () => {
  const words = ["byte=3", "bytes=", "bytes", "bytes=-1", "bytes=1.5", "out="]
    .concat("bytes=9999999999", "filter=", "filter=a;b", "JSON", "json=1")
    .concat("=", "summary,json", "out", "place", "bytes=0x10");
  for (const word of words) {
    const message = `no such option: ${JSON.stringify(word)}, there are `;
    for (const text of [word, `json ${word} summary`]) {
      assertThrows(() => parseTraceOptions(text), TypeError, message);
    }
  }
});

Deno.test("trace shows as many bytes as asked for", async () => {
  const three = await traced("bytes=3");
  assertEquals([three.code, three.stdout], [0, "done\n"]);
  const short = ALL.map((line) =>
    RegExp(
      line.source.replace('"a long message"', '"a l"\\.\\.\\.')
        .replace('"short"', '"sho"\\.\\.\\.'),
    )
  );
  assertLines(three.lines, short);
});

Deno.test("trace shows no bytes if none are asked for", async () => {
  const { lines } = await traced("bytes=0");
  assertMatch(lines[4], / write 14 of 14 bytes(?: ""\.\.\.)?$/);
});

Deno.test("trace ignores options where it may not read them, and empty ones", async () => {
  const [denied, empty, other] = await Promise.all([
    traced("bytes=3 no such words", []),
    traced(" "),
    traced("bytes=3", ["--allow-env=OTHER"]),
  ]);
  for (const { code, stdout, lines } of [denied, empty, other]) {
    assertEquals([code, stdout], [0, "done\n"]);
    assertLines(lines, ALL);
  }
});

Deno.test("trace ends a program at once for an option that it does not know", async () => {
  const { code, stdout, stderr } = await traced("json wrong=1 summary");
  assertEquals([code, stdout], [2, ""]);
  assertMatch(
    stderr,
    /^SOCKET_TRACE: no such option: "wrong=1", there are .+\n$/,
  );
});

Deno.test("trace shows calls of the names in its filter, and calls on the ports", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const script = `${SCRIPT}
    const conn = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
    console.log(await conn.read(new Uint8Array(9)));
    conn.close();`;
  const onPort = [
    RegExp(
      `^program\\.ts\\(17\\): #5 socket, connect 127\\.0\\.0\\.1:${port} `,
    ),
    /^program\.ts\(18\): #5 read 2 bytes "hi"$/,
    /^program\.ts\(19\): #5 close$/,
  ];
  const cases: [options: string, lines: RegExp[]][] = [
    [`filter=${port}`, onPort],
    ["filter=read,connect", [ALL[2], ALL[5], ALL[7], onPort[0], onPort[1]]],
    [`filter=write filter=${port}`, [ALL[4], ALL[6], ...onPort]],
    ["filter=listen,closeWrite", [ALL[0], ALL[1]]],
    ["filter=1,nothing", []],
  ];
  const serving = (async () => {
    for await (const conn of listener) {
      await conn.write(new Uint8Array([104, 105]));
      conn.close();
    }
  })();
  for (const [options, lines] of cases) {
    const it = await traced(options, undefined, script);
    assertEquals([it.code, it.stdout], [0, "done\n2\n"], it.stderr);
    assertLines(it.lines, lines);
  }
  listener.close();
  await serving;
});

Deno.test("trace writes its lines into a file, and nothing on standard error", async () => {
  const flags = ["--allow-env=SOCKET_TRACE", "--allow-write=FOLDER/log"];
  const { code, stdout, stderr, file } = await traced("out=FOLDER/log", flags);
  assertEquals([code, stdout, stderr], [0, "done\n", ""]);
  // What stood there before is gone.
  assertLines(returnedCalls(file).split("\n").slice(0, -1), ALL);
});

Deno.test("trace ends a program whose file it may not write", async () => {
  const { code, stdout, stderr, file, folder } = await traced("out=FOLDER/log");
  assertEquals([code, stdout, file], [2, "", "old\n"]);
  const path = `${folder}/log`;
  assertEquals(
    stderr,
    `SOCKET_TRACE: out=${path} needs --allow-write=${path}\n`,
  );
});

Deno.test("trace writes lines of JSON", async () => {
  const { code, stderr } = await traced("json bytes=1");
  assertEquals(code, 0);
  const calls = stderr.trimEnd().split("\n").map((line) => JSON.parse(line))
    .filter((call) => !call.isWaiting);
  assertEquals(
    calls.map((
      { socket, name, line, function: inside, bytes, result },
    ) => [socket, name, line, inside, bytes, result]).slice(2),
    [
      [3, "socket, connect", 4, "talk", 0, ""],
      [4, "accept", 5, "talk", 0, ""],
      [3, "write", 6, "talk", 14, ' 14 of 14 bytes "a"...'],
      [4, "read", 7, "talk", 14, ' 14 bytes "a"...'],
      [4, "write", 8, "talk", 5, ' 5 of 5 bytes "s"...'],
      [3, "read", 9, "talk", 5, ' 5 bytes "s"...'],
      [3, "close", 10, "talk", 0, ""],
      [4, "close", 11, "talk", 0, ""],
      [1, "close listener", 14, "", 0, ""],
      [2, "close listener", 15, "", 0, ""],
    ],
  );
  for (const { file, at, took, own, peer, socket } of calls) {
    assertEquals(file, "program.ts");
    assert(Math.abs(at - Date.now()) < 600_000 && took >= 0);
    assertMatch(own, /^127\.0\.0\.1:\d+$/);
    assertMatch(peer, socket > 2 ? /^127\.0\.0\.1:\d+$/ : /^$/);
  }
});

Deno.test("trace sums up the sockets at the end, in a file as well", async () => {
  const flags = ["--allow-env", "--allow-write=FOLDER"];
  const only = await traced("summary filter=close,accept,write,read");
  const both = await traced("out=FOLDER/log summary noplaces", flags);
  assertEquals([only.code, both.code, both.stderr], [0, 0, ""]);
  const duration = String.raw`\d+(\.\d s| ms) waited$`;
  const sums = (calls: number[]) => [
    /^4 sockets in \d+\.\d s:$/,
    ...[
      String.raw`#1 127\.0\.0\.1:\d+: ${calls[0]} calls?, 0 bytes read, 0`,
      String.raw`#2 127\.0\.0\.1:\d+: ${calls[1]} calls?, 0 bytes read, 0`,
      String.raw`#3 127\.0\.0\.1:\d+ - 127\.0\.0\.1:\d+: ${
        calls[2]
      } calls, 5 bytes read, 14`,
      String.raw`#4 127\.0\.0\.1:\d+ - 127\.0\.0\.1:\d+: ${
        calls[3]
      } calls, 14 bytes read, 5`,
    ].map((line) => RegExp(`^${line} bytes written, ${duration}`)),
  ];
  const lines = both.file.trimEnd().split("\n").slice(-5);
  assertLines(lines, sums([2, 2, 4, 4]));
  // What is not shown is not counted.
  const shown = only.lines.slice(-5);
  assertLines(
    [shown[0], ...shown.slice(1).toSorted()],
    sums([1, 1, 3, 4]),
  );
});

Deno.test("trace sums up as JSON where it writes JSON, and only sockets", async () => {
  const refused = `${SCRIPT}
    await Deno.connect({ hostname: "127.0.0.1", port: 1 }).catch(() => {});
    await fetch("http://127.0.0.1:1/").catch(() => {});`;
  const flags = ["--allow-env=SOCKET_TRACE"];
  const { stderr } = await traced("json summary", flags, refused);
  const sums = stderr.trimEnd().split("\n").map((line) => JSON.parse(line))
    .filter(({ name }) => name === "summary");
  assertEquals(
    sums.map(({ socket, calls, read, written }) => [
      socket,
      calls,
      read,
      written,
    ]),
    [[1, 2, 0, 0], [2, 2, 0, 0], [3, 4, 5, 14], [4, 4, 14, 5]],
  );
  for (const { ends } of sums) assertMatch(ends, /^127\.0\.0\.1:\d+/);
});

Deno.test("trace sums up where a signal ends the program too", async () => {
  const script = `${SCRIPT}
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    setTimeout(() => process.kill(process.pid, "SIGTERM"), 1000); // The trace listens by then.
    await listener.accept();`;
  for (const more of [[], ["--allow-run"]]) {
    const flags = ["--allow-env=SOCKET_TRACE", ...more];
    const { code, lines } = await traced("summary filter=write", flags, script);
    assertEquals(code, 143);
    const sums = lines.filter((line) => /^\d sockets? in /.test(line));
    assertEquals(sums.map((line) => line.split(" in ")[0]), ["2 sockets"]);
  }
});

Deno.test("trace without places says only what the calls are", async () => {
  const { lines } = await traced("noplaces");
  assertLines(
    lines,
    ALL.map(({ source }) => RegExp(source.replace(/^\^program.*?#/, "^#"))),
  );
});
