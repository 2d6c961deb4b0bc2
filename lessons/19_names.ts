/**
 * @title Names: localhost, 127.0.0.1 or ::1, and connecting again
 * @difficulty intermediate
 * @tags tcp, getaddrinfo, localhost, IPv6, EADDRNOTAVAIL, reconnect, backoff, libc
 * @run deno run --allow-net --allow-ffi --allow-run=cat lessons/19_names.ts
 * @resource {https://man7.org/linux/man-pages/man3/getaddrinfo.3.html} getaddrinfo(3)
 * @resource {https://www.rfc-editor.org/rfc/rfc8305} RFC 8305: Happy Eyeballs, one address after the other
 * @see 03_addresses.ts
 * @see README.md, "19 Names"
 *
 * A socket has an address, and no name. The resolver turns a name into
 * addresses, often into several: `localhost` may be ::1, 127.0.0.1, or both in
 * either order. A server takes the first of them, but a client tries all in
 * turn. So a server on `localhost` and a client to 127.0.0.1 may miss each
 * other: `missEachOther()` tries it.
 *
 * A client's own address is the kernel's choice. It depends on whom one talks
 * to, which `ownAddresses()` asks, and sometimes there is none to choose:
 * `noAddress()` shows EADDRNOTAVAIL. The rest is about `lib/reconnect.ts`: a
 * client that loses its server tries again, each time after a longer wait, and
 * by chance not when all others do. Look when it does not try again.
 *
 * @module
 */

import { lookup } from "node:dns/promises";
import { formatAddress } from "../lib/address.ts";
import { connectWithDeadline } from "../lib/conn_deadline.ts";
import { describeError, outcomeOf } from "../lib/error_text.ts";
import { readExactly } from "../lib/full_io.ts";
import { grouped } from "../lib/grouped.ts";
import { runLesson } from "../lib/harness/run_lesson.ts";
import { formatTable } from "../lib/harness/table.ts";
import {
  type Libc,
  openLibc,
  SOCK_DGRAM,
  SOCK_STREAM,
} from "../lib/lab/libc_socket.ts";
import { readAddressTable } from "../lib/lab/address_table.ts";
import { cat } from "../lib/lab/tcp_table.ts";
import { isOwnAddress } from "../lib/own_address.ts";
import { reconnect } from "../lib/reconnect.ts";

const LOOPBACK = "127.0.0.1";
/** Reserved for documentation (RFC 5737): hardly any host has this address. */
const FOREIGN = "203.0.113.1";
/** Nobody may register such a name (RFC 6761). */
const NOWHERE = "nothing.invalid";
/** How long a connection may take here, in milliseconds. */
const PATIENCE = 1000;

/** Asks the resolver and the kernel, and loses a server. */
export async function demo({
  name = "localhost",
  print = console.log,
} = {}): Promise<void> {
  using libc = openLibc();

  print("Which addresses does a name have? The resolver says, in its order:");
  const taken = await answerOf(() => listenAt(name));
  const answers = await addressesOf(name);
  print(formatTable(["name", "addresses", "Deno.listen takes"], [
    [name, answers.join(" ") || "none", taken],
  ]));
  print(`
A name that does not exist, asked for in three ways:`);
  print(formatTable(["call", "code", "message"], await noSuchName()));

  print(`
A server listens at some of these addresses. Which one does a client to
${name} reach?`);
  print(formatTable(
    ["server at", "Deno.connect", "ms", "autoSelectFamily: false"],
    await inTurn(name, answers),
  ));

  const names = [...new Set([name, LOOPBACK, "::1"])];
  print("\nA server's address, a client's, and where they meet:");
  print(formatTable(
    ["server at", ...names.map((it) => `client to ${it}`)],
    await missEachOther(names),
  ));
  print(`
A server at 0.0.0.0 or :: is at every address (lesson 03). A client may name
these too, and means this host:`);
  print(formatTable(["client to", "reaches"], [
    ["0.0.0.0", await answerOf(() => reachServer("0.0.0.0", "0.0.0.0"))],
    ["::", await answerOf(() => reachServer("::", "::"))],
  ]));

  print("\nWhat is my own address? The kernel lists several:");
  print(formatTable(["address", "a server there"], await ownAddresses()));
  print("\nSo it depends on whom one talks to. The kernel chooses:");
  print(formatTable(["to", "from"], [
    [LOOPBACK, await answerOf(() => sourceFor(libc, LOOPBACK))],
    [FOREIGN, await answerOf(() => sourceFor(libc, FOREIGN))],
  ]));

  print("\nWhen does a client have no address?");
  print(formatTable(["call", "answer"], await noAddress(libc)));
  const range = await cat("/proc/sys/net/ipv4/ip_local_port_range");
  const [first, last] = range.trim().split(/\s+/).map(Number);
  print(`
A port is in use only towards one server. This host's clients have the ports
${first} to ${last}, so ${
    grouped(last! - first! + 1)
  } connections to one server's port at most.`);

  print("\nA server goes away and comes back, twice. Its client tries again:");
  print(formatTable(["at ms", "attempt", "then waits ms"], await comeBack()));
  print("\nDoes it help to try again? Five times at most:");
  print(formatTable(
    ["what is wrong", "attempts", "ms", "ends with"],
    await whenItHelps(libc),
  ));
  print("\n50 clients lose their server at once. When do they try again?");
  print(formatTable(["wait", "tried again", "most of them within 10 ms"], [
    ["the same for all", ...await crowd(libc, () => 1)],
    ["by chance", ...await crowd(libc, Math.random)],
  ]));
}

