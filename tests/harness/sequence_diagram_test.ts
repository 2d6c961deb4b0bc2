import { assert, assertEquals } from "@std/assert";
import { SequenceDiagram } from "../../lib/harness/sequence_diagram.ts";

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

/** What stands in the client's lane, for one event. */
function wrapped(what: string): string[] {
  const diagram = new SequenceDiagram();
  diagram.lane("client")({ at: 1, what, toPeer: false });
  return diagram.draw({ columns: 80, color: false }).split("\n").slice(1)
    .map((row) => row.slice(0, row.indexOf(" |")).trimEnd());
}

/** As wide as a terminal shows it, for the characters of these tests. */
const widthOf = (text: string) =>
  [...text].length + (text.match(/[\u4e00-\u9fff⌚]/g)?.length ?? 0);

Deno.test("SequenceDiagram fits into every width", () => {
  const diagram = exchange();
  const what = `read 4096 bytes "${"\\x00".repeat(20)}${
    "你".repeat(50)
  }" and so on`;
  diagram.lane("server")({ at: 5, what, toPeer: false });
  diagram.lane("client")({ at: 6, what, toPeer: true, isLost: true });
  for (const columns of [0, 10, 20, 30, 40, 53, 54, 57, 80, 200]) {
    const text = diagram.draw({ columns, color: false });
    const width = Math.min(Math.max(columns || 80, 20), 80);
    for (const row of text.split("\n")) {
      assert(widthOf(row) <= width, `${columns} columns: ${row}`);
    }
    assertEquals(text.match(/你/g)?.length, 100);
    assertEquals(text.match(/\\x00/g)?.length, 40, "Broken escapes.");
    assertEquals(text.match(/-+x/g)?.length, 1);
  }
});

Deno.test("SequenceDiagram lists the events where two lanes have no room", () => {
  const text = exchange().draw({ columns: 40, color: false });
  assertEquals(text.split("\n"), [
    "client --> write 6 bytes",
    "server read 6 bytes",
    "server --> write 6 bytes",
    "client read 6 bytes",
  ]);
  const diagram = new SequenceDiagram();
  const what = 'sendto 127.0.0.1:9527 5 bytes "hello"';
  diagram.lane("client")({ at: 1, what, toPeer: true, isLost: true });
  assertEquals(diagram.draw({ columns: 30, color: false }).split("\n"), [
    "client --x sendto",
    "  127.0.0.1:9527 5 bytes",
    '  "hello"',
  ]);
});

Deno.test("SequenceDiagram ends the arrow of what is lost midway", () => {
  const diagram = new SequenceDiagram();
  for (const side of ["client", "server"] as const) {
    diagram.lane(side)({ at: 1, what: "sendto", toPeer: true, isLost: true });
  }
  assertEquals(
    diagram.draw({ columns: 80, color: false }).split("\n").slice(1),
    [
      "sendto                          |------x       |",
      "                                |       x------| sendto",
    ],
  );
});

Deno.test("SequenceDiagram breaks at the last space that fits", () => {
  assertEquals(wrapped(`${"a".repeat(31)} bc`), ["a".repeat(31), "bc"]);
  assertEquals(wrapped(`${"a".repeat(20)} ${"b".repeat(10)} c`), [
    `${"a".repeat(20)} ${"b".repeat(10)}`,
    "c",
  ]);
  assertEquals(wrapped("a".repeat(33)), ["a".repeat(31), "aa"]);
});

Deno.test("SequenceDiagram keeps together what belongs together", () => {
  assertEquals(
    wrapped('write 127.0.0.1:40980 11 bytes "hello w\\n"'),
    ["write 127.0.0.1:40980 11 bytes", '"hello w\\n"'],
  );
  assertEquals(
    wrapped('recvfrom 127.0.0.1:409801 11 of 11 bytes "a b"...'),
    ["recvfrom 127.0.0.1:409801", '11 of 11 bytes "a b"...'],
  );
  // Too long for one line, and still no escape is torn.
  assertEquals(wrapped(`"${"\\x00".repeat(9)}"`), [
    `"${"\\x00".repeat(7)}`,
    '\\x00\\x00"',
  ]);
});

Deno.test("SequenceDiagram gives a wide character two columns", () => {
  const diagram = new SequenceDiagram();
  for (const what of ['read "你好⌚"', "read"]) {
    diagram.lane("client")({ at: 1, what, toPeer: false });
  }
  assertEquals(
    diagram.draw({ columns: 80, color: false }).split("\n").slice(1),
    [
      `read "你好⌚"                   |              |`,
      "read                            |              |",
    ],
  );
  assertEquals(wrapped(`${"你".repeat(16)}!`), ["你".repeat(15), "你!"]);
});

Deno.test("SequenceDiagram shows the states of both sides beside their lanes", () => {
  const diagram = new SequenceDiagram();
  diagram.lane("client")({
    at: 1,
    what: "close, the first of the two",
    toPeer: true,
    states: { client: "FIN-WAIT-2", server: "CLOSE-WAIT" },
  });
  diagram.lane("server")({
    at: 2,
    what: "close",
    toPeer: true,
    states: { client: "TIME-WAIT", server: "gone" },
  });
  assertEquals(
    diagram.draw({ columns: 80, color: false }).split("\n").slice(1),
    [
      "close, the first of  FIN-WAIT-2 |------------->| CLOSE-WAIT",
      "the two                         |              |",
      "                      TIME-WAIT |<-------------| gone        close",
    ],
  );
});

