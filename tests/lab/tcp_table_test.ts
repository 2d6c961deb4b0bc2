import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { dropIncoming, passIncoming } from "../../lib/lab/packet_loss.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import {
  awaitsAnswer,
  cat,
  type ConnEnd,
  describeRow,
  endOf,
  otherEnd,
  parseTcpTable,
  readTcpTable,
  readUntilSettled,
  type TcpRow,
} from "../../lib/lab/tcp_table.ts";
import { fakeProgram, hasProgram, until } from "../testing.ts";

const LOOPBACK = "127.0.0.1";
const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

Deno.test("parseTcpTable() reads what the kernel prints", {
  ignore: !IS_LITTLE_ENDIAN,
}, () => {
  const head = "  sl  local_address rem_address   st tx_queue rx_queue tr " +
    "tm->when retrnsmt   uid  timeout inode\n";
  const line = (st: string, timer: string, queues = "00000000:00000000") =>
    `   0: 0100007F:2537 0200007F:C350 ${st} ${queues} ${timer} ` +
    "0000000B     0        0 12345 1 0000000000000000 100 0 0 10 0\n";
  const states = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "0A"];
  const rows = parseTcpTable(
    head + states.map((st) => line(st, "00:00000000")).join("") +
      line("0B", "01:00000014") + line("0C", "02:00000001") +
      line("06", "03:00001770") +
      line("01", "04:0000000A", "0000000A:0001000F"),
  );
  assertEquals(rows[0], {
    local: { hostname: "127.0.0.1", port: 9527 },
    remote: { hostname: "127.0.0.2", port: 50000 },
    state: "ESTABLISHED",
    sendQueue: 0,
    receiveQueue: 0,
    timer: null,
    retransmits: 11,
  });
  const { sendQueue, receiveQueue } = rows.at(-1)!;
  assertEquals([sendQueue, receiveQueue], [10, 65551]);
  assertEquals(rows.map((row) => row.state), [
    "ESTABLISHED",
    "SYN-SENT",
    "SYN-RECEIVED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSED",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "SYN-RECEIVED",
    "TIME-WAIT",
    "ESTABLISHED",
  ]);
  assertEquals(rows.slice(10).map((row) => row.timer), [
    { kind: "retransmit", milliseconds: 200 },
    { kind: "keepalive", milliseconds: 10 },
    { kind: "time-wait", milliseconds: 60000 },
    { kind: "window probe", milliseconds: 100 },
  ]);
});

Deno.test("parseTcpTable() reads IPv6 addresses", {
  ignore: !IS_LITTLE_ENDIAN,
}, () => {
  const rows = parseTcpTable(
    "   0: 00000000000000000000000000000000:1F90 " +
      "00000000000000000000000001000000:0000 0A 0:0 00:00000000 0\n" +
      "   1: 0000000000000000FFFF00000100007F:1F90 " +
      "B80D0120000000000000000001000000:0001 01 0:0 00:00000000 0\n",
  );
  assertEquals(rows.map((row) => [row.local.hostname, row.remote.hostname]), [
    ["::", "::1"],
    ["::ffff:7f00:1", "2001:db8::1"],
  ]);
});

