import { assert, assertEquals, assertRejects } from "@std/assert";
import { removeStaleSocket } from "../../lib/stale_socket.ts";
import { openLibc } from "../../lib/lab/libc_socket.ts";
import { openUnix } from "../../lib/lab/unix_socket.ts";

/** Leaves a file behind, as a process that was killed does. */
function leaveFile(path: string) {
  using libc = openLibc();
  openUnix(libc, "bind", path).close();
}

const exists = (path: string) => Deno.lstat(path).then(() => true, () => false);

Deno.test("removeStaleSocket() removes a file behind which nobody is", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/a.sock`;
  const unix = { transport: "unix", path } as const;
  await removeStaleSocket(path); // There is none.
  leaveFile(path);
  assert((await Deno.lstat(path)).isSocket);
  await removeStaleSocket(path);
  assertEquals(await exists(path), false);
  Deno.listen(unix).close();
  await Deno.remove(folder, { recursive: true });
});

Deno.test("removeStaleSocket() leaves what is somebody's", async (t) => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/a.sock`;

  await t.step("a server that listens, also where nobody accepts", async () => {
    using listener = Deno.listen({ transport: "unix", path });
    await removeStaleSocket(path);
    assert(await exists(path));
    using _first = await listener.accept(); // It has seen the question.
    using _conn = await Deno.connect({ transport: "unix", path });
  });

  await t.step("files, folders and links of any other kind", async () => {
    await Deno.writeTextFile(path, "mine");
    await removeStaleSocket(path);
    assertEquals(await Deno.readTextFile(path), "mine");
    await Deno.remove(path);
    await Deno.mkdir(path);
    await removeStaleSocket(path);
    assert((await Deno.lstat(path)).isDirectory);
    await Deno.remove(path);
    leaveFile(`${path}.old`);
    await Deno.symlink(`${path}.old`, path);
    await removeStaleSocket(path);
    assert(await exists(path) && await exists(`${path}.old`));
    await Deno.remove(path);
  });

  await t.step("a socket for datagrams that is open", async () => {
    const options = { transport: "unixpacket", path } as const;
    const socket = Deno.listenDatagram(options);
    await removeStaleSocket(path);
    assert(await exists(path));
    socket.close();
    await removeStaleSocket(path); // And now it is closed.
    assertEquals(await exists(path), false);
  });

  await Deno.remove(folder, { recursive: true });
});

Deno.test("removeStaleSocket() says so if the file cannot be removed", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/a.sock`;
  leaveFile(path);
  const { remove } = Deno;
  Deno.remove = () => Promise.reject(new Deno.errors.PermissionDenied("no"));
  try {
    await assertRejects(
      () => removeStaleSocket(path),
      Deno.errors.PermissionDenied,
    );
  } finally {
    Deno.remove = remove;
  }
  await Deno.remove(folder, { recursive: true });
});
