/** lib/trace/README.md: its commands run, and print what it shows. */
import { assertEquals, assertMatch } from "@std/assert";
import {
  ROOT,
  sectionOf,
  textOf,
  traceOn,
  transcriptOf,
  withoutPorts,
} from "../pages.ts";
import {
  hasProgram,
  LessonProcess,
  onTerminal,
  returnedCalls,
  run,
} from "../testing.ts";
import { programFolder } from "./programs.ts";

const PAGE = "lib/trace/README.md";

Deno.test("the trace's page shows what the trace says of a package of npm", async () => {
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
  const { answer, trace, shown } = await traceOn(PAGE, {
    file: "hello.ts",
    part: "npm:ws@",
    ask,
    end: "#2 close\n",
  });
  assertEquals(answer, "hello Ada");
  // The client masks its bytes by chance.
  const calls = (text: string) =>
    returnedCalls(withoutPorts(text)).trim().replaceAll(
      /(?<=read 9 bytes ).*/g,
      "",
    ).split("\n").filter((line) => line.includes("hello.ts("));
  assertEquals(
    calls(trace).slice(0, shown.length),
    calls(`${shown.join("\n")}\n`),
  );
});

const LISTEN = `Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();`;

/** The flags that the page's first commands have for a tool. */
function flagsOf(tool: string): string[] {
  const command = RegExp(`^ {4}deno run (.+${tool}.+) any_program\\.ts$`, "m");
  const [, flags] = textOf(PAGE).match(command)!;
  return flags.replace("lib/", `${ROOT.pathname}lib/`).split(" ");
}

Deno.test("the trace's page has the command for any program", async () => {
  await using program = await programFolder(LISTEN);
  const flags = flagsOf("trace.ts");
  const { code, stderr } = await run(program.file, [], { flags });
  assertEquals(code, 0, stderr);
  assertMatch(stderr, /program\.ts\(1\): #1 socket, bind, listen 127\.0/);
});

Deno.test("the trace's page has the command for any program, step by step", {
  ignore: !await hasProgram("script"),
}, async () => {
  await using program = await programFolder(LISTEN);
  await using process = new LessonProcess(program.file, [], {
    flags: flagsOf("step.ts"),
    env: { NO_COLOR: "1" },
    wrapper: onTerminal,
  });
  await process.stdoutHas(/> program\.ts\(1\): socket, bind, listen 127\.0/);
  await process.stdoutHas("r: run on");
  await process.type("r\r");
  assertEquals((await process.result()).code, 0);
});

Deno.test("the trace's page has the words that SOCKET_TRACE takes", async () => {
  await using program = await programFolder("");
  const words = Array.from(
    sectionOf(PAGE, "Options").matchAll(/^\| `(\S+)` /gm),
    ([, word]) => word.replace("FILE", `${program.folder}/log`),
  );
  assertEquals(words.length, 6);
  const trace = async (words: string[]) => {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--preload=lib/trace/trace.ts", "--allow-env=SOCKET_TRACE"]
        .concat(`--allow-write=${program.folder}`, program.file),
      env: { SOCKET_TRACE: words.join(" "), NO_COLOR: "1" },
    }).output();
    return { code, stderr: new TextDecoder().decode(stderr) };
  };
  assertEquals(await trace(words), { code: 0, stderr: "" });
  // What it does not take it answers with all that there is.
  const { stderr } = await trace(["nothing"]);
  const [, known] = stderr.match(/there are (.+)$/m) ?? [stderr, ""];
  const nameOf = (word: string) => word.match(/^\w+/)?.[0];
  assertEquals(
    known.split(", ").map(nameOf).filter((it) => it).toSorted(),
    words.map(nameOf).toSorted(),
  );
});

Deno.test("the trace's page shows what one sees step by step", {
  ignore: !await hasProgram("script"),
}, async () => {
  const { command, shown } = transcriptOf(PAGE, " --step\n");
  assertEquals(shown.pop(), "...");
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
  assertEquals(linesOf(screen), linesOf(shown.join("\n")));
  await process.type("r\r");
  assertEquals((await process.result()).code, 0);
});
