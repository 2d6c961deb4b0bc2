/**
 * What the trace says of calls that have not returned: after a second, and when a
 * signal comes. The program ends as it does without the trace.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { runDeno } from "../testing.ts";
import { FLAGS, programFolder, runProgram, TRACE } from "./programs.ts";

/** Calls that wait. The last one begins when all others have begun. */
const WAITING = `
import net from "node:net";
import process from "node:process";
addEventListener("unload", () => console.log("unload"));
process.on("exit", () => console.log("exit"));
const local = { hostname: "127.0.0.1", port: 0 };
const listener = Deno.listen(local);
async function accept() {
  for await (const _ of listener);
}
const socket = Deno.listenDatagram({ ...local, transport: "udp" });
async function receive() {
  for await (const _ of socket);
}
const { port } = listener.addr;
const [client, peer] = await Promise.all([Deno.connect({ port }), listener.accept()]);
async function read() {
  await client.read(new Uint8Array(1));
}
async function write() {
  for (const data = new Uint8Array(1 << 22);;) await client.write(data);
}
accept(), receive();
const [reading, writing] = [read(), write()];
const node = net.connect(port, "127.0.0.1");
await new Promise((resolve) => node.on("connect", resolve));
node.on("data", () => {});
const server = net.createServer(() => {}).listen(0, "127.0.0.1");
await new Promise((resolve) => server.on("listening", resolve));
const last = Deno.listen(local);
async function waitForLast() {
  await last.accept();
}
waitForLast();
`;

const CALLS = [
  "program.ts(9):accept accept",
  "program.ts(13):receive recvfrom",
  "program.ts(18):read read",
  "program.ts(21):write write",
  "program.ts(25): read", // node
  "program.ts(28): accept", // server
  "program.ts(32):waitForLast accept",
];

/** No program runs longer than this, in milliseconds. */
const LIMIT = 60_000;

/** Starts a program with the trace, and ends it by SIGKILL if nothing else does. */
function startProgram(file: string, flags: string[] = []) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", `--preload=${TRACE}`, ...FLAGS, ...flags, file],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const limit = setTimeout(() => child.kill("SIGKILL"), LIMIT);
  child.status.then(() => clearTimeout(limit));
  return child;
}

/**
 * Runs a program, and sends a signal when the trace has told that the last of its
 * calls waits: so all others have been told too.
 */
