/**
 * Programs of other people, built from copies: what somebody writes who has
 * `deno task copy serve,lines,encode parts.ts`, and nothing else of this.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { copyOf } from "../../lib/harness/copy.ts";
import { readAll, reset, writeAll } from "../peers.ts";

/** Each is a server; its own code is all of it. */
const PROGRAMS = {
  // `SET name value`, `GET name`, one line each: a line protocol.
  store: `
import { encode, LineTooLongError, readLines, serve, writeFull } from "./parts.ts";

const values = new Map<string, string>();

await serve(async (conn) => {
  try {
    for await (const bytes of readLines(conn, { maxLength: 100 })) {
      const line = new TextDecoder().decode(bytes).trimEnd();
      const [, verb, name = "", value = ""] =
        line.match(/^(SET|GET) (\\S+) ?(.*)$/) ?? [];
      if (verb === "SET") values.set(name, value);
      const answer = verb === undefined
        ? "ERROR what?"
        : values.get(name) ?? "NONE";
      await writeFull(conn, encode(\`\${answer}\\n\`));
    }
  } catch (error) {
    if (!(error instanceof LineTooLongError)) throw error;
    await writeFull(conn, encode("ERROR too long\\n"));
  }
}, { hostname: "127.0.0.1", port: 0 });
`,
  // Two numbers of four bytes come, and their sum goes back: binary messages.
  sums: `
import { readFull, serve, writeFull } from "./parts.ts";

await serve(async (conn) => {
  while (true) {
    const request = await readFull(conn, new Uint8Array(8));
    if (request === null) break;
    const view = new DataView(request.buffer);
    const sum = new DataView(new ArrayBuffer(4));
    sum.setUint32(0, view.getUint32(0) + view.getUint32(4));
    await writeFull(conn, new Uint8Array(sum.buffer));
  }
}, { hostname: "127.0.0.1", port: 0 });
`,
  // The first line is a name; each other line goes to all others.
  chat: `
import { encode, readLines, serve, type ServedConn, writeFull } from "./parts.ts";

const members = new Map<ServedConn, string>();

async function tellOthers(own: ServedConn, text: string) {
  const others = [...members.keys()].filter((it) => it !== own);
  await Promise.allSettled(others.map((it) => writeFull(it, encode(text))));
}

await serve(async (conn) => {
  try {
    for await (const bytes of readLines(conn)) {
      const line = new TextDecoder().decode(bytes).trim();
      const name = members.get(conn);
      if (name !== undefined) {
        await tellOthers(conn, \`[\${name}] \${line}\\n\`);
      } else {
        members.set(conn, line);
        await tellOthers(conn, \`* \${line} has come\\n\`);
      }
    }
  } finally {
    const name = members.get(conn);
    members.delete(conn);
    if (name !== undefined) await tellOthers(conn, \`* \${name} has left\\n\`);
  }
}, { hostname: "127.0.0.1", port: 0 });
`,
};

/** Runs a program beside its copy, as a process of its own. */
async function withProgram(
  name: keyof typeof PROGRAMS,
  use: (port: number) => Promise<void>,
) {
  const folder = await Deno.makeTempDir();
  const paths = ["serve", "lines", "encode", "full_io"];
  await Deno.writeTextFile(
    `${folder}/parts.ts`,
    copyOf(paths.map((it) => `lib/${it}.ts`), "parts.ts"),
  );
  const code = PROGRAMS[name];
  assert(code.trim().split("\n").length <= 40);
  await Deno.writeTextFile(`${folder}/${name}.ts`, code);
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "--allow-net", `${name}.ts`],
    cwd: folder,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = child.stderr.text();
  const out = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await out.read();
  try {
    assertMatch(value, /^listening on 127\.0\.0\.1:\d+\n$/);
    const port = Number(value.trim().split(":").at(-1));
    await reset(port, new Uint8Array(3)); // It ends nobody else.
    await use(port);
  } finally {
    child.kill("SIGKILL");
    await out.cancel();
    const text = await errors;
    await Deno.remove(folder, { recursive: true });
    assertEquals(text, "");
  }
}

const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });
const bytes = (text: string) => new TextEncoder().encode(text);

/** Reads until this text has come, and nothing else. */
async function expect(conn: Deno.Conn, text: string) {
  const got = await readAll(conn, bytes(text).length);
  assertEquals(new TextDecoder().decode(got), text);
}

Deno.test("copies make a line protocol for many clients", async () => {
  await withProgram("store", async (port) => {
    using silent = await connect(port);
    using one = await connect(port);
    using other = await connect(port);
    await writeAll(one, bytes("SET a 1 2\nGET a\nGE"));
    await expect(one, "1 2\n1 2\n");
    await writeAll(other, bytes("GET a\nGET b\nwhat\n"));
    await expect(other, "1 2\nNONE\nERROR what?\n");
    await writeAll(one, bytes("T a\n"));
    await expect(one, "1 2\n");
    await writeAll(one, bytes("x".repeat(101)));
    await expect(one, "ERROR too long\n");
    assertEquals(await one.read(new Uint8Array(1)), null);
    await writeAll(silent, bytes("GET a\n"));
    await expect(silent, "1 2\n");
  });
});

Deno.test("copies make a server of binary messages", async () => {
  await withProgram("sums", async (port) => {
    using conn = await connect(port);
    const request = new Uint8Array([0, 0, 1, 0, 0, 1, 0, 2]);
    for (const byte of request) await writeAll(conn, new Uint8Array([byte]));
    assertEquals(await readAll(conn, 4), new Uint8Array([0, 1, 1, 2]));
    await writeAll(conn, new Uint8Array(8 * 1000));
    await conn.closeWrite();
    assertEquals(await readAll(conn), new Uint8Array(4 * 1000));
  });
});

Deno.test("copies make a chat", async () => {
  await withProgram("chat", async (port) => {
    using ada = await connect(port);
    await writeAll(ada, bytes("Ada\n"));
    using grace = await connect(port);
    await writeAll(grace, bytes("Grace\nhello\n"));
    await expect(ada, "* Grace has come\n[Grace] hello\n");
    await writeAll(ada, bytes("hi\n"));
    await expect(grace, "[Ada] hi\n");
    ada.close();
    await expect(grace, "* Ada has left\n");
  });
});
