/**
 * A picture of the addresses of this host: which server is reached at which.
 *
 * @module
 */

/** An address has a dot or a colon, and the name of an error has none. */
const isReached = (answer: string) => /[.:]/.test(answer);

/**
 * Draws it for a terminal or a pipe: a line for each server, a column for each
 * address.
 *
 * @param targets The addresses that clients connect to.
 * @param servers For each server the address that it is bound to, and then for
 * each target the address at which it was reached, or the error that the client
 * got.
 * @returns The lines, joined by newlines; `o` is reached, `x` is an error.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const picture = drawReach(["127.0.0.1", "::1"], [
 *   ["0.0.0.0", "127.0.0.1", "ECONNREFUSED"],
 * ]);
 * assertEquals(picture.split("\n"), [
 *   "client to           127.0.0.1     ::1",
 *   "                        |          |",
 *   "server on 0.0.0.0       o          x",
 * ]);
 * ```
 */
export function drawReach(targets: string[], servers: string[][]): string {
  const names = servers.map(([own]) => `server on ${own}`);
  const width = Math.max(...names.map((it) => it.length)) + 2;
  const cell = Math.max(...targets.map((it) => it.length)) + 2;
  /** The column of a target's line. */
  const columnOf = (target: number) => target * cell + Math.floor(cell / 2);

  const line = (label: string, marks: string[]) => {
    const drawn = Array(targets.length * cell).fill(" ");
    for (const [i, mark] of marks.entries()) {
      const column = columnOf(i) - Math.floor(mark.length / 2);
      drawn.splice(column, mark.length, ...mark);
    }
    return `${label.padEnd(width)}${drawn.join("")}`.trimEnd();
  };
  const rail = line("", targets.map(() => "|"));
  return [
    line("client to", targets),
    ...servers.flatMap(([_, ...answers], i) => [
      rail,
      line(names[i]!, answers.map((it) => isReached(it) ? "o" : "x")),
    ]),
  ].join("\n");
}

/**
 * Writes it as a Mermaid `flowchart`, which many hosts and editors draw as a
 * picture: an arrow from each target to each server, with the answer.
 *
 * @param targets The addresses that clients connect to.
 * @param servers As {@linkcode drawReach} takes them.
 * @returns The lines, joined by newlines.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 *
 * const picture = reachMermaid(["127.0.0.1"], [
 *   ["0.0.0.0", "127.0.0.1"],
 *   ["::1", "ECONNREFUSED"],
 * ]);
 * assertStringIncludes(picture, 'client0 -- "127.0.0.1" --> server0');
 * assertStringIncludes(picture, 'client0 -. "ECONNREFUSED" .-x server1');
 * ```
 */
export function reachMermaid(targets: string[], servers: string[][]): string {
  const box = (id: string, text: string) => `    ${id}["${text}"]`;
  return [
    "flowchart LR",
    '  subgraph clients["a client connects to"]',
    ...targets.map((it, i) => box(`client${i}`, it)),
    "  end",
    '  subgraph servers["a server is bound to"]',
    ...servers.map(([own = ""], i) => box(`server${i}`, own)),
    "  end",
    ...servers.flatMap(([_, ...answers], server) =>
      answers.map((answer, client) =>
        isReached(answer)
          ? `  client${client} -- "${answer}" --> server${server}`
          : `  client${client} -. "${answer}" .-x server${server}`
      )
    ),
  ].join("\n");
}
