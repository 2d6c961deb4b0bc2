import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { heartbeat } from "../../lessons/14_dead_peers.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import {
  canUnshare,
  descendants,
  hasProgram,
  inNetwork,
  type KernelRow,
  kernelRows,
  LessonProcess,
  run,
  sentAgain,
  tableBehind,
  until,
} from "../testing.ts";

const LESSON = "14_dead_peers.ts";

/** A number with its thousands apart. */
const numberOf = (text: string) => Number(text.replaceAll(",", ""));

/** The kernel's rows of a process's TCP sockets: their states and timers. */
function rowsOf(pid: number): KernelRow[] {
  const inodes = new Set<string>();
  try {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
      const link = Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
      inodes.add(link.match(/^socket:\[(\d+)\]$/)?.[1] ?? "");
    }
  } catch {
    // A process that has ended, or a descriptor that is closed: just now.
  }
  return kernelRows().filter(({ inode }) => inodes.has(inode));
}

Deno.test("14 demo shows who notices that a peer is dead, and who does not", async () => {
  await using process = new LessonProcess(LESSON, []);
  // Meanwhile the kernel itself says that such timers run, on sockets that are
  // ESTABLISHED all the while.
  const runs = (timer: KernelRow["timer"]) =>
    [process.pid, ...descendants(process.pid)].flatMap(rowsOf)
      .some((row) => row.state === "ESTABLISHED" && row.timer === timer);
  await until(() => runs("keepalive"));
  await until(() => runs("on"));
  // When the writer has written its last bytes: how often TCP has sent again, as
  // ss(8) knows it.
  const pids = () => [process.pid, ...descendants(process.pid)];
  const writer = () =>
    pids().flatMap(rowsOf).find(({ sendQueue }) => sendQueue === 6000);
  await until(() => writer() !== undefined);
  const seen: unknown[] = [];
  await until(async () => {
    const row = writer();
    if (row) seen.push(await sentAgain(row.own, row.other));
    return row === undefined;
  });
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);

  const values = tableBehind(stdout, "Options of a connection");
  const [keepAlive, idle, , , userTimeout] = values;
  assertEquals(keepAlive, ["SO_KEEPALIVE", "0", "1", "1"]);
  assertEquals(idle[1], idle[2]); // setKeepAlive(true) leaves the times alone.
  assertEquals(idle[3], "1");
  assertEquals(userTimeout, ["TCP_USER_TIMEOUT", "0", "0", "1,500"]);
  const retries = Deno.readTextFileSync("/proc/sys/net/ipv4/tcp_retries2");
  const again = `sends bytes again about ${retries.trim()} times`;
  assert(stdout.includes(again), stdout);
  // 7200 s of silence, and 9 questions in 75 s each, where nobody says otherwise.
  const [, interval, count] = values.slice(1).map((row) => Number(row[1]));
  const total = numberOf(idle[1]) + interval * count;
  const grouped = total.toLocaleString("en-US");
  assert(stdout.includes(`a dead peer after ${grouped} s`), stdout);

  const seconds = tableBehind(stdout, "The peer is dead");
  assert(seconds.length >= 4);
  for (const [second, reader, writer, queue] of seconds) {
    assertEquals(reader, "ESTABLISHED, no timer");
    assertEquals(writer, "ESTABLISHED, retransmit");
    assertEquals(numberOf(queue), 1000 * (Number(second) + 1));
  }
  assert(Number(seconds.at(-1)![4]) >= 1); // Sent again.
  if (await hasProgram("ss")) {
    assert(seen.includes(Number(seconds.at(-1)![4])), `${seen}`);
  }

  const noticed = tableBehind(stdout, "Which error, after how many");
  const [none, alive, timeout, both, heartbeat] = noticed.map((row) =>
    row.slice(1)
  );
  assertEquals(none, ["-", "-", "-", "-"]);
  assertEquals(alive.toSpliced(2, 1), ["-", "-", "-"]);
  // The kernel counts its three seconds from before the lesson's clock starts.
  assertMatch(alive[2], /^[234]\.\d ETIMEDOUT$/);
  assertEquals(timeout.slice(0, 3), ["-", "-", "-"]);
  assertMatch(timeout[3], /^[1-4]\.\d ETIMEDOUT$/);
  assertEquals(both.slice(0, 2), ["-", "-"]);
  for (const cell of both.slice(2)) assertMatch(cell, /^[1-4]\.\d ETIMEDOUT$/);
  assertEquals(heartbeat[0], "-");
  for (const cell of heartbeat.slice(1)) {
    assertMatch(cell, /^[1-3]\.\d TimedOut$/);
  }

  // The pictures have the same errors, each at its place on the axis.
  for (const [i, peer] of ["dead", "dead, bytes sent"].entries()) {
    const lines = stdout.slice(stdout.indexOf(`\n${peer}: seconds `)).trim()
      .split("\n\n")[0]!.split("\n");
    const [axis, ...bars] = lines as [string, ...string[]];
    const [start, end] = [axis.search(/\b0\b/), axis.search(/\b5\b/)];
    assertEquals(bars.length, noticed.length);
    for (const [row, [remedy, ...cells]] of noticed.entries()) {
      const bar = bars[row]!;
      const result = cells[i + 2]!;
      assert(bar.startsWith(`${remedy} `) && bar.endsWith(` ${result}`), bar);
      const place = bar.search(/X|>/) - start;
      const isTold = result !== "-";
      assertEquals(bar.includes("X"), isTold, bar);
      const expected = isTold
        ? parseFloat(result) / 5 * (end - start)
        : end - start;
      assert(Math.abs(place - expected) <= 1, `${axis}\n${bar}`);
    }
  }
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("14 heartbeat() finds a peer whose queue is full", async () => {
  using pair = await connectPair();
  let written = 0;
  const writing = (async () => {
    for (;;) written += await pair.client.write(new Uint8Array(1 << 20));
  })().catch(() => {});
  let [before, looks] = [-1, 0];
  await until(() => { // Nothing moves, ten times that one looks.
    looks = written === before ? looks + 1 : 0;
    before = written;
    return looks === 10;
  });
  await assertRejects(() => heartbeat(pair.client, 50), Deno.errors.TimedOut);
  pair.server.close(); // In Deno 2.8 a write goes on when its side is closed.
  await writing;
});

Deno.test("14 shows a writer that is given up meanwhile", {
  ignore: !await canUnshare(),
}, async () => {
  const wrapper = inNetwork("echo 2 > /proc/sys/net/ipv4/tcp_retries2");
  const { code, stdout, stderr } = await run(LESSON, [], { wrapper });
  assertEquals([code, stderr], [0, ""]);
  const rows = tableBehind(stdout, "The peer is dead");
  assertMatch(rows.at(-1)![2], /^gone: (ETIMEDOUT|EPIPE|ECONNRESET)$/);
});
