/**
 * @title Unix sockets: a file's name for an address
 * @difficulty intermediate
 * @tags unix, server, client, SO_PEERCRED, unixpacket, libc
 * @run deno run --allow-net --allow-read --allow-write --allow-ffi --allow-run=deno --unstable-net lessons/21_unix_sockets.ts
 * @run deno run --allow-net --allow-read --allow-write lessons/21_unix_sockets.ts server
 * @run deno run --allow-net --allow-read --allow-write lessons/21_unix_sockets.ts client
 * @resource {https://man7.org/linux/man-pages/man7/unix.7.html} unix(7)
 * @see 02_tcp_echo.ts
 * @see README.md, "21 Unix sockets"
 *
 * Lesson 02's echo between programs of one host. The server's address is a path
 * here, at which the kernel makes a file. Nothing else changes, because a stream
 * is a stream: `diff -I '^ \*'` of both lessons shows how little it is, up to
 * `demo()`.
 *
 * But a file stays when its server is gone, and no other server can listen there
 * then. So `server()` first removes a file behind which nobody answers. And a
 * file has an owner and a mode: look who may connect in `whoMayConnect()`, and in
 * `whoIsThere()` how each end can ask the kernel who the other one is. The last
 * two tables compare: the stream with TCP, and datagrams with UDP.
 *
 * @module
 */

import { announcePath } from "../lib/address.ts";
import { askLines } from "../lib/ask_lines.ts";
import { isConnectionLost } from "../lib/connection_lost.ts";
import { encode } from "../lib/encode.ts";
import { outcomeOf } from "../lib/error_text.ts";
import { readExactly, writeFull, type Writer } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { forkServer } from "../lib/harness/child.ts";
import { common, type Io } from "../lib/harness/command_line.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  type Libc,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import {
  libcRoundTrips,
  roundTrips,
  throughput,
} from "../lib/lab/pair_speed.ts";
import { connectPair } from "../lib/lab/tcp_pair.ts";
import {
  asUser,
  fileUser,
  openUnix,
  peerCredentials,
  unixDescriptorOf,
} from "../lib/lab/unix_socket.ts";
import { removeStaleSocket } from "../lib/stale_socket.ts";
import { needUnstableNet } from "../lib/unstable_net.ts";

const stdout: Writer = Deno.stdout;

/** Echoes one client after the other; 0 `connections` means no limit. */
export async function server({
  path = "/tmp/echo.sock",
  connections = 0,
  onListen = announcePath,
} = {}) {
  await removeStaleSocket(path); // An older server may have left it behind.
  using listener = Deno.listen({ transport: "unix", path });
  onListen(listener.addr);

  const buffer = new Uint8Array(16 * 1024);
  for (let i = 0; connections === 0 || i < connections; i++) {
    try {
      using conn = await listener.accept();
      while (true) {
        const count = await conn.read(buffer);
        if (count === null) break; // The client has closed its side.
        await writeFull(conn, buffer.subarray(0, count));
      }
    } catch (error) {
      // A client's reset ends that client, and not the server.
      if (!isConnectionLost(error)) throw error;
    }
  }
}

/** Sends line after line, and waits for the echo of each. */
export async function client({
  path = "/tmp/echo.sock",
  lines = askLines("Input message(Q to quit):"),
  output = stdout,
} = {}) {
  using conn = await Deno.connect({ transport: "unix", path });
  for await (const line of lines) {
    // Write and read at once: an echo server stops reading when nobody takes
    // its echo, and then this side's write would wait for ever.
    const [, echo] = await Promise.all([
      writeFull(conn, line),
      readExactly(conn, new Uint8Array(line.length)),
    ]);
    await writeFull(output, encode("from server "));
    await writeFull(output, echo);
    if (echo.at(-1) !== 0x0a) await writeFull(output, encode("\n"));
  }
}

