/**
 * What a lesson's header says of it.
 * This module imports nothing.
 *
 * @module
 */

/** The tags of a header that the command line uses. */
export interface Header {
  /** `@title`. */
  title: string;
  /** `@run`: the command of each mode; `""` is the one without a name. */
  commands: Map<string, string>;
}

/**
 * Reads the header of a lesson. Its module is loaded already, so this needs no
 * permission.
 *
 * @param url The lesson's `import.meta.url`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const url = import.meta.resolve("../../lessons/02_tcp_echo.ts");
 * const { title, commands } = await readHeader(url);
 * assertEquals(title, "TCP echo: full reads and full writes");
 * assertEquals([...commands.keys()], ["", "server", "client"]);
 * ```
 */
export async function readHeader(url: string): Promise<Header> {
  const { default: text } = await import(url, { with: { type: "text" } });
  const [header] = text.split("*/");
  const tagged = (name: string) =>
    Array.from(
      header.matchAll(RegExp(`^ \\* @${name} (.+)$`, "gm")),
      ([, text]) => text as string,
    );
  const commands = tagged("run").map((command) => {
    const [, mode = ""] = command.match(/\.ts (\w+)$/) ?? [];
    return [mode, command] as const;
  });
  return { title: tagged("title").join(" "), commands: new Map(commands) };
}