Deno.test("readTcpTable() lists the sockets of a connection, as ss does", {
  ignore: !await hasProgram("ss"),
}, async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  using peer = await listener.accept();
  const client = conn.localAddr.port;

  /** The states of listener, client and server, as the table has them. */
  const table = async () => {
    const rows = await readTcpTable();
    const find = (local: number, remote: number) =>
      rows.find((row) => row.local.port === local && row.remote.port === remote)
        ?.state;
    return [find(port, 0), find(client, port), find(port, client)];
  };
  /** The same as ss has them. */
  const ss = async () => {
    const command = new Deno.Command("ss", { args: ["-tanH"] });
    const text = new TextDecoder().decode((await command.output()).stdout);
    const find = (local: number, remote: number | "*") => {
      const row = text.split("\n").map((line) => line.split(/ +/))
        .find((it) =>
          it[3]?.endsWith(`:${local}`) && it[4]?.endsWith(`:${remote}`)
        );
      return row?.[0].replace(/^ESTAB$/, "ESTABLISHED");
    };
    return [find(port, "*"), find(client, port), find(port, client)];
  };
  const becomes = async (...states: (string | undefined)[]) => {
    await until(async () => String(await table()) === String(states));
    assertEquals(await ss(), states);
  };

  await becomes("LISTEN", "ESTABLISHED", "ESTABLISHED");
  await conn.closeWrite();
  await becomes("LISTEN", "FIN-WAIT-2", "CLOSE-WAIT");
  peer.close();
  await becomes("LISTEN", "TIME-WAIT", undefined);
  const row = endOf(await readTcpTable(), conn)!;
  assertEquals(row.timer!.kind, "time-wait");
  assert(row.timer!.milliseconds > 0);
});

Deno.test("readTcpTable() counts the bytes that wait", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: LOOPBACK, port });
  using peer = await listener.accept();
  await conn.write(new Uint8Array(1000));
  const client = conn.localAddr.port;
  await until(async () =>
    (await readTcpTable()).some((row) =>
      row.local.port === port && row.remote.port === client &&
      row.receiveQueue === 1000
    )
  );
  assertEquals(await peer.read(new Uint8Array(2000)), 1000);
});

Deno.test("cat() reads a file, or says why not", async () => {
  const text = await cat("/proc/sys/net/core/somaxconn");
  assertEquals(
    text,
    Deno.readTextFileSync("/proc/sys/net/core/somaxconn"),
  );
  await assertRejects(() => cat("/nowhere"), Error, "cat /nowhere: No such");
});

Deno.test("readTcpTable() takes no failure for an empty table", async () => {
  await using fake = await fakeProgram(
    "cat",
    `case $FAKE in
       silent) exit 3;;
       empty) exit 0;;
       hidden) echo "cat: $1: Permission denied" >&2; exit 1;;
       killed) cat "$1"; kill -9 $$;;
       ipv4) cat "$1"; echo "cat: $2: No such file or directory" >&2; exit 1;;
       ipv6) echo "cat: $1: Permission denied" >&2; cat "$2"; exit 1;;
     esac`,
  );
  const url = new URL("../../lib/lab/tcp_table.ts", import.meta.url);
  const script = `
    import { readTcpTable } from "${url}";
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    for (const fake of ["silent", "empty", "hidden", "killed", "ipv6", "ipv4"]) {
      Deno.env.set("FAKE", fake);
      const rows = await readTcpTable().catch(({ message }) => message);
      console.log(Array.isArray(rows) ? rows.length > 0 : rows);
    }`;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", script],
    env: { ...fake.env, FORCE_COLOR: "" },
  });
  const { stdout } = await command.output();
  assertEquals(new TextDecoder().decode(stdout).trimEnd().split("\n"), [
    "cat /proc/net/tcp: exit code 3",
    "cat /proc/net/tcp: exit code 0",
    "cat /proc/net/tcp: Permission denied",
    "cat /proc/net/tcp: exit code 137",
    "cat /proc/net/tcp: Permission denied", // And the second file is no answer.
    "true", // A host without IPv6 has no second file.
  ]);
});

Deno.test("endOf() tells connections apart that have the same ports", () => {
  const row = (remote: string, state: string) => ({
    local: { hostname: "127.0.0.1", port: 4000 },
    remote: { hostname: remote, port: 80 },
    state,
    sendQueue: 0,
    receiveQueue: 0,
    timer: null,
    retransmits: 0,
  });
  const rows = [
    row("127.0.0.1", "ESTABLISHED"),
    row("127.0.0.2", "CLOSE-WAIT"),
  ];
  const localAddr = rows[0].local;
  for (const { remote: remoteAddr, state } of rows) {
    assertEquals(endOf(rows, { localAddr, remoteAddr })?.state, state);
  }
});

