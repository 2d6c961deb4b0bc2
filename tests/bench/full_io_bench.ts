/**
 * What `readFull` and `writeFull` cost more than one bare call, and than the same
 * loops by hand. Each run of a benchmark is {@linkcode CALLS} calls.
 *
 *     deno bench --allow-net tests/bench/full_io_bench.ts
 */
import { readFull, writeFull } from "../../lib/full_io.ts";

const CALLS = 1000;
const buffer = new Uint8Array(64);

// In memory: nothing but the call and its promise.
const memory = {
  read: (p: Uint8Array): Promise<number | null> => Promise.resolve(p.length),
  write: (p: Uint8Array) => Promise.resolve(p.length),
};

// On loopback: one message there and back.
using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
const conn = await Deno.connect({ port: listener.addr.port });
const peer = await listener.accept();
conn.setNoDelay();
peer.setNoDelay();

async function readByHand(conn: Deno.Conn) {
  for (let filled = 0; filled < buffer.length;) {
    const count = await conn.read(buffer.subarray(filled));
    if (count === null) throw new Error("End of stream");
    filled += count;
  }
}

async function writeByHand(conn: Deno.Conn) {
  for (let written = 0; written < buffer.length;) {
    written += await conn.write(buffer.subarray(written));
  }
}

const benches: [group: string, name: string, call: () => Promise<unknown>][] = [
  ["read in memory", "one bare read", () => memory.read(buffer)],
  ["read in memory", "readFull", () => readFull(memory, buffer)],
  ["write in memory", "one bare write", () => memory.write(buffer)],
  ["write in memory", "writeFull", () => writeFull(memory, buffer)],
  ["there and back on loopback", "by hand", async () => {
    await writeByHand(conn);
    await readByHand(peer);
    await writeByHand(peer);
    await readByHand(conn);
  }],
  ["there and back on loopback", "readFull, writeFull", async () => {
    await writeFull(conn, buffer);
    await readFull(peer, buffer);
    await writeFull(peer, buffer);
    await readFull(conn, buffer);
  }],
];

for (const [group, name, call] of benches) {
  const isInMemory = group.endsWith("memory");
  Deno.bench({
    group,
    name,
    baseline: !name.includes("Full"),
    n: isInMemory ? 200 : 5,
    warmup: isInMemory ? 50 : 2,
    async fn() {
      for (let i = 0; i < CALLS; i++) await call();
    },
  });
}
