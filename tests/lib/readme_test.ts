/** lib/README.md: what it says of modules, and of permissions. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { resolveHost } from "../../lib/resolve_host.ts";
import { ROOT, sectionOf } from "../pages.ts";
import { hasIpv6, runDeno } from "../testing.ts";

const PAGE = "lib/README.md";

Deno.test("lib's page lists every module, and no other one", () => {
  const listed = Array.from(
    sectionOf(PAGE, "The modules").matchAll(/^\| \[`(\w+)`\]\((\w+)\.ts\) /gm),
    ([, name, file]) => {
      assertEquals(name, file);
      return `${name}.ts`;
    },
  );
  const modules = [...Deno.readDirSync(new URL("lib/", ROOT))]
    .map(({ name }) => name).filter((name) => name.endsWith(".ts"));
  assertEquals(listed.toSorted(), modules.toSorted());
});

/** A copy that runs with these permissions, and the words behind it. */
class Copy implements AsyncDisposable {
  /** What it has said on standard error, when it has ended. */
  readonly errors: Promise<string>;
  #child: Deno.ChildProcess;
  #out: ReadableStreamDefaultReader<string>;

  constructor(folder: string, flags: string[], program: string) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", ...flags, ...program.split(" ")],
      cwd: folder,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.errors = this.#child.stderr.text();
    this.#out = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** The port of a server: `undefined` if it does not listen. */
  async port(): Promise<string | undefined> {
    const { value = "" } = await this.#out.read();
    return value.match(/^listening on \S+:(\d+)\n$/)?.[1];
  }

  /** What a client prints that is told one line. */
  async answer(): Promise<string> {
    const writer = this.#child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("hello\n")).catch(() => {});
    await writer.close().catch(() => {});
    let answer = "";
    while (true) {
      const { value, done } = await this.#out.read();
      if (done) return answer;
      answer += value;
    }
  }

  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended.
    }
  }

  async [Symbol.asyncDispose]() {
    this.kill("SIGKILL");
    await this.#out.cancel();
    await this.#child.stdin.close().catch(() => {});
    await Promise.all([this.#child.status, this.errors]);
  }
}

/** Whether a client has its echo from a server; one of them may do less. */
async function echoes(
  folder: string,
  server: { program: string; flags: string[] },
  client: { program: string; flags: string[] },
): Promise<boolean> {
  // The port of a test is free, and not the one that the page names.
  const at = (text: string, port: string) => text.replaceAll("9000", port);
  await using serving = new Copy(
    folder,
    server.flags.map((flag) => at(flag, "0")),
    at(server.program, "0"),
  );
  const port = await serving.port();
  if (port === undefined) return false;
  await using talking = new Copy(
    folder,
    client.flags.map((flag) => at(flag, port)),
    at(client.program, port),
  );
  return /^(?:from server |recv:)hello\n$/.test(await talking.answer());
}

/** The rows of the table, and the flags that its text adds. */
const ROWS = Array.from(
  sectionOf(PAGE, "Narrow permissions").matchAll(
    /^\| `((\w+\.ts) (server|client) .+?)` +\| `--allow-net=(.+?)` +\| /gm,
  ),
  ([, program, file, mode, list]) => {
    const more = file === "udp.ts" ? ["--unstable-net"] : [];
    const flags = (list: string[]) => [`--allow-net=${list}`, ...more];
    return { program, file, mode, list: list.split(","), flags };
  },
);

/** A folder with the page's copies of lessons, which is removed at the end. */
async function copiesFolder() {
  const folder = await Deno.makeTempDir();
  const commands = sectionOf(PAGE, "Take it with you")
    .matchAll(/^deno (task copy \d\d\S+ )\.\.(\/\S+)$/gm);
  for (const [, command, file] of commands) {
    const args = `${command}${folder}${file}`.split(" ");
    const { code, stderr } = await runDeno(args);
    assertEquals(code, 0, stderr);
  }
  return {
    folder,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

Deno.test("lib's page says how narrow permissions can be, and no narrower", async (t) => {
  assertEquals(ROWS.length, 8);
  await using copies = await copiesFolder();
  const { folder } = copies;
  for (const { program, file, mode, list, flags } of ROWS) {
    const other = (mode: string) => ({
      program: `${file} ${mode} 9000 127.0.0.1`,
      flags: ["--allow-net", "--unstable-net"],
    });
    const isEchoing = (list: string[]) => {
      const row = { program, flags: flags(list) };
      return mode === "server"
        ? echoes(folder, row, other("client"))
        : echoes(folder, other("server"), row);
    };
    // Hosts differ in what they call so.
    const ignore = program.endsWith(" localhost") &&
      await resolveHost("localhost") !== "127.0.0.1";
    await t.step({
      name: program,
      ignore,
      fn: async () => {
        assert(await isEchoing(list));
        const less = list.flatMap((part) => {
          const rest = list.filter((it) => it !== part);
          // An empty list would allow everything.
          const without = rest.length > 0 ? rest : ["192.0.2.1:9000"];
          const isAnyPort = !part.includes(":");
          return isAnyPort ? [without, [...rest, `${part}:9000`]] : [without];
        });
        await Promise.all(less.map(async (list) => {
          assert(!await isEchoing(list), `${list} would do`);
        }));
      },
    });
  }
});

Deno.test("lib's page says how IPv6 addresses stand in a permission", {
  ignore: !hasIpv6(),
}, async () => {
  await using copies = await copiesFolder();
  const [udp, tcp] = ["[::]:0,localhost,[::1]:9000", "[::1]:9000"]
    .map((list) => `--allow-net=${list}`);
  const said = sectionOf(PAGE, "Narrow permissions");
  for (const flag of [udp, tcp]) assert(said.includes(`\`${flag}\``), flag);
  const row = (program: string, ...flags: string[]) => ({ program, flags });
  const { folder } = copies;
  assert(
    await echoes(
      folder,
      row("echo.ts server 9000 ::1", tcp),
      row("echo.ts client 9000 ::1", tcp),
    ),
  );
  assert(
    await echoes(
      folder,
      row("udp.ts server 9000 ::1", "--allow-net", "--unstable-net"),
      row("udp.ts client 9000 ::1", udp, "--unstable-net"),
    ),
  );
});

Deno.test("lib's page says how the trace shows a datagram that is not let out", async () => {
  const said = /sendto 127\.0\.0\.1:\d+: Requires net access/;
  assertMatch(sectionOf(PAGE, "Narrow permissions"), said);
  await using copies = await copiesFolder();
  const preload = `--preload=${new URL("lib/trace/trace.ts", ROOT).pathname}`;
  await using server = new Copy(
    copies.folder,
    [preload, "--allow-net=0.0.0.0:0", "--unstable-net"],
    "udp.ts server 0",
  );
  await using client = new Copy(
    copies.folder,
    ["--allow-net", "--unstable-net"],
    `udp.ts client ${await server.port()} 127.0.0.1`,
  );
  assertEquals(await client.answer(), "");
  server.kill("SIGTERM");
  assertMatch(await server.errors, said);
});

Deno.test("lib's page has commands that run its copy", async () => {
  await using copies = await copiesFolder();
  const [server, client] = Array.from(
    sectionOf(PAGE, "Take it with you")
      .matchAll(/^ {4}deno run (\S+) \.\.\/(echo\.ts .+)$/gm),
    ([, flag, program]) => ({ flags: [flag], program }),
  );
  assert(await echoes(copies.folder, server, client));
});
