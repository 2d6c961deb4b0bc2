/**
 * Output of a program that does not wait for what it prints.
 *
 * @module
 */

import { encode } from "../encode.ts";
import { writeFull, type Writer } from "../full_io.ts";

/** How long to wait before a write is tried again, in milliseconds. */
const RETRY_PAUSE = 10;

/**
 * Writes whole texts, one after the other. Where it cannot write any more, this
 * is told once, and what comes later is dropped.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * let written = "";
 * const oneByte = {
 *   write(p: Uint8Array) {
 *     written += String.fromCharCode(p[0]);
 *     return Promise.resolve(1);
 *   },
 * };
 * const output = new OrderedOutput(() => {}, oneByte);
 * output.print("one");
 * output.print("two");
 * await output.flush();
 * assertEquals(written, "one\ntwo\n");
 * ```
 */
export class OrderedOutput implements Writer {
  #output: Writer;
  #onLost: (error: unknown) => void;
  #isLost = false;
  #last: Promise<unknown> = Promise.resolve();

  /**
   * Writes nothing yet.
   *
   * @param onLost Is told why it cannot write any more.
   * @param output Where it writes.
   */
  constructor(
    onLost: (error: unknown) => void,
    output: Writer = Deno.stdout,
  ) {
    this.#onLost = onLost;
    this.#output = output;
  }

  /** Writes all of `p`. Never rejects. */
  write(p: Uint8Array): Promise<number> {
    const writing = this.#last.then(async () => {
      try {
        // A program that only prints must not keep the event loop, and with it
        // signals, from their turn.
        if (this.#isLost) await pause(0);
        else await writeFull({ write: this.#writeSome }, p);
      } catch (error) {
        this.#isLost = true;
        this.#onLost(error);
      }
      return p.length;
    });
    this.#last = writing;
    return writing;
  }

  /** Writes a line. */
  print(line: string): Promise<number> {
    return this.write(encode(`${line}\n`));
  }

  /** Waits until all is written that was to be written so far. */
  async flush(): Promise<void> {
    await this.#last;
  }

  /**
   * Standard output is shared with other programs, and one of them may have told
   * the kernel not to wait (O_NONBLOCK): then a full pipe is `WouldBlock`.
   */
  #writeSome = async (p: Uint8Array): Promise<number> => {
    while (true) {
      try {
        return await this.#output.write(p);
      } catch (error) {
        if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      }
      await pause(RETRY_PAUSE);
    }
  };
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
