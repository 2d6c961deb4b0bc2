import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/12_concurrent_echo.ts";
import { exchange, reset } from "../peers.ts";
import {
  isFree,
  lessonSource,
  replaced,
  run,
  startServer as startServerOf,
} from "../testing.ts";

const LESSON = "12_concurrent_echo.ts";
const hostname = "127.0.0.1";

/** Starts the lesson's server on a free port. */
const startServer = (args: string[] = ["--quiet"]) =>
  startServerOf(LESSON, args);

/** Whether a connection is served: what is sent comes back. */
async function isServed(conn: Deno.TcpConn): Promise<boolean> {
  await conn.write(new TextEncoder().encode("ping"));
  return await conn.read(new Uint8Array(4)) === 4;
}

/** What a demo prints before its diagram. */
const SPOKEN =
  /^listening on \S+\na client is connected, and says nothing\n([^]*)the silent one has been so for \d+ ms, and speaks now\nfrom server at last\nserver closed\n/;

Deno.test("12 demo: others have their echoes beside a silent client", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [spoken = "", others] = stdout.match(SPOKEN) ?? [];
  assertEquals(
    others,
    "from server hello\nfrom server 你好\nclient done!!\n" +
      "from server the second client\nfrom server goes on\nclient done!!\n",
    stdout,
  );
  // The first one that is accepted is the last one that is read from.
  const diagram = stdout.slice(spoken.length);
  const accepted = diagram.match(/accept \S+:(\d+)/g)!;
  assertEquals(accepted.length, 3, diagram);
  const silent = accepted[0].slice("accept ".length);
  const [first] = diagram.split(`read ${silent} 8 bytes`);
  assert(first.length < diagram.length, diagram);
  assertEquals(first.match(/accept /g)?.length, 3, diagram);
});

Deno.test("12 demo --ask: the clients send what is typed, each up to a q", async () => {
  const args = ["--ask", "--quiet", "--connections=2"];
  const input = "one\nq\ntwo\nthree\nQ\n";
  const { code, stdout, stderr } = await run(LESSON, args, { input });
  assertEquals([code, stderr], [0, ""]);
  const [, others] = stdout.match(SPOKEN) ?? [];
  assertEquals(
    others,
    "from server one\nclient done!!\n" +
      "from server two\nfrom server three\nclient done!!\n",
    stdout,
  );
});

Deno.test("12 server: no client touches another", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using silent = await Deno.connect({ hostname, port });
  // One that sends much, and reads nothing.
  using deaf = await Deno.connect({ hostname, port });
  const flooding = (async () => {
    while (true) await deaf.write(new Uint8Array(1 << 20));
  })().catch(() => {});
  const messages = Array.from({ length: 50 }, (_, i) => `${i} `.repeat(50_000));
  const echoes = await Promise.all(messages.map((it) => exchange(port, it)));
  assertEquals(echoes, messages);
  assert(await isServed(silent));
  process.kill("SIGTERM");
  const { code, stdout, stderr } = await process.result();
  await flooding;
  assertEquals([code, stderr], [0, ""]);
  assert(stdout.endsWith("\nserver closed\n"), stdout);
  assert(await isFree(port));
});

Deno.test("12 server loses clients, and nobody else notices", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using other = await Deno.connect({ hostname, port });
  for (let i = 0; i < 3; i++) {
    await reset(port);
    await reset(port, new Uint8Array(100_000));
    assert(await isServed(other));
  }
  assertEquals(await exchange(port, "still there?"), "still there?");
});

Deno.test("12 server's trace says which client each call is about", async () => {
  const { process, port } = await startServer([]);
  await using _ = process;
  using first = await Deno.connect({ hostname, port });
  assert(await isServed(first));
  using second = await Deno.connect({ hostname, port });
  assert(await isServed(second));
  assert(await isServed(first)); // Now that there are two.
  // The line of accept has number and address, and the others have the number. The
  // first socket is the server's own.
  for (const [number, { localAddr }] of [[2, first], [3, second]] as const) {
    await process.traceHas(
      `:server #${number} accept ${hostname}:${localAddr.port} at ${hostname}:${port}\n`,
    );
  }
  const trace = await process.traceHas(
    /(:echo #2 write 4 of 4 bytes "ping"\n[^]*){2}/,
  );
  const calls = trace.matchAll(/:echo (#\d+ (?:read|write) .+)$/gm);
  assertEquals(Array.from(calls, ([, call]) => call), [
    ...[2, 3, 2].flatMap((number) => [
      `#${number} read 4 bytes "ping"`,
      `#${number} write 4 of 4 bytes "ping"`,
    ]),
  ]);
});

Deno.test("12 client sends bytes as they are", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  const input = Uint8Array.from({ length: 512 }, (_, i) => i);
  const args = ["client", "--quiet", `--port=${port}`];
  const { code, bytes } = await run(LESSON, args, { input });
  assertEquals(code, 0);
  const echo = new TextDecoder("latin1").decode(bytes)
    .replaceAll("from server ", "");
  const sent = new TextDecoder("latin1").decode(input);
  assertEquals(echo, `${sent}\nclient done!!\n`);
});

/** A listener whose `accept` rejects with each of the errors in turn. */
const failing = (errors: unknown[]) => () => ({
  addr: { hostname, port: 1 },
  accept: () => Promise.reject(errors.shift()),
  [Symbol.dispose]() {},
});
const withCode = (code: string) => Object.assign(new Error(code), { code });

Deno.test("12 server() goes on when a client was lost in the queue", async () => {
  const codes = ["ENOTCONN", "ECONNABORTED", "EMFILE"];
  const errors = codes.map(withCode);
  using _ = replaced(Deno, "listen", failing(errors));
  const error = await server({ onListen: () => {} }).catch((it) => it);
  assertEquals([error.code, errors], ["EMFILE", []]);
});

Deno.test("12 server() and client() can be called from other code", async () => {
  const ready = Promise.withResolvers<Deno.NetAddr>();
  const { listen } = Deno;
  let listener: Deno.TcpListener | undefined;
  using _ = replaced(
    Deno,
    "listen",
    (options: Deno.TcpListenOptions) => listener = listen(options),
  );
  const ended = server({ hostname, port: 0, onListen: ready.resolve })
    .catch((error) => error);
  const { port } = await ready.promise;
  let written = "";
  const output = {
    write(p: Uint8Array) {
      written += new TextDecoder().decode(p);
      return Promise.resolve(p.length);
    },
  };
  const lines = ["one\n", "two"].map((it) => new TextEncoder().encode(it));
  await client({ hostname, port, lines, output });
  assertEquals(written, "from server one\nfrom server two\n");
  listener!.close();
  assert(await ended instanceof Deno.errors.BadResource);
});

Deno.test("12 is 02 and one `await` less: the client is the same", () => {
  const functions = (lesson: string) =>
    new Map(
      lessonSource(lesson).split(/^(?=export )/m).slice(1)
        .map((text) => [text.match(/function (\w+)/)![1], text]),
    );
  const [before, after] = ["02_tcp_echo.ts", LESSON].map(functions);
  const body = (text = "") => text.slice(0, text.indexOf("\n}\n"));
  assertEquals(body(after.get("client")), body(before.get("client")));
  const [defaults, newDefaults] = [before, after].map((it) =>
    body(it.get("server")).split("\n}")[0].split("\n")
      .filter((line) => !/backlog|connections/.test(line))
  );
  assertEquals(newDefaults, defaults);
  assertMatch(after.get("server")!, /^ {6}echo\(conn\);/m);
});
