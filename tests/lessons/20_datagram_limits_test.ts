import { assert, assertEquals, assertMatch } from "@std/assert";
import { canUnshare, hasProgram, run, tableBehind } from "../testing.ts";

const LESSON = "20_datagram_limits.ts";
const number = (text: string) => Number(text.replaceAll(",", ""));

/**
 * Runs what it wraps in a network of its own, and says at the end, on standard
 * error, what its kernel has counted: nobody else sends anything there.
 */
const inOwnNetwork = (mtu: number) => (command: string[]) => [
  ...["unshare", "-n", "sh", "-c"],
  `ip link set lo up && ip link set lo mtu ${mtu} && "$@"
  code=$?; cat /proc/net/snmp >&2; exit $code`,
  "sh",
  ...command,
];

/** A counter in the kernel's own words. */
function counter(snmp: string, protocol: string, name: string): number {
  const lines = snmp.split("\n").filter((it) => it.startsWith(`${protocol}: `));
  const [names, numbers] = lines.map((line) => line.split(" "));
  return number(numbers[names.indexOf(name)]);
}

/** Checks the tables that are the same wherever the lesson runs. */
async function assertTables(t: Deno.TestContext, stdout: string) {
  await t.step("it has no datagram larger than 65,507 bytes", () => {
    const rows = tableBehind(stdout, "How large may one be?");
    assertEquals(rows.map((row) => row.slice(0, 3)), [
      ["1,472", "sent", "1,472 bytes"],
      ["1,473", "sent", "1,473 bytes"],
      ["65,507", "sent", "65,507 bytes"],
      ["65,508", "EMSGSIZE", "nothing"],
    ]);
    assertEquals(rows[3][4], "EMSGSIZE");
  });

  await t.step("the kernel says who gets what is sent to many", () => {
    const [one, all] = ["from 127.0.0.1", "-"];
    assertEquals(tableBehind(stdout, "Sockets on one port."), [
      ["0.0.0.0", all, one, one],
      ["0.0.0.0, and joined 239.1.2.3", all, one, one],
      ["127.0.0.1", one, all, all],
      ["127.255.255.255", all, one, all],
    ]);
    assertEquals(tableBehind(stdout, "Who may send to 127.255.255.255?"), [
      ["libc, SO_BROADCAST 0", "EACCES"],
      ["libc, SO_BROADCAST 1", "sent"],
      ["Deno, SO_BROADCAST is 1", "sent"],
    ]);
  });

  await t.step("it tells of a refusal only those who ask for it", () => {
    const rows = tableBehind(stdout, "Nobody has the port.");
    assertEquals(rows.slice(0, 4), [
      ["libc", "sent", "EAGAIN", "sent"],
      ["libc, connected", "sent", "ECONNREFUSED", "sent"],
      ["libc, IP_RECVERR", "sent", "ECONNREFUSED", "sent"],
      ["Deno", "sent", "nothing", "sent"],
    ]);
    const [name, first, ...then] = rows[4];
    assertEquals([name, first], ["Deno, IP_RECVERR", "sent"]);
    assert(then.includes("ECONNREFUSED"), then.join());
  });
}

