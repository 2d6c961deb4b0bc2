/** An echo server of Node's, which Deno runs as well [--no-delay]. */
import { createServer } from "node:net";
import process from "node:process";

const noDelay = process.argv.includes("--no-delay");
const server = createServer({ noDelay }, (socket) => {
  socket.on("error", () => {});
  socket.pipe(socket);
});
server.listen(0, "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
});
process.stdin.resume().on("end", () => process.exit());
