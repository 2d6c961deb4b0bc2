/** lessons/README.md, the guide: a section for each lesson, and no false word. */
import { assert, assertEquals } from "@std/assert";
import { codeBlocks, ROOT, sectionOf, TASKS, textOf } from "./pages.ts";
import {
  canUnshare,
  hasProgram,
  LESSONS,
  lessonSource,
  run,
  runLines,
} from "./testing.ts";
import { commandsOf, playSection, tryCommand } from "./transcript.ts";

const GUIDE = textOf("lessons/README.md");

const numberOf = (lesson: string) => lesson.slice(0, 2);
const taskOf = (lesson: string) => lesson.slice(3, -3);

/** The text of each section, by its heading. */
const SECTIONS = new Map(
  GUIDE.split(/^## /m).slice(1).map((section) => {
    const [heading = ""] = section.split("\n");
    return [heading, section.slice(heading.length)];
  }),
);

/** The heading of a lesson: its number, and its title up to the colon. */
function headingOf(lesson: string): string {
  const [, title] = lessonSource(lesson).match(/^ \* @title ([^:\n]+)/m)!;
  return `${numberOf(lesson)} ${title}`;
}

/** A block of code in a text of Markdown. */
const FENCED = /^ *```[^]*?^ *```$/gm;

/** The commands of the transcripts in a text. */
const playedIn = (text: string) =>
  codeBlocks(text).filter(({ language }) => language === "console")
    .flatMap(({ text }) => commandsOf(text));

