/**
 * The servers of the tutorial, call by call and mistake by mistake:
 * `tutorial.ts lession63_` and `tutorial.ts server64`.
 */
import { Libc, SOCK_STREAM } from "../../../lib/lab/libc_socket.ts";

const { symbols: { read, write, alarm } } = Deno.dlopen("libc.so.6", {
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  alarm: { parameters: ["u32"], result: "u32" },
});
alarm(120); // Its calls block: whatever becomes of the test, this ends.

const libc = new Libc();
const server = libc.socket(SOCK_STREAM);
server.bind({ hostname: "127.0.0.1", port: 0 });
server.listen(3);
console.log(`listening on 127.0.0.1:${server.getsockname().port}`);

const buffer = new Uint8Array(1024);
/** In a full buffer C's strlen finds no NUL, and goes on behind its end. */
const strlen = () => {
  const length = buffer.indexOf(0);
  return length < 0 ? buffer.length + 1 : length;
};

function lession63_() {
  while (true) {
    buffer.fill(0);
    const client = server.accept();
    read(client.fd, buffer, buffer.length);
    const length = Math.min(strlen(), buffer.length);
    if (write(client.fd, buffer, length) !== strlen()) return;
    client.close();
  }
}

function server64() {
  for (let i = 0; i < 2; i++) {
    buffer.fill(0);
    const client = server.accept();
    let count: number;
    while ((count = read(client.fd, buffer, buffer.length)) > 0) {
      count = write(client.fd, buffer, count);
      if (count !== strlen()) return;
      buffer.fill(0, 0, count);
    }
    if (count <= 0) return; // "read failed!": the client has only closed.
    client.close();
  }
}

if (Deno.args[0] === "server64") server64();
else lession63_();
