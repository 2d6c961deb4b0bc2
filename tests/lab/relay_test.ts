import { assert, assertEquals, assertThrows } from "@std/assert";
import { withDeadline } from "../../lib/deadline.ts";
import { Relay, type RelayOptions } from "../../lib/lab/relay.ts";
import { replaced, until } from "../testing.ts";

const bind = { hostname: "127.0.0.1", port: 0, transport: "udp" } as const;

/** Sends numbers through a relay; the server sends back what has come to it. */
async function exchange(count: number, options: RelayOptions) {
  const [client, server] = [bind, bind].map((it) => Deno.listenDatagram(it));
  const relay = new Relay(server.addr as Deno.NetAddr, options);
  let sender: Deno.Addr;
  const collect = async (socket: Deno.DatagramConn, came: number[]) => {
    for await (const [data, from] of socket) {
      came.push(data[0]);
      sender = from;
    }
  };
  const atServer: number[] = [];
  const atClient: number[] = [];
  const collecting = [collect(server, atServer), collect(client, atClient)];

  for (let i = 0; i < count; i++) {
    await client.send(new Uint8Array([i]), relay.address);
  }
  await until(() => relay.lost + relay.passed === count);
  await until(() => atServer.length === relay.passed + relay.doubled);
  const all = count + atServer.length;
  for (const it of atServer) await server.send(new Uint8Array([it]), sender!);
  await until(() => relay.lost + relay.passed === all);
  const sent = relay.passed + relay.doubled;
  await until(() => atServer.length + atClient.length === sent);

  await relay.close();
  for (const it of [client, server]) it.close();
  await Promise.all(collecting);
  const { lost, passed, doubled } = relay;
  return { atServer, atClient, lost, passed, doubled };
}

const sorted = (numbers: number[]) => numbers.toSorted((a, b) => a - b);

Deno.test("Relay passes all on in both directions, if it need not lose any", async () => {
  const { atServer, atClient, ...counts } = await exchange(30, { loss: 0 });
  const all = Array.from({ length: 30 }, (_, i) => i);
  assertEquals(sorted(atServer), all);
  assertEquals(sorted(atClient), all);
  assert(atServer.some((it, i) => it !== i), "None overtook another.");
  assertEquals(counts, { lost: 0, passed: 60, doubled: 0 });
});

Deno.test("Relay passes none on, if it must lose all", async () => {
  assertEquals(
    await exchange(5, { loss: 100 }),
    { atServer: [], atClient: [], lost: 5, passed: 0, doubled: 0 },
  );
});

Deno.test("Relay counts what it loses and doubles, and does the same again", async () => {
  const options = { loss: 40, seed: 5 };
  const once = await exchange(50, options);
  const { lost, passed, doubled, atServer, atClient } = once;
  assertEquals(atServer.length + atClient.length, passed + doubled);
  assert(lost > 10 && doubled > 5, `${lost} ${doubled}`);

  const again = await exchange(50, options);
  assertEquals(sorted(again.atServer), sorted(atServer));
  assertEquals(sorted(again.atClient), sorted(atClient));
  const other = await exchange(50, { ...options, seed: 6 });
  assert(`${sorted(other.atServer)}` !== `${sorted(atServer)}`);
});

Deno.test("Relay gives the same bytes another chance each time", async () => {
  const [client, server] = [bind, bind].map((it) => Deno.listenDatagram(it));
  const relay = new Relay(server.addr as Deno.NetAddr, {
    loss: 60,
    delay: 100,
  });
  const data = new Uint8Array([1]);
  await until(async () => {
    await client.send(data, relay.address);
    return relay.passed > 0 && relay.lost > 0;
  });
  await relay.close(); // What it held back is passed on before.
  const [received] = await withDeadline(server.receive(), 5000);
  assertEquals(received, data);
  client.close();
  server.close();
});

Deno.test("Relay has nobody for an answer that comes before a request", async () => {
  const [client, server] = [bind, bind].map((it) => Deno.listenDatagram(it));
  const { listenDatagram } = Deno;
  const opened: Deno.DatagramConn[] = [];
  Deno.listenDatagram = ((options: never) => {
    opened.push(listenDatagram(options));
    return opened.at(-1);
  }) as never;
  const relay = new Relay(server.addr as Deno.NetAddr, { loss: 0 });
  Deno.listenDatagram = listenDatagram;
  const { port } = opened[1].addr as Deno.NetAddr;
  await server.send(new Uint8Array([1]), { ...bind, port });
  await client.send(new Uint8Array([2]), relay.address);
  const [request, from] = await server.receive();
  await server.send(request, from);
  assertEquals((await client.receive())[0], new Uint8Array([2]));
  assertEquals([relay.passed, relay.lost], [2, 0]);
  await relay.close();
  client.close();
  server.close();
});

Deno.test("Relay leaves no socket open if it cannot open both", () => {
  const { listenDatagram } = Deno;
  const opened: Deno.DatagramConn[] = [];
  using _ = replaced(Deno, "listenDatagram", (options: typeof bind) => {
    if (opened.length === 1) throw new Error("EMFILE");
    opened.push(listenDatagram(options));
    return opened[0];
  });
  assertThrows(() => new Relay({ ...bind, port: 1 }), Error, "EMFILE");
  assertThrows(() => opened[0].close(), Deno.errors.BadResource);
});
