/** Servers that echo frames, each with one mistake: `wrong_frames.ts MISTAKE`. */
import {
  type Reader,
  readExactly,
  readFull,
  writeFull,
} from "../../../lib/full_io.ts";
import { endWithInput } from "../../bench/servers/end_with_input.ts";

const [mistake] = Deno.args;
const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening on 127.0.0.1:${listener.addr.port}`);
endWithInput();

/** The first read may bring all, and may not. */
async function readOnce(reader: Reader, buffer: Uint8Array<ArrayBuffer>) {
  return await reader.read(buffer) === null ? null : buffer;
}

async function echo(conn: Deno.TcpConn) {
  const read = mistake === "reads_once" ? readOnce : readFull;
  while (true) {
    const header = await read(conn, new Uint8Array(4));
    if (header === null) break;
    const length = new DataView(header.buffer).getUint32(0);
    if (length === 0 && mistake === "empty_is_end") break;
    if (length > 2 ** 20 && mistake !== "no_limit") break;
    if (length > 2 ** 16 && mistake === "short_frames") break;
    const message = new Uint8Array(Math.min(length, 2 ** 24));
    await (mistake === "reads_once" ? readOnce : readExactly)(conn, message);
    const answer = new Uint8Array(4 + length);
    answer.set(header);
    answer.set(message, 4);
    await writeFull(conn, answer);
    if (mistake === "one_frame") break;
  }
}

while (true) {
  const conn = await listener.accept();
  echo(conn).catch((error) => {
    const isReset = error instanceof Deno.errors.ConnectionReset;
    if (mistake === "reset_ends_it" && isReset) Deno.exit();
    if (mistake === "cut_ends_it" && !isReset) Deno.exit();
  }).finally(() => conn.close());
  if (mistake === "serves_one") {
    listener.close();
    break;
  }
}
