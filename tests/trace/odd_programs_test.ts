/** Programs with habits of their own: they do the same when they are traced. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { runDeno } from "../testing.ts";
import {
  FLAGS,
  programFolder,
  runProgram,
  testPrograms,
  TRACE,
} from "./programs.ts";

testPrograms({
  "a top-level await that nothing can end": {
    script: `
      import net from "node:net";
      import { once } from "node:events";
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const accepting = listener.accept();
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
      (await accepting).close();
      conn.close();
      listener.close();
      const server = net.createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      server.close();
      await once(server, "close");
      console.log("waits");
      await new Promise(() => {});`,
    trace: [/^program\.ts\(12\): #\d+ close listener$/m],
  },
  "servers of Deno.serve() whatever a client says, and whatever options are": {
    script: `
      class App {
        #host = "127.0.0.1";
        port = 0;
        get hostname() { return this.#host; }
        onListen(address) { this.address = address; }
        handler(request) { return new Response(request.method); }
      }
      const app = new App();
      const server = Deno.serve(app);
      console.log(app.address.hostname);
      for (const host of ["a", "[::bad", "a b", "a:99999"]) {
        const conn = await Deno.connect(server.addr);
        await conn.write(new TextEncoder().encode("GET /x?y HTTP/1.0\\r\\nHost: " + host + "\\r\\n\\r\\n"));
        console.log((await new Response(conn.readable).text()).split("\\r\\n")[0]);
      }
      await server.shutdown();`,
    trace: [
      /^program\.ts\(10\): #\d+ GET \/x\?y: 200$/m,
      /^(?:(?!: 200)[^])*(?:: 200(?:(?!: 200)[^])*){4}$/,
    ],
  },
  "an Error that is frozen": {
    flags: ["--allow-read"],
    script: `
      Object.freeze(Error);
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const accepting = listener.accept();
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
      const peer = await accepting;
      await new Blob(["hello"]).stream().pipeTo(peer.writable);
      console.log(await new Response(conn.readable).text());
      await Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, () => new Response()).shutdown();
      try { new WebSocket("x:"); } catch (error) { console.log(error.name); }
      try { Deno.listen({ hostname: "127.0.0.1", port: listener.addr.port }); } catch (error) { console.log(error.name); }
      listener.close();`,
    trace: [/^#\d+ read 5 bytes "hello"$/m],
  },
  "other classes in the place of Deno's": {
    script: `
      const { ReadableStream: Native } = globalThis;
      globalThis.Promise = class extends Promise {};
      globalThis.ReadableStream = class {};
      globalThis.WritableStream = class {};
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const accepting = listener.accept();
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
      const peer = await accepting;
      await peer.write(new TextEncoder().encode("hello"));
      peer.close();
      console.log(conn.readable instanceof Native, await new Response(conn.readable).text());
      listener.close();
      const { constructor } = WebSocket.prototype;
      console.log(constructor === WebSocket, constructor.name);`,
    trace: [
      /^program\.ts\(8\): #\d+ socket, connect /m,
      /^program\.ts\(12\): #\d+ read 5 bytes "hello"$/m,
    ],
  },
  "calls of Node's modules that come to nothing": {
    script: `
      import net from "node:net";
      import dgram from "node:dgram";
      import { once } from "node:events";
      const client = net.connect(1, "127.0.0.1");
      client.destroy();
      await once(client, "close");
      const socket = dgram.createSocket("udp4").bind(0, "127.0.0.1");
      await once(socket, "listening");
      try { socket.send("x", 99999); } catch (error) { console.log(error.code); }
      socket.close();
      try { socket.send("x", 9); } catch (error) { console.log(error.code); }`,
    trace: [
      /^program\.ts\(5\): socket, connect 127\.0\.0\.1:1: closed before it was done$/m,
      /^(?![^]* sendto )/,
    ],
  },
  "names that would write lines of their own": {
    script: `
      const evil = { ["evil\\n9.999 fake.ts(1): #1 close\\x1b[31m"]() { Deno.listen({ port: 0 }).close(); } };
      Object.values(evil)[0]();
      console.log("done");`,
    trace: [
      /^program\.ts\(2\):evil 9\.999 fake\.ts\(1\): #1 close \[31m #1 socket, /m,
    ],
  },
  "a Worker of a Worker": {
    flags: ["--allow-read"],
    files: {
      "outer.ts": `
        const inner = new Worker(new URL("inner.ts", self.location.href), { type: "module" });
        inner.onmessage = ({ data }) => { postMessage(data + location.pathname.split("/").at(-1)); self.close(); };`,
      "inner.ts": `
        Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
        postMessage("inner of ");
        self.close();`,
    },
    script: `
      const worker = new Worker(new URL("outer.ts", import.meta.url), { type: "module" });
      console.log(await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data)));`,
    trace: [
      /^\[worker 1\.1\] inner\.ts\(2\): #1 socket, bind, listen 127\.0\.0\.1:\d+$/m,
    ],
  },
});

Deno.test("trace lets an uncaught error show the program's own line", async () => {
  const calls = [
    "Deno.listen({ port: 70_000 })",
    "Deno.serve({ port: 70_000 }, () => new Response())",
    `process.getBuiltinModule("node:net").connect(70_000, "127.0.0.1")`,
    "await Deno.connect(7)",
  ];
  await Promise.all(calls.map(async (call) => {
    await using program = await programFolder(
      `async function deep() {\n  ${call};\n}\nawait deep();\n`,
    );
    const { code, stderr } = await runProgram(program.file, [
      `--preload=${TRACE}`,
    ]);
    assertEquals(code, 1);
    assert(stderr.includes(`\n  ${call};\n`), stderr);
    assertMatch(stderr, /^(?![^]* at [^\n]*lib\/trace\/)/);
  }));
});

Deno.test("trace leaves a signal to a program with a Worker", async () => {
  const worker = `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    onmessage = () => postMessage("the last word");
    setTimeout(() => postMessage("waits"), 2500); // By then the trace has told it.
    await listener.accept();`;
  const start = `
    const worker = new Worker(new URL("worker.ts", import.meta.url), { type: "module" });
    const message = () => new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
    const waits = await message();
    setTimeout(() => Deno.exit(6), 10_000);`;
  const own = `${start}
    Deno.addSignalListener("SIGINT", async () => {
      worker.postMessage("?");
      console.log(await message());
      Deno.exit(5);
    });
    console.log(waits);`;
  const none = `${start} console.log(waits);`;
  /** Sends SIGINT when its Worker waits. */
  const end = async (file: string, flags: string[]) => {
    await using child = new Deno.Command(Deno.execPath(), {
      args: ["run", ...flags, ...FLAGS, "--allow-read", file],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const stderr = child.stderr.text();
    let stdout = "";
    for await (const it of child.stdout.pipeThrough(new TextDecoderStream())) {
      stdout += it;
      if (stdout === "waits\n") child.kill("SIGINT");
    }
    const { code, signal } = await child.status;
    return { status: [code, signal, stdout], stderr: await stderr };
  };
  for (const script of [own, none]) {
    await using program = await programFolder(script, { "worker.ts": worker });
    const [plain, traced] = await Promise.all([
      end(program.file, []),
      end(program.file, [`--preload=${TRACE}`]),
    ]);
    assertEquals(traced.status, plain.status);
    assertMatch(traced.stderr, /^\S+ \[worker 1\] .* #1 accept: waiting for /m);
  }
});

Deno.test("trace has one file for all test files, and for Workers elsewhere", async () => {
  const listen = `Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();`;
  await using program = await programFolder(
    `Deno.chdir("/");
    const worker = new Worker(new URL("worker.ts", import.meta.url), { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);`,
    {
      "one_test.ts": `Deno.test("one", () => ${listen.slice(0, -1)});`,
      "two_test.ts": `Deno.test("two", () => ${listen.slice(0, -1)});`,
      "worker.ts": `${listen} postMessage(0); self.close();`,
    },
  );
  const { folder } = program;
  const log = () => Deno.readTextFile(`${folder}/log`);
  const flags = [`--preload=${TRACE}`, ...FLAGS, "--allow-env"]
    .concat("--allow-read", "--allow-write");
  const env = { SOCKET_TRACE: "out=log" };
  const worker = await runDeno(["run", ...flags, "program.ts"], folder, env);
  assertEquals(worker.code, 0, worker.stderr);
  assertMatch(await log(), /^\S+ \[worker 1\] worker\.ts\(1\): #1 socket, /);
  const tests = await runDeno(["test", ...flags, "--quiet"], folder, env);
  assertEquals(tests.code, 0, tests.stderr);
  for (const name of ["one", "two"]) {
    assertMatch(
      await log(),
      RegExp(` ${name}_test\\.ts\\(1\\):\\S* #1 socket`),
    );
  }
  const nowhere = await runDeno(["run", ...flags, "program.ts"], folder, {
    SOCKET_TRACE: "out=nowhere/log",
  });
  assertEquals(nowhere.code, 2);
  assertMatch(nowhere.stderr, /^SOCKET_TRACE: out=nowhere\/log ENOENT .*\n$/);
});
