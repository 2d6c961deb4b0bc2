/** What holds for all pages: what they name is there. */
import { assert, assertEquals } from "@std/assert";
import { PAGES, ROOT, TASKS, textOf } from "./pages.ts";
import { runDeno } from "./testing.ts";

/** The anchor that GitHub gives to a heading. */
const anchorOf = (heading: string) =>
  heading.trim().toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");

/** A page without its blocks of code, in which nothing is a heading or link. */
const proseOf = (path: string) =>
  textOf(path).replaceAll(/^```[^]*?^```$/gm, "");

const anchorsOf = (path: string) =>
  new Set(Array.from(
    proseOf(path).matchAll(/^#+ (.+)$/gm),
    ([, heading]) => anchorOf(heading!),
  ));

Deno.test("the front page is short enough to be read", () => {
  const lines = textOf("README.md").trimEnd().split("\n");
  assert(lines.length <= 250, `it has ${lines.length} lines`);
});

for (const path of PAGES) {
  Deno.test(`${path} has links that lead somewhere`, () => {
    const links = proseOf(path).matchAll(/\]\(([^)\s]+)\)/g);
    for (const [, link] of links) {
      if (/^https?:/.test(link!)) continue;
      const [target = "", anchor] = link!.split("#");
      const url = new URL(target, new URL(path, ROOT));
      const to = target === "" ? path : url.href.slice(ROOT.href.length);
      assert(Deno.statSync(new URL(to, ROOT)), link);
      if (anchor === undefined) continue;
      assert(anchorsOf(to).has(anchor), `no heading for ${link}`);
    }
  });

  Deno.test(`${path} names tasks that there are`, () => {
    const named = textOf(path).matchAll(/deno(?:@[\d.]+)? task ([a-z_]+)/g);
    for (const [, task] of named) assert(task! in TASKS, task);
  });
}

Deno.test("the pages' commands make their copies", async () => {
  const folder = await Deno.makeTempDir();
  const commands = new Set(
    PAGES.flatMap((path) =>
      textOf(path).match(/deno task copy \S+ \.\.\/\w+\.ts/g) ?? []
    ),
  );
  assert(commands.size >= 4);
  for (const command of commands) {
    const [, ...args] = command.split(" ");
    const file = args.pop()!.replace("..", folder);
    const { code, stderr } = await runDeno([...args, file, "--force"]);
    assertEquals(code, 0, stderr);
    assert(Deno.statSync(file).isFile);
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("each page leads to another one", () => {
  for (const path of PAGES) {
    assert(/\]\([^)\s]*README\.md[^)\s]*\)/.test(proseOf(path)), path);
  }
});

Deno.test("the front page leads to each other page", () => {
  const front = proseOf("README.md");
  for (const path of PAGES.filter((it) => it !== "README.md")) {
    assert(front.includes(`](${path}`), path);
  }
});
