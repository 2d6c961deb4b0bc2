import { assert, assertEquals, assertThrows } from "@std/assert";
import { LibcError, openLibc, SOCK_DGRAM } from "../../lib/lab/libc_socket.ts";
import {
  asUser,
  fileUser,
  openUnix,
  peerCredentials,
  unixDescriptorOf,
} from "../../lib/lab/unix_socket.ts";
import { hasProgram } from "../testing.ts";

async function socketFolder() {
  const folder = await Deno.makeTempDir();
  return {
    folder,
    path: `${folder}/a.sock`,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

Deno.test("peerCredentials() knows another process, at either end", {
  ignore: !await hasProgram("python3"),
}, async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  using libc = openLibc();
  const start = (script: string) =>
    new Deno.Command("python3", {
      args: ["-c", `import os, socket, sys\n${script}`, path],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
  /** What the other process knows of itself. */
  const ownWords = async (child: Deno.ChildProcess) => {
    await child.stdin.close();
    const words = new TextDecoder().decode((await child.output()).stdout);
    const [pid, uid, gid] = words.trim().split(" ").map(Number);
    return { pid, uid, gid };
  };
  const say = "print(os.getpid(), os.geteuid(), os.getegid())";

  const listener = Deno.listen({ transport: "unix", path });
  const asClient = start(
    `s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
sys.stdin.read(); ${say}`,
  );
  const accepted = await listener.accept();
  const client = peerCredentials(libc, accepted);
  assertEquals(client, await ownWords(asClient));
  // What it was: it has ended meanwhile.
  assertEquals(peerCredentials(libc, accepted), client);
  accepted.close();
  listener.close();

  const asServer = start(
    `s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)
print(end="", flush=True); sys.stdin.read(); ${say}`,
  );
  let conn: Deno.UnixConn | undefined;
  for (let tries = 0; conn === undefined; tries++) {
    try {
      conn = await Deno.connect({ transport: "unix", path });
    } catch (error) {
      if (tries > 1000) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  assertEquals(peerCredentials(libc, conn), await ownWords(asServer));
  conn.close();
});

Deno.test("unixDescriptorOf() tells the ends of a connection apart", async () => {
  await using temp = await socketFolder();
  const { path, folder } = temp;
  using libc = openLibc();
  const otherPath = `${folder}/other.sock`;
  using _listener = Deno.listen({ transport: "unix", path: otherPath });
  using other = await Deno.connect({ transport: "unix", path: otherPath });
  using listener = Deno.listen({ transport: "unix", path });
  using client = await Deno.connect({ transport: "unix", path });
  using server = await listener.accept();
  const grams = Deno.listenDatagram({
    transport: "unixpacket",
    path: `${folder}/b.sock`,
  });
  const found = [client, server, other, grams].map((it) =>
    unixDescriptorOf(libc, it)
  );
  assertEquals(new Set(found.map(({ fd }) => fd)).size, 4);
  for (const { fd } of found) {
    assert(Deno.readLinkSync(`/proc/self/fd/${fd}`).startsWith("socket:"));
  }
  assertEquals(found[3]!.getsockopt("SO_TYPE"), SOCK_DGRAM);
  grams.close();
  assertThrows(() => unixDescriptorOf(libc, grams), Deno.errors.NotFound);
});

Deno.test("openUnix() binds and connects, and leaves its file", async () => {
  await using temp = await socketFolder();
  const { path, folder } = temp;
  using libc = openLibc();
  const fails = (call: "bind" | "connect", path: string, code: string) => {
    const error = assertThrows(() => openUnix(libc, call, path), LibcError);
    assertEquals(error.code, code);
  };
  fails("connect", path, "ENOENT");
  {
    using server = openUnix(libc, "bind", path);
    fails("connect", path, "ECONNREFUSED"); // It does not listen yet.
    server.listen(1);
    using client = openUnix(libc, "connect", path);
    using conn = server.accept();
    libc.call("sendto", client.fd, new Uint8Array([7]), 1, 0, null, 0);
    const buffer = new Uint8Array(4);
    assertEquals(libc.call("recv", conn.fd, buffer, 4, 0), 1);
    assertEquals(buffer[0], 7);
    fails("bind", path, "EADDRINUSE");
  }
  assert((await Deno.lstat(path)).isSocket);
  const long = `${folder}/`.padEnd(107, "x");
  openUnix(libc, "bind", long).close();
  assert((await Deno.lstat(long)).isSocket);
  assertThrows(() => openUnix(libc, "bind", `${long}x`), RangeError, "107");
});

Deno.test("asUser() is another one for files, and only meanwhile", async () => {
  await using temp = await socketFolder();
  const file = `${temp.folder}/mine.txt`;
  await Deno.writeTextFile(file, "mine", { mode: 0o600 });
  await Deno.chmod(temp.folder, 0o755);
  using libc = openLibc();
  const own = fileUser(libc);
  assertEquals(own, Deno.uid());
  /** The kernel's own word: the fourth number is the user for files. */
  const inKernel = () =>
    Number(
      Deno.readTextFileSync("/proc/thread-self/status")
        .match(/^Uid:\s+\d+\s+\d+\s+\d+\s+(\d+)$/m)![1],
    );
  assertEquals(asUser(libc, own!, inKernel), own);
  if (own !== 0) {
    assertThrows(
      () => asUser(libc, own! + 1, () => {}),
      Deno.errors.PermissionDenied,
    );
    return;
  }
  let other: number;
  try {
    other = asUser(libc, 65534, inKernel);
  } catch (error) {
    assert(error instanceof Deno.errors.PermissionDenied);
    return; // In this container there is no such user.
  }
  assertEquals(other, 65534);
  const failing = () =>
    asUser(libc, 65534, () => {
      throw new RangeError("mine");
    });
  assertThrows(failing, RangeError, "mine");
  assertEquals([inKernel(), fileUser(libc)], [0, 0]);
  assertThrows(
    () => asUser(libc, 65534, () => Deno.readTextFileSync(file)),
    Deno.errors.PermissionDenied,
  );
  assertEquals(Deno.readTextFileSync(file), "mine");
});
