/**
 * The judge is right: servers that are right pass, and each check fails for a
 * server that has just the mistake which it is there to find.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Check } from "../../lib/harness/check.ts";
import { CHAT_CHECKS } from "../../lib/harness/checks_chat.ts";
import { CONCURRENT_CHECKS } from "../../lib/harness/checks_concurrent.ts";
import { FRAME_CHECKS } from "../../lib/harness/checks_frames.ts";
import { HELLO_CHECKS } from "../../lib/harness/checks_hello.ts";
import { productionChecks } from "../../lib/harness/checks_production.ts";
import { UDP_CHECKS } from "../../lib/harness/checks_udp.ts";
import { judge } from "../../lib/harness/judge.ts";
import { hasProgram, onTerminal, run, runLines } from "../testing.ts";

const JUDGE = "lib/harness/judge.ts";
const ROOT = new URL("../../", import.meta.url).pathname;
/** A crowd, as far as a test can have one. */
const CROWD = "--clients=100";

/** A server that runs. Disposing of it ends it by SIGKILL. */
async function start(command: string[]) {
  const child = new Deno.Command(command[0], {
    args: command.slice(1),
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let text = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes("\n")) break; // This closes the pipe.
  }
  const [, port] = text.match(/^listening on \S+:(\d+)\n/)!;
  return {
    port,
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await child.status;
      await child.stdin.close().catch(() => {});
    },
  };
}

const lesson = (name: string, ...args: string[]) => [
  Deno.execPath(),
  ...runLines(`${name}.ts`).get("server")!.slice(1),
  ...["--host=127.0.0.1", "--port=0", ...args],
];
const wrong = (name: string, mistake = "") => [
  ...[Deno.execPath(), "run", "--allow-net", "--allow-ffi", "--unstable-net"],
  ...[`tests/harness/servers/${name}.ts`, mistake],
];

/** Judges a server by a process. PID in the arguments is the server's. */
async function verdictOn(kind: string, command: string[], args: string[]) {
  await using server = await start(command);
  const own = args.map((it) => it.replace("PID", String(server.pid)));
  const { code, stdout, stderr } = await run(
    JUDGE,
    [kind, server.port, ...own],
  );
  assertEquals(stderr, "", stdout);
  const names = (word: string) =>
    Array.from(
      stdout.matchAll(RegExp(`^${word} +(.+)$`, "gm")),
      ([, it]) => it,
    );
  return { code, stdout, ok: names("ok"), failed: names("FAIL") };
}

/** Does something for each item, for a few at a time. */
async function forEach<T>(
  items: T[],
  atOnce: number,
  f: (item: T) => Promise<unknown>,
) {
  const rest = items.values(); // All of them take from here.
  const work = async () => {
    for (const item of rest) await f(item);
  };
  // All of them end, also if one has failed: what it found is the test's.
  const done = await Promise.allSettled(Array.from({ length: atOnce }, work));
  for (const it of done) if (it.status === "rejected") throw it.reason;
}

const PATIENT = "--timeout=20000";
const RIGHT: [kind: string, command: string[], ...args: string[]][] = [
  ["hello", lesson("02_tcp_echo", "--quiet")],
  ["echo", lesson("02_tcp_echo", "--quiet")],
  ["udp", lesson("06_udp_echo", "--quiet")],
  ["frames", lesson("10_framing", "--quiet")],
  ["concurrent", lesson("12_concurrent_echo", "--quiet")],
  ["concurrent", lesson("16_epoll")],
  [
    "production",
    lesson("17_production", "--quiet", "--drain-timeout=1000"),
    ...["--pid=PID", CROWD],
  ],
  ["chat", lesson("18_chat", "--quiet")],
  ["chat", wrong("wrong_chat")], // This one has no mistake.
];

Deno.test("judge passes the lessons' servers", async () => {
  await forEach(RIGHT, 2, async ([kind, command, ...args]) => {
    const { code, stdout, ok } = await verdictOn(kind, command, [
      PATIENT,
      ...args,
    ]);
    assertEquals(code, 0, `${command.join(" ")}:\n${stdout}`);
    assert(stdout.endsWith(`\n${ok.length} passed, 0 failed\n`), stdout);
    assertEquals(ok.length, CHECKS[kind].length);
  });
});

