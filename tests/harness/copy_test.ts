/** Copies as a user makes them: by `deno task copy`, into folders of his own. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { copyOf, findSource } from "../../lib/harness/copy.ts";
import { exchange, reset } from "../peers.ts";
import { LESSONS, lessonSource, runDeno } from "../testing.ts";

const ROOT = new URL("../../", import.meta.url);
const modulesOf = (folder: string) =>
  [...Deno.readDirSync(new URL(folder, ROOT))].map(({ name }) => name)
    .filter((name) => name.endsWith(".ts")).toSorted()
    .map((name) => `${folder}/${name}`);
const MODULES = [...modulesOf("lib"), ...modulesOf("lib/lab")];
/** Lessons that have a program: the others are experiments. */
const PROGRAMS = LESSONS.filter((lesson) =>
  /^export async function server\(/m.test(lessonSource(lesson))
);

/** What a project may ask of all its code, beyond Deno's own `strict`. */
const STRICT = Object.fromEntries(
  [
    "erasableSyntaxOnly",
    "exactOptionalPropertyTypes",
    "noFallthroughCasesInSwitch",
    "noImplicitOverride",
    "noImplicitReturns",
    "noPropertyAccessFromIndexSignature",
    "noUncheckedIndexedAccess",
    "noUnusedLocals",
    "noUnusedParameters",
    "verbatimModuleSyntax",
  ].map((option) => [option, true]),
);

/** An empty folder, whose name is not easy. */
async function withFolder(f: (folder: string) => Promise<unknown>) {
  const folder = await Deno.makeTempDir({ prefix: "copied lessons 课 " });
  try {
    await f(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Runs `deno task copy` from another folder. */
function copy(folder: string, ...args: string[]) {
  const config = new URL("deno.json", ROOT).pathname;
  return runDeno(
    ["task", "--quiet", "--config", config, "copy", ...args],
    folder,
  );
}

const fileOf = (path: string) => path.slice(path.lastIndexOf("/") + 1);
const linesOf = (text: string) => text.split("\n").length - 1;

Deno.test("copies type-check under the strictest options, are formatted and lint-free, and import nothing", async () => {
  await withFolder(async (folder) => {
    const own = `${folder}/own`; // Programs, alone in a folder.
    const lib = `${folder}/lib`;
    const node = `${folder}/node`; // Beside a package.json.
    for (const it of [own, lib, node]) await Deno.mkdir(it);
    const write = async (path: string, to: string) => {
      const text = copyOf([path], fileOf(path));
      await Deno.writeTextFile(`${to}/${fileOf(path)}`, text);
      for (const [, from] of text.matchAll(/^import .* from "(.+)";$/gm)) {
        assertMatch(from, /^node:/, path);
      }
      assert(!/@example|lib\/harness|runLesson/.test(text), path);
      if (!/^import /m.test(text)) {
        await Deno.writeTextFile(`${node}/${fileOf(path)}`, text);
      }
    };
    for (const lesson of PROGRAMS) await write(`lessons/${lesson}`, own);
    for (const path of MODULES) await write(path, lib);
    await write("lib/trace/trace.ts", own);
    const json = (options: unknown) =>
      JSON.stringify({ compilerOptions: options });
    await Deno.writeTextFile(`${own}/deno.json`, json(STRICT));
    await Deno.writeTextFile(
      `${lib}/deno.json`,
      json({ ...STRICT, isolatedDeclarations: true }),
    );
    await Deno.writeTextFile(`${node}/package.json`, "{}");
    const inFolder = async (to: string, ...args: string[]) => {
      const { code, stdout, stderr } = await runDeno(args, to);
      assertEquals(code, 0, stdout + stderr);
    };
    const files = (to: string) =>
      [...Deno.readDirSync(to)].map(({ name }) => name)
        .filter((name) => name.endsWith(".ts"));
    await Promise.all([
      inFolder(own, "check", ...files(own)),
      inFolder(lib, "check", ...files(lib)),
      inFolder(node, "check", ...files(node)),
      inFolder(own, "fmt", "--check", ...files(own)),
      inFolder(lib, "fmt", "--check", ...files(lib)),
      inFolder(own, "lint", ...files(own)),
      inFolder(lib, "lint", ...files(lib)),
    ]);
  });
});

Deno.test("copy of several modules has no declaration twice", () => {
  const text = copyOf(MODULES, "all.ts");
  const declared = Array.from(
    text.matchAll(
      /^(?:export )?(?:async )?(?:const|let|function\*?|class|interface|type) (\w+)/gm,
    ),
    ([, name]) => name,
  );
  assert(declared.length > 100);
  assertEquals(declared, [...new Set(declared)]);
  for (const path of MODULES) assert(text.includes(`// ${path}\n`), path);
});

Deno.test("copy says in three lines where it is from, its license, and how it runs", () => {
  for (const lesson of PROGRAMS) {
    const [from, license, usage, next] = copyOf([`lessons/${lesson}`], "x.ts")
      .split("\n");
    assertEquals(
      from,
      `// lessons/${lesson} of Linux sockets in Deno, in one file.`,
    );
    assertMatch(license, /^\/\/ Copyright .* MIT License\.$/);
    assertMatch(
      usage,
      /^\/\/ deno run (--\S+ )+x\.ts \[server(\|client)?\] (?:\[PORT\] \[HOST\]|\[PATH\])$/,
    );
    assertMatch(next, /^(import .*)?$/);
  }
});

Deno.test("copy's start has at most twelve lines, and stands last", () => {
  for (const lesson of PROGRAMS) {
    const text = copyOf([`lessons/${lesson}`], "x.ts");
    const start = text.slice(text.lastIndexOf("\nif (import.meta.main) {") + 1);
    assert(linesOf(start) <= 12, start);
    assert(start.endsWith("\n}\n"), start);
  }
});

/** Puts a line before each declaration at the top level, one at a time. */
function* insertions(text: string, line: string): Generator<string> {
  // The server of lesson 10 has an error of its own, which must stand above it.
  const first = text.indexOf("export class FrameTooLongError");
  for (const { index } of text.matchAll(/^\n(?=\S)/gm)) {
    if (index < first) continue;
    yield `${text.slice(0, index)}\n${line}\n${text.slice(index)}`;
  }
}

const served: ((address: Deno.NetAddr) => void)[] = [];
Object.assign(globalThis, {
  onServed: (address: Deno.NetAddr) => served.shift()!(address),
});

for (
  const lesson of ["01_tcp_hello.ts", "02_tcp_echo.ts", "10_framing.ts"]
) {
  Deno.test(`copy of ${lesson}: await server() works at any place, through a reset`, async () => {
    await withFolder(async (folder) => {
      const call =
        `await server({ hostname: "127.0.0.1", port: 0, connections: 2,
  onListen: globalThis.onServed });`;
      const text = copyOf([`lessons/${lesson}`], "echo.ts");
      let places = 0;
      for (const variant of insertions(text, call)) {
        const file = `${folder}/echo${places++}.ts`;
        await Deno.writeTextFile(file, variant);
        const { promise, resolve } = Promise.withResolvers<Deno.NetAddr>();
        served.push(resolve);
        const serving = import(new URL(`file://${encodeURI(file)}`).href);
        const { port } = await Promise.race([promise, serving]);
        await reset(port, new Uint8Array(100_000));
        const frame = "\0\0\0\x0cstill there?"; // For lesson 10; no matter to others.
        assertEquals(await exchange(port, frame), frame);
        await serving;
      }
      assert(places > 5, `${places}`);
    });
  });
}

Deno.test("copy's program runs by the command that it names", async () => {
  await withFolder(async (folder) => {
    const copied = await copy(folder, "02_tcp_echo", "echo.ts");
    assertEquals([copied.code, copied.stderr], [0, ""]);
    const [, usage] = copied.stdout.split("\n");
    assertEquals(
      usage,
      `  deno run --allow-net '${folder}/echo.ts' server`,
    );
    const start = (...args: string[]) =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", "--allow-net", "echo.ts", ...args],
        cwd: folder,
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
    await using server = start("server", "0", "127.0.0.1");
    const out = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const { value = "" } = await out.read();
    const [, port] = value.match(/^listening on 127\.0\.0\.1:(\d+)\n$/)!;
    await using client = start("client", port, "127.0.0.1");
    const writer = client.stdin.getWriter();
    await writer.write(new TextEncoder().encode("hello\nq\n"));
    await writer.close();
    const { code, stdout } = await client.output();
    assertEquals(code, 0);
    assertEquals(new TextDecoder().decode(stdout), "from server hello\n");

    await using wrong = start("sever");
    await wrong.stdin.close();
    const { code: failed, stderr } = await wrong.output();
    assertEquals(failed, 1);
    assertMatch(new TextDecoder().decode(stderr), /No such mode: sever/);
    server.kill("SIGTERM");
    await server.status;
    await out.cancel();
    await server.stderr.cancel();
    await server.stdin.close().catch(() => {});
  });
});

Deno.test("copy of 21_unix_sockets.ts takes a path", async () => {
  await withFolder(async (folder) => {
    const text = copyOf(["lessons/21_unix_sockets.ts"], "unix.ts");
    await Deno.writeTextFile(`${folder}/unix.ts`, text);
    const flags = ["--allow-net", "--allow-read", "--allow-write"];
    const start = (mode: string) =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", ...flags, "unix.ts", mode, "./echo.sock"],
        cwd: folder,
        stdin: "piped",
        stdout: "piped",
      }).spawn();
    await using server = start("server");
    const out = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const { value = "" } = await out.read();
    assertMatch(value, /^listening on .+\/echo\.sock\n$/);
    await using client = start("client");
    const writer = client.stdin.getWriter();
    await writer.write(new TextEncoder().encode("hello\n"));
    await writer.close();
    const { stdout } = await client.output();
    assertEquals(new TextDecoder().decode(stdout), "from server hello\n");
    await server.stdin.close();
    server.kill("SIGTERM");
    await out.cancel();
  });
});

Deno.test("copy of 17_production.ts drains on SIGTERM", async () => {
  await withFolder(async (folder) => {
    const text = copyOf(["lessons/17_production.ts"], "server.ts");
    await Deno.writeTextFile(`${folder}/server.ts`, text);
    await using server = new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-net", "server.ts", "server", "0", "127.0.0.1"],
      cwd: folder,
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const out = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const { value = "" } = await out.read();
    const port = Number(value.trim().split(":").at(-1));
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const buffer = new Uint8Array(8);
    await conn.write(new Uint8Array([1]));
    assertEquals(await conn.read(buffer), 1); // It is being served.
    server.kill("SIGTERM");
    assertMatch(
      (await out.read()).value ?? "",
      /^waiting for clients to finish: 1/,
    );
    await conn.write(new Uint8Array([2, 3]));
    assertEquals(await conn.read(buffer), 2); // And still is.
    await conn.closeWrite();
    assertEquals((await server.status).code, 0);
    assertMatch(
      (await out.read()).value ?? "",
      /^served 1 connection, 3 bytes/,
    );
    await out.cancel();
  });
});

Deno.test("copy writes where the user stands, and over nothing that is there", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/lib`);
    const read = (name: string) => Deno.readTextFile(`${folder}/${name}`);
    for (
      const [out, file] of [
        ["io.ts", "io.ts"],
        ["./lib", "lib/full_io.ts"],
        ["lib/", "lib/full_io.ts"],
        [`${folder}/absolute.ts`, "absolute.ts"],
      ]
    ) {
      const { code, stderr, stdout } = await copy(
        folder,
        "full_io",
        out,
        "--force",
      );
      assertEquals([code, stderr], [0, ""]);
      assertEquals(await read(file), copyOf(["lib/full_io.ts"], fileOf(file)));
      assertMatch(stdout, /: \d+ lines\n {2}import \{ .*readFull.* \} from /);
    }
    // A link to something else is replaced, and what it led to is not changed.
    await Deno.writeTextFile(`${folder}/mine.ts`, "mine");
    await Deno.link(`${folder}/mine.ts`, `${folder}/hard.ts`);
    await Deno.symlink(`${folder}/mine.ts`, `${folder}/soft.ts`);
    for (const name of ["hard.ts", "soft.ts", "mine.ts"]) {
      const { code, stderr } = await copy(folder, "full_io", name);
      assertEquals(code, 1);
      assertMatch(stderr, /^copy: .*exists.*\n$/);
    }
    for (const name of ["hard.ts", "soft.ts"]) {
      assertEquals((await copy(folder, "full_io", name, "--force")).code, 0);
      assertEquals(await read("mine.ts"), "mine");
    }
    const { stdout } = await copy(folder, "06", "udp.ts");
    assertMatch(stdout, /^ {2}`deno check` wants @types\/node for that\.$/m);
    const printed = await copy(folder, "full_io");
    assertEquals(printed.stdout, copyOf(["lib/full_io.ts"], "full_io.ts"));
  });
});

Deno.test("copy refuses what cannot be copied, in one line", async () => {
  await withFolder(async (folder) => {
    const cases: [string[], RegExp][] = [
      [[], /^copy: no lesson or module "", there are .*02_tcp_echo.*\n$/],
      [["serve,"], /^copy: no lesson or module ""/],
      [
        ["libc_socket,16"],
        /^copy: lib\/lab\/libc_socket\.ts and lessons\/16_epoll\.ts both declare \w+: copy/,
      ],
      [
        ["no_such"],
        /^copy: no lesson or module "no_such", there are .*02_tcp_echo.*full_io.*trace\n$/,
      ],
      [
        ["03"],
        /^copy: 03_addresses is an experiment, and has no program to copy; .*: .*libc_socket.*\n$/,
      ],
      [["09"], /: address, [^:]+\n$/], // What is Deno's own is none of it.
      [["01,02"], /^copy: two lessons make no one program\n$/],
      [["01", "a.ts", "more"], /^copy: unexpected argument "more"\n$/],
      [["01", "echo.js"], /^copy: "echo\.js" does not end in \.ts\n$/],
    ];
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await copy(folder, ...args);
      assertEquals([code, stdout], [2, ""], args.join(" "));
      assertMatch(stderr, message);
    }
    assertEquals([...Deno.readDirSync(folder)], []);
  });
});

Deno.test("findSource() takes the names that people use", () => {
  for (
    const [name, path] of [
      ["02", "lessons/02_tcp_echo.ts"],
      ["tcp_echo", "lessons/02_tcp_echo.ts"],
      ["02_tcp_echo.ts", "lessons/02_tcp_echo.ts"],
      ["lessons/02_tcp_echo.ts", "lessons/02_tcp_echo.ts"],
      ["full_io", "lib/full_io.ts"],
      ["./lib/full_io.ts", "lib/full_io.ts"],
      ["byte_order", "lib/byte_order.ts"], // The lesson is an experiment.
      ["libc_socket", "lib/lab/libc_socket.ts"],
      ["trace", "lib/trace/trace.ts"],
    ]
  ) assertEquals(findSource(name), path);
});