/** A cell: a resolver's error and a deadline have no code, but a text. */
async function answerOf<T>(call: () => T | Promise<T>): Promise<T | string> {
  try {
    return await outcomeOf(call);
  } catch (error) {
    const isOurs = error instanceof Deno.errors.NotCapable;
    if (isOurs || typeof Object(error).code === "string") throw error;
    return textOf(error);
  }
}

/** What Deno puts before a resolver's error. */
const LOOKUP = "failed to lookup address information: ";

/** An error in few words. */
const textOf = (error: unknown) => describeError(error).replace(LOOKUP, "");

/** All addresses of a name, in the resolver's order, as Deno's calls have it. */
async function addressesOf(name: string): Promise<string[]> {
  const all = await lookup(name, { all: true, order: "verbatim" });
  return all.map(({ address }) => address);
}

/** Where a client to `hostname` arrives. */
async function reach(hostname: string, port: number): Promise<string> {
  using conn = await connectWithDeadline({ hostname, port }, PATIENCE);
  return conn.remoteAddr.hostname;
}

/** The same, while a server listens at `server`. */
async function reachServer(server: string, hostname: string): Promise<string> {
  using listener = Deno.listen({ hostname: server, port: 0 });
  return await reach(hostname, listener.addr.port);
}

/** The address at which a server for this name listens. */
function listenAt(hostname: string): string {
  using listener = Deno.listen({ hostname, port: 0 });
  return listener.addr.hostname;
}

/** Asks for a name in each of three ways. */
async function noSuchName(): Promise<string[][]> {
  const calls: [string, () => unknown][] = [
    ["lookup of node:dns", () => addressesOf(NOWHERE)],
    ["Deno.connect", () => reach(NOWHERE, 9527)],
    ["Deno.listen", () => listenAt(NOWHERE)],
  ];
  return await Promise.all(calls.map(async ([name, call]) => {
    try {
      return [name, "none", `${await call()}`];
    } catch (error) {
      const { code = "none", message } = error as Error & { code?: string };
      return [name, code, message.replace(LOOKUP, "")];
    }
  }));
}

/** Listens at fewer and fewer of a name's addresses; a client has the name. */
async function inTurn(name: string, addresses: string[]) {
  const rows: (string | number)[][] = [];
  let port = 0; // The first one that is free, and then the same for all.
  const connect = async (servers: string) => {
    const start = performance.now();
    const all = await answerOf(() => reach(name, port));
    const ms = Math.round(performance.now() - start);
    const one = await answerOf(async () => {
      const signal = AbortSignal.timeout(PATIENCE);
      const only = { hostname: name, port, signal, autoSelectFamily: false };
      using conn = await Deno.connect(only);
      return conn.remoteAddr.hostname;
    });
    rows.push([servers, all, ms, one]);
  };
  const own = addresses.filter(isOwnAddress);
  for (let i = 0; i <= own.length; i++) {
    using open = new DisposableStack();
    for (const hostname of own.slice(i)) {
      port = open.use(Deno.listen({ hostname, port })).addr.port;
    }
    await connect(own.slice(i).join(" ") || "none of them");
  }
  if (own.length > 1) {
    const [first, second] = own as [string, string];
    using deaf = Deno.listen({ hostname: first, port, tcpBacklog: 0 });
    // One client fills its queue, so it gives the next one no answer.
    using _queued = await connectWithDeadline(deaf.addr, PATIENCE);
    using _next = Deno.listen({ hostname: second, port });
    await connect(`${second}, ${first} is silent`);
  }
  return rows;
}

/** A row for each server, and a cell for each client. */
async function missEachOther(names: string[]): Promise<string[][]> {
  const rows: string[][] = [];
  for (const server of [...names, "0.0.0.0", "::"]) {
    const row = [server];
    for (const client of names) {
      row.push(await answerOf(() => reachServer(server, client)));
    }
    rows.push(row);
  }
  return rows;
}

/** This host's addresses, and whether a server can have them. */
async function ownAddresses(): Promise<string[][]> {
  const rows: string[][] = [];
  for (const address of await readAddressTable()) {
    const [hostname] = address.split("/") as [string]; // Of 127.0.0.0/8, any.
    const listening = await answerOf(() => listenAt(hostname) && "works");
    rows.push([address, listening]);
  }
  return rows;
}

