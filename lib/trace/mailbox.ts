/**
 * Messages for a program that stands still: what somebody types, signals, and what
 * another process says.
 *
 * @module
 */

import type { Any } from "./replace.ts";

/** What has come. */
export type Message =
  /** A line that was typed, with its newline; `null` at the end of the input. */
  | { line: string | null }
  /** Ctrl+C or SIGTERM. */
  | { signal: "SIGINT" | "SIGTERM" }
  /** Where another process can be told to connect. */
  | { port: number }
  /** A line of the other process; `null` when it has ended. */
  | { from: string | null };

/** How long the last messages may take, in milliseconds. */
const FLUSH_TIME = 500;

/** How it is connected with another process. */
export type Link = "listen" | number | undefined;

/**
 * Another thread, which alone reads standard input, since the program's own thread
 * cannot do that and stand still. It must not import anything: a Worker has no right
 * to read files.
 */
const THREAD = `
import { workerData } from "node:worker_threads";
const { port, flag, link } = workerData;
const post = (message) => {
  port.postMessage(message);
  Atomics.add(flag, 0, 1);
  Atomics.notify(flag, 0);
};
for (const signal of ["SIGINT", "SIGTERM"]) {
  Deno.addSignalListener(signal, () => post({ signal }));
}
async function lines(readable, key) {
  let rest = "";
  const decoder = new TextDecoderStream();
  try {
    for await (const chunk of readable.pipeThrough(decoder)) {
      const parts = (rest + chunk).split(/(?<=\\n)/);
      rest = parts.at(-1).endsWith("\\n") ? "" : parts.pop();
      for (const part of parts) post({ [key]: part });
    }
  } catch { /* The other process was killed. */ }
  if (rest !== "") post({ [key]: rest });
  post({ [key]: null });
}
async function talk(conn) {
  const writer = conn.writable.getWriter();
  port.on("message", async (text) => {
    await writer.write(new TextEncoder().encode(text)).catch(() => {});
    Atomics.add(flag, 1, 1);
    Atomics.notify(flag, 1);
  });
  await lines(conn.readable, "from");
}
const hostname = "127.0.0.1";
if (typeof link === "number") talk(await Deno.connect({ hostname, port: link }));
else {
  lines(Deno.stdin.readable, "line");
  if (link === "listen") {
    const listener = Deno.listen({ hostname, port: 0 });
    post({ port: listener.addr.port });
    for await (const conn of listener) talk(conn);
  }
}
`;

/**
 * Collects messages. It keeps no program alive.
 */
export class Mailbox {
  #port: Any;
  /** How many messages have come, and how many have gone to the other process. */
  #flag = new Int32Array(new SharedArrayBuffer(8));
  #sent = 0;
  #receive: (port: Any) => { message: Message } | undefined;

  /**
   * Starts to collect.
   *
   * @param link `"listen"` to be told a port, or the port that another one was told.
   * Without it there is no other process. Only a process that is told no port reads
   * standard input.
   */
  constructor(link?: Link) {
    const { process } = globalThis as Any;
    const { MessageChannel, receiveMessageOnPort, Worker } = process
      .getBuiltinModule("node:worker_threads");
    this.#receive = receiveMessageOnPort;
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const url = `data:application/javascript,${encodeURIComponent(THREAD)}`;
    const worker = new Worker(new URL(url), {
      workerData: { port: port2, flag: this.#flag, link },
      transferList: [port2],
      env: {}, // It would ask for those of the program.
    });
    worker.unref();
    port1.unref();
  }

  /**
   * Takes the next message.
   *
   * @param wait For how many milliseconds the program stands still if there is none.
   */
  take(wait = 0): Message | undefined {
    const seen = Atomics.load(this.#flag, 0);
    const next = this.#receive(this.#port);
    if (next !== undefined || wait === 0) return next?.message;
    Atomics.wait(this.#flag, 0, seen, wait);
    return this.#receive(this.#port)?.message;
  }

  /** Takes all that have come; the first one as `take` does. */
  *takeAll(wait: number): Generator<Message> {
    for (let next = this.take(wait); next; next = this.take()) yield next;
  }

  /** Tells the other process a line. */
  send(message: unknown): void {
    this.#sent++;
    this.#port.postMessage(`${JSON.stringify(message)}\n`);
  }

  /** Stands still until all have gone, at the end of the program. */
  flush(): void {
    const end = performance.now() + FLUSH_TIME;
    while (true) {
      const gone = Atomics.load(this.#flag, 1);
      const left = end - performance.now();
      if (gone >= this.#sent || left <= 0) return;
      Atomics.wait(this.#flag, 1, gone, left);
    }
  }
}
