/**
 * The trace as a user loads it: in front of programs that were not written for
 * it, on Deno's own sockets.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { runDeno, until, withoutTimes } from "../testing.ts";
import {
  FLAGS,
  type Program,
  programFolder,
  testPrograms,
  TRACE,
} from "./programs.ts";

const PROGRAMS: Record<string, Program> = {
  "a for await server": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      async function talk(conn: Deno.Conn) {
        const buffer = new Uint8Array(64);
        const n = await conn.read(buffer);
        await conn.write(buffer.subarray(0, n ?? 0));
        conn.close();
      }
      const serving = (async function serve() {
        for await (const conn of listener) await talk(conn);
      })();
      const client = await Deno.connect({ port: listener.addr.port });
      await client.write(new TextEncoder().encode("hello\\n"));
      const answer = new Uint8Array(6);
      console.log(await client.read(answer), await client.read(answer));
      client.close();
      listener.close();
      console.log(await serving);`,
    trace: [
      /^program\.ts\(2\): #\d+ socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(10\):serve #\d+ accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(5\):talk #\d+ read 6 bytes "hello\\n"$/m,
      /^program\.ts\(6\):talk #\d+ write 6 of 6 bytes "hello\\n"$/m,
      /^program\.ts\(12\): #\d+ socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(15\): #\d+ read 6 bytes "hello\\n"$/m,
      /^program\.ts\(15\): #\d+ read: end of stream$/m,
      /^program\.ts\(16\): #\d+ close$/m,
      /^program\.ts\(17\): #\d+ close listener$/m,
    ],
  },
  "pipeTo, and a half-close": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const serving = listener.accept().then((conn) =>
        conn.readable.pipeTo(conn.writable)
      );
      const conn = await Deno.connect({ port: listener.addr.port });
      const writer = conn.writable.getWriter();
      await writer.write(new Uint8Array([0x68, 0x69]));
      const reader = conn.readable.getReader();
      const { value } = await reader.read();
      console.log(value, conn.readable === conn.readable);
      await conn.closeWrite().catch((error) => console.log(error.name));
      console.log(await serving.catch((error) => error.name));
      console.log(await reader.read());
      listener.close();`,
    trace: [
      /^program\.ts\(4\): #\d+ read 2 bytes "hi"$/m,
      /^program\.ts\(4\): #\d+ write 2 of 2 bytes "hi"$/m,
      /^program\.ts\(4\): #\d+ read: end of stream$/m,
      /^program\.ts\(4\): #\d+ close, by readable$/m,
      /^program\.ts\(9\): #\d+ read 2 bytes "hi"$/m,
      /^program\.ts\(8\): #\d+ write 2 of 2 bytes "hi"$/m,
      /^program\.ts\(14\): #\d+ read: end of stream$/m,
      /^program\.ts\(12\): #\d+ closeWrite$/m,
    ],
  },
  "streams with a BYOB reader, a cancel and an abort": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      for (const end of ["cancel", "abort", "error"]) {
        const accepting = listener.accept();
        const conn = await Deno.connect({ port: listener.addr.port });
        const peer = await accepting;
        await peer.write(new Uint8Array([1, 2, 3]));
        const reader = conn.readable.getReader({ mode: "byob" });
        const { value, done } = await reader.read(new Uint8Array(2));
        console.log(value, done);
        const writer = peer.writable.getWriter();
        if (end === "cancel") await reader.cancel();
        if (end === "abort") await writer.abort(new RangeError("no"));
        if (end === "error") peer.close();
        console.log(await writer.write(new Uint8Array(1)).then(() => "written", (e) => e.name));
        console.log(await reader.read(new Uint8Array(8)).then((it) => it.done, (e) => e.name));
        try { conn.close(); } catch (error) { console.log(error.name); }
        try { peer.close(); } catch (error) { console.log(error.name); }
      }
      listener.close();`,
    trace: [
      /^program\.ts\(8\): #\d+ read 2 bytes "\\x01\\x02"$/m,
      /^program\.ts\(12\): #\d+ close, by readable$/m,
      /^program\.ts\(11\): #\d+ close, by writable$/m,
      /^program\.ts\(14\): #\d+ close$/m,
    ],
  },
  "datagrams": {
    script: `
      const address = { hostname: "127.0.0.1", port: 0, transport: "udp" } as const;
      const socket = Deno.listenDatagram(address);
      const other = Deno.listenDatagram(address);
      await other.send(new TextEncoder().encode("ping"), socket.addr);
      for await (const [data, from] of socket) {
        console.log(data, from.port === other.addr.port);
        break;
      }
      console.log(await other.send(new Uint8Array(65508), other.addr).catch((e) => e.code));
      other.close();
      try { socket.close(); } catch (error) { console.log(error.name); }`,
    trace: [
      /^program\.ts\(3\): #\d+ socket, bind 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(5\): #\d+ sendto 127\.0\.0\.1:\d+ 4 of 4 bytes "ping"$/m,
      /^program\.ts\(6\): #\d+ recvfrom 127\.0\.0\.1:\d+ 4 bytes "ping"$/m,
      /^program\.ts\(10\): #\d+ sendto 127\.0\.0\.1:\d+: EMSGSIZE \(Message too long\)$/m,
      /^program\.ts\(11\): #\d+ close$/m,
    ],
  },
  "errors, next(), disposal, and what is asked of the functions": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const { port } = listener.addr;
      try { Deno.listen({ hostname: "127.0.0.1", port }); } catch (e) { console.log(e.name, e.code, e.constructor === Deno.errors.AddrInUse); }
      const accepting = listener.next();
      {
        using conn = await Deno.connect({ port });
        const { value, done } = await accepting;
        console.log(done, conn.read.name, conn.read.length, Deno.listen.name, Deno.connect.length);
        value.setNoDelay();
        value.setKeepAlive(false);
        const reading = value.read(new Uint8Array(1));
        value.close();
        console.log(await reading.catch((e) => [e.name, e instanceof Deno.errors.Interrupted]));
        try { value.close(); } catch (e) { console.log(e.name); }
        try { conn.write.call({}, new Uint8Array(1)); } catch (e) { console.log(e.name); }
      }
      listener[Symbol.dispose]();
      console.log(await Deno.connect({ port: 1 }).catch((e) => [e.name, e.code]));
      console.log(await listener.accept().catch((e) => [e.name, e.message]));
      console.log(await Deno.connect({ port, signal: AbortSignal.abort(7) }).catch((e) => e));`,
    trace: [
      /^program\.ts\(4\): socket, bind, listen 127\.0\.0\.1:\d+: EADDRINUSE \(.+\)$/m,
      /^program\.ts\(5\): #\d+ accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(10\): #\d+ setNoDelay true$/m,
      /^program\.ts\(11\): #\d+ setKeepAlive false$/m,
      /^program\.ts\(12\): #\d+ read: .+$/m,
      /^program\.ts\(13\): #\d+ close$/m,
      /^program\.ts\(\d+\): #\d+ close$/m,
      /^program\.ts\(18\): #\d+ close listener$/m,
      /^program\.ts\(19\): socket, connect 127\.0\.0\.1:1: ECONNREFUSED \(.+\)$/m,
    ],
  },
  "a rejection that nobody waits for, which ends the program": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      Deno.connect({ port: 1 });
      console.log("before");
      await listener.accept();`,
    trace: [/^program\.ts\(3\): socket, connect 127\.0\.0\.1:1: ECONNREFUSED/m],
  },
  "strange arguments and strange uses": {
    script: `
      const t = async (f: () => unknown) => { try { console.log(await f()); } catch (e) { console.log(e.name, e.message.slice(0,60)); } };
      const D = Deno as any;
      await t(() => D.connect());
      await t(() => D.connect({ port: "x" }));
      await t(() => D.listen());
      await t(() => D.listen({ port: 99999 }).addr.port > 0);
      await t(() => D.listen({ transport: "sctp", port: 0 }));
      const l = Deno.listen({ port: 0 });
      const c: any = await Deno.connect({ port: l.addr.port });
      const s: any = await l.accept();
      await t(() => c.write("text"));
      await t(() => c.write());
      await t(() => c.write(new Uint16Array(2)));
      await t(() => c.write(new DataView(new ArrayBuffer(3))));
      await t(() => s.read("x"));
      await t(() => s.read());
      await t(() => s.read(new Uint8Array(0)));
      await t(() => c.closeWrite(1));
      await t(() => c.closeWrite());
      await t(() => c.write(new Uint8Array(2)));
      await t(() => c.readable === c.readable && c.readable.locked);
      c.readable.getReader();
      await t(() => c.readable.getReader());
      await t(() => c.readable.cancel());
      await t(() => Object.getPrototypeOf(c).readable);
      await t(() => structuredClone(c));
      console.log(Object.keys(c), JSON.stringify(c), String(c), Object.keys(Deno).includes("listen"));
      const { readable, writable } = s;
      await t(() => readable.pipeThrough(new TextDecoderStream()).getReader().read());
      await t(() => writable.getWriter().close());
      await t(() => s.close());
      await t(() => c.close());
      await t(() => c.close());
      await t(() => D.listen.call(undefined, { port: 0 }).close());
      const { listen, connect } = Deno; await t(() => listen({ port: 0 }).close());
      await t(() => (l as any).return()); await t(() => l.accept());`,
    trace: [/^program\.ts\(4\): socket, connect 127\.0\.0\.1:undefined: .+$/m],
  },
  "streams that end by a reset, and by the program": {
    script: `
      import net from "node:net";
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const { port } = listener.addr;
      const client = net.connect(port, "127.0.0.1"), connected = new Promise((done) => client.on("connect", done));
      const conn = await listener.accept();
      connected.then(() => client.resetAndDestroy());
      const reader = conn.readable.getReader();
      console.log(await reader.read().catch((e) => e.code));
      try { conn.close(); } catch (error) { console.log(error.name); }
      const one = await Deno.connect({ port });
      const other = await listener.accept();
      const signal = AbortSignal.timeout(10);
      console.log(await one.readable.pipeTo(new WritableStream(), { signal }).catch((e) => e.name));
      const writer = other.writable.getWriter();
      const write = () => writer.write(new Uint8Array(1 << 20));
      console.log(await write().then(async () => { for (;;) await write(); }).catch((e) => e.code));
      console.log(await writer.closed.catch((e) => e.code));
      listener.close();`,
    trace: [
      /^program\.ts\(8\): #\d+ read: ECONNRESET \(.+\)\nprogram\.ts\(8\): #\d+ close, by readable$/m,
      // It ends the stream itself, so it does not read the end of it.
      /^program\.ts\(14\): #\d+ close, by readable$/m,
      /^(?![^]*end of stream)/,
      /^program\.ts\(16\):write #\d+ write: EPIPE \(.+\)$/m,
      /^program\.ts\(16\):write #\d+ close, by writable$/m,
    ],
  },
  "other addresses, other functions": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const { port } = listener.addr;
      const path = "\\0trace " + port; // An abstract name: no file.
      const unix = { transport: "unix", path } as const;
      try { Deno.listen(unix); } catch (error) { console.log(error.name); }
      class Client {
        async "say.hello"() {
          using conn = await Deno.connect(new URL("tcp://127.0.0.1:" + port) as any);
          await conn.write(new Uint8Array(1));
          conn.setNoDelay({ toString: () => console.log("never") } as any);
        }
        async *[Symbol.asyncIterator]() { yield await listener.accept(); }
      }
      const client = new Client();
      const saying = client["say.hello"]();
      for await (const conn of client) {
        const prototype = Object.getPrototypeOf(Object.getPrototypeOf(conn));
        const read = prototype.read;
        const mine = function (p) { return read.call(this, p); };
        prototype.read = mine;
        eval("conn.close()");
        const other = await Promise.all([listener.accept(), Deno.connect({ port, hostname: undefined })]);
        console.log(prototype.read === mine, other.length);
        for (const it of other) it.close();
      }
      await saying;
      const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      await socket.send(new Uint8Array(1), { transport: "udp", port: socket.addr.port });
      socket.close();
      listener.close();`,
    trace: [
      /^program\.ts\(9\):say\.hello #\d+ socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(11\):say\.hello #\d+ setNoDelay true$/m,
      /^program\.ts\(13\):\[Symbol\.asyncIterator\] #\d+ accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(22\): #\d+ close$/m,
      /^program\.ts\(23\): #\d+ socket, connect 127\.0\.0\.1:\d+ from 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(29\): #\d+ sendto 127\.0\.0\.1:\d+ 1 of 1 byte "\\x00"$/m,
    ],
  },
  "a program with an Error of its own": {
    script: `
      let asked = 0;
      Error.prepareStackTrace = (_, frames) => { asked++; return frames; };
      const listen = () => Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
      listen();
      console.log(asked, Error.stackTraceLimit);
      Error.prepareStackTrace = () => { throw new Error("mine"); };
      Error.stackTraceLimit = 1;
      listen();
      console.log(Error.stackTraceLimit);
      console.log("done");`,
    trace: [/^(program\.ts\(4\):listen .+\n){4}$/],
  },
  "connections that are closed when they are collected": {
    flags: ["--v8-flags=--expose-gc"],
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const use = async () => {
        const conn = await Deno.connect({ port: listener.addr.port });
        conn.writable;
      };
      for (let i = 0; i < 3; i++) await use();
      for (let i = 0; i < 3; i++) {
        const peer = await listener.accept();
        const collect = setInterval(() => (globalThis as any).gc(), 10);
        console.log(await peer.read(new Uint8Array(1)));
        clearInterval(collect);
        peer.close();
      }
      listener.close();`,
    trace: [/^program\.ts\(11\): #\d+ read: end of stream$/m],
  },
  "a short stack": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const conn = await Deno.connect({ port: listener.addr.port });
      Error.stackTraceLimit = 4;
      try { await conn.write("text" as any); } catch (e) { console.log(e.stack.split("\\n").at(-1).includes("program.ts:5:")); }
      conn.close();
      listener.close();`,
    trace: [/^program\.ts\(5\): #\d+ write: .+$/m],
  },
  "readers and writers of streams": {
    script: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const client = await Deno.connect({ port: listener.addr.port });
      const conn = await listener.accept();
      const reader = conn.readable.getReader();
      await null;
      async function collect() {
        for (let size = 0;;) {
          const { value, done } = await reader.read();
          if (done) return size;
          size += value.length;
        }
      }
      const collecting = collect();
      const writer = client.writable.getWriter();
      writer.write(new Uint8Array(1).fill(49));
      writer.write(new Uint8Array(2).fill(50));
      await writer.write(new Uint8Array(3).fill(51));
      await new Promise((resolve) => setTimeout(resolve, 20));
      await writer.write(new Uint8Array(4).fill(52));
      await writer.close();
      console.log(await collecting);
      const both = await Promise.all([Deno.connect({ port: listener.addr.port }), listener.accept()]);
      const two = both[0].readable.getReader();
      await null;
      const first = two.read();
      await null;
      const second = two.read();
      await both[1].write(new Uint8Array(5));
      await first;
      await both[1].write(new Uint8Array(6));
      await second;
      for (const it of both) it.close();
      listener.close();`,
    trace: [
      /^program\.ts\(16\): #\d+ write 1 of/m,
      /^program\.ts\(17\): #\d+ write 2 of/m,
      /^program\.ts\(18\): #\d+ write 3 of/m,
      /^program\.ts\(20\): #\d+ write 4 of/m,
      /^(?![^]*\((4|5)\):\w* #\d+ read)/, // Where the stream was taken.
      /^program\.ts\(9\):collect #\d+ read .+ bytes "1/m,
      /^program\.ts\(9\):collect #\d+ close, by readable$/m,
      /^program\.ts\(26\): #\d+ read 5 bytes/m,
      /^program\.ts\(28\): #\d+ read 6 bytes/m,
    ],
  },
  "listeners of the end": {
    script: `
      import process from "node:process";
      const listen = () => Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const [one, two, three, four] = [listen(), listen(), listen(), listen()];
      for (const it of [one, two, three, four]) it.unref();
      process.on("beforeExit", () => {
        console.log("beforeExit");
        for (let i = 0; i < 1000; i++) listen().close(); // More than a pipe takes.
        one.close();
      });
      process.on("exit", () => { four.close(); console.log("exit"); });
      addEventListener("unload", () => { two.close(); console.log("unload"); });
      addEventListener("error", (event) => { three.close(); event.preventDefault(); });
      setTimeout(() => { throw new Error("caught"); }, 0);
      setTimeout(() => {}, 20);`,
    trace: [9, 11, 12, 13].map((line) =>
      RegExp(`^program\\.ts\\(${line}\\): #\\d+ close listener$`, "m")
    ),
  },
  "getters, and objects that only look right": {
    script: `
      const t = async (f: () => Promise<unknown>) => { let p; try { p = f(); } catch { console.log("thrown at once"); } try { console.log(await p); } catch (e) { console.log(String(e)); } };
      const D = Deno as any;
      const l = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const c: any = await D.connect({ port: l.addr.port });
      const s: any = await l.accept();
      await t(() => D.connect({ get port() { throw new RangeError("mine"); } }));
      await t(() => D.connect({ port: Symbol() }));
      await t(() => D.connect({ port: 1, hostname: { toString() { throw 7; } } }));
      await t(() => D.connect({ port: 1, signal: AbortSignal.abort("a\\nprogram.ts(1): close") }));
      await t(() => c.write(new Proxy(new Uint8Array(1), {})));
      await t(() => c.write(Object.create(Uint8Array.prototype)));
      await t(async () => c.write.call(undefined, new Uint8Array(1)));
      await t(async () => c.close.call(undefined));
      await t(async () => c.setNoDelay(Symbol()));
      await t(() => c.writable.getWriter().write(undefined));
      await t(async () => c.close());
      const to = { port: 2 };
      const late = D.connect(to);
      to.port = 3;
      await t(() => late);
      const why: any = new Error("a circle");
      why.cause = why;
      await t(() => D.connect({ port: 1, signal: AbortSignal.abort(why) }));
      const mine = new Uint8Array(8);
      const other: any = await D.connect({ port: l.addr.port });
      const here: any = await l.accept();
      await other.write(new Uint8Array(3));
      const reading = here.read(mine);
      mine.buffer.transfer();
      await t(() => reading);
      other.close(); here.close();
      const u: any = D.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      await t(() => u.send(new Uint8Array(1), { port: Symbol() }));
      u.close(); s.close(); l.close();`,
    trace: [
      /^program\.ts\(10\): socket, connect 127\.0\.0\.1:1: a program\.ts\(1\): close$/m,
      /^program\.ts\(\d+\): socket, connect 127\.0\.0\.1:2: ECONNREFUSED /m,
      /^program\.ts\(\d+\): socket, connect 127\.0\.0\.1:1: \?$/m,
      /^program\.ts\(\d+\): #\d+ read 3 bytes$/m,
    ],
  },
  "a burst that is read at once": {
    script: `
      for (let i = 0; i < 6000; i++) Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
      console.log("done");`,
    trace: [/^(program\.ts\(2\): .+\n){12000}$/],
  },
  "an early end": {
    script: `
      for (let i = 0; i < 500; i++) Deno.listen({ port: 0 }).close();
      console.log("done");
      Deno.exit(3);`,
    trace: [
      /^(program\.ts\(2\): #\d+ socket, .+\nprogram\.ts\(2\): #\d+ close .+\n){500}$/,
    ],
  },
};

testPrograms(PROGRAMS);

Deno.test("trace shows a program whose name is not easy", async () => {
  const folder = await Deno.makeTempDir({ prefix: "a (b) " });
  const file = `${folder}/100% (1) %20 课.ts`;
  await Deno.writeTextFile(file, "Deno.listen({ port: 0 }).close();");
  const { code, stderr } = await runDeno(
    ["run", `--preload=${TRACE}`, ...FLAGS, file],
  );
  await Deno.remove(folder, { recursive: true });
  assertEquals(code, 0, stderr);
  assertMatch(
    withoutTimes(stderr),
    /^100% \(1\) %20 课\.ts\(1\): #1 socket, bind, listen /,
  );
});

Deno.test("trace is in order with what the program prints, and is whole when it is killed", async () => {
  await using program = await programFolder(
    `const print = (text) => Deno.stdout.writeSync(new TextEncoder().encode(text));
    for (let i = 0; i < 200; i++) {
      print("open " + i + "\\n");
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      print("close " + i + "\\n");
      listener.close();
    }
    print("all\\n");
    while (true);`,
  );
  const command = [Deno.execPath(), "run", `--preload=${TRACE}`, "--no-check"]
    .concat("--allow-net", program.file);
  const { folder } = program;
  const log = await Deno.open(`${folder}/log`, { create: true, write: true });
  log.close();
  await using child = new Deno.Command("sh", {
    args: ["-c", 'exec "$@" > "$0" 2>&1', `${folder}/log`, ...command],
  }).spawn();
  const text = () => Deno.readTextFile(`${folder}/log`);
  await until(async () => (await text()).includes("all\n"));
  child.kill("SIGKILL");
  await child.status;
  const lines = (await text()).trimEnd().split("\n");
  const words = lines.map((line) =>
    withoutTimes(line).replace(/^program.*: #\d+ /, "")
  );
  for (let i = 0; i < 200; i++) {
    const [open, listen, close, closed] = words.slice(4 * i, 4 * i + 4);
    assertEquals([open, close, closed], [
      `open ${i}`,
      `close ${i}`,
      "close listener",
    ]);
    assertMatch(listen, /^socket, bind, listen /);
  }
  assertEquals(words.length, 801);
});

Deno.test("trace that nobody reads lets a program wait, and loses nothing", async () => {
  await using program = await programFolder(
    `const listen = () => Deno.listen({ hostname: "127.0.0.1", port: 0 });
    for (let i = 0; i < 3000; i++) listen().close();
    console.log("done");`,
  );
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", `--preload=${TRACE}`, "--no-check", "--allow-net"]
      .concat(program.file),
    stdout: "piped",
    stderr: "piped",
  });
  await using child = command.spawn();
  let isDone = false;
  const done = child.stdout.text().then((text) => {
    isDone = true;
    return text;
  });
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  let { value: trace = "" } = await reader.read();
  // What follows is more than a pipe takes, so the program comes to a stop.
  const stat = `/proc/${child.pid}/stat`;
  let before = "";
  let same = 0;
  await until(async () => {
    const [user, system] = (await Deno.readTextFile(stat)).split(" ").slice(13);
    same = before === `${user} ${system}` ? same + 1 : 0;
    before = `${user} ${system}`;
    return same === 10 || isDone;
  });
  assert(!isDone, "it did not wait");
  for (let more; (more = await reader.read()).value;) trace += more.value;
  assertEquals(await done, "done\n");
  assertEquals(withoutTimes(trace).match(/close listener\n/g)?.length, 3000);
});
