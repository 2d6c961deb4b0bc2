import { assert, assertEquals, assertMatch } from "@std/assert";
import { client, server } from "../../lessons/21_unix_sockets.ts";
import { readAll, writeAll } from "../peers.ts";
import {
  hasProgram,
  LessonProcess,
  lessonSource,
  returnedCalls,
  run,
  tableBehind,
} from "../testing.ts";

const LESSON = "21_unix_sockets.ts";
const encode = (text: string) => new TextEncoder().encode(text);

/** A folder for sockets, which is removed at the end. */
async function socketFolder() {
  const folder = await Deno.makeTempDir();
  return {
    folder,
    path: `${folder}/echo.sock`,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

const isThere = (path: string) =>
  Deno.lstat(path).then(({ isSocket }) => isSocket, () => false);

/** Starts the lesson's server, and waits until it listens. */
async function startServer(path: string, ...args: string[]) {
  const process = new LessonProcess(LESSON, ["server", path, ...args]);
  await process.stdoutHas(`listening on ${path}\n`);
  return process;
}

/** Sends `data`, ends its side, and returns all that comes back. */
async function exchange(path: string, data: Uint8Array<ArrayBuffer>) {
  using conn = await Deno.connect({ transport: "unix", path });
  const send = async () => {
    await writeAll(conn, data);
    await conn.closeWrite();
  };
  const [reply] = await Promise.all([readAll(conn), send()]);
  return reply;
}

async function assertServes(path: string, text = "still there?\n") {
  const reply = await exchange(path, encode(text));
  assertEquals(new TextDecoder().decode(reply), text);
}

/** Runs a program in Python, for an answer that is not Deno's. */
async function python(script: string, ...args: string[]): Promise<string> {
  const command = new Deno.Command("python3", {
    args: ["-c", script, ...args],
  });
  const { stdout, stderr } = await command.output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

const needsPython = { ignore: !await hasProgram("python3") };

Deno.test("21 demo: lesson 02's exchange, and the kernel's answers", async (t) => {
  await using temp = await socketFolder();
  await Deno.chmod(temp.folder, 0o755); // For the users that the demo plays.
  const env = { TMPDIR: temp.folder };
  const { code, stdout, stderr } = await run(LESSON, [], { env });
  assertEquals([code, stderr], [0, ""]);

  await t.step("two clients have their echoes", () => {
    const spoken = stdout.split("\n\n")[0].split("\n");
    assertMatch(spoken[0], /^listening on .+\/echo\.sock$/);
    assert(spoken[0].includes(temp.folder));
    assertEquals(spoken.slice(1), [
      "from server hello",
      "from server 你好",
      "client done!!",
      "from server the second client",
      "from server goes on",
      "client done!!",
      "server closed",
    ]);
  });

  await t.step("a file stays, unless Deno has closed its listener", () => {
    assertEquals(tableBehind(stdout, "The file that the server"), [
      ["a server listens", "yes", "connected", "EADDRINUSE", "EADDRINUSE"],
      ["it has closed its listener", "no", "ENOENT", "listens", "listens"],
      ...["a server was ended from outside", "a program in C has closed it"]
        .map((after) => [
          after,
          ...["yes", "ECONNREFUSED", "EADDRINUSE", "listens"],
        ]),
    ]);
  });

  await t.step("each end knows the process at the other one", () => {
    const own = stdout.match(/This process is (\d+)/)![1];
    const user = `${Deno.uid()} ${Deno.gid()}`;
    const [other, self] = tableBehind(stdout, "Who is at the other end?");
    assertEquals([self[2], self.slice(3).join(" ")], [own, user]);
    assert(other[2] !== own && Number(other[2]) > 1, stdout);
    assertEquals(other.slice(3).join(" "), user);
  });

  await t.step("a file's mode and its folder's say who may connect", () => {
    const rows = tableBehind(stdout, "Who may connect?");
    const modes = rows.map(([file, folder]) => `${file} ${folder}`);
    assertEquals(modes.slice(1), [
      ...["0777 0755", "0600 0755", "0400 0755", "0777 0700"],
    ]);
    const umask = Deno.umask();
    assertEquals(parseInt(rows[0][0], 8), 0o777 & ~umask);
    const owner = rows.map(([_file, _folder, owner]) => owner);
    if (Deno.uid() !== 0) {
      const may = "connected";
      assertEquals(owner.slice(1), [may, may, "EACCES", may]);
    } else if (rows[0].length > 3) {
      const mayWrite = (mode: string, bits: number) =>
        (parseInt(mode, 8) & bits) !== 0 ? "connected" : "EACCES";
      for (const [file, folder, owner, other, root] of rows) {
        assertEquals(owner, mayWrite(file, 0o200), file);
        const isOpen = (parseInt(folder, 8) & 0o001) !== 0;
        assertEquals(other, isOpen ? mayWrite(file, 0o002) : "EACCES", file);
        assertEquals(root, "connected");
      }
    }
  });

  await t.step("it compares with TCP", () => {
    const rows = tableBehind(stdout, "How fast is it");
    assertEquals(rows.length, 3);
    for (const [what, ...numbers] of rows) {
      const [tcp, unix, ratio] = numbers.map((it) =>
        Number(it.replaceAll(",", ""))
      );
      assert(tcp > 0 && unix > 0, what);
      assert(Math.abs(ratio - unix / tcp) < 0.02, `${what}: ${numbers}`);
    }
  });

  await t.step("datagrams are held back, and none is lost", () => {
    const rows = tableBehind(stdout, "Datagrams:");
    const answer = Object.fromEntries(rows);
    assertEquals(answer["its SO_TYPE"], "SOCK_DGRAM");
    assertEquals(answer["then somebody reads: that came"], "1,000");
    const number = (key: string) => Number(answer[key].replaceAll(",", ""));
    assert(number("of 1,000 sent at once, nobody reads") <= 1000);
    const largest = number("the largest one, in bytes");
    assertEquals(number("receive() has of it"), Math.min(largest, 65507));
    assertEquals(number("receive(buffer) has of it"), largest);
    assertEquals(answer["its file, after close()"], "stays");
    assertEquals(answer["a datagram to it"], "ECONNREFUSED");
  });

  assertEquals([...Deno.readDirSync(temp.folder)], [], "it leaves no file");
});

Deno.test("21 demo --ask: the clients send what is typed, each up to a q", async () => {
  const input = "one\nq\ntwo\nQ\n";
  const { code, stdout, stderr } = await run(LESSON, ["--ask"], { input });
  assertEquals([code, stderr], [0, ""]);
  assertEquals(stdout.split("\n\n")[0].split("\n").slice(1), [
    ...["from server one", "client done!!"],
    ...["from server two", "client done!!", "server closed"],
  ]);
});

Deno.test("21 server makes its file, and removes it when it has served", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  await using process = await startServer(path, "--connections=2");
  assert(await isThere(path));
  await assertServes(path, "one");
  await assertServes(path, "");
  const { code, stdout, stderr } = await process.result();
  assertEquals([code, stdout], [
    0,
    `listening on ${path}\nserver closed\n`,
  ]);
  assertEquals(await isThere(path), false);
  const calls = returnedCalls(stderr).trimEnd().split("\n")
    .map((line) => line.match(/:server (.+)$/)![1]);
  assertEquals(calls, [
    `#1 socket, bind, listen ${path}`,
    `#2 accept unix at ${path}`,
    '#2 read 3 bytes "one"',
    '#2 write 3 of 3 bytes "one"',
    "#2 read: end of stream",
    "#2 close",
    `#3 accept unix at ${path}`,
    "#3 read: end of stream",
    "#3 close",
    "#1 close listener",
  ]);
});

Deno.test("21 server that is told to end leaves its file, and the next one cures it", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  for (const signal of ["SIGTERM", "SIGKILL", "SIGINT"] as const) {
    await using process = await startServer(path, "--quiet");
    await assertServes(path);
    process.kill(signal);
    const { code, stdout } = await process.result();
    if (signal !== "SIGKILL") {
      assertEquals(code, 0);
      assert(stdout.endsWith("\nserver closed\n"));
    }
    assert(await isThere(path), signal);
  }
  // Nobody listens there, and a server that does not remove it cannot.
  const asked = await run(LESSON, ["client", path], { input: "hello\n" });
  assertEquals([asked.code, asked.stdout], [1, "client done!!\n"]);
  assertMatch(asked.stderr, /connect \S+: ECONNREFUSED \(/);
  const bound = await run(LESSON, ["server", path], {
    flags: ["--allow-net", `--allow-read=${path}`],
  });
  assertEquals(bound.code, 1);
  assertMatch(bound.stderr, /--allow-write/);
  assert(await isThere(path));
});

Deno.test("21 server takes nothing from a server that lives, or from a file", async () => {
  await using temp = await socketFolder();
  const { path, folder } = temp;
  await using process = await startServer(path, "--quiet");
  const second = await run(LESSON, ["server", path, "--quiet"]);
  assertEquals([second.code, second.stdout], [1, ""]);
  assertEquals(
    second.stderr,
    `21_unix_sockets: listen ${path}: EADDRINUSE (Address already in use): ss -xlp says who has it, or whether the file was only left behind\n`,
  );
  await assertServes(path);
  process.kill("SIGKILL");

  const file = `${folder}/notes.txt`;
  await Deno.writeTextFile(file, "mine");
  const third = await run(LESSON, ["server", file, "--quiet"]);
  assertEquals(third.code, 1);
  assertMatch(third.stderr, /listen \S+: EADDRINUSE \(/);
  assertEquals(await Deno.readTextFile(file), "mine");
});

Deno.test("21 server survives clients that leave, or do not read", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  await using process = await startServer(path);
  for (let i = 0; i < 3; i++) {
    (await Deno.connect({ transport: "unix", path })).close();
    // It closes with an echo that it has not read: that is a reset.
    const deaf = await Deno.connect({ transport: "unix", path });
    await deaf.write(new Uint8Array(1000));
    await process.traceHas(RegExp(`(write 1000 of[^]*){${i + 1}}`));
    deaf.close();
    // And one in the middle of a write.
    const full = await Deno.connect({ transport: "unix", path });
    const writing = writeAll(full, new Uint8Array(1 << 22)).catch(() => {});
    await full.read(new Uint8Array(1));
    full.close();
    await writing;
    await assertServes(path);
  }
  process.kill("SIGTERM");
  const { code, stderr } = await process.result();
  assertEquals(code, 0);
  assertMatch(returnedCalls(stderr), /:server #\d+ \w+: (ECONNRESET|EPIPE) \(/);
});

Deno.test("21 client sends bytes as they are, and a line of 8 MiB", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  await using process = await startServer(path, "--quiet");
  const line = new Uint8Array(8 << 20);
  for (let i = 0; i < line.length; i++) line[i] = 0x20 + (i ^ i >> 9) % 0x5f;
  line[line.length - 1] = 10;
  const noise = Uint8Array.from({ length: 512 }, (_, i) => i);
  for (const input of [line, noise]) {
    const args = ["client", path, "--quiet"];
    const { code, bytes, stderr } = await run(LESSON, args, { input });
    assertEquals([code, stderr], [0, ""]);
    const text = (data: Uint8Array) => new TextDecoder("latin1").decode(data);
    const echo = text(bytes).replaceAll("from server ", "");
    const sent = text(input);
    const newline = sent.endsWith("\n") ? "" : "\n";
    assert(echo === `${sent}${newline}client done!!\n`, "bytes differ");
  }
  process.kill("SIGTERM");
});

Deno.test("21 client says that there is no such file, or no server any more", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  const { code, stdout, stderr } = await run(
    LESSON,
    ["client", path, "--quiet"],
    { input: "hello\n" },
  );
  assertEquals([code, stdout], [1, "client done!!\n"]);
  assertEquals(
    stderr,
    `21_unix_sockets: connect ${path}: ENOENT (No such file or directory): no server has made this file\n`,
  );

  await using process = await startServer(path, "--quiet");
  const args = ["client", path, "--quiet"];
  await using talking = new LessonProcess(LESSON, args);
  await talking.type("hello\n");
  await talking.stdoutHas("from server hello\n");
  process.kill("SIGKILL");
  await process.result();
  await talking.type("anybody?\n");
  const result = await talking.result();
  assertEquals(result.code, 1);
  assertMatch(
    result.stderr,
    /^21_unix_sockets: (read|write|Unexpected end of).+\n$/,
  );
});

Deno.test("21 server and client: these permissions, and no others", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  const flags = [
    `--allow-net=unix:${path}`,
    `--allow-read=${path}`,
    `--allow-write=${path}`,
  ];
  await using process = new LessonProcess(LESSON, ["server", path], { flags });
  await process.stdoutHas(`listening on ${path}\n`);
  const all = await run(LESSON, ["client", path], { flags, input: "hello\n" });
  assertEquals([all.code, all.stdout], [
    0,
    "from server hello\nclient done!!\n",
  ]);
  for (const missing of flags) {
    const { code, stderr } = await run(LESSON, ["client", path, "--quiet"], {
      flags: flags.filter((it) => it !== missing),
      input: "hello\n",
    });
    assertEquals(code, 1, missing);
    assert(stderr.includes(missing.split("=")[0]), stderr);
  }
});

