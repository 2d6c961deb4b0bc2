/** Echo servers for datagrams, each with one mistake: `wrong_udp.ts MISTAKE`. */
import { endWithInput } from "../../bench/servers/end_with_input.ts";

const [mistake] = Deno.args;
const bind = { hostname: "127.0.0.1", port: 0, transport: "udp" as const };
const socket = Deno.listenDatagram(bind);
console.log(`listening on 127.0.0.1:${(socket.addr as Deno.NetAddr).port}`);
endWithInput();

const buffer = new Uint8Array(mistake === "small_buffer" ? 512 : 65_535);
/** A reply may be lost, but not the server. */
const reply = (data: Uint8Array, to: Deno.Addr) =>
  socket.send(data, to).catch(() => {});

/** Where the first client is. */
let first: string | undefined;

while (true) {
  const [data, from] = await socket.receive(buffer);
  if (mistake === "silent") continue;
  if (mistake === "first_only") {
    first ??= JSON.stringify(from);
    if (JSON.stringify(from) !== first) continue;
  }
  if (mistake === "another_port") {
    const other = Deno.listenDatagram(bind);
    await other.send(data, from);
    other.close();
    continue;
  }
  if (mistake === "no_empty" && data.length === 0) continue;
  if (mistake === "no_large" && data.length > 9000) continue;
  if (mistake === "text") {
    await reply(new TextEncoder().encode(new TextDecoder().decode(data)), from);
  } else if (mistake === "one_address" && data[0] === "f".charCodeAt(0)) {
    // Another client comes before this one has its reply.
    const earlier = data.slice();
    const [second, last] = await socket.receive(buffer);
    await reply(earlier, last);
    await reply(second, last);
  } else {
    await reply(data, from);
  }
}
