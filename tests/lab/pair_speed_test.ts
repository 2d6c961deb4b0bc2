import { assert, assertEquals } from "@std/assert";
import { openLibc } from "../../lib/lab/libc_socket.ts";
import {
  libcRoundTrips,
  roundTrips,
  throughput,
} from "../../lib/lab/pair_speed.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { openUnix } from "../../lib/lab/unix_socket.ts";

/** Counts the bytes that go through an end. */
function counting(end: Deno.Conn) {
  const counted = {
    written: 0,
    calls: 0,
    read: (p: Uint8Array<ArrayBuffer>) => end.read(p),
    async write(p: Uint8Array) {
      counted.calls++;
      const count = await end.write(p);
      counted.written += count;
      return count;
    },
  };
  return counted;
}

/** How long each of the measurements takes at least, in milliseconds. */
const TIME = 20;

Deno.test("roundTrips() and throughput() say how much went through", async () => {
  using pair = await connectPair();
  const [client, server] = [counting(pair.client), counting(pair.server)];
  let start = performance.now();
  const trips = await roundTrips(client, server, TIME);
  let seconds = (performance.now() - start) / 1000;
  assertEquals(client.written % 64, 0);
  assertEquals(server.written, client.written);
  // The clock here began a little earlier, and ended a little later.
  const count = client.written / 64;
  assert(trips >= count / seconds, `${trips}, ${count}`);
  assert(trips <= count / TIME * 1000, `${trips}, ${count}`);

  client.written = server.written = 0;
  start = performance.now();
  const mib = await throughput(client, server, TIME);
  seconds = (performance.now() - start) / 1000;
  const sent = client.written / 1024 / 1024;
  assert(mib >= sent / seconds, `${mib}, ${sent}`);
  assert(mib <= sent / TIME * 1000, `${mib}, ${sent}`);
  assertEquals(server.written, 0);
});

Deno.test("libcRoundTrips() does the same without Deno's sockets", async () => {
  const folder = await Deno.makeTempDir();
  using libc = openLibc();
  using listener = openUnix(libc, "bind", `${folder}/a.sock`);
  listener.listen(1);
  using client = openUnix(libc, "connect", `${folder}/a.sock`);
  using server = listener.accept();
  const start = performance.now();
  assert(libcRoundTrips(libc, client, server, 20) > 1);
  assert(performance.now() - start >= 20);
  await Deno.remove(folder, { recursive: true });
});
