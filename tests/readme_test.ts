/** README.md says what is true: its commands run, and print what it shows. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  hasProgram,
  LessonProcess,
  LESSONS,
  lessonSource,
  onTerminal,
  returnedCalls,
  run,
  runDeno,
  until,
} from "./testing.ts";

const ROOT = new URL("../", import.meta.url);
const README = Deno.readTextFileSync(new URL("README.md", ROOT));
const { tasks } = JSON.parse(
  Deno.readTextFileSync(new URL("deno.json", ROOT)),
) as { tasks: Record<string, { command: string }> };

/** The code blocks of a language. */
const blocks = (language: string) =>
  [...README.matchAll(
    new RegExp("^```" + language + "(?: ignore)?\n([^]*?)^```", "gm"),
  )]
    .map(([, text]) => text);

Deno.test("README shows what deno task demo prints", async () => {
  const [block] = blocks("console");
  const [command, ...expected] = block.trimEnd().split("\n");
  assertEquals(command, "$ deno task demo");
  assertEquals(expected.pop(), "...");
  const { code, stdout } = await runDeno(["task", "demo"]);
  assertEquals(code, 0);
  // Ports differ, and what two processes do at once may come in any order.
  const plain = (lines: string[]) =>
    lines.map((line) => line.replaceAll(/:\d{4,5}\b/g, ":PORT").trimEnd());
  const printed = plain(stdout.trimEnd().split("\n"));
  const spoken = expected.findIndex((line) => line.startsWith("client   "));
  assertEquals(printed.slice(0, spoken), plain(expected.slice(0, spoken)));
  for (const line of plain(expected)) assert(printed.includes(line), line);
});

/** Ports differ from run to run. */
const withoutPorts = (text: string) => text.replaceAll(/:\d{4,5}\b/g, ":PORT");

Deno.test("README shows what --mermaid prints", async () => {
  const [, task, args] = README.match(
    /^ {4}deno task (\w+) (.*--mermaid)$/m,
  )!;
  const { code, stdout } = await runDeno(["task", task, ...args.split(" ")]);
  assertEquals(code, 0);
  const lines = (text: string) =>
    withoutPorts(text).trim().split("\n").toSorted();
  const diagram = stdout.slice(stdout.indexOf("sequenceDiagram"));
  assertEquals(lines(blocks("mermaid")[0]), lines(diagram));
});

Deno.test("README shows the server as it stands in the lesson", () => {
  const [server] = blocks("ts");
  assert(server.startsWith("export async function server("));
  assert(lessonSource("02_tcp_echo.ts").includes(server));
});

