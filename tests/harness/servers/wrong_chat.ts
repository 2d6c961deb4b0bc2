/** Chat servers, each with one mistake: `wrong_chat.ts MISTAKE`. */
import { writeFull } from "../../../lib/full_io.ts";
import { LineTooLongError, readLines } from "../../../lib/lines.ts";
import { SendQueue } from "../../../lib/send_queue.ts";
import { endWithInput } from "../../bench/servers/end_with_input.ts";

const [mistake] = Deno.args;
const is = (name: string) => mistake === name;
const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening on 127.0.0.1:${listener.addr.port}`);
endWithInput();

interface Member {
  conn: Deno.TcpConn;
  queue: SendQueue;
  name?: string;
}
const members = new Set<Member>();

/** What each of them is to get. A promise, where somebody waits for it. */
function send({ conn, queue }: Member, text: string): unknown {
  const line = new TextEncoder().encode(`${text}\n`);
  if (is("await_each")) return writeFull(conn, line).catch(() => {});
  if (is("forgets")) writeFull(conn, line).catch(() => {});
  else queue.send(line);
}

async function tell(from: Member, text: string, alsoBack = false) {
  for (const it of members) {
    if (it === from && !alsoBack) continue;
    const isSaid = text.startsWith("[") && is("tells_nameless");
    if (it.name !== undefined || isSaid) await send(it, text);
  }
}

const namesBut = (own?: string) =>
  [...members].map(({ name }) => name).filter((it) => it && it !== own);

/** Line by line, or as the reads have brought them. */
async function* messages(conn: Deno.TcpConn) {
  const decoder = new TextDecoder();
  if (!is("reads_are_lines")) {
    const maxLength = is("short_lines") ? 256 : 4096;
    for await (const line of readLines(conn, { maxLength })) {
      yield decoder.decode(line).trimEnd();
    }
    return;
  }
  const buffer = new Uint8Array(4096);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    yield decoder.decode(buffer.subarray(0, count)).trimEnd();
  }
}

async function chat(conn: Deno.TcpConn) {
  const member: Member = { conn, queue: new SendQueue(conn) };
  member.queue.lost.catch(() => conn[Symbol.dispose]());
  conn.setNoDelay();
  members.add(member);
  try {
    await send(member, "who are you?");
    const lines = messages(conn);
    const name = (await lines.next()).value || undefined;
    if (!/^\w{1,32}$/.test(name ?? "") && !is("any_name")) return;
    if (is("lists_self")) member.name = name;
    await send(member, `* here: ${namesBut(is("lists_self") ? "" : name)}`);
    member.name = name;
    await tell(member, `* ${name} came`, is("tells_arrival_back"));
    for await (const line of lines) {
      await tell(member, `[${name}] ${line}`, is("echoes"));
    }
  } catch (error) {
    const isReset = error instanceof Deno.errors.ConnectionReset;
    if (isReset && is("reset_ends_it")) Deno.exit();
    if (error instanceof LineTooLongError) await send(member, "* too long");
  } finally {
    if (!is("keeps_names")) members.delete(member);
    if (member.name !== undefined) await tell(member, `* ${member.name} left`);
    conn[Symbol.dispose]();
  }
}

while (true) {
  const conn = await listener.accept();
  if (is("few") && members.size >= 20) conn.close();
  else chat(conn);
}
