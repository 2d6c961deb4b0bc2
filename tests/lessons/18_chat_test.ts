import { assert, assertEquals, assertMatch } from "@std/assert";
import { copyOf } from "../../lib/harness/copy.ts";
import { readAll, reset, writeAll } from "../peers.ts";
import {
  kernelRow,
  LessonProcess,
  run,
  type StartOptions,
  startServer as startServerOf,
  until,
} from "../testing.ts";

const LESSON = "18_chat.ts";
const hostname = "127.0.0.1";

const startServer = (args: string[] = ["--quiet"], options?: StartOptions) =>
  startServerOf(LESSON, args, options);

const bytes = (text: string) => new TextEncoder().encode(text);

/** Reads until this text has come, and nothing else. */
async function expect(conn: Deno.Conn, text: string) {
  const got = await readAll(conn, bytes(text).length);
  assertEquals(new TextDecoder().decode(got), text);
}

const WELCOME = "Welcome! What shall I call you?\n";

/** Somebody with a name, who has heard who is there. */
async function enter(port: number, name: string, others = "nobody else") {
  const conn = await Deno.connect({ hostname, port });
  await writeAll(conn, bytes(`${name}\n`));
  await expect(conn, `${WELCOME}* In the room: ${others}\n`);
  return conn;
}

const numberOf = (cell: string) => Number(cell.split(" ")[0].replace(",", ""));

Deno.test("18 demo: three ways to send to many, with one that does not read", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);
  const [, ...rows] = stdout.trimEnd().split("\n")
    .map((row) => row.split(/ {2,}/));
  assertEquals(rows.length, 6, stdout);
  const [arrived, wait, held, dropped, read, mixed] = rows
    .map(([_, ...cells]) => cells);
  const all = "6,000 of 6,000";
  const [waiting] = arrived;
  assert(numberOf(waiting) < 6000, stdout);
  assertEquals(arrived, [waiting, all, all]);
  assertEquals(wait[0], "over 1,000 ms");
  for (const it of wait.slice(1)) assertMatch(it, /^\d+\.\d ms$/);
  // What waits is a part of a line, all that came later, and what may wait.
  const [rest, ...lines] = held.map((it) => Number(it.replaceAll(",", "")));
  assert(rest <= 3000 && lines[0] > 1_000_000, stdout);
  assert(lines[1] > 200_000 && lines[1] <= 256 * 1024, stdout);
  assertEquals(dropped.slice(0, 2), ["no", "no"]);
  const [, end] = dropped[2].match(/^at line ([\d,]+)$/)!;
  const sent = numberOf(waiting) + 1;
  assertEquals(read[0].replaceAll(",", ""), `${sent} of ${sent}`);
  assertEquals(read[1], all);
  assert(read[2].endsWith(` of ${end}`), stdout);
  assert(numberOf(read[2]) < numberOf(end), stdout);
  assertEquals([mixed[0], mixed[2]], ["0", "0"]);
  assert(numberOf(mixed[1]) > 0, stdout);
});

Deno.test("18 a conversation of two clients, each with a terminal of its own", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  const start = () =>
    new LessonProcess(LESSON, ["client", `--port=${port}`, "--quiet"]);
  await using ada = start();
  await ada.type("Ada\n");
  await ada.stdoutHas("* In the room: nobody else\n");
  await using grace = start();
  await grace.stdoutHas(WELCOME);
  await grace.type("Grace\r\n");
  await grace.stdoutHas("* In the room: Ada\n");
  await ada.stdoutHas("* Grace has come\n"); // Nothing was typed meanwhile.
  await ada.type("你好\n");
  await grace.stdoutHas("[Ada] 你好\n");
  await grace.type("hi  \r\nbye\nq\nnot sent\n");
  const left = await grace.result();
  assertEquals([left.code, left.stderr], [0, ""]);
  assertEquals(
    left.stdout,
    `${WELCOME}* In the room: Ada\n[Ada] 你好\nclient done!!\n`,
  );
  await ada.stdoutHas("* Grace has left\n");
  process.kill("SIGTERM");
  const { code, stdout, stderr } = await ada.result();
  assertEquals(
    stdout,
    `${WELCOME}* In the room: nobody else
* Grace has come
[Grace] hi
[Grace] bye
* Grace has left
client done!!
`,
  );
  assertEquals(
    [code, stderr],
    [1, "18_chat: The server has closed the connection\n"],
  );
  const server = await process.result();
  assertEquals([server.code, server.stderr], [0, ""]);
  assertMatch(server.stdout, /^listening on .*\nserver closed\n$/);
});

