import { assert, assertEquals, assertMatch } from "@std/assert";
import { run, tableBehind } from "../testing.ts";

const LESSON = "03_addresses.ts";

/** What the kernel says to a connection, asked without the lesson. */
async function reach(own: string, target: string): Promise<string> {
  try {
    using listener = Deno.listen({ hostname: own, port: 0 });
    const { port } = listener.addr;
    using _conn = await Deno.connect({ hostname: target, port });
    using conn = await listener.accept();
    return conn.localAddr.hostname;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** An error has neither dots nor colons. */
const markOf = (answer: string) => /[.:]/.test(answer) ? "o" : "x";

Deno.test("03 answers each question as the kernel does", async () => {
  const { code, stdout, stderr } = await run(LESSON, []);
  assertEquals([code, stderr], [0, ""]);

  const reached = tableBehind(stdout, "A client connects.");
  assertEquals(reached.map(([own]) => own), ["127.0.0.1", "0.0.0.0", "::"]);
  for (const [own, ...cells] of reached) {
    for (const [i, target] of ["127.0.0.1", "127.0.0.2", "::1"].entries()) {
      // Where there is no IPv6, that is what the kernel says to both.
      assertEquals(cells[i], await reach(own, target), `${own} ${target}`);
    }
  }

  // The picture has the same answers: what is reached is an o, the rest an x.
  const picture = stdout.slice(stdout.indexOf("\nclient to ")).split("\n\n")[0];
  const lines = [...picture.matchAll(/^server on (\S+) +<?([-ox ]+)$/gm)];
  assertEquals(
    lines.map(([_, own, marks]) => [own, marks.replace(/[- ]/g, "")]),
    reached.map(([own, ...cells]) => [own, cells.map(markOf).join("")]),
  );

  const clients = tableBehind(stdout, "A client does not ask");
  assertEquals(clients.length, 3);
  assertEquals(new Set(clients.map(([, own]) => own)).size, 3);
  for (const [, own, seen] of clients) {
    assertMatch(own, /^127\.0\.0\.[12]:\d+$/);
    assertEquals(own, seen);
  }

  const own = tableBehind(stdout, "When does a socket");
  assertEquals(own.map((row) => row.slice(0, 2).join(" ")), [
    "TCP socket(2)",
    "TCP connect(2)",
    "UDP socket(2)",
    "UDP its first sendto(2)",
    "TCP Deno.connect",
    "UDP Deno.listenDatagram",
  ]);
  const patterns = [
    /^0\.0\.0\.0:0$/,
    /^127\.0\.0\.1:[1-9]\d*$/,
    /^0\.0\.0\.0:0$/,
    /^0\.0\.0\.0:[1-9]\d*$/,
    /^127\.0\.0\.1:[1-9]\d*$/,
    /^0\.0\.0\.0:[1-9]\d*$/,
  ];
  own.forEach(([, , address], i) => assertMatch(address, patterns[i]));

  assertEquals(tableBehind(stdout, "Which addresses does"), [
    [
      "bind: not an address of this host",
      "EADDRNOTAVAIL",
      "EADDRNOTAVAIL",
    ],
    ["bind: somebody listens there", "EADDRINUSE", "EADDRINUSE"],
    ["connect: nobody listens there", "ECONNREFUSED", "ECONNREFUSED"],
  ]);

  assertEquals(tableBehind(stdout, "A UDP server"), [
    ["127.0.0.1", "127.0.0.1"],
    ["127.0.0.2", "127.0.0.1"],
  ]);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("03 --mermaid has an arrow for each answer of the first table", async () => {
  const { code, stdout } = await run(LESSON, ["--mermaid"]);
  assertEquals(code, 0);
  const picture = stdout.slice(stdout.indexOf("\nflowchart LR\n")).trimStart()
    .split("\n\n")[0];
  const arrows = [
    ...picture.matchAll(/^ {2}client(\d) -.*"(.*)" \S+ server(\d)$/gm),
  ];
  const reached = tableBehind(stdout, "A client connects.");
  assertEquals(arrows.length, reached.length * 3);
  for (const [arrow, client, answer, server] of arrows) {
    assertEquals(reached[Number(server)][Number(client) + 1], answer);
    assertEquals(arrow.includes(" --> "), markOf(answer) === "o", arrow);
    assertEquals(arrow.includes(".-x "), markOf(answer) === "x", arrow);
  }
});

Deno.test("03 does not take what it has run out of for an answer", async () => {
  const { stdout } = await run(LESSON, [], {
    wrapper: (command) => [
      "sh",
      "-c",
      'ulimit -n 24; exec "$@"',
      "sh",
      ...command,
    ],
  });
  assert(!stdout.includes("EMFILE"), stdout);
});