async function signalled(
  script: string,
  signal: Deno.Signal,
  flags: string[] = [],
) {
  await using program = await programFolder(script);
  await using child = startProgram(program.file, flags);
  const out = child.stdout.text();
  let stderr = "";
  let isSent = false;
  for await (const part of child.stderr.pipeThrough(new TextDecoderStream())) {
    stderr += part;
    if (isSent || !/:waitForLast #\d+ .*: waiting for /.test(stderr)) continue;
    isSent = true;
    child.kill(signal);
  }
  const { code, signal: by } = await child.status;
  return { end: [code, by], stdout: await out, stderr };
}

/** The calls that are told to wait, without numbers and times. */
function waitingCalls(trace: string): string[] {
  return Array.from(
    trace.matchAll(/^\d+\.\d{3} (.+): waiting for \d+\.\d s$/gm),
    ([, call]) => call.replace(/#\d+ /, ""),
  );
}

/** All calls are told twice: when a second is over, and by the signal. */
function assertAllTold(trace: string): void {
  const told = waitingCalls(trace);
  assertEquals(told.slice(-CALLS.length).toSorted(), CALLS.toSorted());
  for (const call of CALLS) {
    // A write may have gone on a little, and waits again.
    if (call.endsWith(" write")) continue;
    assertEquals(told.filter((it) => it === call).length, 2, call);
  }
}

Deno.test("trace tells a call that waits once after a second, and what came of it", async () => {
  await using program = await programFolder(`
    import net from "node:net";
    import { once } from "node:events";
    const local = { hostname: "127.0.0.1", port: 0 };
    const [one, two] = [Deno.listen(local), Deno.listen(local)];
    const server = net.createServer((socket) => socket.end()).listen(0, "127.0.0.1");
    await once(server, "listening");
    const client = await Deno.connect({ port: one.addr.port });
    const peer = await one.accept();
    async function read() {
      console.log(await client.read(new Uint8Array(9)));
    }
    async function accept() {
      (await two.accept()).close();
    }
    const waits = [read(), accept(), once(server, "connection")];
    setTimeout(async () => {
      await peer.write(new Uint8Array([104, 105]));
      (await Deno.connect({ port: two.addr.port })).close();
      net.connect(server.address().port, "127.0.0.1").resume();
    }, 2500);
    await Promise.all(waits);
    for (const it of [one, two, client, peer, server]) it.close();`);
  const { code, stdout, stderr } = await runProgram(program.file, [
    `--preload=${TRACE}`,
  ]);
  assertEquals([code, stdout], [0, "2\n"], stderr);
  const told = waitingCalls(stderr);
  for (
    const [place, call] of [
      ["(11):read", "read"],
      ["(14):accept", "accept"],
      ["(6):", "accept"],
    ]
  ) {
    const line = `program.ts${place} ${call}`;
    assertEquals(told.filter((it) => it === line).length, 1, stderr);
  }
  const waited = String.raw`after \d+\.\d s$`;
  assertMatch(stderr, /\(11\):read #\d+ read: waiting for \d+\.\d s$/m);
  for (
    const line of [
      String.raw`\(11\):read #\d+ read 2 bytes "hi" ${waited}`,
      String.raw`\(14\):accept #\d+ accept \S+ at \S+ ${waited}`,
      String.raw`\(6\): #\d+ accept \S+ at \S+ ${waited}`,
    ]
  ) {
    assertMatch(stderr, RegExp(line, "m"));
  }
});

Deno.test("trace tells all calls that wait at SIGINT and SIGTERM, and the program ends as without it", async () => {
  await Promise.all([
    // Without permission to send itself the signal, the status has to do.
    { signal: "SIGINT", flags: [], end: [130, null] },
    { signal: "SIGTERM", flags: [], end: [143, null] },
    { signal: "SIGINT", flags: ["--allow-run"], end: [130, "SIGINT"] },
    { signal: "SIGTERM", flags: ["--allow-run"], end: [143, "SIGTERM"] },
  ].map(async ({ signal, flags, end }) => {
    const it = await signalled(WAITING, signal as Deno.Signal, flags);
    // A process that is ended by a signal tells none of its listeners.
    assertEquals([it.end, it.stdout], [end, ""], it.stderr);
    assertAllTold(it.stderr);
  }));
});

Deno.test("trace leaves a signal to the listeners of the program, and tells before them", async () => {
  const listeners: [lines: string, count: number][] = [
    [
      `Deno.addSignalListener("SIGINT", one);
      Deno.addSignalListener("SIGINT", one);
      Deno.addSignalListener("SIGINT", two);`,
      0,
    ],
    [`process.on("SIGINT", one); process.on("SIGINT", two);`, 1],
    [
      `process.once("SIGINT", one);
      Deno.addSignalListener("SIGINT", two);`,
      1,
    ],
  ];
  await Promise.all(listeners.map(async ([lines, count]) => {
    const { end, stdout, stderr } = await signalled(
      `${WAITING}
      const one = (...args) => console.error("one", args.length);
      const two = () => { console.error("two"); setTimeout(() => Deno.exit(5), 0); };
      ${lines}`,
      "SIGINT",
    );
    assertEquals([end, stdout], [[5, null], "unload\n"], stderr);
    assertAllTold(stderr);
    assertMatch(stderr, RegExp(`: waiting for \\S+ s\none ${count}\ntwo\n$`));
  }));
});

Deno.test("trace leaves a signal to a listener that listens once", async () => {
  const ways = [
    `Deno.addSignalListener("SIGTERM", function once() {
      Deno.removeSignalListener("SIGTERM", once);
      end();
    });`,
    `process.once("SIGTERM", end);`,
  ];
  await Promise.all(ways.map(async (lines) => {
    const { end, stdout, stderr } = await signalled(
      `${WAITING}
      const end = () => setTimeout(() => { console.log("in good order"); Deno.exit(5); }, 50);
      ${lines}`,
      "SIGTERM",
    );
    assertEquals([end, stdout], [[5, null], "in good order\nunload\n"], stderr);
    assertAllTold(stderr);
  }));
});

Deno.test("trace leaves a signal to the listeners that are left", async () => {
  const [removed, left] = await Promise.all([
    `const listener = () => console.log("never");
    Deno.addSignalListener("SIGINT", listener);
    process.on("SIGINT", listener);
    Deno.removeSignalListener("SIGINT", listener);
    Deno.removeSignalListener("SIGINT", () => {});
    process.off("SIGINT", listener);`,
    `const listener = () => console.log("never");
    Deno.addSignalListener("SIGINT", listener);
    Deno.addSignalListener("SIGINT", () => Deno.exit(6));
    Deno.removeSignalListener("SIGINT", listener);
    try { Deno.addSignalListener("SIGKILL", listener); } catch (error) { console.log(error.name); }
    try { Deno.addSignalListener("SIGINT", 7); } catch (error) { console.log(error.name); }`,
  ].map((lines) => signalled(`${WAITING}{ ${lines} }`, "SIGINT")));
  assertEquals([removed.end, removed.stdout], [[130, null], ""]);
  assertAllTold(removed.stderr);
  assertEquals([left.end, left.stdout], [
    [6, null],
    "TypeError\nTypeError\nunload\n",
  ]);
  assertAllTold(left.stderr);
});

Deno.test("trace tells what else waits, but not a socket that is paused", async () => {
  const { stderr } = await signalled(
    `import net from "node:net";
    import tls from "node:tls";
    import dgram from "node:dgram";
    import { once } from "node:events";
    const local = { hostname: "127.0.0.1", port: 0 };
    const silent = Deno.listen(local);
    const { port } = silent.addr;
    const paused = net.connect(port, "127.0.0.1");
    paused.pause();
    await once(paused, "connect");
    paused.write("a question");
    const asking = net.connect(port, "127.0.0.1");
    await once(asking, "connect");
    asking.write("a question");
    await once(tls.connect(port, "127.0.0.1"), "connect");
    const socket = dgram.createSocket("udp4").bind(0, "127.0.0.1");
    await once(socket, "listening");
    const server = Deno.serve({ ...local, onListen() {} }, () => new Response(new ReadableStream()));
    const response = await fetch("http://127.0.0.1:" + server.addr.port);
    const body = response.text();
    const last = Deno.listen(local);
    async function waitForLast() {
      await last.accept();
    }
    await waitForLast();`,
    "SIGTERM",
  );
  const calls = Array.from(
    stderr.matchAll(/^\S+ (.+): waiting for \S+ s(.*)$/gm),
    ([, call, more]) => call.replace(/#\d+ /, "").replace(/:\d+$/, "") + more,
  );
  const last = calls.slice(calls.length / 2);
  assertEquals(last.toSorted(), [
    "program.ts(12): read, last write at program.ts(14)",
    "program.ts(15): handshake",
    "program.ts(16): recvfrom",
    "program.ts(18): accept",
    "program.ts(20): fetch body http://127.0.0.1",
    "program.ts(23):waitForLast accept",
  ], stderr);
});

Deno.test("trace does not tell a call whose socket was closed", async () => {
  const { end, stderr } = await signalled(
    `${WAITING.replace("waitForLast();", "")}
    for (const it of [listener, socket, client, peer, server]) it.close();
    await Promise.allSettled([reading, writing]);
    node.destroy();
    waitForLast();`,
    "SIGINT",
  );
  assertEquals(end, [130, null], stderr);
  assertEquals(new Set(waitingCalls(stderr)), new Set([CALLS.at(-1)]));
});

Deno.test("trace lets a signal end a program that does not return to its event loop", async () => {
  await using program = await programFolder(`
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accepting = listener.accept().catch(() => {});
    const later = () => new Promise((resolve) => setTimeout(resolve, 300));
    await later(); // The trace has seen that a call waits,
    listener.close();
    await accepting;
    await later(); // and that none waits any more.
    Deno.stdout.writeSync(new Uint8Array(1));
    while (true);`);
  await using child = startProgram(program.file);
  const trace = child.stderr.text();
  for await (const _ of child.stdout) child.kill("SIGINT");
  const { code, signal } = await child.status;
  assertEquals([code, signal], [130, "SIGINT"], await trace);
});

Deno.test("trace keeps no program alive", async () => {
  await using program = await programFolder(`
    import net from "node:net";
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    listener.unref();
    listener.accept();
    const client = await Deno.connect({ port: listener.addr.port });
    client.unref();
    client.read(new Uint8Array(1));
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      server.unref();
      // By then the trace has looked for calls that wait.
      setTimeout(() => console.log("done"), 300);
    });`);
  const { code, stdout, stderr } = await runProgram(program.file, [
    `--preload=${TRACE}`,
  ]);
  assertEquals([code, stdout], [0, "done\n"], stderr);
});

Deno.test("trace leaks nothing into the tests of a program", async () => {
  await using program = await programFolder(`
    import net from "node:net";
    const options = { sanitizeOps: true, sanitizeResources: true, sanitizeExit: true };
    const later = () => new Promise((resolve) => setTimeout(resolve, 300));
    Deno.test("waits for Deno's sockets", options, async () => {
      using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const accepting = listener.accept();
      await later();
      using conn = await Deno.connect({ port: listener.addr.port });
      using peer = await accepting;
      const reading = conn.read(new Uint8Array(9));
      await later();
      await peer.write(new Uint8Array(1));
      if (await reading !== 1) throw new Error("It has not come");
    });
    Deno.test("waits for Node's sockets", options, async () => {
      const on = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));
      const server = net.createServer((socket) => later().then(() => socket.end("late")));
      await on(server.listen(0, "127.0.0.1"), "listening");
      const client = net.connect(server.address().port, "127.0.0.1");
      if (String(await on(client, "data")) !== "late") throw new Error("It has not come");
      await on(client, "close");
      server.close();
      await on(server, "close");
    });
    Deno.test("has a signal listener", options, () => {
      const listener = () => {};
      Deno.addSignalListener("SIGINT", listener);
      Deno.removeSignalListener("SIGINT", listener);
    });`);
  const once = () =>
    runDeno(["test", `--preload=${TRACE}`, ...FLAGS, program.file]);
  for (let i = 0; i < 2; i++) {
    const runs = await Promise.all(Array.from({ length: 5 }, once));
    for (const { code, stdout, stderr } of runs) {
      assertEquals(code, 0, stdout + stderr);
      assertMatch(stdout, /^ok \| 3 passed \| 0 failed/m);
      assertMatch(stdout, /^\d+\.\d{3} program\.ts\(7\): #\d+ accept /m);
    }
  }
});