/** Runs a program of README's under the trace, as the transcript says. */
async function traceOf(
  file: string,
  part: string,
  ask: (port: number) => Promise<string>,
  end: string,
  onTrace: (trace: string) => void = () => {},
) {
  const program = blocks("ts").find((it) => it.includes(part))!;
  const folder = await Deno.makeTempDir();
  const path = `${folder}/${file}`;
  await Deno.writeTextFile(path, program.replace(/port: 800\d/, "port: 0"));
  const shown = blocks("console").find((it) => it.includes(` ${file}(`))!;
  const [command, ...expected] = shown.trim().split("\n");
  const child = new Deno.Command(Deno.execPath(), {
    args: command.split(" ").slice(2, -1).concat(path),
    cwd: ROOT,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  let trace = "";
  let asked = Promise.resolve("");
  let [isAsked, isTold] = [false, false];
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    trace += text;
    onTrace(trace);
    const [, port] = trace.match(/listen 127\.0\.0\.1:(\d+)/) ?? [];
    if (port && !isAsked) {
      isAsked = true;
      asked = ask(Number(port));
    }
    if (returnedCalls(trace).includes(end) && !isTold) {
      isTold = true; // It tells which calls wait, and ends.
      child.kill("SIGTERM");
    }
  }
  await child.status;
  await Deno.remove(folder, { recursive: true });
  return { answer: await asked, trace, expected };
}

Deno.test("README shows what the trace says of its program, and that it waits", async () => {
  let isWaiting = false;
  const ask = async (port: number) => {
    using conn = await Deno.connect({ port });
    await until(() => isWaiting); // The trace is read meanwhile.
    await conn.write(new TextEncoder().encode("Ada\n"));
    return await new Response(conn.readable).text();
  };
  const seen = (trace: string) => {
    isWaiting ||= / read: waiting for \S+ s\n/.test(trace);
  };
  const { answer, trace, expected } = await traceOf(
    "greet.ts",
    "greet(conn)",
    ask,
    "#2 close\n",
    seen,
  );
  assertEquals(answer, "hello Ada\n");
  for (const line of expected) assertMatch(line, /^\d+\.\d{3} greet\.ts\(/);
  const calls = (text: string) => returnedCalls(withoutPorts(text)).trim();
  assertEquals(calls(trace), calls(`${expected.join("\n")}\n`));
  // Whichever of the two is told first, both stand in the transcript.
  const waits = (text: string) =>
    [...new Set(text.match(/greet\.ts\(.* #\d \w+: waiting/g))].toSorted();
  assertEquals(waits(trace), waits(expected.join("\n")));
});

Deno.test("README shows what the trace says of a package of npm", async () => {
  const ask = (port: number) => {
    const { promise, resolve } = Promise.withResolvers<string>();
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    socket.onopen = () => socket.send("Ada");
    socket.onmessage = ({ data }) => {
      socket.onclose = () => resolve(data);
      socket.close();
    };
    return promise;
  };
  const { answer, trace, expected } = await traceOf(
    "hello.ts",
    "npm:ws@",
    ask,
    "#2 close\n",
  );
  assertEquals(answer, "hello Ada");
  // The client masks its bytes by chance.
  const calls = (text: string) =>
    returnedCalls(withoutPorts(text)).trim().replaceAll(
      /(?<=read 9 bytes ).*/g,
      "",
    ).split("\n").filter((line) => line.includes("hello.ts("));
  assertEquals(
    calls(trace).slice(0, expected.length),
    calls(`${expected.join("\n")}\n`),
  );
});

Deno.test("README shows what one sees step by step", {
  ignore: !await hasProgram("script"),
}, async () => {
  const shown = blocks("console").find((it) => it.includes(" --step\n"))!;
  const [command, ...expected] = shown.trim().split("\n").slice(0, -1);
  const flags = command.split(" ").filter((it) => /^--allow/.test(it));
  await using process = new LessonProcess("02_tcp_echo.ts", ["--step"], {
    flags,
    env: { NO_COLOR: "1" },
    wrapper: onTerminal,
  });
  const part = "(?:(?!r: run on )[^])*r: run on ";
  const asked = (times: number) => RegExp(`^(?:${part}){${times}}$`);
  for (let times = 1; times <= 2; times++) {
    await process.stdoutHas(asked(times));
    await process.type("\r");
  }
  const screen = await process.stdoutHas(asked(3));
  // What the server prints may come before what it did, or behind it.
  const linesOf = (text: string) => {
    const lines = withoutPorts(text).split(/\r?\n/).map((it) => it.trimEnd());
    const isReady = (line: string) => line.startsWith("listening on ");
    return [...lines.filter(isReady), ...lines.filter((it) => !isReady(it))];
  };
  assertEquals(linesOf(screen), linesOf(expected.join("\n")));
  await process.type("r\r");
  assertEquals((await process.result()).code, 0);
});

Deno.test("README shows what judge says of lesson 01's server", async () => {
  const shown = blocks("console").find((it) => it.includes("task judge "))!;
  const [command, ...expected] = shown.trimEnd().split("\n");
  await using server = new LessonProcess("01_tcp_hello.ts", [
    ...["server", "--port=0", "--quiet"],
  ]);
  const port = String(await server.port());
  const words = command.split(" ").slice(2).with(-1, port);
  const { code, stdout } = await runDeno(words);
  assertEquals([code, stdout.trimEnd().split("\n")], [1, expected]);
});

Deno.test("README's deno run commands are those of the headers", async () => {
  const commands = blocks("sh").join("").split("\n")
    .filter((line) => line.startsWith("deno run "));
  assert(commands.length >= 3);
  for (const command of commands) {
    const words = command.split(" ");
    const script = words.findIndex((word) => word.startsWith("lessons/"));
    const lesson = words[script].slice("lessons/".length);
    const [mode = "demo"] = words.slice(script + 1);
    const flags = words.slice(2, script);
    // The port of a test is free, and not the one that README names.
    if (mode === "server") {
      await using server = new LessonProcess(lesson, ["server", "--port=0"], {
        flags,
      });
      const port = await server.port();
      const talk = await run(lesson, ["client", `--port=${port}`], {
        flags,
        input: "hello\n",
      });
      assertEquals(talk.stdout, "from server hello\nclient done!!\n");
    } else if (mode === "demo") {
      assertEquals((await run(lesson, [], { flags })).code, 0);
    }
  }
});

Deno.test("README's deno task commands are there, and copies run by its commands", async () => {
  const named = README.matchAll(/deno(?:@[\d.]+)? task ([a-z_]+)/g);
  for (const [, task] of named) assert(task in tasks, task);
  for (const task of ["demo", "test", "copy"]) assert(task in tasks, task);

  const folder = await Deno.makeTempDir();
  const commands = README.matchAll(/deno task copy (\S+) \.\.\/(\w+\.ts)/g);
  let copies = 0;
  for (const [, name, out] of commands) {
    const args = ["task", "copy", name, `${folder}/${out}`, "--force"];
    const { code, stderr } = await runDeno(args);
    assertEquals(code, 0, stderr);
    copies++;
  }
  assert(copies >= 3);
  const [server, client] = Array.from(
    README.matchAll(/^ {4}deno (run --allow-net \.\.\/echo\.ts .+)$/gm),
    ([, args]) => args.replace("9000", "0").replace("../", "").split(" "),
  );
  const start = (args: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args,
      cwd: folder,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
  await using serving = start(server);
  const out = serving.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await out.read();
  const [, port] = value.match(/:(\d+)\n$/)!;
  await using talking = start(client.map((word) => word === "0" ? port : word));
  const writer = talking.stdin.getWriter();
  await writer.write(new TextEncoder().encode("hello\n"));
  await writer.close();
  assertEquals(await talking.stdout.text(), "from server hello\n");
  serving.kill("SIGKILL");
  await out.cancel();
  await serving.stdin.close().catch(() => {});
  await Deno.remove(folder, { recursive: true });
});

Deno.test("README lists every lesson, and the flags it needs", () => {
  for (const lesson of LESSONS) {
    const row = README.split("\n").find((line) =>
      line.startsWith(`| [\`${lesson}\`](lessons/${lesson}) `)
    );
    assert(
      row?.includes(`| \`deno task ${lesson.slice(3, -3)}\` `),
      `no row of ${lesson}`,
    );
  }
  const rows = new Map(
    [...README.matchAll(/^\| `(--[a-z-]+(?:=\w+)?)` +\| (.+) \|$/gm)]
      .map(([, flag, why]) => [flag, why]),
  );
  for (const [name, { command }] of Object.entries(tasks)) {
    const number = LESSONS.find((it) => it.slice(3, -3) === name)?.slice(0, 2);
    if (number === undefined) continue;
    const flags = command.split(" ").filter((word) => word.startsWith("--"))
      .flatMap((flag) =>
        flag.startsWith("--allow-run=")
          ? flag.slice(12).split(",").map((it) => `--allow-run=${it}`)
          : [flag]
      );
    for (const flag of flags) {
      const why = rows.get(flag);
      assert(why !== undefined, `${name}: ${flag}`);
      // Where README says which lessons need a flag, it names them all.
      const numbers = why!.match(/\b\d\d\b/g);
      assert(
        numbers === null || numbers.includes(number),
        `${flag}: ${number}`,
      );
    }
  }
});

/** Makes the calls of the table, each behind a call that marks its place. */
const CALLS = `
  const bind = { hostname: "127.0.0.1", port: 0 };
  const mark = (name) => {
    try { Deno.readTextFileSync("/no such file: " + name); } catch {}
  };
  const byte = () => new Uint8Array(1);
  mark("Deno.listen");
  const listener = Deno.listen(bind);
  mark("Deno.connect");
  const conn = await Deno.connect({ port: listener.addr.port });
  mark("listener.accept");
  const peer = await listener.accept();
  mark("conn.setNoDelay");
  conn.setNoDelay();
  mark("conn.write");
  await conn.write(byte());
  mark("conn.read");
  await peer.read(byte());
  mark("conn.closeWrite");
  await conn.closeWrite();
  mark("conn.close");
  peer.close();
  mark("Deno.listenDatagram");
  const socket = Deno.listenDatagram({ ...bind, transport: "udp" });
  mark("socket.send");
  await socket.send(byte(), socket.addr);
  mark("socket.receive");
  await socket.receive();
  mark("");
  Deno.exit();`;

/** A call of one of these sockets, as the table writes it. */
function callOf(line: string, sockets: Set<string>): string | undefined {
  const [, name, list, result] = line.match(/^(\w+)\((.*)\) += (-?\d+)/) ?? [];
  if (name === undefined) return undefined;
  const args = list.split(", ");
  const isNew = name === "socket" || name === "accept4";
  if (isNew) sockets.add(result);
  const [, how, target] = args;
  const fd = name === "epoll_ctl" ? target : args[0];
  if (!isNew && !sockets.has(fd)) return undefined;
  switch (name) {
    case "fcntl":
      return list.includes("O_NONBLOCK") ? "fcntl(O_NONBLOCK)" : undefined;
    case "epoll_ctl":
      return `epoll_ctl(${how.replace("EPOLL_CTL_", "")})`;
    case "setsockopt":
    case "getsockopt":
      return `${name}(${target})`;
    case "shutdown":
      return `${name}(${how})`;
    case "sendto":
      return `${name}(${list.match(/MSG_\w+/)})`;
    default:
      return name;
  }
}

Deno.test("README's system calls are those that Deno makes, and all of them", {
  ignore: !await hasProgram("strace"),
}, async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/calls.ts`, CALLS);
  const command = new Deno.Command("strace", {
    // A file for each thread, so that no call is torn by another one's.
    args: ["-ff", "-e", "trace=network,close,fcntl,epoll_ctl,openat"]
      .concat("-o", `${folder}/trace`, Deno.execPath(), "run", "--no-check")
      .concat("--allow-net", "--allow-read", "--unstable-net")
      .concat(`${folder}/calls.ts`),
    stdout: "null",
    stderr: "null",
  });
  assert((await command.output()).success);
  const traces = [...Deno.readDirSync(folder)]
    .filter(({ name }) => name.startsWith("trace"))
    .map(({ name }) => Deno.readTextFileSync(`${folder}/${name}`));
  await Deno.remove(folder, { recursive: true });
  const trace = traces.find((it) => it.includes("/no such file: "))!;

  const made = new Map<string, string[]>();
  const sockets = new Set<string>();
  let place = "";
  for (const line of trace.split("\n")) {
    const [, mark] = line.match(/"\/no such file: (.*?)"/) ?? [];
    if (mark !== undefined) made.set(place = mark, []);
    const call = made.size > 0 ? callOf(line, sockets) : undefined;
    if (call !== undefined) made.get(place)!.push(call);
  }
  made.delete("");
  const section = README.slice(README.indexOf("## From C to Deno"))
    .split("\n## ")[0];
  const said = new Map(Array.from(
    section.matchAll(/^\| `.*?` +\| `(.*?)` +\| (.*?) +\|$/gm),
    ([, call, calls]) => [call, calls.replaceAll("`", "").split(", ")],
  ));
  assertEquals(made.size, 11);
  for (const [call, calls] of made) assertEquals(said.get(call), calls, call);
});
