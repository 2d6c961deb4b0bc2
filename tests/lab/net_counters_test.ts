import { assert, assertEquals, assertRejects } from "@std/assert";
import { readCounters, risesDuring } from "../../lib/lab/net_counters.ts";

/** A counter, read without lib: the last line that begins so has the numbers. */
function counter(protocol: string, name: string): number {
  const lines = Deno.readTextFileSync("/proc/net/snmp").split("\n")
    .filter((line) => line.startsWith(`${protocol}: `));
  const [names, numbers] = lines.map((line) => line.split(" "));
  return Number(numbers[names.indexOf(name)]);
}

Deno.test("readCounters() has what the kernel has", async () => {
  for (
    const [protocol, name] of [
      ["Udp", "OutDatagrams"],
      ["Udp", "RcvbufErrors"],
      ["Ip", "FragCreates"],
      ["Tcp", "OutSegs"],
    ]
  ) {
    // Others use the network meanwhile, so it lies between two readings.
    const before = counter(protocol, name);
    const read = (await readCounters())[protocol + name];
    const after = counter(protocol, name);
    assert(before <= read && read <= after, `${before} ${read} ${after}`);
  }
});

Deno.test("risesDuring() says what its work has done to them", async () => {
  const socket = Deno.listenDatagram({
    transport: "udp",
    hostname: "127.0.0.1",
    port: 0,
  });
  const names = ["UdpOutDatagrams", "UdpInDatagrams"];
  const before = counter("Udp", "OutDatagrams");
  const [result, sent] = await risesDuring(names, async () => {
    for (let i = 0; i < 7; i++) {
      await socket.send(new Uint8Array(1), socket.addr);
      await socket.receive();
    }
    return "done";
  });
  const all = counter("Udp", "OutDatagrams") - before;
  assertEquals(result, "done");
  assert(sent >= 7 && sent <= all, `${sent} of ${all}`);
  socket.close();
  const failing = () => Promise.reject(new RangeError("mine"));
  await assertRejects(() => risesDuring(names, failing), RangeError, "mine");
});
