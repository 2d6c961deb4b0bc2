import { assert, assertEquals } from "@std/assert";
import {
  descendants,
  kernelRow,
  LessonProcess,
  run,
  tableBehind,
  until,
} from "../testing.ts";

const LESSON = "13_streams.ts";
const MIB = 1024 * 1024;
const CHUNK = 64 * 1024;

/** A number of a table. */
const toNumber = (cell: string) => Number(cell.replaceAll(",", ""));

/** The state that the kernel has for a connection's own end, if it has one. */
const kernelState = ({ localAddr, remoteAddr }: Deno.TcpConn) =>
  kernelRow(localAddr.port, remoteAddr.port)?.state;

/** What becomes of a server's end when its client has sent bytes and a FIN. */
async function afterFin(use: (conn: Deno.TcpConn) => Promise<void>) {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using client = await Deno.connect({ hostname: "127.0.0.1", port });
  using conn = await listener.accept();
  await client.write(new Uint8Array(5));
  await client.closeWrite();
  await use(conn);
  await until(() => kernelState(conn) !== "LAST-ACK");
  return kernelState(conn) === "CLOSE-WAIT" ? "CLOSE-WAIT" : "closed";
}

Deno.test("13 shows what each form does to a connection, as the kernel says", async () => {
  // Its servers are processes too. What they say is read, and must be plain.
  const env = { FORCE_COLOR: "1" };
  const { code, stdout, stderr } = await run(LESSON, [], { env });
  assertEquals([code, stderr], [0, ""]);

  const byRead = await afterFin(async (conn) => {
    while (await conn.read(new Uint8Array(9)) !== null);
  });
  const byReadable = await afterFin(async (conn) => {
    for await (const _ of conn.readable);
  });
  const byCancel = await afterFin((conn) => conn.readable.cancel());
  assertEquals([byRead, byReadable, byCancel], [
    "CLOSE-WAIT",
    "closed",
    "closed",
  ]);
  const answers = { "CLOSE-WAIT": "1 byte", "closed": "BadResource" };
  const ends = tableBehind(stdout, "The client sends 5 bytes and a FIN.");
  assertEquals(
    // A FIN of the server's own may still wait for its ACK.
    ends.map(([name, state, answer]) => [
      name,
      state.replace("LAST-ACK", "closed"),
      answer,
    ]),
    ([
      ["echoByRead", byRead],
      ["echoByForAwait", byReadable],
      ["echoByPipeTo", byReadable],
      ["echoCured", byRead],
      ["pipeTo, prevent...", byReadable],
      ["readable.cancel", byCancel],
      ["file.pipeTo", "closed"],
      ["file.pipeTo, preventClose", "CLOSE-WAIT"],
    ] as const).map(([name, state]) => [name, state, answers[state]]),
  );

  assertEquals(tableBehind(stdout, "The same through a proxy."), [
    ["pipeTo, both ways", "end of stream"],
    ["forward", "1 byte"],
  ]);

  assertEquals(tableBehind(stdout, "A client sends a RST."), [
    ["echoByPipeTo(conn)", "0", "1"],
    ["echoByPipeTo(conn).catch(() => {})", "20", "0"],
    ["echoByRead(conn)", "0", "1"],
  ]);

  const stalled = tableBehind(stdout, "The client sends 32 MiB");
  const forms = ends.slice(0, 4).map(([name]) => name);
  assertEquals(stalled.map(([name]) => name), [...forms, "echoNoAwait"]);
  for (const [name, ...cells] of stalled) {
    const [requests, memory, echoes] = cells.map(toNumber);
    assert(echoes > 0, name);
    const sent = requests + memory + echoes;
    if (forms.includes(name)) {
      assert(sent <= 32 * MIB && memory <= CHUNK, `${name}: ${cells}`);
    } else {
      assertEquals(sent, 32 * MIB);
      assert(memory > MIB, `${name}: ${cells}`);
    }
  }

  const costs = tableBehind(stdout, "Messages of 64 bytes");
  assertEquals(costs.map(([name]) => name), forms);
  for (const [name, rate, cpu] of costs) {
    assert(toNumber(rate) > 0 && toNumber(cpu) > 0, name);
  }

  const uses = tableBehind(stdout, "When to use which:").map(([, use]) => use);
  for (
    const use of [
      "openReadable, pipeTo, preventClose",
      "forward (lib/forward.ts)",
    ]
  ) {
    assert(uses.includes(use), String(uses));
  }
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

Deno.test("13 leaves no server behind when it is killed", async () => {
  await using process = new LessonProcess(LESSON, []);
  const servers = () => descendants(process.pid).filter((pid) => isServer(pid));
  let started: number[] = [];
  await until(() => (started = servers()).length > 0);
  process.kill("SIGKILL");
  await until(() => !started.some(isServer));
});

/** Whether it is one of the servers that the lesson starts. */
function isServer(pid: number): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/cmdline`)
      .includes(`${LESSON}\0server`);
  } catch {
    return false; // It has ended.
  }
}