Deno.test("18 server refuses a name that is none, or somebody's", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using ada = await enter(port, "Ada");
  for (const name of ["", "two words", "Ada", "x".repeat(33), "Zoë", "a\tb"]) {
    using conn = await Deno.connect({ hostname, port });
    await writeAll(conn, bytes(`${name}\n`));
    const text = new TextDecoder().decode(await readAll(conn));
    assertEquals(
      text,
      `${WELCOME}* A name is 1 to 32 letters or digits, and free\n`,
    );
  }
  using _bob = await enter(port, "b".repeat(32), "Ada");
  await expect(ada, `* ${"b".repeat(32)} has come\n`); // And of nobody else.
});

Deno.test("18 server: who leaves, in any way, is told to the others", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using ada = await enter(port, "Ada");
  const ways: Record<string, (conn: Deno.TcpConn) => unknown> = {
    closes: (conn) => conn.close(),
    ends: async (conn) => {
      await conn.closeWrite();
      assertEquals(await conn.read(new Uint8Array(1)), null);
      conn.close();
    },
    talks: async (conn) => {
      await writeAll(conn, bytes("x".repeat(4097)));
      assertEquals(await conn.read(new Uint8Array(1)), null);
      conn.close();
    },
  };
  for (const [name, leave] of Object.entries(ways)) {
    const conn = await enter(port, name, "Ada");
    await expect(ada, `* ${name} has come\n`);
    await leave(conn);
    await expect(ada, `* ${name} has left\n`);
  }
  await reset(port, bytes("nobody"));
  await reset(port);
  using _conn = await enter(port, "last", "Ada");
  await expect(ada, "* last has come\n");
  await process.stderrHas(
    /^18_chat: talks is dropped: Line of more than 4096 bytes\n$/,
  );
});

/** The memory of a process, in bytes. */
function memoryOf(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(status.match(/VmRSS:\s+(\d+) kB/)![1]) * 1024;
}

Deno.test("18 server drops who does not read, and nobody waits for it", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using deaf = await enter(port, "Deaf");
  using ada = await enter(port, "Ada", "Deaf");
  using grace = await enter(port, "Grace", "Deaf, Ada");
  await expect(ada, "* Grace has come\n");
  const end = () => kernelRow(port, deaf.localAddr.port);
  assertEquals(end()!.state, "ESTABLISHED");
  const before = memoryOf(process.pid);

  // 32 MB, more than the kernel holds for one client.
  const line = bytes(`${"x".repeat(3993)}\n`);
  const batch = await new Blob(Array(16).fill(line)).bytes();
  let heard = "";
  const decoder = new TextDecoder();
  for (let i = 0; i < 500; i++) {
    const sending = writeAll(ada, batch);
    for (let rest = 16 * 4000; rest > 0;) {
      const got = decoder.decode(await readAll(grace, rest));
      const notice = got.match(/^\* .*\n/m)?.[0] ?? "";
      heard += notice;
      rest -= got.length - notice.length;
    }
    await sending;
  }
  const grown = memoryOf(process.pid) - before;
  assert(grown < 100_000_000, `${grown} bytes`);
  await expect(ada, "* Deaf has left\n");
  await process.stderrHas(
    /^18_chat: Deaf is dropped: Reader does not keep up: \d+ bytes wait, and 4000 more came\n$/,
  );
  assert(end()?.state !== "ESTABLISHED");

  // What the kernel had taken is whole lines, and then the stream ends.
  const late = decoder.decode(await readAll(deaf));
  const lines = late.split("\n").slice(2, -1);
  assert(lines.length > 10);
  for (const it of lines) assertEquals(it, `[Ada] ${"x".repeat(3993)}`);
  await until(() => end()?.state !== "FIN-WAIT-1");
});

