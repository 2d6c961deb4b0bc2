import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import jsr from "../../lib/jsr_imports.json" with { type: "json" };
import { UsageError } from "../../lib/harness/command_line.ts";
import { copyLesson, findSource } from "../../lib/harness/copy_lesson.ts";
import { LESSONS, lessonSource, runDeno, runLines } from "../testing.ts";

const ROOT = new URL("../../", import.meta.url);
/** All lessons, and a module that imports nothing, one that does, a big one. */
const SOURCES = [
  ...LESSONS.map((lesson) => `lessons/${lesson}`),
  "lib/full_io.ts",
  "lib/lines.ts",
  "lib/libc_socket.ts",
];

/** Modules, and functions of each one that are copied without the others. */
const ONLY = [
  ["lessons/02_tcp_echo.ts", "client"],
  ["lessons/06_udp_echo.ts", "server"],
  ["lessons/10_framing.ts", "readFrame", "writeFrame"],
  ["lessons/12_concurrent_echo.ts", "server"],
  ["lessons/14_dead_peers.ts", "heartbeat"],
  ["lib/full_io.ts", "writeFull"],
  ["lib/libc_socket.ts", "openLibc"],
];

/** What a project may ask of all its code, beyond Deno's own `strict`. */
const STRICT = Object.fromEntries([
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
].map((option) => [option, true]));

/** Runs `deno task copy` with exactly its flags. */
function copy(...args: string[]) {
  const flags = ["--allow-read", "--allow-write", "--allow-run=deno"];
  return runDeno(
    ["run", ...flags, "lib/harness/copy_lesson.ts", ...args],
    ROOT,
  );
}

/** Runs a command as a shell understands it. */
async function shell(script: string, cwd: string): Promise<string> {
  const command = new Deno.Command("sh", {
    args: ["-c", script],
    cwd,
    stdin: "null",
    stderr: "inherit",
  });
  const { code, stdout } = await command.output();
  assertEquals(code, 0, script);
  return new TextDecoder().decode(stdout);
}

