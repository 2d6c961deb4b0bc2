import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { setKeepAliveTimes, setUserTimeout } from "../../lib/lab/keep_alive.ts";
import { descriptorOf, openLibc } from "../../lib/lab/libc_socket.ts";
import { dropIncoming } from "../../lib/lab/packet_loss.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";

Deno.test("setKeepAliveTimes() and setUserTimeout() set what they say", async () => {
  using pair = await connectPair();
  using libc = openLibc();
  const socket = descriptorOf(libc, pair.client);
  assertEquals(socket.getsockopt("SO_KEEPALIVE"), 0);
  setKeepAliveTimes(pair.client, { idle: 7, interval: 3, count: 2 });
  setUserTimeout(pair.client, 1500);
  assertEquals(
    [
      socket.getsockopt("SO_KEEPALIVE"),
      socket.getsockopt("TCP_KEEPIDLE"),
      socket.getsockopt("TCP_KEEPINTVL"),
      socket.getsockopt("TCP_KEEPCNT"),
      socket.getsockopt("TCP_USER_TIMEOUT"),
    ],
    [1, 7, 3, 2, 1500],
  );
  // And of the other end nothing.
  const other = descriptorOf(libc, pair.server);
  assertEquals(other.getsockopt("SO_KEEPALIVE"), 0);
  assertEquals(other.getsockopt("TCP_USER_TIMEOUT"), 0);
});

Deno.test("setKeepAliveTimes(): a read ends when the peer does not answer", async () => {
  using pair = await connectPair();
  setKeepAliveTimes(pair.client, { idle: 1, interval: 1, count: 1 });
  dropIncoming(pair.client);
  const reading = pair.client.read(new Uint8Array(1));
  await assertRejects(() => reading, Deno.errors.TimedOut);
});

Deno.test("setUserTimeout(): so does one after a write that nobody acknowledges", async () => {
  using pair = await connectPair();
  setUserTimeout(pair.client, 500);
  dropIncoming(pair.client);
  await pair.client.write(new Uint8Array(1));
  const reading = pair.client.read(new Uint8Array(1));
  await assertRejects(() => reading, Deno.errors.TimedOut);
});

Deno.test("keepalive functions refuse what they cannot set", async () => {
  using pair = await connectPair();
  const { client } = pair;
  const times = { idle: 1, interval: 1, count: 1 };
  for (const name of ["idle", "interval", "count"]) {
    const set = () => setKeepAliveTimes(client, { ...times, [name]: 1.5 });
    assertThrows(set, RangeError, "1.5");
  }
  assertThrows(() => setUserTimeout(client, NaN), RangeError);
  client.close();
  assertThrows(() => setKeepAliveTimes(client, times), Deno.errors.NotFound);
  assertThrows(() => setUserTimeout(client, 1), Deno.errors.NotFound);
});
