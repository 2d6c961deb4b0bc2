/** An echo server on Bun's own sockets. */
/* global Bun */
import process from "node:process";

/** What a client has not taken yet. */
const unsent = new Map();

function write(socket, data) {
  const count = Math.max(socket.write(data), 0);
  if (count === data.length) return true;
  unsent.set(socket, data.slice(count));
  return false;
}

const { port } = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket, data) {
      if (unsent.has(socket)) {
        unsent.set(socket, Buffer.concat([unsent.get(socket), data]));
      } else if (!write(socket, data)) socket.pause();
    },
    drain(socket) {
      const rest = unsent.get(socket);
      unsent.delete(socket);
      if (rest !== undefined && write(socket, rest)) socket.resume();
    },
    close: (socket) => unsent.delete(socket),
    error() {},
  },
});
console.log(`listening on 127.0.0.1:${port}`);
process.stdin.resume().on("end", () => process.exit());
