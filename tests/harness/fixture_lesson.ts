/**
 * @title Fixture: a lesson for the tests of the runner
 * @difficulty beginner
 * @tags test
 * @run deno run --allow-net --allow-run=deno tests/harness/fixture_lesson.ts
 * @run deno run --allow-net tests/harness/fixture_lesson.ts server
 * @run deno run --allow-net tests/harness/fixture_lesson.ts client
 *
 * An echo server and its client, as small as they can be, which can be told to
 * do what no lesson does: to fail where nobody waits, or to print without end.
 *
 * @module
 */

import { once } from "node:events";
import { announce } from "../../lib/address.ts";
import { askLines, type Lines } from "../../lib/ask_lines.ts";
import { encode } from "../../lib/encode.ts";
import { readExactly, writeFull } from "../../lib/full_io.ts";
import { forkServer } from "../../lib/harness/child.ts";
import { common, type Io, UsageError } from "../../lib/harness/command_line.ts";
import { runLesson } from "../../lib/harness/run_lesson.ts";

/** What a mode does besides its work, by the name that `--fault` gives. */
const FAULTS: Record<
  string,
  (io: Pick<Io, "print" | "interruptible" | "output" | "signal">) => unknown
> = {
  none() {},
  /** The server catches the error of a lost client. */
  lost() {},
  error() {
    throw new Error("one\ntwo \x1b[31mthree\0");
  },
  usage() {
    throw new UsageError("not like this");
  },
  status: () => 3,
  async late({ print, output, signal }) {
    await output.write(encode("half"));
    if (!signal.aborted) await once(signal, "abort");
    await output.write(encode(" a line\n"));
    await print("client done!!");
  },
  async stuck({ output }) {
    await output.write(encode("half"));
    await new Promise(() => {});
  },
  prose({ print }) {
    print("A line that is written for eighty columns, and\ngoes on here.");
  },
  rejection() {
    Promise.reject(new Error("nobody awaits it"));
    return new Promise(() => {}); // The mode itself goes on.
  },
  uncaught() {
    setTimeout(() => Deno.listen({ port: -1 }));
    return new Promise(() => {});
  },
  async patience({ print, interruptible }) {
    const { message } = await interruptible(async (signal) => {
      print("waits for a signal");
      await new Promise((resolve) => signal.onabort = resolve);
      // As under `deno task`, where one Ctrl+C arrives twice.
      setTimeout(() => Deno.kill(Deno.pid, "SIGINT"), 1);
      return signal.reason;
    });
    print(message);
  },
  async flood({ print }) {
    while (true) await print("x".repeat(100_000));
  },
};

async function server(
  { hostname = "", port = 0, fault = "none", onListen = announce, ...io }:
    & { hostname?: string; port?: number; fault?: string; drain?: boolean }
    & Io,
) {
  using listener = Deno.listen({ hostname, port });
  io.signal.addEventListener("abort", () => io.drain && listener.close());
  onListen(listener.addr);
  const buffer = new Uint8Array(1024);
  for await (const next of listener) {
    try {
      using conn = next;
      for (let count; (count = await conn.read(buffer)) !== null;) {
        await writeFull(conn, buffer.subarray(0, count));
        await FAULTS[fault]!(io);
      }
    } catch (error) {
      if (fault !== "lost") throw error;
    }
  }
}

async function client(
  { hostname = "", port = 0, fault = "none", lines = undefined, ...io }:
    & { hostname?: string; port?: number; fault?: string; lines?: Lines }
    & Pick<Io, "output" | "print" | "interruptible" | "signal">,
) {
  using conn = await Deno.connect({ hostname, port });
  const status = await FAULTS[fault]!(io);
  for await (const line of lines ?? askLines("Line: ")) {
    await writeFull(conn, line);
    const reply = await readExactly(conn, new Uint8Array(line.length));
    await writeFull(io.output, reply);
  }
  return status;
}

async function demo(
  { hostname = "", port = 0, ask = false, fault = "none", ...io }:
    & { hostname?: string; port?: number; ask?: boolean; fault?: string }
    & Io,
) {
  const args = { host: hostname, port };
  const lines = ask ? undefined : ["one\n", "two\n"].map(encode);
  const server = { ...io, url: import.meta.url, args };
  return await forkServer(server, async (port, stop) => {
    await client({ hostname, port, lines, fault, ...io });
    await io.print("client done!!");
    stop();
  });
}

if (import.meta.main) {
  const ask = { default: false, help: "send what you type" };
  const drain = { default: false, help: "serve the last client to its end" };
  const fault = { default: "none", help: Object.keys(FAULTS).join(", ") };

  await runLesson(import.meta.url, {
    demo: {
      help: "a server process, and a client",
      options: { ...common.demo, ask, fault },
      show: "diagram",
      endsOnSignal: true,
      run: demo,
    },
    server: {
      help: "echoes what clients send, one client at a time",
      options: { ...common.server, drain, fault },
      show: "trace",
      endsOnSignal: Deno.args.includes("--drain"),
      run: server,
    },
    client: {
      help: "sends lines",
      options: { ...common.client, fault },
      show: "trace",
      last: "client done!!",
      run: client,
    },
  });
}