/** The code within the lines of a text, and the commands of its transcripts. */
const codeIn = (text: string) => [
  ...Array.from(
    text.replaceAll(FENCED, "").matchAll(/`([^`]+)`/g),
    ([, code]) => code!,
  ),
  ...playedIn(text),
];

/** The commands that run a lesson in this text, and their arguments. */
function commandsIn(text: string): { lesson: string; args: string[] }[] {
  const found: { lesson: string; args: string[] }[] = [];
  for (const code of codeIn(text)) {
    for (const part of code.split(/[|;&<>()]/)) {
      const [, , task, path, rest = ""] = part.match(
        /\bdeno (task (\w+)|run .*lessons\/(\w+\.ts))(.*)$/,
      ) ?? [];
      const lesson = path ?? LESSONS.find((it) => taskOf(it) === task);
      if (lesson === undefined) continue;
      found.push({ lesson, args: rest.trim().split(/ +/) });
    }
  }
  return found;
}

Deno.test("the guide has a section for each lesson, in their order", () => {
  const numbers = LESSONS.map(numberOf);
  const headings = [...SECTIONS.keys()].filter((heading) =>
    numbers.includes(heading.slice(0, 2))
  );
  assertEquals(headings.map((heading) => heading.slice(0, 2)), numbers);
  for (const lesson of LESSONS) assert(SECTIONS.has(headingOf(lesson)), lesson);
});

for (const lesson of LESSONS) {
  Deno.test(`the guide's section of ${lesson} has all parts, in order`, () => {
    const section = SECTIONS.get(headingOf(lesson))!;
    let last = 0;
    for (
      const [part, text] of Object.entries({
        "### Guess first": /\n\n[^`]*\w[^]*\?/,
        "### Run it": /[^]*\n```console\n(?:1?\$) deno /,
        "### What to look at": /\n\n- /,
        "### Calls":
          /\n\n\| here +\| Linux system calls .*\n\| -+ \| -+ \|\n\| [^]*\nTo read:\s+\[/,
        "### Go on": /\n\n- [^]*\*\*Still missing:\*\*/,
        "### Exercise": /\n\n[^]*<summary>A solution<\/summary>/,
        "<summary>The tutorial</summary>": /\n\n\w/,
      })
    ) {
      const at = section.indexOf(`\n${part}\n`);
      assert(at >= 0, `missing: ${part}`);
      assert(at > last, `not in its place: ${part}`);
      last = at;
      const [body] = section.slice(at + part.length + 1)
        .split(/\n### |\n<summary>The t/);
      assertEquals(body!.search(text), 0, `nothing in ${part}`);
    }
  });

  Deno.test(`the guide's commands for ${lesson} name what there is`, async () => {
    const { stdout: help } = await run(lesson, ["--help"], { flags: [] });
    const options = new Set(help.match(/--[a-z-]+/g));
    const modes = runLines(lesson);
    const commands = commandsIn(GUIDE).filter((it) => it.lesson === lesson)
      .map(({ args }) => args);
    assert(commands.length > 0, "no command for it");
    // Its own section also has the ends of commands: `server --messages 10`.
    const ends = codeIn(SECTIONS.get(headingOf(lesson))!)
      .filter((code) => /^([a-z]+ )?--(?!allow-)/.test(code));
    for (const args of [...commands, ...ends.map((end) => end.split(" "))]) {
      if (/^[a-z]\w*$/.test(args[0]!)) assert(modes.has(args[0]!), args[0]);
      for (const arg of args.filter((arg) => arg.startsWith("--"))) {
        assert(options.has(arg.split("=")[0]!), `${lesson} has no ${arg}`);
      }
    }
  });
}

Deno.test("the guide names tasks and files that there are", () => {
  const named = Array.from(
    GUIDE.matchAll(/\bdeno task (\w+)/g),
    ([, it]) => it!,
  );
  assert(named.length > 20);
  for (const task of named) {
    assert(task in TASKS, `no task ${task}`);
  }
  for (const [path] of GUIDE.matchAll(/\b(?:lib|lessons)\/[\w/]+\.ts\b/g)) {
    assert(Deno.statSync(new URL(path, ROOT)).isFile, path);
  }
});

// So that a command can be pasted as it stands.
Deno.test("the guide's code does not break over lines", () => {
  for (const line of GUIDE.replaceAll(FENCED, "").split("\n")) {
    assertEquals(line.split("`").length % 2, 1, line);
  }
});

Deno.test("the lessons point at their sections of the guide", () => {
  for (const lesson of LESSONS) {
    const see = lessonSource(lesson).match(/^ \* @see README\.md, "(.+)"$/m);
    assertEquals(see?.[1], headingOf(lesson));
  }
});

Deno.test("the guide's tables name the system calls that its last table has", () => {
  // This one is held against what strace(1) sees, in system_calls_test.ts.
  const calls = new Map(Array.from(
    sectionOf("lessons/README.md", "From C to Deno").matchAll(
      /^\| `.*?` +\| (`[\w.]+`) +\| (.*?) +\|$/gm,
    ),
    ([, call, calls]) => [call, calls],
  ));
  let compared = 0;
  for (
    const [, call, said] of GUIDE.matchAll(/^\| (`[\w.]+`) +\| (.*?) +\|$/gm)
  ) {
    const known = calls.get(call);
    if (known === undefined) continue;
    assert(said.startsWith(known), `${call}: ${said}`);
    compared++;
  }
  assert(compared > 10, `${compared}`);
});

/** Programs that a command may need, and not every host has. */
const TOOLS = /\b(?:nc|ss|strace|cmp|od|nstat|watch|sysctl|python3)\b/g;
const HAS_TERMINALS = await canUnshare() && await hasProgram("script") &&
  await hasProgram("nsenter") && await hasProgram("bash");

/** Whether all programs of these commands are here. */
async function hasTools(commands: string[]): Promise<boolean> {
  const names = commands.flatMap((it) => it.match(TOOLS) ?? []);
  const found = await Promise.all(names.map(hasProgram));
  return !found.includes(false);
}

/** So many sections are played at once: they mostly wait. */
const AT_ONCE = 2;

Deno.test("the guide's transcripts are true", {
  ignore: !HAS_TERMINALS,
}, async (t) => {
  const rest = SECTIONS.entries();
  const play = async () => {
    for (const [heading, section] of rest) {
      await t.step({
        name: heading,
        fn: () => playSection(section, hasTools),
        // Steps that run at the same time cannot be told apart.
        ...{
          sanitizeOps: false,
          sanitizeResources: false,
          sanitizeExit: false,
        },
      });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, play));
});

Deno.test("the guide's other commands run as they stand", {
  ignore: !HAS_TERMINALS,
}, async () => {
  const played = new Set(playedIn(GUIDE));
  const text = GUIDE.replaceAll(FENCED, "");
  const said = Array.from(
    text.matchAll(
      /`((?:deno (?:run|task )|strace -f -|(?:ss|diff|sysctl|nstat|watch) )[^`]+)`|^ {4,}(deno .+)$/gm,
    ),
    ([, inline, block]) => (inline ?? block)!,
  );
  // Not those that only say what stands where.
  const isForm = (command: string) => /\b(?:KIND|NAME|PORT)\b/.test(command);
  const commands = new Set(said.filter((it) => !isForm(it)))
    .difference(played);
  assert(commands.size > 10, `${commands.size}`);
  const rest = [...commands].values();
  const work = async () => {
    for (const command of rest) {
      if (await hasTools([command])) await tryCommand(command);
    }
  };
  await Promise.all([work(), work()]);
});
