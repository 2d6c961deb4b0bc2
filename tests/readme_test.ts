/** README.md, the front page: its commands run, and print what it shows. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  blocksOf,
  textOf,
  traceOn,
  transcriptOf,
  withoutPorts,
} from "./pages.ts";
import {
  LessonProcess,
  LESSONS,
  lessonSource,
  returnedCalls,
  runDeno,
  until,
} from "./testing.ts";

const PAGE = "README.md";

Deno.test("README shows what deno task demo prints", async () => {
  const { command, shown } = transcriptOf(PAGE, "$ deno task demo\n");
  assertEquals(shown.pop(), "...");
  const { code, stdout } = await runDeno(command.split(" ").slice(1));
  assertEquals(code, 0);
  // Ports differ, and what two processes do at once may come in any order.
  const plain = (lines: string[]) =>
    lines.map((line) => withoutPorts(line).trimEnd());
  const printed = plain(stdout.trimEnd().split("\n"));
  const spoken = shown.findIndex((line) => line.startsWith("client   "));
  assert(spoken > 0 && shown.length > spoken + 5);
  assertEquals(printed.slice(0, spoken), plain(shown.slice(0, spoken)));
  for (const line of plain(shown)) assert(printed.includes(line), line);
});

Deno.test("README shows what --mermaid prints", async () => {
  const [, task, args] = textOf(PAGE).match(
    /`deno task (\w+) (.*--mermaid)`/,
  )!;
  const { code, stdout } = await runDeno(["task", task, ...args.split(" ")]);
  assertEquals(code, 0);
  const lines = (text: string) =>
    withoutPorts(text).trim().split("\n").toSorted();
  const diagram = stdout.slice(stdout.indexOf("sequenceDiagram"));
  assertEquals(lines(blocksOf(PAGE, "mermaid")[0]), lines(diagram));
});

Deno.test("README shows the server as it stands in the lesson", () => {
  const [server] = blocksOf(PAGE, "ts");
  assert(server.startsWith("export async function server("));
  assert(lessonSource("02_tcp_echo.ts").includes(server));
});

Deno.test("README shows what the trace says of its program, and that it waits", async () => {
  let isWaiting = false;
  const ask = async (port: number) => {
    using conn = await Deno.connect({ port });
    await until(() => isWaiting); // The trace is read meanwhile.
    await conn.write(new TextEncoder().encode("Ada\n"));
    return await new Response(conn.readable).text();
  };
  const { answer, trace, shown } = await traceOn(PAGE, {
    file: "greet.ts",
    part: "greet(conn)",
    ask,
    end: "#2 close\n",
    onTrace(trace) {
      isWaiting ||= / read: waiting for \S+ s\n/.test(trace);
    },
  });
  assertEquals(answer, "hello Ada\n");
  for (const line of shown) assertMatch(line, /^\d+\.\d{3} greet\.ts\(/);
  const calls = (text: string) => returnedCalls(withoutPorts(text)).trim();
  assertEquals(calls(trace), calls(`${shown.join("\n")}\n`));
  // Whichever of the two is told first, both stand in the transcript.
  const waits = (text: string) =>
    [...new Set(text.match(/greet\.ts\(.* #\d \w+: waiting/g))].toSorted();
  assertEquals(waits(trace), waits(shown.join("\n")));
});

Deno.test("README's copy runs by its commands", async () => {
  const lines = blocksOf(PAGE, "sh").join("").split("\n");
  const folder = await Deno.makeTempDir();
  const copy = lines.find((line) => line.endsWith(" ../echo.ts"))!;
  const { code, stderr } = await runDeno(
    copy.replace("..", folder).split(" ").slice(1),
  );
  assertEquals(code, 0, stderr);

  const [server, client] = lines
    .filter((line) => line.includes(" ../echo.ts "))
    .map((line) => line.replace("../", "").split(" ").slice(1));
  const start = (args: string[], port: string) =>
    new Deno.Command(Deno.execPath(), {
      args: args.map((word) => word === "9000" ? port : word),
      cwd: folder,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
  await using serving = start(server, "0");
  const out = serving.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await out.read();
  const [, port] = value.match(/:(\d+)\n$/)!;
  await using talking = start(client, port);
  const writer = talking.stdin.getWriter();
  await writer.write(new TextEncoder().encode("hello\n"));
  await writer.close();
  assertEquals(await talking.stdout.text(), "from server hello\n");
  serving.kill("SIGKILL");
  await out.cancel();
  await serving.stdin.close().catch(() => {});
  await Deno.remove(folder, { recursive: true });
});

Deno.test("README shows what judge says of lesson 01's server", async () => {
  const { command, shown } = transcriptOf(PAGE, "task judge ");
  await using server = new LessonProcess("01_tcp_hello.ts", [
    ...["server", "--port=0", "--quiet"],
  ]);
  const port = String(await server.port());
  const words = command.split(" ").slice(1).with(-1, port);
  const { code, stdout } = await runDeno(words);
  assertEquals([code, stdout.trimEnd().split("\n")], [1, shown]);
});

Deno.test("README names the kinds of servers that judge knows", async () => {
  const { stderr } = await runDeno(["task", "judge", "nothing", "1"]);
  const known = stderr.match(/expected one of (.+)$/m)?.[1] ?? stderr;
  const [, said] = textOf(PAGE).match(/^The kinds are ([^.]+)\./m)!;
  const words = (text: string) =>
    text.match(/\w+/g)!.filter((it) => it !== "and");
  assertEquals(words(said), words(known));
});

Deno.test("README lists every lesson", () => {
  for (const lesson of LESSONS) {
    const row = textOf(PAGE).split("\n").find((line) =>
      line.startsWith(`| [\`${lesson}\`](lessons/${lesson}) `)
    );
    assert(
      row?.includes(`| \`deno task ${lesson.slice(3, -3)}\` `),
      `no row of ${lesson}`,
    );
  }
});
