/** An echo server of Node's for datagrams, which Deno runs as well. */
import { createSocket } from "node:dgram";
import process from "node:process";

const socket = createSocket("udp4", (data, { port, address }) => {
  socket.send(data, port, address);
});
socket.bind(0, "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${socket.address().port}`);
});
process.stdin.resume().on("end", () => process.exit());
