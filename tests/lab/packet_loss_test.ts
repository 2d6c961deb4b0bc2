import { assert, assertEquals, assertThrows } from "@std/assert";
import { descriptorOf, openLibc } from "../../lib/lab/libc_socket.ts";
import { dropIncoming, passIncoming } from "../../lib/lab/packet_loss.ts";
import { connectPair } from "../../lib/lab/tcp_pair.ts";
import { kernelRow, until } from "../testing.ts";

/** How often the kernel sent something again, without the lib. */
const retransmitsOf = (own: number, other: number) =>
  kernelRow(own, other)!.retransmits;

Deno.test("dropIncoming() loses what comes in, passIncoming() lets it in again", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using peer = await listener.accept();
  passIncoming(conn); // Nothing is lost yet: nothing changes.

  dropIncoming(conn);
  await peer.write(new Uint8Array(5));
  let arrived = false;
  const reading = conn.read(new Uint8Array(10)).then((count) => {
    arrived = true;
    return count;
  });
  // The kernel sends it again, and counts that.
  await until(() => retransmitsOf(port, conn.localAddr.port) >= 2);
  assert(!arrived);
  // What is lost is only what comes in.
  assertEquals(await conn.write(new Uint8Array(3)), 3);
  assertEquals(await peer.read(new Uint8Array(10)), 3);

  passIncoming(conn);
  assertEquals(await reading, 5);
  await until(() => retransmitsOf(port, conn.localAddr.port) === 0);
});

Deno.test("dropIncoming() says where it would lose nothing", async () => {
  using pair = await connectPair();
  using libc = openLibc();
  descriptorOf(libc, pair.client).setsockopt("IP_TTL", 255);
  assertThrows(() => dropIncoming(pair.client), Error, "ip_default_ttl is 255");
});