Deno.test("SequenceDiagram has times since its first event, and notes above all", () => {
  const notes = ["client A <-> relay B"];
  const diagram = new SequenceDiagram({ hasTimes: true, notes });
  const what = 'sendto relay 13 bytes 00 00 00 01 "request"';
  diagram.lane("server")({ at: 1112.4, what: "recvfrom", toPeer: false });
  diagram.lane("client")({ at: 1000.1, what, toPeer: true });
  assertEquals(diagram.draw({ columns: 80, color: false }).split("\n"), [
    ...notes,
    "   ms client                       |             | server",
    "    0 sendto relay 13 bytes        |------------>|",
    '      00 00 00 01 "request"        |             |',
    "  112                              |             | recvfrom",
  ]);
  assertEquals(diagram.draw({ columns: 40, color: false }).split("\n"), [
    ...notes,
    "0 ms client --> sendto relay 13 bytes",
    '  00 00 00 01 "request"',
    "112 ms server recvfrom",
  ]);
  assertEquals(diagram.mermaid().split("\n").slice(3), [
    "  Note over client,server: client A #60;-#62; relay B",
    "  client->>server: 0 ms: sendto relay 13 bytes 00 00 00 01 #34;request#34;",
    "  Note over server: 112 ms: recvfrom",
  ]);
});

Deno.test("SequenceDiagram.paths() has each state until it changed", () => {
  const diagram = new SequenceDiagram();
  const states = [["A", "A"], ["B", "A"], ["B", "C"], ["A", "C"]] as const;
  diagram.lane("client")({ at: 0, what: "call", toPeer: false });
  for (const [at, [client, server]] of states.entries()) {
    const event = { at, what: "", toPeer: false, states: { client, server } };
    diagram.lane("server")(event);
  }
  assertEquals(diagram.paths(), {
    client: ["A", "B", "A"],
    server: ["A", "C"],
  });
});

Deno.test("SequenceDiagram.mermaid() writes what Mermaid reads", () => {
  const diagram = exchange();
  diagram.lane("client")({
    at: 5,
    what: 'write 3 bytes "#;%\\"',
    toPeer: true,
    isLost: true,
    states: { client: "FIN-WAIT-1", server: "ESTABLISHED" },
  });
  assertEquals(diagram.mermaid().split("\n"), [
    "sequenceDiagram",
    "  participant client",
    "  participant server",
    "  client->>server: write 6 bytes",
    "  Note over server: read 6 bytes",
    "  server->>client: write 6 bytes",
    "  Note over client: read 6 bytes",
    "  client-xserver: write 3 bytes #34;#35;#59;#37;#92;#34;",
    "  Note over client,server: FIN-WAIT-1 / ESTABLISHED",
  ]);
});

Deno.test("SequenceDiagram is the same in color but for the escapes", {
  ignore: Deno.noColor,
}, () => {
  const plain = exchange().draw({ columns: 80, color: false });
  const color = exchange().draw({ columns: 80, color: true });
  assert(color !== plain);
  // deno-lint-ignore no-control-regex
  assertEquals(color.replaceAll(/\x1b\[\d+m/g, ""), plain);
});

Deno.test("SequenceDiagram cuts what nobody would read, and says so", () => {
  const withEvents = (count: number) => {
    const diagram = new SequenceDiagram();
    // The last ones first: what is cut is the end in the order of time.
    for (let at = count; at > 0; at--) {
      const side = at % 2 === 1 ? "client" : "server";
      diagram.lane(side)({ at, what: `call ${at}`, toPeer: true });
    }
    return diagram;
  };
  const ways: Record<string, (diagram: SequenceDiagram) => string> = {
    draw: (it) => it.draw({ columns: 80, color: false }),
    list: (it) => it.draw({ columns: 30, color: false }),
    mermaid: (it) => it.mermaid(),
  };
  for (const [name, textOf] of Object.entries(ways)) {
    const calls = (text: string) => text.match(/\bcall \d+/g)!;
    const all = textOf(withEvents(1000));
    assertEquals(calls(all).length, 1000, name);
    assert(!all.includes("not drawn"), name);

    // Many more than a function takes arguments.
    const cut = textOf(withEvents(200_000)).split("\n");
    assertEquals(
      cut.pop(),
      `${name === "mermaid" ? "  %% " : ""}199000 later calls are not drawn`,
    );
    assertEquals(calls(cut.join("\n")), calls(all), name);
    assertEquals(cut.join("\n"), all, name);
  }
});

Deno.test("SequenceDiagram has its head at the end too, if that is out of sight", () => {
  const diagram = new SequenceDiagram();
  for (const at of [1, 2, 3]) {
    diagram.lane("client")({ at, what: "close", toPeer: false });
  }
  const draw = (height: number) =>
    diagram.draw({ columns: 80, color: false, height }).split("\n");
  assertEquals(draw(5).length, 4);
  assertEquals(draw(4).length, 5);
  assertEquals(draw(4).at(-1), draw(4)[0]);
});
