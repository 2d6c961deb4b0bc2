/** The benchmarks run, and print what they should. No test looks at a time. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  descendants,
  hasProgram,
  openFilesLimit,
  runDeno,
  until,
} from "../testing.ts";

const BENCH = ["run", "--allow-all", "tests/bench/bench.ts"];
const ROOT = new URL("../../", import.meta.url);

/** They need Linux, and descriptors for a thousand connections. */
const ignore = Deno.build.os !== "linux" || await openFilesLimit() < 1100;

/** The rows of each table, by its title. */
function tables(stdout: string): Map<string, string[][]> {
  const [, ...blocks] = stdout.trimEnd().split("\n\n"); // The first says where.
  assertEquals(blocks.length % 2, 0, stdout);
  const found = new Map<string, string[][]>();
  for (let i = 0; i < blocks.length; i += 2) {
    const [, ...rows] = blocks[i + 1].split("\n");
    found.set(blocks[i], rows.map((row) => row.trim().split(/ {2,}/)));
  }
  return found;
}

// The other parts take the same way, with more connections, and half a minute.
Deno.test("the benchmarks measure every server of the parts that are named", {
  ignore,
}, async () => {
  const parts = ["full_io", "messages", "datagrams", "start"];
  const args = [...BENCH, ...parts, "--rounds=1", "--time=30"];
  const { code, stdout, stderr } = await runDeno(args);
  assertEquals([code, stderr], [0, ""]);
  const node = stdout.includes("node:net in Node") ? 1 : 0;
  const titles = [...tables(stdout)].map(([title, rows]) => {
    for (const row of rows) {
      assert(row.length >= 2, row.join(" | "));
      assert(Number.parseFloat(row[1]) > 0, row.join(" | "));
      assert(!/NaN|Infinity|undefined/.test(row.join()), row.join(" | "));
    }
    return [title.replaceAll(/\d+/g, "N"), rows.length];
  });
  assertEquals(titles, [
    ["readFull and writeFull, nanoseconds", 6],
    ["N-byte messages, N connections", 6 + node],
    ["N-byte datagrams, N sockets", 4 + node],
    ["From start to first echo", 3 + node],
  ]);

  const wrong = await runDeno([...BENCH, "start", "nothing"]);
  assertEquals([wrong.code, wrong.stdout], [2, ""]);
  assertMatch(
    wrong.stderr,
    /^bench: unknown part "nothing", expected some of c, .*, start\n$/,
  );
});

Deno.test("the benchmarks compare with C, or else with lesson 16", {
  ignore,
}, async () => {
  const args = [...BENCH, "c", "--rounds=1", "--time=10"];
  const { code, stdout, stderr } = await runDeno(args);
  assertEquals([code, stderr], [0, ""]);
  const [[title, rows]] = [...tables(stdout)];
  const first = await hasProgram("cc") ? "epoll in C" : "lesson 16";
  assert(title.includes(`relative to ${first} `), title);
  assertEquals(rows[0], [first, ...new Array(4).fill("1.00 (1.00)")]);
  const lesson16 = rows.find(([name]) => name === "lesson 16")!;
  for (const cell of lesson16.slice(1)) {
    assertMatch(cell, /^\d+\.\d\d \(\d+\.\d\d\)$/);
  }
});

Deno.test("the benchmarks count system calls", {
  ignore: ignore || !await hasProgram("strace"),
}, async () => {
  const { code, stdout, stderr } = await runDeno([...BENCH, "calls"]);
  assertEquals([code, stderr], [0, ""]);
  const [[, rows]] = [...tables(stdout)];
  assert(rows.length >= 2, stdout);
  for (const [name, ...counts] of rows) {
    const [recv, send, epoll] = counts.map(Number);
    assert(recv > 0.9 && send > 0.9 && epoll > 0, name);
  }
});

Deno.test("the benchmarks say what they lack", async () => {
  const limited = async (limit: number, ...args: string[]) => {
    const command = new Deno.Command("sh", {
      args: ["-c", `ulimit -n ${limit}; exec "$@"`, "sh", Deno.execPath()]
        .concat(BENCH, args),
      cwd: ROOT,
      stdin: "null",
    });
    const { code, stderr } = await command.output();
    return [code, new TextDecoder().decode(stderr)];
  };
  assertEquals(await limited(600, "fairness"), [
    1,
    "bench: 1100 open files are needed, the limit is 600\n",
  ]);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  Deno.test(`the benchmarks leave nothing behind on ${signal}`, {
    ignore,
  }, async () => {
    const bench = new Deno.Command(Deno.execPath(), {
      args: [...BENCH, "messages"],
      cwd: ROOT,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    let started: number[] = [];
    await until(() => (started = descendants(bench.pid)).length >= 5);
    started = descendants(bench.pid);
    bench.kill(signal);
    const { code } = await bench.status;
    assertEquals(code, signal === "SIGTERM" ? 143 : 137);
    const isGone = (pid: number) => {
      try {
        const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
        return /\) [ZX] /.test(stat); // Ended, if nobody has asked yet.
      } catch {
        return true;
      }
    };
    await until(() => started.every(isGone));
  });
}
