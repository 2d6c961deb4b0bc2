/** The guide's table "From C to Deno" has what strace sees. */
import { assert, assertEquals } from "@std/assert";
import { sectionOf } from "./pages.ts";
import { hasProgram } from "./testing.ts";

/** Makes the calls of the table, each behind a call that marks its place. */
const CALLS = `
  const bind = { hostname: "127.0.0.1", port: 0 };
  const mark = (name) => {
    try { Deno.readTextFileSync("/no such file: " + name); } catch {}
  };
  const byte = () => new Uint8Array(1);
  mark("Deno.listen");
  const listener = Deno.listen(bind);
  mark("Deno.connect");
  const conn = await Deno.connect({ port: listener.addr.port });
  mark("listener.accept");
  const peer = await listener.accept();
  mark("conn.setNoDelay");
  conn.setNoDelay();
  mark("conn.write");
  await conn.write(byte());
  mark("conn.read");
  await peer.read(byte());
  mark("conn.closeWrite");
  await conn.closeWrite();
  mark("conn.close");
  peer.close();
  mark("Deno.listenDatagram");
  const socket = Deno.listenDatagram({ ...bind, transport: "udp" });
  mark("socket.send");
  await socket.send(byte(), socket.addr);
  mark("socket.receive");
  await socket.receive();
  mark("");
  Deno.exit();`;

/** A call of one of these sockets, as the table writes it. */
function callOf(line: string, sockets: Set<string>): string | undefined {
  const [, name, list, result] = line.match(/^(\w+)\((.*)\) += (-?\d+)/) ?? [];
  if (name === undefined) return undefined;
  const args = list.split(", ");
  const isNew = name === "socket" || name === "accept4";
  if (isNew) sockets.add(result);
  const [, how, target] = args;
  const fd = name === "epoll_ctl" ? target : args[0];
  if (!isNew && !sockets.has(fd)) return undefined;
  switch (name) {
    case "fcntl":
      return list.includes("O_NONBLOCK") ? "fcntl(O_NONBLOCK)" : undefined;
    case "epoll_ctl":
      return `epoll_ctl(${how.replace("EPOLL_CTL_", "")})`;
    case "setsockopt":
    case "getsockopt":
      return `${name}(${target})`;
    case "shutdown":
      return `${name}(${how})`;
    case "sendto":
      return `${name}(${list.match(/MSG_\w+/)})`;
    default:
      return name;
  }
}

Deno.test(
  "the table's system calls are those that Deno makes, and all of them",
  {
    ignore: !await hasProgram("strace"),
  },
  async () => {
    const folder = await Deno.makeTempDir();
    await Deno.writeTextFile(`${folder}/calls.ts`, CALLS);
    const command = new Deno.Command("strace", {
      // A file for each thread, so that no call is torn by another one's.
      args: ["-ff", "-e", "trace=network,close,fcntl,epoll_ctl,openat"]
        .concat("-o", `${folder}/trace`, Deno.execPath(), "run", "--no-check")
        .concat("--allow-net", "--allow-read", "--unstable-net")
        .concat(`${folder}/calls.ts`),
      stdout: "null",
      stderr: "null",
    });
    assert((await command.output()).success);
    const traces = [...Deno.readDirSync(folder)]
      .filter(({ name }) => name.startsWith("trace"))
      .map(({ name }) => Deno.readTextFileSync(`${folder}/${name}`));
    await Deno.remove(folder, { recursive: true });
    const trace = traces.find((it) => it.includes("/no such file: "))!;

    const made = new Map<string, string[]>();
    const sockets = new Set<string>();
    let place = "";
    for (const line of trace.split("\n")) {
      const [, mark] = line.match(/"\/no such file: (.*?)"/) ?? [];
      if (mark !== undefined) made.set(place = mark, []);
      const call = made.size > 0 ? callOf(line, sockets) : undefined;
      if (call !== undefined) made.get(place)!.push(call);
    }
    made.delete("");
    const section = sectionOf("lessons/README.md", "From C to Deno");
    const said = new Map(Array.from(
      section.matchAll(/^\| `.*?` +\| `(.*?)` +\| (.*?) +\|$/gm),
      ([, call, calls]) => [call, calls.replaceAll("`", "").split(", ")],
    ));
    assertEquals(made.size, 11);
    for (const [call, calls] of made) assertEquals(said.get(call), calls, call);
  },
);