Deno.test(
  "21 server talks to Python's sockets, and the client does",
  needsPython,
  async () => {
    await using temp = await socketFolder();
    const { path, folder } = temp;
    await using process = await startServer(path, "--quiet");
    const answer = await python(
      `
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
pid = struct.unpack("iII", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
s.sendall(b"hello\\n")
print(pid, s.recv(64))`,
      path,
    );
    assertEquals(answer, `${process.pid} b'hello\\n'\n`);

    const other = `${folder}/python.sock`;
    const serving = python(
      `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1] + ".tmp")
s.listen(1)
import os; os.rename(sys.argv[1] + ".tmp", sys.argv[1])
c = s.accept()[0]
while (data := c.recv(1024)): c.sendall(data)`,
      other,
    );
    while (!await isThere(other)) await new Promise((it) => setTimeout(it, 10));
    const { stdout } = await run(LESSON, ["client", other, "--quiet"], {
      input: "to Python\n",
    });
    assertEquals(stdout, "from server to Python\nclient done!!\n");
    assertEquals(await serving, "");
  },
);

Deno.test("21 ss lists the server by its path", {
  ignore: !await hasProgram("ss"),
}, async () => {
  await using temp = await socketFolder();
  await using process = await startServer(temp.path, "--quiet");
  const command = new Deno.Command("ss", { args: ["-Hxlp"] });
  const list = new TextDecoder().decode((await command.output()).stdout);
  const line = list.split("\n").find((it) => it.includes(` ${temp.path} `));
  assertMatch(line ?? list, /^u_str +LISTEN /);
  if (line!.includes("pid=")) assert(line!.includes(`pid=${process.pid},`));
});

