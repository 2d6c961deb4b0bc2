/** The trace of HTTP, TLS, Unix sockets and Workers of Deno's own. */
import { assertEquals, assertMatch } from "@std/assert";
import { LessonProcess, returnedCalls, runDeno } from "../testing.ts";
import {
  FLAGS,
  programFolder,
  runProgram,
  testPrograms,
  TRACE,
} from "./programs.ts";

const CERTIFICATE = new URL("certificate.ts", import.meta.url).href;

/** A Worker that has a server for one client. */
const WORKER = {
  script: `
    const worker = new Worker(new URL("worker.ts", import.meta.url), { type: "module" });
    const port = await new Promise((done) => worker.onmessage = ({ data }) => done(data));
    const conn = await Deno.connect({ port, hostname: "127.0.0.1" });
    console.log(await conn.read(new Uint8Array(9)), await conn.read(new Uint8Array(9)));
    conn.close();
    console.log(worker instanceof Worker, Worker.name);`,
  files: {
    "worker.ts": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      postMessage(listener.addr.port);
      async function serve() {
        using conn = await listener.accept();
        await conn.write(new Uint8Array([104, 105]));
      }
      await serve();
      listener.close();
      self.close();`,
  },
};

testPrograms({
  "Deno.serve() and fetch()": {
    script: `
      const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
      options.onError = (error) => new Response(error.message, { status: 500 });
      function answer(request, info) {
        const { pathname } = new URL(request.url);
        if (pathname === "/throws") throw new RangeError("thrown");
        if (pathname === "/rejects") return Promise.reject(new RangeError("rejected"));
        return new Response(arguments.length + info.remoteAddr.hostname + typeof this);
      }
      const server = Deno.serve(options, answer);
      const url = "http://127.0.0.1:" + server.addr.port;
      async function ask(...args) {
        const response = await fetch(...args);
        console.log(response.status, await response.text());
      }
      await ask(url + "/?a=1");
      await ask(url + "/throws", { method: "POST" });
      await ask(url + "/rejects");
      await ask(new Request(url, { method: "PUT" }));
      await server.shutdown();
      await ask(url).catch((error) => console.log(error.name));
      try { Deno.serve(options); } catch (error) { console.log(error.name); }
      console.log(Deno.serve.length, Deno.serve.name, fetch.name, fetch.length);`,
    trace: [
      /^program\.ts\(10\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(10\): #2 accept 127\.0\.0\.1:\d+ at 127\.0\.0\.1:\d+$/m,
      /^(?![^]* accept (\S+) at [^]* accept \1 at )/, // Each connection once.
      /^program\.ts\(10\): #\d+ GET \/\?a=1: 200$/m,
      /^program\.ts\(13\):ask fetch GET http:\/\/127\.0\.0\.1:\d+\/\?a=1: 200$/m,
      /^program\.ts\(10\): #\d+ POST \/throws: thrown$/m,
      /^program\.ts\(13\):ask fetch POST http:\S+\/throws: 500$/m,
      /^program\.ts\(10\): #\d+ GET \/rejects: rejected$/m,
      /^program\.ts\(10\): #\d+ PUT \/: 200$/m,
      /^program\.ts\(13\):ask fetch PUT http:\S+: 200$/m,
      /^program\.ts\(13\):ask fetch GET http:\S+\d: .*refused/mi,
      /^program\.ts\(14\):ask fetch body http:\S+\/throws$/m,
      /^program\.ts\(10\): #1 close listener$/m,
      /^program\.ts\(22\): socket, bind, listen 127\.0\.0\.1:0: .+$/m,
    ],
  },
  "handlers that ask for less, or answer oddly": {
    script: `
      const quiet = { hostname: "127.0.0.1", port: 0, onListen() {} };
      quiet.onError = (error) => new Response(error.message, { status: 500 });
      async function ask(...args) {
        const server = Deno.serve(...args);
        const response = await fetch("http://127.0.0.1:" + server.addr.port);
        console.log(response.status, await response.text());
        await server.shutdown();
      }
      await ask(quiet, (request) => new Response("one " + request.method));
      await ask(quiet, async (request, info) => new Response("two " + info.remoteAddr.transport));
      await ask(quiet, function (request) { return new Response("of two " + arguments.length); });
      await ask(quiet, () => new Response("none"));
      await ask(quiet, async () => new Response("none, later"));
      await ask(quiet, (...args) => new Response("rest " + args.length));
      await ask(quiet, function () { return new Response("arguments " + arguments.length); });
      await ask({ ...quiet, handler() { return new Response("this " + typeof this); } });
      await ask(quiet, (request) => ({ then(f) { f(new Response("thenable")); } }));
      await ask(quiet, (request) => 7);
      await ask(quiet, (request) => undefined);`,
    trace: [
      /^program\.ts\(5\):ask #1 socket, bind, listen /m,
      /^(?![^]*: undefined\n)/,
    ],
  },
  "Deno.serve() with options that are inherited": {
    script: `
      class Options {
        hostname = "127.0.0.1";
        port = 0;
        onListen() { console.log("listens"); }
        get handler() { return (request) => new Response("by a getter"); }
      }
      const server = Deno.serve(new Options());
      const response = await fetch("http://127.0.0.1:" + server.addr.port);
      console.log(response.status, await response.text());
      await server.shutdown();`,
    trace: [/^program\.ts\(8\): #1 socket, bind, listen /m],
  },
  "TLS of Deno's own, with plain text": {
    script: `
      import { cert, key } from "${CERTIFICATE}";
      const listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key });
      const { port } = listener.addr;
      const hostname = "127.0.0.1", caCerts = [cert];
      async function serve() {
        const conn = await listener.accept();
        const buffer = new Uint8Array(64);
        const count = await conn.read(buffer).catch((error) => error.name);
        if (typeof count !== "number") return console.log(count);
        await conn.write(buffer.subarray(0, count));
        console.log(await conn.read(buffer));
        conn.close();
      }
      async function talk(conn, text) {
        await conn.handshake();
        await conn.write(new TextEncoder().encode(text));
        console.log(await conn.read(new Uint8Array(64)));
        conn.close();
      }
      await Promise.all([serve(), talk(await Deno.connectTls({ hostname, port, caCerts }), "at once")]);
      const plain = await Deno.connect({ hostname, port });
      await Promise.all([serve(), talk(await Deno.startTls(plain, { hostname, caCerts }), "later")]);
      try { plain.close(); } catch (error) { console.log(error.name); }
      const stranger = await Deno.connectTls({ hostname, port });
      await Promise.all([serve(), stranger.handshake().catch((error) => console.log(error.name))]);
      stranger.close();
      listener.close();
      console.log(Deno.startTls.name, Deno.startTls.length, Deno.connectTls.name);`,
    trace: [
      /^program\.ts\(3\): #1 socket, bind, listen \(TLS\) 127\.0\.0\.1:\d+$/m,
      /^program\.ts\(21\): #(\d+) socket, connect \(TLS\) [^]*^program\.ts\(16\):talk #\1 handshake$[^]*^program\.ts\(17\):talk #\1 write 7 of 7 bytes "at once"$[^]*^program\.ts\(18\):talk #\1 read 7 bytes "at once"$[^]*^program\.ts\(19\):talk #\1 close$/m,
      /^program\.ts\(7\):serve #(\d+) accept [^]*^program\.ts\(9\):serve #\1 read 7 bytes "at once"$[^]*^program\.ts\(12\):serve #\1 read: end of stream$/m,
      // It goes on with the number it had.
      /^program\.ts\(22\): #(\d+) socket, connect [^]*^program\.ts\(23\): #\1 startTls$[^]*^program\.ts\(17\):talk #\1 write 5 of 5 bytes "later"$[^]*^program\.ts\(19\):talk #\1 close$/m,
      /^program\.ts\(26\): #\d+ handshake: .*UnknownIssuer/m,
      /^(?![^]*#(\d+) close\n[^]*#\1 close\n)/, // Each is closed once.
      /^(?![^]*bytes "\\x1[4-7]\\x03)/, // No record of TLS.
    ],
  },
  "Unix sockets of Deno's own": {
    flags: ["--allow-read", "--allow-write"],
    script: `
      const path = new URL(Deno.pid + ".socket", import.meta.url).pathname;
      const listener = Deno.listen({ transport: "unix", path });
      async function serve() {
        using conn = await listener.accept();
        const buffer = new Uint8Array(9);
        await conn.write(buffer.subarray(0, await conn.read(buffer) ?? 0));
      }
      const serving = serve();
      const conn = await Deno.connect({ transport: "unix", path });
      await conn.write(new TextEncoder().encode("hi"));
      console.log(await conn.read(new Uint8Array(9)), conn.remoteAddr.path === path);
      conn.close();
      await serving;
      listener.close();
      const one = Deno.listenDatagram({ transport: "unixpacket", path });
      await one.send(new Uint8Array([111, 107]), one.addr);
      console.log((await one.receive())[0]);
      one.close();
      console.log(await Deno.connect({ transport: "unix", path: path + "x" }).catch((error) => error.name));`,
    trace: [
      /^program\.ts\(3\): #1 socket, bind, listen \/\S+\.socket$/m,
      /^program\.ts\(5\):serve #(\d+) accept [^]*^program\.ts\(7\):serve #\1 read 2 bytes "hi"$[^]*^program\.ts\(7\):serve #\1 write 2 of 2 bytes "hi"$/m,
      /^program\.ts\(10\): #(\d+) socket, connect \/\S+\.socket from unix$[^]*^program\.ts\(11\): #\1 write 2 of 2 bytes "hi"$[^]*^program\.ts\(12\): #\1 read 2 bytes "hi"$[^]*^program\.ts\(13\): #\1 close$/m,
      /^program\.ts\(15\): #1 close listener$/m,
      /^program\.ts\(16\): #4 socket, bind \/\S+\.socket$/m,
      /^program\.ts\(17\): #4 sendto \/\S+\.socket 2 of 2 bytes "ok"$/m,
      /^program\.ts\(18\): #4 recvfrom \/\S+\.socket 2 bytes "ok"$/m,
      /^program\.ts\(19\): #4 close$/m,
      /^program\.ts\(20\): socket, connect \/\S+\.socketx: ENOENT \(.+\)$/m,
    ],
  },
  "once what is not watched": {
    script: `
      const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
        const { socket, response } = Deno.upgradeWebSocket(request);
        socket.onmessage = ({ data }) => socket.send(data);
        return response;
      });
      const it = (socket, name) => new Promise((done) => socket["on" + name] = done);
      for (let i = 0; i < 2; i++) {
        const socket = new WebSocket("ws://127.0.0.1:" + server.addr.port);
        await it(socket, "open");
        socket.send("hi");
        console.log((await it(socket, "message")).data);
        socket.close();
        await it(socket, "close");
      }
      await server.shutdown();
      for (const f of [() => new WebSocket("x:"), () => WebSocket("x:"), () => Deno.dlopen("", {})]) {
        try { f(); } catch (error) { console.log(error.name); }
      }
      class Mine extends WebSocket {}
      console.log(WebSocket.name, WebSocket.length, WebSocket.OPEN, Mine.prototype instanceof WebSocket);`,
    trace: [
      /^program\.ts\(9\): WebSocket: not watched$/m,
      /^program\.ts\(3\): upgradeWebSocket: not watched$/m,
      /^program\.ts\(2\): #\d+ GET \/: 101$/m,
      /^program\.ts\(17\): dlopen: not watched$/m,
      /^(?![^]* WebSocket: not [^]* WebSocket: not )/,
      /^(?![^]*upgradeWebSocket: not [^]*upgradeWebSocket: not )/,
    ],
  },
  "DNS queries, and others that are not watched": {
    flags: ["--allow-read", "--allow-env"],
    script: `
      import { Worker } from "node:worker_threads";
      import { once } from "node:events";
      const server = Deno.listenDatagram({ hostname: "127.0.0.1", port: 0, transport: "udp" });
      const nameServer = { ipAddr: "127.0.0.1", port: server.addr.port };
      async function answer() {
        const [query, from] = await server.receive();
        query[2] = 0x81; query[3] = 0x83; // No such name.
        await server.send(query, from);
      }
      answer();
      console.log(await Deno.resolveDns("nobody.test", "A", { nameServer }).catch((error) => error.name));
      server.close();
      await once(new Worker("1", { eval: true }), "exit");
      new EventSource("http://127.0.0.1:1/").close();`,
    trace: [
      /^program\.ts\(12\): resolveDns A nobody\.test: .+$/m,
      /^program\.ts\(14\): worker_threads: not watched$/m,
      /^program\.ts\(15\): EventSource: not watched$/m,
    ],
  },
  "a Worker": {
    ...WORKER,
    flags: ["--allow-read"],
    trace: [
      /^\[worker 1\] worker\.ts\(2\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
      /^\[worker 1\] worker\.ts\(5\):serve #2 accept 127\.0\.0\.1:\d+ at /m,
      /^\[worker 1\] worker\.ts\(6\):serve #2 write 2 of 2 bytes "hi"$/m,
      /^\[worker 1\] worker\.ts\(9\): #1 close listener$/m,
      /^program\.ts\(4\): #1 socket, connect /m,
      /^program\.ts\(5\): #1 read 2 bytes "hi"$/m,
    ],
  },
  "that functions and classes look the same": {
    script: `
      for (const it of [fetch, Worker, WebSocket, ...Object.values(Deno).filter((it) => typeof it === "function")]) {
        console.log(it.name, it.length, Object.keys(it).join());
      }
      const { writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(globalThis, "Worker");
      console.log(writable, enumerable, configurable, Object.keys(Deno).join());`,
    trace: [],
  },
});

Deno.test("trace says that a Worker is not watched if it may not be read", async () => {
  await using program = await programFolder(WORKER.script, WORKER.files);
  const { stdout, stderr } = await runProgram(program.file, [
    `--preload=${TRACE}`,
    `--allow-read=${program.folder}`,
  ]);
  assertEquals(stdout, "2 null\ntrue Worker\n");
  const told = returnedCalls(stderr);
  assertMatch(told, /^program\.ts\(2\): Worker: not watched\n/);
  assertMatch(told, /^(?![^]*\[worker)/);
});

Deno.test("trace tells that a handler of Deno.serve() waits", async () => {
  await using program = await programFolder(`
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async function wait(request) {
      await new Promise((resolve) => setTimeout(resolve, 2 ** 30));
    });
    async function ask() {
      await fetch("http://127.0.0.1:" + server.addr.port + "/slow");
    }
    await ask();`);
  await using process = new LessonProcess(program.file, [], {
    flags: [`--preload=${TRACE}`, ...FLAGS],
  });
  await process.stderrHas(
    /^\d+\.\d{3} program\.ts\(2\): #2 GET \/slow: waiting for \d\.\d s$/m,
  );
  await process.stderrHas(
    /^\d+\.\d{3} program\.ts\(6\):ask fetch GET \S+\/slow: waiting for \d\.\d s$/m,
  );
});

Deno.test("trace names files of the same name by their paths", async () => {
  const listen = (name: string) =>
    `export function ${name}() { Deno.listen({ port: 0 }).close(); }\n`;
  await using program = await programFolder(
    `import { one } from "./one/program.ts";
    import { two } from "./two/program.ts";
    import { other } from "./two/other.ts";
    one(); two(); other(); one();
    Deno.listen({ port: 0 }).close();`,
    {
      "one/program.ts": listen("one"),
      "two/program.ts": listen("two"),
      "two/other.ts": listen("other"),
    },
  );
  const command = ["run", `--preload=${TRACE}`, ...FLAGS];
  const here = await runDeno([...command, "program.ts"], program.folder);
  const elsewhere = await runDeno([...command, program.file]);
  for (
    const [{ stderr }, folder] of [
      [here, ""],
      [elsewhere, `${program.folder}/`],
    ] as const
  ) {
    const places = returnedCalls(stderr).split("\n")
      .filter((line) => line.includes("listen 0."))
      .map((line) => line.split(" ")[0]);
    assertEquals(places, [
      "program.ts(1):one", // There is no other one yet.
      `${folder}two/program.ts(1):two`,
      "other.ts(1):other",
      `${folder}one/program.ts(1):one`,
      `${folder}program.ts(5):`,
    ]);
  }
});