Deno.test("18 server gives who has ended its side what waits for it", async () => {
  const { process, port } = await startServer([
    "--quiet",
    "--max-queue=8000000",
  ]);
  await using _ = process;
  using late = await enter(port, "Late");
  using ada = await enter(port, "Ada", "Late");
  const line = `${"x".repeat(3993)}\n`;
  // More than the kernel takes, and less than may wait.
  const count = 1800;
  await writeAll(ada, bytes(line.repeat(count)));
  await writeAll(ada, bytes("over\n"));
  await ada.closeWrite();
  assertEquals(await ada.read(new Uint8Array(1)), null); // It was read by now.
  await late.closeWrite();
  const text = new TextDecoder().decode(await readAll(late));
  const all = `* Ada has come\n${`[Ada] ${line}`.repeat(count)}`;
  assertEquals(text.length, `${all}[Ada] over\n* Ada has left\n`.length);
  assert(text.endsWith("[Ada] over\n* Ada has left\n"));
});

Deno.test("18 server's end: SIGTERM waits for nobody", async () => {
  const { process, port } = await startServer();
  await using _ = process;
  using ada = await enter(port, "Ada");
  using silent = await Deno.connect({ hostname, port });
  await expect(silent, WELCOME);
  process.kill("SIGTERM");
  for (const conn of [ada, silent]) await readAll(conn);
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listening on .*\nserver closed\n$/);
});

Deno.test("18 client without a server, or refused by it, says so", async () => {
  const refused = await run(LESSON, ["client", "--port=1", "--quiet"]);
  assertEquals([refused.code, refused.stdout, refused.stderr], [
    1,
    "client done!!\n",
    "18_chat: connect 127.0.0.1:1: ECONNREFUSED (Connection refused): does a server listen there?\n",
  ]);
  const { process, port } = await startServer();
  await using _ = process;
  await using client = new LessonProcess(
    LESSON,
    ["client", `--port=${port}`, "--quiet"],
  );
  await client.type("no name\n"); // And its input stays open.
  const { code, stdout, stderr } = await client.result();
  assertEquals(
    [code, stdout, stderr],
    [
      1,
      `${WELCOME}* A name is 1 to 32 letters or digits, and free\nclient done!!\n`,
      "18_chat: The server has closed the connection\n",
    ],
  );
});

Deno.test("18 copy: server and client run, and SIGTERM ends the server", async () => {
  const folder = await Deno.makeTempDir();
  const text = copyOf(["lessons/18_chat.ts"], "chat.ts");
  await Deno.writeTextFile(`${folder}/chat.ts`, text);
  const start = (...args: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-config", "--allow-net", "chat.ts", ...args],
      cwd: folder,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
  await using server = start("server", "0", hostname);
  const out = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const [, port] = (await out.read()).value!.match(/:(\d+)\n$/)!;
  using ada = await enter(Number(port), "Ada");
  await using client = start("client", port, hostname);
  const writer = client.stdin.getWriter();
  await writer.write(bytes("Grace\nhello\n"));
  await expect(ada, "* Grace has come\n[Grace] hello\n");
  await writer.close();
  assertEquals(
    await client.stdout.text(),
    `${WELCOME}* In the room: Ada\n`,
  );
  assertEquals((await client.status).code, 0);
  server.kill("SIGTERM");
  assertEquals((await server.status).code, 0);
  await out.cancel();
  await server.stdin.close().catch(() => {});
  await Deno.remove(folder, { recursive: true });
});
