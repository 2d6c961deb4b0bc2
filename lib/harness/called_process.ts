/**
 * A lesson as a process that is told over a pipe what to call: the other end of
 * `answerPipedCalls`.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { spawnDeno } from "./child.ts";
import { textLines } from "./text_lines.ts";

/** Makes calls in a process of its own. Disposing of it ends that process. */
export class CalledProcess implements AsyncDisposable {
  #child: Deno.ChildProcess;
  #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #output: AsyncGenerator<string, undefined>;

  /**
   * Starts it.
   *
   * @param args The lesson's `import.meta.url`, its mode, and options.
   */
  constructor(args: string[]) {
    this.#child = spawnDeno(args);
    this.#input = this.#child.stdin.getWriter();
    this.#output = textLines(this.#child.stdout);
  }

  /**
   * Makes a call.
   *
   * @returns The line that came of it: none if the call was `exit`.
   * @throws {Error} If the process has ended.
   */
  async call(line: string): Promise<string> {
    await this.#input.write(encode(line + "\n")).catch(() => {}); // See below.
    const { value = "" } = await this.#output.next();
    if (value === "" && line !== "exit") {
      throw new Error(`${line}: the process has ended`);
    }
    return value;
  }

  /** Waits until the process has ended. */
  async ended(): Promise<void> {
    while (!(await this.#output.next()).done);
    await this.#child.status;
  }

  /** Ends it by the end of its input, and waits for that. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {}); // It may have ended already.
    await this.ended();
  }
}