/** Starts the server as a process of its own, and asks one question at a time. */
export async function demo(
  { connections, ask, ...io }:
    & { connections: number; ask: boolean }
    & Io,
) {
  needUnstableNet();
  const { output, print } = io;
  using libc = openLibc();
  const folder = await Deno.makeTempDir();
  const path = `${folder}/echo.sock`;
  const forked = {
    ...io,
    url: import.meta.url,
    args: { path, connections },
    flags: ["--allow-read", "--allow-write"],
  };
  try {
    await forkServer(forked, async () => {
      for (let i = 0; i < connections; i++) {
        const lines = ask ? undefined : BUILT_IN[i % 2]!.map(encode);
        await client({ path, lines, output });
        await print("client done!!");
      }
    });

    print("\nThe file that the server is reached at. What is there, after...");
    print(formatTable(
      ["after", "file", "connect", "Deno.listen", "removeStaleSocket first"],
      await filesLeft(libc, path, { ...forked, relay() {} }),
    ));
    print(`\nWho is at the other end? (This process is ${Deno.pid}.)`);
    print(formatTable(
      ["asked at", "the other end", "pid", "uid", "gid"],
      await whoIsThere(libc, path, { ...forked, relay() {} }),
    ));
    print("\nWho may connect?");
    print(await whoMayConnect(libc, folder));
    print("\nHow fast is it, by TCP on 127.0.0.1 and by a Unix socket?");
    print(formatTable(
      ["a second", "TCP", "Unix", "Unix/TCP"],
      await compareSpeed(libc, path),
    ));
    print('\nDatagrams: Deno.listenDatagram({ transport: "unixpacket", ... })');
    print(formatTable(["asked", "answer"], await datagrams(libc, folder)));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const BUILT_IN = [["hello\n", "你好\n"], ["the second client\n", "goes on\n"]];

const MIB = 1024 * 1024;
/** How many datagrams are sent to somebody who does not read. */
const MANY = 1000;
/** How long we wait for nothing more to happen, in milliseconds. */
const PATIENCE = 200;
/** How long a round of a comparison takes, in milliseconds. */
const ROUND = 50;
/** Two users who are not root. There need not be an account for them. */
const [OWNER, OTHER] = [65533, 65534];

type Forked = Parameters<typeof forkServer>[0];

/** Ends servers in several ways, and looks at what they leave. */
async function filesLeft(libc: Libc, path: string, forked: Forked) {
  const unix = { transport: "unix", path } as const;
  const rows: string[][] = [];
  const look = async (after: string) => {
    const isThere = await Deno.lstat(path).then(() => "yes", () => "no");
    const connect = await outcomeOf(async () => {
      using _conn = await Deno.connect(unix);
      return "connected";
    });
    const listen = () => {
      using _listener = Deno.listen(unix);
      return "listens";
    };
    const first = await outcomeOf(listen);
    await removeStaleSocket(path);
    rows.push([after, isThere, connect, first, await outcomeOf(listen)]);
  };
  const listener = Deno.listen(unix);
  await look("a server listens");
  listener.close();
  await look("it has closed its listener");
  await forkServer(forked, (_, stop) => stop());
  await look("a server was ended from outside");
  openUnix(libc, "bind", path).close();
  await look("a program in C has closed it");
  return rows;
}

/** Asks the kernel at both ends: at a child's client, and at a server here. */
async function whoIsThere(libc: Libc, path: string, forked: Forked) {
  const unix = { transport: "unix", path } as const;
  const rows: (string | number)[][] = [];
  const ask = (at: string, other: string, conn: Deno.UnixConn) => {
    const { pid, uid, gid } = peerCredentials(libc, conn);
    rows.push([at, other, pid, uid, gid]);
  };
  await forkServer(forked, async (_, stop) => {
    using conn = await Deno.connect(unix);
    ask("the client", "a server that is another process", conn);
    stop();
  });
  await removeStaleSocket(path);
  using listener = Deno.listen(unix);
  using _client = await Deno.connect(unix);
  using conn = await listener.accept();
  ask("the server", "a client in this process", conn);
  return rows;
}

/** Connects as several users; only root can be others than it is. */
async function whoMayConnect(libc: Libc, folder: string) {
  const home = `${folder}/home`;
  const path = `${home}/echo.sock`;
  await Deno.mkdir(home);
  await Deno.chmod(folder, 0o755);
  using _listener = Deno.listen({ transport: "unix", path });
  const own = fileUser(libc);
  const users = own === 0 ? [OWNER, OTHER, own] : [own];
  if (own === 0) {
    for (const it of [home, path]) await Deno.chown(it, OWNER, OWNER);
  }
  const modeOf = async (path: string) =>
    ((await Deno.stat(path)).mode! & 0o777).toString(8).padStart(4, "0");
  const rows: string[][] = [];
  for (
    const [mode, homeMode] of [
      [undefined, 0o755], // As Deno.listen has made it.
      [0o777, 0o755],
      [0o600, 0o755],
      [0o400, 0o755],
      [0o777, 0o700],
    ] as const
  ) {
    if (mode !== undefined) await Deno.chmod(path, mode);
    await Deno.chmod(home, homeMode);
    const row = [await modeOf(path), await modeOf(home)];
    for (const uid of users) {
      const connect = () => openUnix(libc, "connect", path).close();
      const refusal = await outcomeOf(() => asUser(libc, uid, connect));
      row.push(refusal ?? "connected");
    }
    rows.push(row);
  }
  const names = ["its owner", "another user", "root"];
  const columns = users.map((uid, i) => `${names[i]} (uid ${uid})`);
  return formatTable(["file's mode", "folder's mode", ...columns], rows);
}

/** How fast both are, in Deno and by nothing but the kernel's calls. */
async function compareSpeed(libc: Libc, path: string) {
  await removeStaleSocket(path);
  using listener = Deno.listen({ transport: "unix", path });
  using client = await Deno.connect({ transport: "unix", path });
  using server = await listener.accept();
  using tcp = await connectPair();

  using bare = openUnix(libc, "bind", `${path}.bare`);
  bare.listen(1);
  using bareClient = openUnix(libc, "connect", `${path}.bare`);
  using bareServer = bare.accept();
  using bareTcp = libc.socket(SOCK_STREAM);
  bareTcp.bind({ hostname: "127.0.0.1", port: 0 });
  bareTcp.listen(1);
  using bareTcpClient = libc.socket(SOCK_STREAM);
  bareTcpClient.connect(bareTcp.getsockname());
  using bareTcpServer = bareTcp.accept();

  const cases = {
    "round trips in Deno": [
      () => roundTrips(tcp.client, tcp.server, ROUND),
      () => roundTrips(client, server, ROUND),
    ],
    "round trips by C's calls": [
      () => libcRoundTrips(libc, bareTcpClient, bareTcpServer, ROUND),
      () => libcRoundTrips(libc, bareClient, bareServer, ROUND),
    ],
    "MiB one way in Deno": [
      () => throughput(tcp.client, tcp.server, ROUND),
      () => throughput(client, server, ROUND),
    ],
  };
  const rows: string[][] = [];
  for (const [what, measures] of Object.entries(cases)) {
    const best = [0, 0] as [tcp: number, unix: number];
    for (let round = 0; round < 8; round++) { // In turn: others work here too.
      for (const [i, measure] of measures.entries()) {
        best[i] = Math.max(best[i]!, await measure());
      }
    }
    const numbers = best.map((it) => grouped(Math.round(it)));
    rows.push([what, ...numbers, (best[1] / best[0]).toFixed(2)]);
  }
  return rows;
}

/** What Deno's "unixpacket" is, and what becomes of what it sends. */
async function datagrams(libc: Libc, folder: string) {
  const open = (name: string) => {
    const path = `${folder}/${name}.sock`;
    return Deno.listenDatagram({ transport: "unixpacket", path });
  };
  const [sender, receiver] = [open("sender"), open("receiver")];
  const to = receiver.addr;
  const send = (size: number) => sender.send(new Uint8Array(size), to);
  const rows: string[][] = [];

  const type = unixDescriptorOf(libc, sender).getsockopt("SO_TYPE");
  rows.push(["its SO_TYPE", type === SOCK_DGRAM ? "SOCK_DGRAM" : `${type}`]);

  let sent = 0;
  const sending = (async () => {
    while (sent < MANY) sent += await send(1000) / 1000;
  })();
  await new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const before = grouped(sent);
  let came = 0;
  while (came < MANY) came += (await receiver.receive())[0].length / 1000;
  await sending;
  rows.push([`of ${grouped(MANY)} sent at once, nobody reads`, before]);
  rows.push(["then somebody reads: that came", grouped(came)]);

  let [most, tooMuch] = [0, 4 * MIB];
  while (tooMuch - most > 1) {
    const size = (most + tooMuch) >> 1;
    const error = await outcomeOf(async () => void await send(size));
    if (error === undefined) await receiver.receive();
    if (error === undefined) most = size;
    else tooMuch = size;
  }
  rows.push(["the largest one, in bytes", grouped(most)]);
  await send(most);
  const [cut] = await receiver.receive();
  rows.push(["receive() has of it", grouped(cut.length)]);
  await send(most);
  const [whole] = await receiver.receive(new Uint8Array(4 * MIB));
  rows.push(["receive(buffer) has of it", grouped(whole.length)]);

  receiver.close();
  const { path } = to as Deno.UnixAddr;
  const isThere = await Deno.lstat(path).then(() => "stays", () => "is gone");
  rows.push(["its file, after close()", isThere]);
  rows.push(["a datagram to it", `${await outcomeOf(() => send(1))}`]);
  sender.close();
  return rows;
}

if (import.meta.main) {
  const path = { default: "/tmp/echo.sock", help: "the server's path" };
  const connections = { default: 0, help: "how many to serve, 0: no limit" };
  const clients = { default: 2, min: 1, help: "how many clients, in turn" };
  const ask = { default: false, help: "send what you type, up to q or Q" };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, clients in turn, and one table a question",
      options: { connections: clients, ask },
      show: "table",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes what clients send, one client at a time",
      options: { path, child: common.server.child, connections },
      show: "trace",
      run: server,
    },
    client: {
      help: "sends the lines of standard input, up to q or Q",
      options: { path },
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
