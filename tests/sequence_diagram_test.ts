import { assert, assertEquals } from "@std/assert";
import { SequenceDiagram } from "../lib/sequence_diagram.ts";

function exchange() {
  const diagram = new SequenceDiagram();
  const client = diagram.lane("client");
  const server = diagram.lane("server");
  server({ at: 2, what: "read 6 bytes", toPeer: false });
  server({ at: 3, what: "write 6 bytes", toPeer: true });
  client({ at: 1, what: "write 6 bytes", toPeer: true });
  client({ at: 4, what: "read 6 bytes", toPeer: false });
  return diagram;
}

Deno.test("SequenceDiagram draws both lanes in the order of time", () => {
  assertEquals(
    exchange().draw({ columns: 80, color: false }).split("\n"),
    [
      "client                          |              | server",
      "write 6 bytes                   |------------->|",
      "                                |              | read 6 bytes",
      "                                |<-------------| write 6 bytes",
      "read 6 bytes                    |              |",
    ],
  );
});

Deno.test("SequenceDiagram keeps the order of what happened at once", () => {
  const diagram = new SequenceDiagram();
  const client = diagram.lane("client");
  for (const what of ["b", "a", "c"]) client({ at: 1, what, toPeer: false });
  const rows = diagram.draw({ columns: 80, color: false }).split("\n").slice(1);
  assertEquals(rows.map((row) => row[0]), ["b", "a", "c"]);
});

Deno.test("SequenceDiagram fits into every width from 40 columns on", () => {
  const diagram = exchange();
  const what = `read 4096 bytes ${"x".repeat(100)} and so on`;
  diagram.lane("server")({ at: 5, what, toPeer: false });
  diagram.lane("client")({ at: 6, what, toPeer: true });
  for (const columns of [0, 10, 40, 41, 57, 80, 200]) {
    const text = diagram.draw({ columns, color: false });
    const width = Math.min(Math.max(columns || 80, 40), 80);
    for (const row of text.split("\n")) {
      assert(row.length <= width, `${columns} columns: ${row}`);
    }
    assertEquals(text.match(/x/g)?.length, 200);
    if (columns === 10) {
      assertEquals(text, diagram.draw({ columns: 40, color: false }));
    }
    assertEquals(text.match(/-+>/g)?.length, 2);
  }
});

Deno.test("SequenceDiagram breaks at the last space that fits", () => {
  const draw = (what: string) => {
    const diagram = new SequenceDiagram();
    diagram.lane("client")({ at: 1, what, toPeer: false });
    return diagram.draw({ columns: 80, color: false }).split("\n").slice(1)
      .map((row) => row.slice(0, 31).trimEnd());
  };
  assertEquals(draw(`${"a".repeat(31)} bc`), ["a".repeat(31), "bc"]);
  assertEquals(draw(`${"a".repeat(20)} ${"b".repeat(10)} c`), [
    `${"a".repeat(20)} ${"b".repeat(10)}`,
    "c",
  ]);
  assertEquals(draw("a".repeat(33)), ["a".repeat(31), "aa"]);
});

Deno.test("SequenceDiagram is the same in color but for the escapes", () => {
  const plain = exchange().draw({ columns: 80, color: false });
  const color = exchange().draw({ columns: 80, color: true });
  assert(color !== plain);
  // deno-lint-ignore no-control-regex
  assertEquals(color.replaceAll(/\x1b\[\d+m/g, ""), plain);
});