/** A UDP socket that connects sends nothing, but has an address then. */
function sourceFor(libc: Libc, hostname: string): string {
  using socket = libc.socket(SOCK_DGRAM);
  socket.connect({ hostname, port: 9527 });
  return socket.getsockname().hostname;
}

/** Binds clients, and connects several from the same port. */
async function noAddress(libc: Libc): Promise<string[][]> {
  using one = Deno.listen({ hostname: LOOPBACK, port: 0 });
  using other = Deno.listen({ hostname: LOOPBACK, port: 0 });
  using clients = new DisposableStack();
  const bind = (hostname: string, port: number) => {
    const client = clients.use(libc.socket(SOCK_STREAM));
    client.setsockopt("SO_REUSEADDR", 1);
    client.bind({ hostname, port });
    return client;
  };
  const { port } = bind(LOOPBACK, 0).getsockname();
  const connect = (server: Deno.TcpListener) =>
    answerOf(() => {
      const client = bind(LOOPBACK, port);
      client.connect(server.addr);
      return `from ${formatAddress(client.getsockname())}`;
    });
  return [
    [`bind to ${FOREIGN}`, await answerOf(() => bind(FOREIGN, 0) && "works")],
    [`from port ${port} to a server`, await connect(one)],
    [`from port ${port} to the same server`, await connect(one)],
    [`from port ${port} to another server`, await connect(other)],
  ];
}

/** Greets one client, and is gone. */
async function greetOne(listener: Deno.TcpListener): Promise<void> {
  using conn = await listener.accept();
  listener.close();
  await conn.write(new Uint8Array(1));
}

/** A server goes away after each client: for three attempts, then for one. */
async function comeBack() {
  const listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const { port } = listener.addr;
  const serving = [greetOne(listener)];
  const rows: (string | number)[][] = [];
  const start = performance.now();
  const row = (...cells: (string | number)[]) =>
    rows.push([Math.round(performance.now() - start), ...cells]);
  await reconnect(async (works) => {
    using conn = await Deno.connect({ hostname: LOOPBACK, port });
    await readExactly(conn, new Uint8Array(1));
    works(); // So the next wait is a short one.
    row("has its greeting", "");
    if (serving.length < 3) await readExactly(conn, new Uint8Array(1));
  }, {
    firstWait: 50,
    onWait(error, wait) {
      row(describeError(error), Math.round(wait));
      if (rows.length === 4 || rows.length === 6) {
        serving.push(greetOne(Deno.listen({ hostname: LOOPBACK, port })));
      }
    },
  });
  await Promise.all(serving);
  return rows;
}

/** Attempts that fail in different ways. */
async function whenItHelps(libc: Libc) {
  using nobody = libc.socket(SOCK_STREAM); // It is bound, and does not listen.
  nobody.bind({ hostname: LOOPBACK, port: 0 });
  const { port } = nobody.getsockname();
  const connect = () => Deno.connect({ hostname: LOOPBACK, port });
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  const rude = (async () => {
    for await (const conn of listener) conn.close();
  })();
  const cases: [string, () => Promise<unknown>, number?][] = [
    ["nobody listens", connect],
    ["it closes at once", async () => {
      using conn = await connectWithDeadline(listener.addr, PATIENCE);
      await readExactly(conn, new Uint8Array(1));
    }],
    ["no such name", () => Deno.connect({ hostname: NOWHERE, port })],
    ["not a port", () => Deno.connect({ hostname: LOOPBACK, port: 65536 })],
    ["its signal ends it", connect, 100],
  ];
  const rows: (string | number)[][] = [];
  for (const [what, call, limit] of cases) {
    const signal = limit ? AbortSignal.timeout(limit) : undefined;
    let attempts = 0;
    const start = performance.now();
    const attempt = () => {
      attempts++;
      return call();
    };
    const options = { tries: 5, firstWait: 20, signal };
    const end = await reconnect(attempt, options).catch(textOf);
    const ms = Math.round(performance.now() - start);
    rows.push([what, attempts, ms, `${end}`]);
  }
  listener.close();
  await rude;
  return rows;
}

/** Many clients without a server. How many of them try again at once? */
async function crowd(libc: Libc, random: () => number) {
  using nobody = libc.socket(SOCK_STREAM);
  nobody.bind({ hostname: LOOPBACK, port: 0 });
  const { port } = nobody.getsockname();
  const again: number[] = [];
  const client = () => {
    let isFirst = true;
    return reconnect(() => {
      if (!isFirst) again.push(performance.now());
      isFirst = false;
      return Deno.connect({ hostname: LOOPBACK, port });
    }, { tries: 3, firstWait: 200, random });
  };
  await Promise.allSettled(Array.from({ length: 50 }, client));
  const within10 = again.map((start) =>
    again.filter((time) => time >= start && time < start + 10).length
  );
  return [again.length, Math.max(...within10)];
}

if (import.meta.main) {
  const name = { default: "localhost", help: "a name of this host" };

  await runLesson(import.meta.url, {
    demo: {
      help: "one table for each question",
      options: { name },
      show: "table",
      run: demo,
    },
  });
}