/** An empty folder, with a name that is not easy. */
async function withFolder(f: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir({ prefix: "copied lessons 课 " });
  try {
    await f(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function succeeds(folder: string, ...args: string[]) {
  const { code, stderr } = await runDeno(args, folder);
  assertEquals(code, 0, stderr);
}

/** All at once; and when one has failed, the others are over as well. */
async function forEach<T>(items: T[], f: (item: T) => Promise<unknown>) {
  const results = await Promise.allSettled(items.map(f));
  for (const it of results) if (it.status === "rejected") throw it.reason;
}

/** How many lines a text has. */
const linesOf = (text: string) => text.split("\n").length - 1;

Deno.test("copies stand alone", async () => {
  await withFolder(async (folder) => {
    for (const name of ["lessons", "lib", "jsr", "functions", "only"]) {
      await Deno.mkdir(`${folder}/${name}`);
    }
    const texts = new Map<string, string>();
    await forEach(SOURCES, async (path) => {
      const text = await copyLesson(path);
      texts.set(path, text);
      await Deno.writeTextFile(`${folder}/${path}`, text);
    });
    await forEach(LESSONS, async (lesson) => {
      const text = await copyLesson(`lessons/${lesson}`, { functions: true });
      texts.set(`functions/${lesson}`, text);
      assert(!/import\.meta|^ \* @run /m.test(text), lesson);
      await Deno.writeTextFile(`${folder}/functions/${lesson}`, text);
    });
    const trace = await copyLesson("lib/harness/trace.ts");
    await Deno.writeTextFile(`${folder}/lib/trace.ts`, trace);
    texts.set("lib/trace.ts", trace);
    await forEach(ONLY, async ([path, ...only]) => {
      const text = await copyLesson(path, { only });
      const file = path.replace(/^\w+/, "only");
      texts.set(file, text);
      await Deno.writeTextFile(`${folder}/${file}`, text);
    });

    const all = ["lessons", "lib", "functions", "only"];
    const project = JSON.stringify({ compilerOptions: STRICT });
    await Deno.writeTextFile(`${folder}/project.json`, project);
    for (const [path, text] of texts) namesNoOtherFile(path, text);
    await forEach([
      () => typeCheck(folder),
      () => succeeds(folder, "fmt", "--check", ...all),
      // In a project, and a configuration makes one, a rule more is on.
      () => succeeds(folder, "lint", "--config=project.json", ...all),
      () => traceProgram(folder),
      () => importFunctions(folder, "lessons"),
      () => importFunctions(folder, "functions"),
      () => forEach(SERVING, (it) => serve(folder, ...it)),
      () => forEach(LESSONS, (lesson) => askForHelp(lesson, folder)),
      () => forEach(FORKING, (lesson) => runDemo(lesson, folder)),
    ], (f) => f());
  });
});

/** The copies as they are, and one with `--jsr` against std's types. */
async function typeCheck(folder: string) {
  const types = new URL("tests/std_types/", ROOT);
  const declared = JSON.parse(
    await Deno.readTextFile(new URL("import_map.json", types)),
  ).imports;
  const imports = Object.fromEntries(
    Object.entries(jsr.imports)
      .map(([name, it]) => [it, new URL(declared[name], types).href]),
  );
  await Deno.writeTextFile(`${folder}/map.json`, JSON.stringify({ imports }));
  const text = await copyLesson("lessons/02_tcp_echo.ts", { jsr: true });
  await Deno.writeTextFile(`${folder}/jsr/02_tcp_echo.ts`, text);
  const pinned = /^import .* from "jsr:@std\/\w+@\d+\.\d+\.\d+\/.*";$/m;
  assertMatch(text, pinned);
  assert(!text.includes('"npm:'));
  const all = ["lessons", "lib", "functions", "only", "jsr"];
  const options = ["--config=project.json", "--import-map=map.json"];
  await succeeds(folder, "check", ...options, ...all);
}

/** Beside a program, as the original is beside others: both say the same. */
async function traceProgram(folder: string) {
  await Deno.mkdir(`${folder}/traced`);
  await Deno.copyFile(`${folder}/lib/trace.ts`, `${folder}/traced/trace.ts`);
  await Deno.writeTextFile(
    `${folder}/traced/program.ts`,
    `import { writeFull } from "../lib/full_io.ts";
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    using conn = await Deno.connect({ port: listener.addr.port });
    await writeFull(conn, new TextEncoder().encode("hello"));`,
  );
  const traces = [
    `${folder}/traced/trace.ts`,
    `${ROOT.pathname}lib/harness/trace.ts`,
  ]
    .map(async (trace) => {
      const flags = [`--preload=${trace}`, "--allow-net"];
      const args = ["run", ...flags, "traced/program.ts"];
      const { code, stderr } = await runDeno(args, folder);
      return [code, stderr.replaceAll(/:\d+$/gm, ":PORT")];
    });
  const [[code, text], original] = await Promise.all(traces);
  assertEquals([code, text], original);
  assertMatch(String(text), /^program\.ts\(4\): write 5 of 5 bytes "hello"$/m);
}

async function importFunctions(folder: string, copies: string) {
  const main = `import_${copies}.ts`;
  await Deno.writeTextFile(
    `${folder}/${main}`,
    `import { client, server } from "./${copies}/02_tcp_echo.ts";
    const ready = Promise.withResolvers<number>();
    const serving = server({
      hostname: "127.0.0.1",
      port: 0,
      connections: 1,
      onListen: ({ port }) => ready.resolve(port),
    });
    const lines = [new TextEncoder().encode("imported")];
    await client({ port: await ready.promise, lines });
    await serving;`,
  );
  const result = await runDeno(["run", "--allow-net", main], folder);
  const stdout = "from server imported\nclient done!!\n";
  assertEquals(result, { code: 0, stdout, stderr: "" });
}

/** What imported servers answer to whom, and what `deno run` needs for it. */
const SERVING: [
  lesson: string,
  request: string,
  answer: string,
  flags: string[],
][] = [
  ["01_tcp_hello.ts", "hello\n", "hello\n", []],
  ["02_tcp_echo.ts", "hello\n", "hello\n", []],
  ["10_framing.ts", "\0\0\0\x03rab", "\0\0\0\x03+ba", []],
  ["12_concurrent_echo.ts", "hello\n", "hello\n", []],
  ["15_many_processes.ts", "hello\n", "PID: hello\n", ["--unstable-net"]],
  ["16_epoll.ts", "hello\n", "hello\n", ["--allow-ffi"]],
];

async function serve(
  folder: string,
  lesson: string,
  request: string,
  answer: string,
  flags: string[],
) {
  const main = `serve_${lesson}`;
  await Deno.writeTextFile(
    `${folder}/${main}`,
    `import * as lesson from "./functions/${lesson}";
    const { server, serve = server } = lesson as Record<string, any>;
    const ready = Promise.withResolvers<number>();
    serve({
      hostname: "127.0.0.1",
      port: 0,
      onListen: ({ port }: Deno.NetAddr) => ready.resolve(port),
    });
    using conn = await Deno.connect({ port: await ready.promise });
    await conn.write(new TextEncoder().encode(${JSON.stringify(request)}));
    const buffer = new Uint8Array(100);
    const count = await conn.read(buffer);
    await Deno.stdout.write(buffer.subarray(0, count!));
    Deno.exit();`,
  );
  const args = ["run", "--allow-net", ...flags, main];
  const { code, stdout, stderr } = await runDeno(args, folder);
  assertEquals([code, stderr], [0, ""], lesson);
  assertEquals(stdout.replace(/^\d+:/, "PID:"), answer);
}

/** Needs no flags, and offers neither trace nor diagram. */
async function askForHelp(lesson: string, folder: string) {
  const { code, stdout, stderr } = await runDeno(
    ["run", lesson, "--help"],
    `${folder}/lessons`,
  );
  assertEquals([code, stderr], [0, ""], lesson);
  for (const mode of runLines(lesson).keys()) {
    assertMatch(stdout, new RegExp(`^${mode}\\b.*: `, "m"));
  }
  assert(!stdout.includes("--quiet"), lesson);
  // But a lesson may draw diagrams of its own.
  const draws = lessonSource(lesson).includes("mermaid: {");
  assertEquals(stdout.includes("--mermaid"), draws, lesson);
}

/** The lessons whose demo starts the lesson itself, as a server. */
const FORKING = LESSONS.filter((lesson) =>
  runLines(lesson).get("demo")!.includes("--allow-run=deno")
);

/** Runs a copy's demo, alone in a folder, with the flags of its header. */
async function runDemo(lesson: string, folder: string) {
  const alone = `${folder}/alone ${lesson}`;
  await Deno.mkdir(alone);
  await Deno.copyFile(`${folder}/lessons/${lesson}`, `${alone}/copy.ts`);
  const text = await Deno.readTextFile(`${alone}/copy.ts`);
  const [, line] = text.match(/^ \* @run deno (.+)$/m)!;
  const args = line.replace(lesson, "copy.ts").split(" ");
  const { code, stderr } = await runDeno(args, alone);
  assertEquals([code, stderr], [0, ""], lesson);
}

function namesNoOtherFile(path: string, text: string) {
  const [header] = text.match(/^\/\*\*[^]*?\*\//m)!;
  const rest = text.replace(/^\/\/ (Copied from |lib\/).*\n/gm, "")
    .replaceAll(path.split("/")[1], "");
  for (const [name] of rest.matchAll(/\b(lessons|lib)\/[\w/]+\.ts\b/g)) {
    assertMatch(text, RegExp(`^// ${name}:`, "m"), `${path}: ${name}`);
  }
  const other = rest.match(/\b\d\d_\w+\.ts\b/)?.[0];
  assertEquals(other, undefined, path);
  const stage = header.match(/deno task|--quiet/)?.[0];
  assertEquals(stage, undefined, path);
}

Deno.test("copyLesson() takes what is needed, and nothing else", async () => {
  const text = await copyLesson("lessons/01_tcp_hello.ts");
  assertMatch(text, /^\/\/ Copied from lessons\/01_tcp_hello\.ts of .+\.$/m);
  assertMatch(text, /^\/\/ Copyright \(c\) \d+ .* MIT License\.$/m);
  const source = await Deno.readTextFile(new URL("lib/full_io.ts", ROOT));
  const [needed] = source.match(/^export async function writeFull[^]*?^}\n/m)!;
  assert(text.includes(needed));
  assert(text.includes("/**\n * Writes all of `data`:"));
  assert(text.includes("\n * @throws {WriteZeroError} If"));
  assert(text.includes("\nfunction checkCount("));
  assert(!/\b(function readFull|UnexpectedEofError)\b/.test(text));
  assert(!/@example|```/.test(text));
  // What only a comment names is not needed.
  const closing = await copyLesson("lessons/08_closing.ts");
  assertMatch(closing, /^ +\/\*\* .*`SOCK_DGRAM`/m);
  assert(!closing.includes("const SOCK_DGRAM"));
  assert(!/\bstage\b.* from|\/\/ stage$/m.test(text));
  // The lesson comes first, and only what runs at once comes last.
  const order = [
    " * @title ",
    "\nimport {",
    "\nexport async function server(",
    "\n// lib/full_io.ts: Full reads and full writes.\n",
    "\n// lib/harness/command_line.ts:",
    "\nif (import.meta.main) {\n",
  ].map((it) => text.indexOf(it));
  assertEquals(order.toSorted((a, b) => a - b), order);
  assert(order[0] > 0);
});

Deno.test("copyLesson() takes the functions only, if it is asked to", async () => {
  const functions = true;
  const text = await copyLesson("lessons/01_tcp_hello.ts", { functions });
  const exported = (text: string) =>
    Array.from(
      text.split("\n// lib/")[0].matchAll(/^export .*function (\w+)/gm),
      ([, name]) => name,
    );
  assertEquals(exported(text), ["server", "client"]);
  assert(!/^import |import\.meta|@run|lib\/harness|parseArgs/m.test(text));
  // It has less of the lesson, and nothing that the whole copy has not.
  const whole = await copyLesson("lessons/01_tcp_hello.ts");
  const lines = whole.split("\n");
  const [note, rest] = text.split("MIT License.\n")[1].split("\n\n/**");
  assertMatch(note, /^\/\/ Only some of its functions\./);
  for (const line of rest.split("\n")) assert(lines.includes(line), line);

  // Several names in one declaration, and texts that begin at the left edge.
  const framing = await copyLesson("lessons/10_framing.ts", { functions });
  assertEquals(
    framing.match(/^const \[ECHO, REVERSE, DONE, ERROR\] = /gm)?.length,
    1,
  );
  assertEquals(
    exported(framing),
    ["writeFrame", "readFrame", "server", "client"],
  );
  const order = await copyLesson("lessons/05_byte_order.ts", { functions });
  assertEquals(exported(order), ["demo"]);
  assert(order.includes("\n127.0.0.1 is the bytes ${"));
  assert(!/import\.meta|@run|runLesson/.test(order));
});

Deno.test("copyLesson() takes only the functions that are named", async () => {
  const text = await copyLesson("lessons/02_tcp_echo.ts", { only: ["client"] });
  // The word server stands in it too: in comments, and in a string.
  assert(text.includes('"from server "'));
  const names = text.matchAll(/^(?:export )?(?:async )?function (\w+)/gm);
  const declared = Array.from(names, ([, name]) => name);
  assertEquals(declared.slice(0, 2), ["client", "readEcho"]);
  for (const name of ["server", "demo", "isConnectionLost", "announce"]) {
    assert(!declared.includes(name), name);
  }
  const { stdout } = await copy("full_io", "--only", "writeFull, Reader");
  assertMatch(stdout, /^export async function writeFull\(/m);
  assertMatch(stdout, /^export interface Reader /m);
  assert(!stdout.includes("function readFull"));
  assertMatch(stdout, /^ \* @example/m);
  // An example that uses what is left out would not compile.
  const lines = await copyLesson("lib/lines.ts", { only: ["hasInput"] });
  assert(!lines.includes("askLines("), lines);
});

Deno.test("findSource() takes a name in every form", () => {
  for (
    const [name, path] of [
      ["02_tcp_echo", "lessons/02_tcp_echo.ts"],
      ["tcp_echo", "lessons/02_tcp_echo.ts"],
      ["02", "lessons/02_tcp_echo.ts"],
      ["02_tcp_echo.ts", "lessons/02_tcp_echo.ts"],
      ["lessons/02_tcp_echo.ts", "lessons/02_tcp_echo.ts"],
      ["./lessons/02_tcp_echo", "lessons/02_tcp_echo.ts"],
      ["full_io", "lib/full_io.ts"],
      ["lib/full_io.ts", "lib/full_io.ts"],
      ["byte_order", "lessons/05_byte_order.ts"],
      ["lib/byte_order", "lib/byte_order.ts"],
      ["05_byte_order", "lessons/05_byte_order.ts"],
      ["trace", "lib/harness/trace.ts"],
      ["lib/harness/trace.ts", "lib/harness/trace.ts"],
    ]
  ) assertEquals(findSource(name), path);
  for (const name of ["nothing", "../deno", "lib/harness/child.ts", ""]) {
    assertThrows(
      () => findSource(name),
      UsageError,
      `no lesson or module "${name}", there are 01_tcp_hello, 02_`,
    );
  }
});

Deno.test("copy prints the copy, and elsewhere how to run it", async () => {
  const text = await copyLesson("lessons/02_tcp_echo.ts");
  const lines = linesOf(text);
  assertEquals(await copy("tcp_echo"), {
    code: 0,
    stdout: text,
    stderr: `02_tcp_echo.ts: ${lines} lines, a copy of lessons/02_tcp_echo.ts
  deno run --allow-net --allow-run=deno 02_tcp_echo.ts
  deno run --allow-net 02_tcp_echo.ts server
  deno run --allow-net 02_tcp_echo.ts client
`,
  });
});

Deno.test("copy --functions says how to import them, and takes a folder", async () => {
  await withFolder(async (folder) => {
    const args = ["--functions", "02", `${folder}/`]; // As cp(1) takes it.
    const { code, stdout, stderr } = await copy(...args);
    assertEquals([code, stderr], [0, ""]);
    const line = 'import { server, client } from "./02_tcp_echo.ts";';
    assertEquals(stdout.split("\n")[1], `  ${line}`);
    assert((await Deno.stat(`${folder}/02_tcp_echo.ts`)).isFile);
  });
});

Deno.test("copy writes a file of any name, with commands for a shell", async () => {
  await withFolder(async (folder) => {
    const file = `${folder}/-a$&b $'z 课.ts`;
    const { code, stdout, stderr } = await copy("tcp_echo", "--force", file);
    assertEquals([code, stderr], [0, ""]);
    const text = await Deno.readTextFile(file);
    const [first, ...printed] = stdout.trimEnd().split("\n  ");
    assertEquals(
      first,
      `${file}: ${linesOf(text)} lines, a copy of lessons/02_tcp_echo.ts`,
    );
    // What is printed runs anywhere, what is written beside the copy.
    assertMatch(await shell(printed[0], "/"), /^from server hello$/m);
    const written = Array.from(
      text.matchAll(/^ \* @run (.+)$/gm),
      ([, command]) => command,
    );
    const help = await shell(`${written[2]} --help`, folder);
    assertMatch(help, /^TCP echo: /);
    assertEquals(printed.length, 3);
    assertEquals(
      written.map((it) => it.replace(/'.*'/s, "")),
      printed.map((it) => it.replace(/'.*'/s, "")),
    );
  });
});

Deno.test("copy does not write over a file without --force", async () => {
  await withFolder(async (folder) => {
    const out = `${folder}/lines.ts`;
    await Deno.writeTextFile(out, "mine");
    assertEquals(await copy("lines", out), {
      code: 1,
      stdout: "",
      stderr: `copy_lesson: ${out} exists: --force writes over it\n`,
    });
    assertEquals(await Deno.readTextFile(out), "mine");

    const { code, stdout, stderr } = await copy("lib/lines.ts", out, "--force");
    assertEquals([code, stderr], [0, ""]);
    const text = await Deno.readTextFile(out);
    const [first, second] = stdout.split("\n  ");
    assertEquals(
      first,
      `${out}: ${linesOf(text)} lines, a copy of lib/lines.ts`,
    );
    assertMatch(
      second,
      /^import \{ .*\baskLines\b.* \} from "\.\/lines\.ts";$/m,
    );
    assert(text.includes("\nexport function askLines("));
  });
});

Deno.test("copy refuses what it does not understand", async () => {
  const refused: [string[], string][] = [
    [[], "which lesson?"],
    [["nothing", "x.ts"], 'no lesson or module "nothing"'],
    [["lines", "a.ts", "b"], 'unexpected argument "b"'],
    [["02", "--only", "nothing"], 'no export "nothing" in lessons/02_tcp'],
    [["03", "--only", "x"], 'no export "x" in lessons/03_addresses.ts'],
    // This demo needs a command line, to start its server.
    [["01", "--only", "client,demo"], 'no export "demo" in lessons/01_tcp'],
    [["02", "a.js"], '"a.js" does not end in .ts'],
    [["02", "a.d.ts"], '"a.d.ts" does not end in .ts'],
    [
      ["02", "lessons/01_tcp_hello.ts"],
      '"lessons/01_tcp_hello.ts" is an original\n',
    ],
    [["02", "--only", ","], 'no export ""'],
    [["trace", "--functions"], "trace is copied as a whole"],
    [["02", "server"], '"server" does not end in .ts'],
    // A flag takes no value, and so no operand either.
    [["lines", "a.ts", "--force", "true"], 'unexpected argument "true"'],
  ];
  await forEach(refused, async ([args, message]) => {
    const { code, stdout, stderr } = await copy(...args);
    assertEquals([code, stdout], [2, ""]);
    assert(stderr.startsWith(`copy_lesson: ${message}`), stderr);
  });
});
