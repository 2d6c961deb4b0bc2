import { assert, assertEquals } from "@std/assert";
import { TcpStates } from "../../lib/harness/tcp_states.ts";

/** The arrows of a picture that were gone. */
const gone = (picture: string) =>
  picture.split("\n").filter((line) => / --> .*\(/.test(line))
    .map((line) => line.trim().replace(/: [^(]*/, " "));

Deno.test("TcpStates explains a state when it is new, and only then", () => {
  const states = new TcpStates();
  const lines = (client: string[], server: string[]) =>
    states.explain({ client, server }).split("\n");
  const first = lines(["ESTABLISHED", "FIN-WAIT-2"], ["ESTABLISHED"]);
  assertEquals(first.slice(0, 2), [
    "client: ESTABLISHED -> FIN-WAIT-2",
    "server: ESTABLISHED",
  ]);
  assertEquals(first.slice(2).map((line) => line.trim().split("  ")[0]), [
    "ESTABLISHED",
    "FIN-WAIT-2",
  ]);
  const second = lines(["FIN-WAIT-2", "TIME-WAIT"], ["CLOSE-WAIT", "gone"]);
  assertEquals(second.slice(2).map((line) => line.trim().split("  ")[0]), [
    "TIME-WAIT",
    "CLOSE-WAIT",
    "gone",
  ]);
  for (const line of [...first, ...second]) assert(line.length <= 80, line);
  // A state that nobody has foreseen has at least its name.
  assertEquals(lines(["SYN-SENT"], []), [
    "client: SYN-SENT",
    "server: ",
    "  SYN-SENT",
  ]);
});

Deno.test("TcpStates.mermaid() counts who went where, also past what was not seen", () => {
  const states = new TcpStates();
  states.explain({
    client: ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT"],
    server: ["ESTABLISHED", "CLOSE-WAIT", "gone"],
  });
  states.explain({
    client: ["ESTABLISHED", "CLOSE-WAIT", "LAST-ACK", "gone"],
    server: ["ESTABLISHED", "FIN-WAIT-2", "TIME-WAIT"],
  });
  const picture = states.mermaid();
  assertEquals(gone(picture), [
    "ESTABLISHED --> FIN_WAIT_1 (client 1)",
    "ESTABLISHED --> CLOSE_WAIT (client 1, server 1)",
    "FIN_WAIT_1 --> FIN_WAIT_2 (client 1)",
    "FIN_WAIT_2 --> TIME_WAIT (client 1, server 1)",
    "CLOSE_WAIT --> LAST_ACK (client 1)",
    "LAST_ACK --> gone (client 1)",
    "CLOSE_WAIT --> gone (server 1)",
    "ESTABLISHED --> FIN_WAIT_2 (server 1)",
  ]);
  const lines = picture.split("\n");
  assertEquals(lines[0], "stateDiagram-v2");
  assert(lines.includes('  state "CLOSING" as CLOSING')); // Nobody went there.
  assert(!lines.at(-1)!.includes("CLOSING"), lines.at(-1));
  assert(lines.at(-1)!.includes("FIN_WAIT_2"), lines.at(-1));
  // Each time it is the same.
  assertEquals(states.mermaid(), picture);
});
