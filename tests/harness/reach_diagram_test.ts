import { assertEquals } from "@std/assert";
import { drawReach, reachMermaid } from "../../lib/harness/reach_diagram.ts";

const TARGETS = ["127.0.0.1", "127.0.0.2", "::1"];

Deno.test("drawReach() marks where a server is reached, and where not", () => {
  const picture = drawReach(TARGETS, [
    ["127.0.0.2", "ECONNREFUSED", "127.0.0.2", "ENETUNREACH"],
    ["::", "::ffff:127.0.0.1", "::ffff:127.0.0.2", "::1"],
    ["192.0.2.1", "ECONNREFUSED", "ECONNREFUSED", "ENETUNREACH"],
  ]);
  assertEquals(picture.split("\n"), [
    "client to             127.0.0.1  127.0.0.2     ::1",
    "                          |          |          |",
    "server on 127.0.0.2       x          o          x",
    "                          |          |          |",
    "server on ::              o          o          o",
    "                          |          |          |",
    "server on 192.0.2.1       x          x          x",
  ]);
});

Deno.test("reachMermaid() draws what is refused as a dotted line", () => {
  const picture = reachMermaid(["127.0.0.1", "::1"], [
    ["0.0.0.0", "127.0.0.1", "ECONNREFUSED"],
  ]);
  assertEquals(picture.split("\n"), [
    "flowchart LR",
    '  subgraph clients["a client connects to"]',
    '    client0["127.0.0.1"]',
    '    client1["::1"]',
    "  end",
    '  subgraph servers["a server is bound to"]',
    '    server0["0.0.0.0"]',
    "  end",
    '  client0 -- "127.0.0.1" --> server0',
    '  client1 -. "ECONNREFUSED" .-x server0',
  ]);
});