Deno.test("21 server() and client() can be called from other code", async () => {
  await using temp = await socketFolder();
  const { path } = temp;
  const ready = Promise.withResolvers<Deno.UnixAddr>();
  const closed = server({ path, connections: 1, onListen: ready.resolve });
  assertEquals((await ready.promise).path, path);
  let written = "";
  const output = {
    write(p: Uint8Array) {
      written += new TextDecoder().decode(p.subarray(0, 3)); // Takes its time.
      return Promise.resolve(Math.min(3, p.length));
    },
  };
  await client({ path, lines: ["a\n", "b"].map(encode), output });
  assertEquals(written, "from server a\nfrom server b\n");
  await closed;
  assertEquals(await isThere(path), false);
});

Deno.test("21 is 02 with a path for an address", () => {
  const linesOf = (lesson: string, name: string) => {
    const source = lessonSource(lesson);
    const start = source.indexOf(`export async function ${name}(`);
    return source.slice(start, source.indexOf("\n}\n", start)).split("\n");
  };
  for (const [name, most] of [["server", 5], ["client", 3]] as const) {
    const [before, after] = ["02_tcp_echo.ts", LESSON]
      .map((lesson) => linesOf(lesson, name));
    const added = after.filter((line) => !before.includes(line));
    assert(added.length <= most - 1, added.join("\n"));
    const removed = before.filter((line) => !after.includes(line));
    assert(removed.length <= most, removed.join("\n"));
    for (const line of removed) {
      assertMatch(line, /hostname|port|backlog|announce/);
    }
  }
});