Deno.test("20 demo in a network of its own: each lost datagram is counted", {
  ignore: !await canUnshare(),
}, async (t) => {
  const { code, stdout, stderr } = await run(LESSON, [], {
    wrapper: inOwnNetwork(1500),
  });
  assertEquals(code, 0, stderr);
  await assertTables(t, stdout);

  const bursts = tableBehind(stdout, "20,000 datagrams of 1,000 bytes")
    .map((row) => row.map(number));
  const waiting = tableBehind(stdout, "How many wait in a receive buffer");

  await t.step("what is missing is what the kernel threw away", () => {
    assertEquals(bursts.map((row) => row[0]), [20_000, 50]);
    for (const [, sent, echoes, missing, lost] of bursts) {
      assertEquals([sent, missing], [20_000, sent - echoes]);
      assertEquals(lost, missing);
    }
    assert(bursts[0][3] > 0, "a burst is lost in part");
    const [, got, held] = waiting[0];
    // Each may need more room at the server than the buffer has for 50.
    if (number(held) >= 50) assertEquals(bursts[1][3], 0, `buffer ${got}`);
    for (const [, , held, , lost] of waiting) {
      assertEquals(number(held) + number(lost), 20_000);
    }
  });

  await t.step("and a larger buffer holds more", () => {
    const sizes = waiting.map((row) => number(row[1]));
    const held = waiting.map((row) => number(row[2]));
    for (const [i, size] of sizes.entries()) {
      assert(i === 0 || held[i] >= held[i - 1] || size < sizes[i - 1]);
      assert(held[i] * 1000 <= size, `${held[i]} in ${size}`);
    }
  });

  await t.step("the kernel's own sum is the sum of the tables", () => {
    const lost = [
      ...bursts.map((row) => row[4]),
      ...waiting.map((row) => number(row[4])),
    ];
    const sum = lost.reduce((sum, it) => sum + it);
    assertEquals(counter(stderr, "Udp", "RcvbufErrors"), sum);
  });

  await t.step("a packet has 1,500 bytes, and a datagram is cut", () => {
    const rows = tableBehind(stdout, "How large may one be?");
    const fragments = rows.map((row) => number(row[3]));
    // 1,480 bytes each, and UDP's header has 8.
    const expected = [1472, 1473, 65507].map((it) =>
      Math.ceil((it + 8) / 1480)
    );
    assertEquals(fragments, [0, ...expected.slice(1), 0]);
    assertEquals(
      counter(stderr, "Ip", "FragCreates"),
      fragments.reduce((sum, it) => sum + it),
    );
    assertEquals(rows.map((row) => row[4]), [
      "sent",
      ...["EMSGSIZE", "EMSGSIZE", "EMSGSIZE"],
    ]);
    assertEquals(tableBehind(stdout, "How large may a packet be on the way?"), [
      ["127.0.0.1", "1,500"],
      ["192.0.2.1", "ENETUNREACH"], // It has loopback, and nothing else.
    ]);
  });
});

Deno.test("20 demo on this host", async (t) => {
  const args = ["--count=2000", "--window=20"];
  const { code, stdout, stderr } = await run(LESSON, args);
  assertEquals([code, stderr], [0, ""]);
  await assertTables(t, stdout);

  await t.step("it counts what it was told to", () => {
    const bursts = tableBehind(stdout, "2,000 datagrams of 1,000 bytes")
      .map((row) => row.map(number));
    assertEquals(bursts.map((row) => row[0]), [2000, 20]);
    for (const [, sent, echoes, missing, lost] of bursts) {
      assertEquals(missing, sent - echoes);
      assert(lost >= missing, "the counter is that of the whole host");
    }
    const waiting = tableBehind(stdout, "How many wait in a receive buffer");
    assertEquals(waiting.map((row) => row[0]), [
      ...["-", "1,048,576", "1,073,741,824"],
    ]);
  });

  await t.step("loopback's packets are as large as Linux has them", () => {
    const [own] = tableBehind(stdout, "How large may a packet be on the way?");
    const mtu = number(Deno.readTextFileSync("/sys/class/net/lo/mtu"));
    assertEquals(own, ["127.0.0.1", Math.min(mtu, 65535).toLocaleString("en")]);
  });
});

/** The same questions, asked by Python's sockets. */
const IN_PYTHON = `
import socket, select
def udp(host, port=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    return s
first = udp("0.0.0.0")
port = first.getsockname()[1]
member = udp("0.0.0.0", port)
member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
    socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1"))
all = [first, member, udp("127.0.0.1", port), udp("127.255.255.255", port)]
asker = udp("127.0.0.1")
asker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for to in ["127.0.0.1", "127.255.255.255", "239.1.2.3"]:
    asker.sendto(b"", (to, port))
    got = []
    for s in all:
        while select.select([s], [], [], 0.1)[0]:
            s.sendto(b"x", s.recvfrom(9)[1])
            got.append(asker.recvfrom(9)[1][0])
            break
        else: got.append("-")
    print(*got)
gone = udp("127.0.0.1"); port = gone.getsockname()[1]; gone.close()
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
c.connect(("127.0.0.1", port))
c.send(b"")
try: c.recv(1)
except OSError as e: print(type(e).__name__)
try: c.send(bytes(65508))
except OSError as e: print(e.errno)
`;

Deno.test("20 Python's sockets say the same", {
  ignore: !await hasProgram("python3"),
}, async () => {
  const command = new Deno.Command("python3", { args: ["-c", IN_PYTHON] });
  const { stdout, stderr } = await command.output();
  assertMatch(new TextDecoder().decode(stderr), /^$/);
  assertEquals(new TextDecoder().decode(stdout).trim().split("\n"), [
    "- - 127.0.0.1 -",
    "127.0.0.1 127.0.0.1 - 127.0.0.1",
    "127.0.0.1 127.0.0.1 - -",
    "ConnectionRefusedError",
    "90",
  ]);
});