const OTHERS: [program: string, checks: Check[], command: string[]][] = [
  ["node", CONCURRENT_CHECKS, ["node", "tests/bench/servers/node_net.mjs"]],
  ["node", UDP_CHECKS, ["node", "tests/bench/servers/node_dgram.mjs"]],
  ["python3", CONCURRENT_CHECKS, ["python3", "tests/harness/servers/echo.py"]],
  ["python3", CHAT_CHECKS, ["python3", "tests/harness/servers/chat.py"]],
];

for (const [program, checks, command] of OTHERS) {
  // In this process, so that a connection which is left open is found.
  Deno.test(`judge() passes ${command[1]}, and leaves nothing open`, {
    ignore: !await hasProgram(program),
  }, async () => {
    await using server = await start(command);
    const where = { hostname: "127.0.0.1", port: Number(server.port) };
    const subject = { ...where, timeout: 20_000, clients: 100, pid: 0 };
    const lines: string[] = [];
    const verdict = await judge(checks, subject, (line) => lines.push(line));
    const all = { passed: checks.length, failed: 0, untried: 0 };
    assertEquals(verdict, all, lines.join("\n"));
  });
}

const CHECKS: Record<string, Check[]> = {
  hello: HELLO_CHECKS,
  echo: CONCURRENT_CHECKS.filter(({ lesson }) => lesson !== "12"),
  udp: UDP_CHECKS,
  frames: FRAME_CHECKS,
  concurrent: CONCURRENT_CHECKS,
  production: productionChecks(1, 100),
  chat: CHAT_CHECKS,
};

/** What each server gets wrong: a check fails, and perhaps others. */
const WRONG: [kind: string, command: string[], ...failing: string[]][] = [
  // First those that take long, because they let clients wait in vain.
  [
    "concurrent",
    lesson("02_tcp_echo", "--quiet"),
    ...["one of them silent", "200 clients", "does not read"],
  ],
  [
    "production",
    lesson("12_concurrent_echo", "--quiet"),
    "SIGTERM",
  ],
  ["production", wrong("wrong_echo", "counts_lost"), "100 clients reset"],
  ["production", wrong("wrong_echo", "places"), "200 clients", "100 silent"],
  ["production", wrong("wrong_echo", "unfair"), "served alike"],
  ["production", wrong("wrong_echo", "leaks"), "no descriptor stays open"],
  ["chat", wrong("wrong_chat", "await_each"), "does not stop the others"],
  ["chat", wrong("wrong_chat", "forgets"), "reads late is whole lines"],
  ["hello", lesson("01_tcp_hello", "--quiet"), "two pieces"],
  [
    "hello",
    wrong("tutorial", "lession63_"),
    ...["a NUL does not end", "two pieces", "resets its connection"],
  ],
  ["echo", wrong("tutorial", "server64"), "next client is served too"],
  ["echo", wrong("wrong_echo", "shouts"), "a message comes back"],
  ["echo", lesson("01_tcp_hello", "--quiet"), "in pieces", "larger than any"],
  ["echo", wrong("wrong_echo", "text"), "every byte value"],
  ["echo", wrong("wrong_echo", "limit"), "8 MiB"],
  ["echo", wrong("wrong_echo", "ignores_write"), "reads late"],
  ["echo", wrong("wrong_echo", "drops_rest"), "half-close"],
  ["echo", wrong("wrong_echo", "needs_a_word"), "without a word"],
  ["echo", wrong("wrong_echo", "docs"), "resets its connection"],
  ["echo", wrong("wrong_echo", "for_await"), "resets its connection"],
  ["echo", wrong("../../bench/servers/pipe_to"), "before their turn"],
  ["echo", wrong("wrong_echo", "write_fails"), "its echo unread"],
  ["udp", wrong("wrong_udp", "silent"), "a datagram comes back"],
  ["udp", wrong("wrong_udp", "another_port"), "a datagram comes back"],
  ["udp", wrong("wrong_udp", "first_only"), "next client is served too"],
  ["udp", wrong("wrong_udp", "no_empty"), "an empty datagram"],
  ["udp", wrong("wrong_udp", "text"), "every byte value"],
  ["udp", wrong("wrong_udp", "small_buffer"), "10 sizes", "the largest"],
  ["udp", wrong("wrong_udp", "no_large"), "the largest"],
  ["udp", wrong("wrong_udp", "one_address"), "two clients"],
  ["frames", lesson("02_tcp_echo", "--quiet"), "over any limit", "cut off"],
  ["frames", wrong("wrong_echo", "shouts"), "a frame comes back"],
  ["frames", wrong("wrong_frames", "serves_one"), "next client is served too"],
  ["frames", wrong("wrong_frames", "reads_once"), "one by one"],
  ["frames", wrong("wrong_frames", "empty_is_end"), "of no bytes"],
  ["frames", wrong("wrong_frames", "one_frame"), "two frames in one"],
  ["frames", wrong("wrong_frames", "short_frames"), "100 kB"],
  ["frames", wrong("wrong_frames", "no_limit"), "over any limit"],
  ["frames", wrong("wrong_frames", "cut_ends_it"), "cut off"],
  ["frames", wrong("wrong_frames", "reset_ends_it"), "resets its connection"],
  ["chat", lesson("12_concurrent_echo", "--quiet"), "asked for its name"],
  ["chat", wrong("wrong_chat", "lists_self"), "told who is there"],
  ["chat", wrong("wrong_chat", "tells_arrival_back"), "and only to them"],
  ["chat", wrong("wrong_chat", "echoes"), "and not back"],
  ["chat", wrong("wrong_chat", "reads_are_lines"), "in two pieces is one"],
  ["chat", wrong("wrong_chat", "short_lines"), "a line of 1000"],
  ["chat", wrong("wrong_chat", "any_name"), "illegal name is refused"],
  ["chat", wrong("wrong_chat", "tells_nameless"), "has no name yet"],
  ["chat", wrong("wrong_chat", "keeps_names"), "is there no more"],
  ["chat", wrong("wrong_chat", "few"), "30 clients in one room"],
  ["chat", wrong("wrong_chat", "reset_ends_it"), "that resets its connection"],
];