Deno.test("endOf() knows an IPv4 address in an IPv6 socket, and a scope", async () => {
  using listener = Deno.listen({ hostname: "::", port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using accepted = await listener.accept();
  assertEquals(endOf(await readTcpTable(), accepted)?.state, "ESTABLISHED");
  assertEquals(endOf(await readTcpTable(), conn)?.state, "ESTABLISHED");
  const [row] = parseTcpTable(
    "   0: 000080FE00000000FF005450FE7A55FE:0050 000080FE00000000FF005450FE7A55FE:1F90 01 0:0 0:0 0",
  );
  const address = { hostname: "fe80::5054:ff:fe55:7afe%lo", port: 80 };
  const remoteAddr = { ...address, port: 8080 };
  assertEquals(endOf([row], { localAddr: address, remoteAddr }), row);
});

/** A row in this state, with these queues. */
const rowIn = (
  state: string,
  sendQueue: number,
  receiveQueue: number,
): TcpRow => ({
  local: { hostname: LOOPBACK, port: 4000 },
  remote: { hostname: LOOPBACK, port: 80 },
  state,
  sendQueue,
  receiveQueue,
  timer: null,
  retransmits: 0,
});

Deno.test("describeRow() puts state and queues in words", () => {
  const cases: [state: string, sent: number, received: number, text: string][] =
    [
      ["ESTABLISHED", 0, 0, "ESTABLISHED"],
      ["ESTABLISHED", 0, 1, "ESTABLISHED, 1 byte to read"],
      ["ESTABLISHED", 100, 0, "ESTABLISHED, 100 bytes not acknowledged"],
      [
        ...["ESTABLISHED", 2, 3] as const,
        "ESTABLISHED, 2 bytes not acknowledged, 3 bytes to read",
      ],
      ["LISTEN", 0, 0, "LISTEN"],
      ["LISTEN", 0, 1, "LISTEN, 1 in its queue"],
      ["SYN-SENT", 1, 0, "SYN-SENT, its SYN not acknowledged"],
      ["FIN-WAIT-1", 1, 0, "FIN-WAIT-1, its FIN not acknowledged"],
      ["FIN-WAIT-1", 2, 0, "FIN-WAIT-1, 1 byte and its FIN not acknowledged"],
      ["FIN-WAIT-2", 0, 6, "FIN-WAIT-2, 6 bytes to read"],
      ["CLOSE-WAIT", 0, 0, "CLOSE-WAIT"],
      ["CLOSE-WAIT", 0, 1, "CLOSE-WAIT, the end to read"],
      ["CLOSE-WAIT", 0, 7, "CLOSE-WAIT, 6 bytes and the end to read"],
      ["CLOSE-WAIT", 5, 0, "CLOSE-WAIT, 5 bytes not acknowledged"],
      [
        ...["LAST-ACK", 1, 1] as const,
        "LAST-ACK, its FIN not acknowledged, the end to read",
      ],
      ["TIME-WAIT", 0, 0, "TIME-WAIT"],
    ];
  for (const [state, sent, received, text] of cases) {
    assertEquals(describeRow(rowIn(state, sent, received)), text);
  }
  assertEquals(describeRow(undefined), "gone");
});

/** Awaits that both ends of a connection are described like this. */
const becomes = (end: ConnEnd, here: string, there: string) =>
  until(async () => {
    const rows = await readTcpTable();
    const ends = [end, otherEnd(end)].map((it) => describeRow(endOf(rows, it)));
    return String(ends) === String([here, there]);
  });

Deno.test("describeRow() agrees with what real sockets have done", async () => {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const listens = async () =>
    describeRow(
      (await readTcpTable()).find(({ local, state }) =>
        local.port === port && state === "LISTEN"
      ),
    );
  assertEquals(await listens(), "LISTEN");
  using client = await Deno.connect({ hostname: LOOPBACK, port });
  await until(async () => await listens() === "LISTEN, 1 in its queue");
  using server = await listener.accept();
  await until(async () => await listens() === "LISTEN");

  await client.write(new Uint8Array(6));
  await becomes(client, "ESTABLISHED", "ESTABLISHED, 6 bytes to read");
  await client.closeWrite();
  await becomes(
    client,
    "FIN-WAIT-2",
    "CLOSE-WAIT, 6 bytes and the end to read",
  );
  const buffer = new Uint8Array(10);
  assertEquals(await server.read(buffer), 6);
  assertEquals(await server.read(buffer), null);
  await becomes(client, "FIN-WAIT-2", "CLOSE-WAIT");
  await server.write(new Uint8Array(1));
  await becomes(client, "FIN-WAIT-2, 1 byte to read", "CLOSE-WAIT");
  assertEquals(await client.read(buffer), 1);
  await server.closeWrite();
  await becomes(client, "TIME-WAIT", "gone");

  using pair = await connectPair();
  await pair.client.closeWrite();
  await becomes(pair.client, "FIN-WAIT-2", "CLOSE-WAIT, the end to read");
});

Deno.test("describeRow() tells what is not acknowledged, where answers are lost", async () => {
  using pair = await connectPair();
  dropIncoming(pair.client); // Which hears nothing any more.
  await pair.client.write(new Uint8Array(100));
  await becomes(
    pair.client,
    "ESTABLISHED, 100 bytes not acknowledged",
    "ESTABLISHED, 100 bytes to read",
  );
  await pair.client.closeWrite();
  await becomes(
    pair.client,
    "FIN-WAIT-1, 100 bytes and its FIN not acknowledged",
    "CLOSE-WAIT, 100 bytes and the end to read",
  );
  passIncoming(pair.client);
  await becomes(
    pair.client,
    "FIN-WAIT-2",
    "CLOSE-WAIT, 100 bytes and the end to read",
  );
});

Deno.test("readUntilSettled() reads until states and queues stay", async () => {
  using pair = await connectPair();
  const settled = async (isMoving?: (row: TcpRow) => boolean) => {
    const lists = await Array.fromAsync(
      readUntilSettled([pair.client, pair.server], isMoving),
    );
    return describeRow(endOf(lists.at(-1)!, pair.client));
  };
  assertEquals(await settled(), "ESTABLISHED");
  dropIncoming(pair.client);
  await pair.client.write(new Uint8Array(3));
  // This is no state that passes, but a queue that will be empty.
  assertEquals(await settled(), "ESTABLISHED, 3 bytes not acknowledged");
  let readings = 0;
  const isQueued = (row: TcpRow) => {
    if (++readings === 5) passIncoming(pair.client);
    return awaitsAnswer(row);
  };
  assertEquals(await settled(isQueued), "ESTABLISHED");
  assert(readings > 5, `${readings} readings`);
  await pair.client.closeWrite();
  assertEquals(await settled(), "FIN-WAIT-2");
  pair.server.close();
  assertEquals(await settled(), "TIME-WAIT");
});

Deno.test("readUntilSettled() does not wait for room that nobody makes", async () => {
  using pair = await connectPair();
  const data = new Uint8Array(32 * 1024 * 1024);
  assert(await pair.client.write(data) < data.length, "it takes all");
  await pair.client.closeWrite();
  const lists = await Array.fromAsync(readUntilSettled([pair.client]));
  const rows = lists.map((list) => endOf(list, pair.client)!);
  // The FIN has to wait, but whoever reads the list has not.
  assertMatch(describeRow(rows.at(-1)), /^FIN-WAIT-1, \d+ bytes and its FIN/);
  const kinds = rows.map(({ timer }) => timer?.kind);
  // Where it was moving, it is looked at once more when it has settled.
  const last = kinds.length === 1 ? 0 : kinds.length - 2;
  assertEquals(kinds.indexOf("window probe"), last);
  assertEquals(rows.map(awaitsAnswer).indexOf(false), last);
});
