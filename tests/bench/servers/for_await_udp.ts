/** An echo server for datagrams as many write it. */
import { endWithInput } from "./end_with_input.ts";

const socket = Deno.listenDatagram({
  hostname: "127.0.0.1",
  port: 0,
  transport: "udp",
});
console.log(`listening on 127.0.0.1:${(socket.addr as Deno.NetAddr).port}`);
endWithInput();
for await (const [data, sender] of socket) await socket.send(data, sender);