Deno.test("judge fails each wrong server for its mistake", async () => {
  const found = new Set<string>();
  const said = new Map<string, string>();
  await forEach(WRONG, 4, async ([kind, command, ...failing]) => {
    const args = kind === "production" ? ["--pid=PID", CROWD] : [];
    const verdict = await verdictOn(kind, command, args);
    const { code, stdout, failed } = verdict;
    const what = `${kind} ${command.join(" ")}:\n${stdout}`;
    assertEquals(code, 1, what);
    for (const part of failing) {
      const name = failed.find((it) => it.includes(part));
      assert(name !== undefined, `${part} does not fail: ${what}`);
      found.add(name!);
    }
    // Whatever fails, it is told what was sent, and why that matters.
    const told = stdout.match(
      /^FAIL .+\n {5}sent: .+\n {5}expected: .+\n {5}came: .+\n {5}see lesson \d\d\n/gm,
    );
    assertEquals(told?.length, failed.length, what);
    const sum = stdout.match(
      /\n(\d+) passed, (\d+) failed(?:, (\d+) not tried)?\n$/,
    )!;
    const counts = sum.slice(1).map((it) => Number(it ?? 0));
    assertEquals(counts[0] + counts[1] + counts[2], CHECKS[kind].length, what);
    assertEquals(counts[1], failed.length, what);
    said.set(`${kind} ${command.at(-1)}`, stdout);
  });
  const all = Object.values(CHECKS).flat().map(({ name }) => name);
  assertEquals([...found].toSorted(), [...new Set(all)].toSorted());

  // What would fail for a reason that was told already is not tried.
  assertMatch(
    said.get("echo text")!,
    /^- {4}8 MiB both ways at once \(not tried, it needs the above\)$/m,
  );
  assertMatch(
    said.get("echo server64")!,
    /\nthe server no longer accepts connections\n1 passed, 1 failed, 10 not/,
  );
  // A reply from elsewhere is not the server's, but it explains a lot.
  assertMatch(
    said.get("udp another_port")!,
    /came: nothing in 5000 ms, but a datagram from 127\.0\.0\.1:\d+\n/,
  );
});

