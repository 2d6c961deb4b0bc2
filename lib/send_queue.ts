/**
 * Sending to one of many, without waiting for it.
 *
 * A server that passes messages on from one client to others should not wait
 * until each of them has taken a message, because one that does not read would
 * make all of them wait. It should not just start the writes and forget them
 * either: they would keep more and more bytes for the one that does not read,
 * and writes at the same time mix their bytes.
 *
 * @module
 */

import { writeFull, type Writer } from "./full_io.ts";

/** A reader does not keep up: more bytes would wait for it than may. */
export class SlowReaderError extends Error {
  /** The name of the class. */
  override name = "SlowReaderError";
}

/** Options of {@linkcode SendQueue}. */
export interface SendQueueOptions {
  /**
   * How many bytes may wait, 256 KiB by default. No message can be longer. It is
   * what a reader may be late by, besides what the kernel's buffers hold.
   */
  maxBytes?: number;
}

/**
 * What waits to be written to one client: in order, one write at a time, and not
 * more than so many bytes.
 *
 * A client that does not keep up is given up, and none of its messages are left
 * out: a stream has no sign for "something is missing here", and a part of the
 * oldest message may be on its way already. A client that was given up knows
 * that it has to connect again, and to ask for what it has missed.
 *
 * @example A client that takes nothing
 * ```ts
 * import { assert, assertEquals, assertRejects } from "@std/assert";
 *
 * const deaf = { write: () => new Promise<number>(() => {}) };
 * const queue = new SendQueue(deaf, { maxBytes: 10 });
 * assert(queue.send(new Uint8Array(6)));
 * assertEquals(queue.size, 6);
 * assert(!queue.send(new Uint8Array(6)));
 * await assertRejects(() => queue.lost, SlowReaderError);
 * ```
 */
export class SendQueue {
  /**
   * Rejects when nothing can be sent any more: with a {@linkcode SlowReaderError},
   * or with the error of `write`. Then the connection should be closed. That also
   * ends a write that waits.
   */
  readonly lost: Promise<never>;
  #writer: Writer;
  #maxBytes: number;
  #messages: Uint8Array[] = [];
  #size = 0;
  #isLost = false;
  #reject: (error: unknown) => void;
  /** Settles when nothing waits any more, or all is lost. */
  #sending: PromiseWithResolvers<void> | undefined;

  /**
   * Begins with an empty queue.
   *
   * @param writer Where the bytes go. Nobody else should write there.
   * @param options How much may wait.
   * @throws {RangeError} If `maxBytes` is not a number above 0.
   */
  constructor(
    writer: Writer,
    { maxBytes = 256 * 1024 }: SendQueueOptions = {},
  ) {
    if (!(maxBytes > 0)) throw new RangeError(`Not a limit: ${maxBytes}`);
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {}); // Nobody need wait for it.
    this.lost = promise;
    this.#reject = reject;
    this.#writer = writer;
    this.#maxBytes = maxBytes;
  }

  /** How many bytes wait: those that `write` has not accepted yet. */
  get size(): number {
    return this.#size;
  }

  /**
   * Sends a message behind those that wait, and returns at once.
   *
   * @param data The message, which may be sent to others too. It is not copied, so
   * it must not be changed afterwards.
   * @returns Whether it was taken. It was not if nothing can be sent any more.
   * @throws {RangeError} If it is longer than `maxBytes`.
   */
  send(data: Uint8Array): boolean {
    if (data.length > this.#maxBytes) {
      const most = `at most ${this.#maxBytes}`;
      throw new RangeError(`Message of ${data.length} bytes: ${most}`);
    }
    if (this.#isLost) return false;
    if (this.#size + data.length > this.#maxBytes) {
      const more = `${this.#size} bytes wait, and ${data.length} more came`;
      this.#lose(new SlowReaderError(`Reader does not keep up: ${more}`));
      return false;
    }
    if (data.length === 0) return true; // Any number of these could wait.
    this.#messages.push(data);
    this.#size += data.length;
    if (this.#sending === undefined) this.#sendAll();
    return true;
  }

  /**
   * Waits until nothing waits, also nothing that is sent meanwhile.
   *
   * @throws What `lost` rejects with.
   */
  async flush(): Promise<void> {
    await this.#sending?.promise;
  }

  async #sendAll(): Promise<void> {
    const sending = this.#sending = Promise.withResolvers<void>();
    sending.promise.catch(() => {}); // Who waits for nothing hears nothing.
    try {
      while (this.#messages.length > 0) {
        await writeFull({ write: this.#write }, this.#messages.shift()!);
      }
      this.#sending = undefined;
      sending.resolve();
    } catch (error) {
      this.#lose(error);
    }
  }

  #write = async (p: Uint8Array): Promise<number> => {
    const count = await this.#writer.write(p);
    // It was given up meanwhile: what is left of this message stays unsent.
    if (this.#isLost) await this.lost;
    this.#size -= count;
    return count;
  };

  #lose(error: unknown): void {
    this.#isLost = true;
    this.#messages = [];
    this.#size = 0;
    this.#reject(error);
    this.#sending?.reject(error);
  }
}
