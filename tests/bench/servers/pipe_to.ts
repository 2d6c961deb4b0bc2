/** An echo server in one line: Deno's streams. */
import { endWithInput } from "./end_with_input.ts";

const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening on 127.0.0.1:${listener.addr.port}`);
endWithInput();
for await (const conn of listener) {
  conn.readable.pipeTo(conn.writable).catch(() => {});
}
