/** An echo server as many write it: a new buffer comes with each chunk. */
import { writeFull } from "../../../lib/full_io.ts";
import { endWithInput } from "./end_with_input.ts";

async function echo(conn: Deno.TcpConn) {
  for await (const chunk of conn.readable) await writeFull(conn, chunk);
}

const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening on 127.0.0.1:${listener.addr.port}`);
endWithInput();
for await (const conn of listener) echo(conn).catch(() => {});