Deno.test("judge() says that a server goes on in spite of SIGTERM", async () => {
  await using server = await start(wrong("wrong_echo", "ignores_sigterm"));
  const { pid } = server;
  const where = { hostname: "127.0.0.1", port: Number(server.port) };
  const subject = { ...where, timeout: 2000, clients: 2, pid };
  const needed = [
    "a message comes back",
    "every byte",
    "larger than",
    "reads late",
    "SIGTERM",
  ];
  const checks = productionChecks(pid, 2)
    .filter(({ name }) => needed.some((part) => name.includes(part)));
  const lines: string[] = [];
  await judge(checks, subject, (line) => lines.push(line));
  const told = lines.slice(lines.findIndex((line) => line.startsWith("FAIL ")));
  assertEquals(told.slice(2, 4), [
    "     expected: no new client is accepted",
    "     came: connections, for 6000 ms",
  ], lines.join("\n"));
});

Deno.test("judge looks for the process before it begins", async () => {
  const args = ["production", "9527", "--pid=2147483647"];
  const { code, stdout, stderr } = await run(JUDGE, args);
  assertEquals([code, stdout], [2, ""]);
  assertEquals(stderr, "judge: --pid 2147483647: there is no such process\n");
});

Deno.test("judge says what came, and what had come before it", async () => {
  const repeats = await verdictOn("echo", wrong("wrong_echo", "repeats"), []);
  const pieces = /pieces comes back whole\n.+\n.+\n {5}came: (.+)\n/;
  const [, came] = repeats.stdout.match(pieces)!;
  assertEquals(came, '"hello" (after 3 that were right)');
  const shouts = wrong("wrong_echo", "shouts");
  const { stdout } = await verdictOn("frames", shouts, []);
  assertMatch(stdout, /sent: a frame of "hello": "\\x00\\x00\\x00\\x05hello"/);
  assertMatch(stdout, /came: "\\x00\\x00\\x00\\x05HELLO"/);
});

Deno.test("judge ends in time where a server says nothing", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const where = `127.0.0.1:${listener.addr.port}`;
  const { code, stdout } = await run(JUDGE, ["echo", where, "--timeout=500"]);
  assertEquals(code, 1);
  assertEquals(
    stdout,
    `FAIL a message comes back
     sent: "hello,hello\\n"
     expected: the same back
     came: nothing in 500 ms
     see lesson 02
without this nothing else can be judged
0 passed, 1 failed, 11 not tried
`,
  );
});

Deno.test("judge says in one line that nothing listens there", async () => {
  const { code, stdout, stderr } = await run(JUDGE, ["echo", "1"]);
  assertEquals([code, stdout], [1, ""]);
  assertEquals(
    stderr,
    "judge: connect 127.0.0.1:1: ECONNREFUSED (Connection refused): " +
      "does a server listen there?\n",
  );
});

Deno.test("judge refuses what it does not understand", async () => {
  const cases: [args: string[], message: string][] = [
    [[], "no kind of server, expected one of hello, echo, "],
    [["ecko", "9527"], 'unknown kind "ecko", expected one of hello, echo, '],
    [["echo"], "no address, expected [HOST:]PORT"],
    [["echo", "host:0"], "expected [HOST:]PORT, with a port from 1 to 65535, "],
    [["echo", "9527", "1"], 'unexpected argument "1"'],
    [["echo", "9527", "--pid=1"], "--pid is for production only"],
    [["echo", "9527", "--timeout=499"], "--timeout must be an integer from "],
  ];
  await forEach(cases, 2, async ([args, message]) => {
    const { code, stdout, stderr } = await run(JUDGE, args, { flags: [] });
    assertEquals([code, stdout], [2, ""], stderr);
    assertMatch(stderr, /^.*\n$/);
    assert(stderr.startsWith(`judge: ${message}`), stderr);
  });
});

Deno.test("judge has colors on a terminal, unless NO_COLOR is set", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using server = await start(lesson("06_udp_echo", "--quiet"));
  const args = ["udp", server.port];
  const options = { wrapper: onTerminal };
  const green = "\x1b[32mok\x1b[39m";
  const colored = await run(JUDGE, args, options);
  assert(colored.stdout.startsWith(`${green}   a datagram`), colored.stdout);
  const env = { NO_COLOR: "1" };
  const plain = await run(JUDGE, args, { ...options, env });
  assert(plain.stdout.startsWith("ok   a datagram"), plain.stdout);
});
