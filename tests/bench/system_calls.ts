/**
 * What strace(1) counts of a server.
 *
 * @module
 */

import { textLines } from "../../lib/harness/text_lines.ts";
import { putLoad } from "../../lib/lab/load.ts";

/** How many system calls of each kind there were for a message. */
export interface CallCounts {
  recv: number;
  send: number;
  epoll: number;
}

/**
 * Lets strace count while a load is on a server.
 *
 * @param command What starts the server. It must print the ready line, and end
 * with its standard input.
 * @param signal Ends it.
 */
export async function countCalls(
  command: string[],
  signal: AbortSignal,
): Promise<CallCounts> {
  const child = new Deno.Command("strace", {
    args: ["-fce", "trace=/^(recv|send|epoll_p?wait)", ...command],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    detached: true, // From Ctrl+C: this process ends it, in good order.
    signal,
  }).spawn();
  const summary = new Response(child.stderr).text();
  const { value: ready } = await textLines(child.stdout).next();
  if (ready === undefined) {
    throw new Error(`strace: ${(await summary).trim().split("\n").at(-1)}`);
  }
  const port = Number(ready.split(":").at(-1));
  const { messages, error } = await putLoad({ port, messages: 20 });
  await child.stdin.close();
  await child.status;
  signal.throwIfAborted();
  if (error !== undefined) throw error;

  const counts = { recv: 0, send: 0, epoll: 0 };
  const lines = (await summary).matchAll(/^(?: *[\d.]+){3} +(\d+).* (\w+)$/gm);
  for (const [, count, name] of lines) {
    const [kind] = name.match(/^(recv|send|epoll)/) ?? [];
    if (kind) counts[kind as keyof CallCounts] += Number(count) / messages;
  }
  return counts;
}
