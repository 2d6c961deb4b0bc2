/**
 * Serves every connection equally, even when very many are busy. This module
 * imports nothing.
 *
 * The trouble: in one turn of its loop, Deno completes at most 128 of the reads
 * that have data. The others have to wait. In the next turn it first serves the
 * connections that have new data, and only then those that wait. A connection
 * that was just served often has new data: its client has answered. So
 * with more than 128 busy connections some are served again and again, and
 * others never.
 *
 * The cure: so many connections are called a crowd. In a crowd, a connection
 * that has been served waits in a queue before it reads again. Then the loop
 * has only connections left that have not been served, and gets to all of them.
 * After that the connections in the queue may go on, first in, first out, a few
 * at a time.
 *
 * The price: without a crowd, it is too small to measure. In a crowd a
 * connection waits for its turn, even if its client sends only now and then.
 * For example, a thousand clients waited 20 ms before each message, and kept a
 * server close to its limit: with the gate they were served a fifth less often.
 *
 * @module
 */

/** So many in one turn are a crowd: a little less than Deno's limit. */
const CROWD = 112;
/** How many may be out at once: few, as all of them go first when they return. */
const WINDOW = 8;
/** How often to look where those let go are now, in milliseconds. */
const TICK_TIME = 1;
/** After so many ticks some may go, even if many strangers come. */
const LONGEST_HOLD = 20;

/** A connection that waits, and the function that lets it go. */
interface Waiter {
  who: object;
  go: () => void;
}

/** Those let go between two ticks: how many, and which are still out. */
interface Leavers {
  count: number;
  out: Set<object>;
}

/**
 * A gate that each connection of a server passes before it reads again.
 *
 * It is open as long as fewer than 112 connections come in one turn of the loop.
 * The 112th makes a crowd. From then on each connection that comes waits in the
 * queue, until the queue is empty.
 *
 * Those that have waited longest are let go first. Up to 8 of them may be out
 * at a time. When one of them has been served, it comes back to the queue, and
 * the next one may go. Connections that come and were not let go are strangers.
 * While many strangers come, nobody is let go. The loop is still busy with
 * those that have not been served yet.
 *
 * Nobody waits for ever. While somebody waits, a timer ticks each millisecond:
 * - Each stranger ends up in the queue, so they become fewer. If strangers come
 *   without end, the next 8 are let go after 20 ticks.
 * - A connection that is let go may stay away, because its client is silent or
 *   far away. After two ticks it is not counted any more, and the next one may
 *   go.
 * - If more than a quarter of those let go stay away, most of the queue is not
 *   busy. Then twice as many may be out. After each tick or two the number
 *   doubles again, so that the queue is empty soon.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const gate = new ReadGate();
 * async function echo(conn: Deno.Conn) {
 *   const buffer = new Uint8Array(1024);
 *   for (let count; (count = await conn.read(buffer)) !== null;) {
 *     await conn.write(buffer.subarray(0, count)); // Or, better, writeFull().
 *     await gate.pass(conn);
 *   }
 *   conn.close();
 * }
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using client = await Deno.connect({ port: listener.addr.port });
 * const serving = echo(await listener.accept());
 * assertEquals(await client.write(new Uint8Array(3)), 3);
 * assertEquals(await client.read(new Uint8Array(9)), 3);
 * await client.closeWrite();
 * await serving;
 * ```
 */
export class ReadGate {
  /** How many came in this turn of the loop. */
  #came = 0;
  /** The connections that wait, the first one last. */
  #front: Waiter[] = [];
  /** The connections that came after them, the first one first. */
  #back: Waiter[] = [];
  /** Since the last tick, and between the two before. */
  #lately: Leavers = { count: 0, out: new Set() };
  #before: Leavers = { count: 0, out: new Set() };
  /** How many came since the last tick that are in neither. */
  #strangers = 0;
  /** Whether to wait until fewer strangers come, and for how many ticks yet. */
  #isHeld = false;
  #holdLeft = LONGEST_HOLD;
  #window = WINDOW;
  /** Runs while somebody waits. */
  #timer: ReturnType<typeof setInterval> | undefined;

  /**
   * Waits for its turn, if there is a crowd. Call it between two reads of a
   * connection, best when the data of the first read is handled.
   *
   * @param who The connection, or any object that stands for it.
   * @returns `undefined` if nobody has to wait: then the call costs almost
   * nothing. Otherwise a promise that is fulfilled after a while, and never
   * rejected.
   */
  pass(who: object): Promise<void> | undefined {
    // Those whose reads completed in one turn come one after the other, without
    // anything in between. This microtask runs after them.
    if (this.#came++ === 0) queueMicrotask(this.#endTurn);
    if (this.#timer === undefined) {
      if (this.#came < CROWD) return undefined;
      this.#isHeld = true;
      this.#timer = setInterval(this.#tick, TICK_TIME);
    }
    if (!this.#lately.out.delete(who) && !this.#before.out.delete(who)) {
      this.#strangers++;
    }
    return new Promise((go) => this.#back.push({ who, go }));
  }

  /** Lets everybody go who waits, because the server is about to end. */
  letAllGo(): void {
    for (const { go } of this.#front.toReversed()) go();
    for (const { go } of this.#back) go();
    this.#front = [];
    this.#back = [];
    this.#open();
  }

  #endTurn = (): void => {
    this.#came = 0;
    if (this.#strangers >= CROWD / 2) this.#isHeld = true;
    this.#letGo();
  };

  #tick = (): void => {
    // A connection that is still out has had at least one turn of the loop. It
    // is idle, or its client is further away than two ticks.
    const { count, out } = this.#before;
    if (out.size * 4 > count) this.#window *= 2;
    else if (count > 0) this.#window = WINDOW;
    this.#before = this.#lately;
    this.#lately = { count: 0, out: new Set() };
    this.#isHeld = this.#strangers >= CROWD / 2 && this.#holdLeft-- > 0;
    if (!this.#isHeld) this.#holdLeft = LONGEST_HOLD;
    this.#strangers = 0;
    this.#letGo();
  };

  #letGo(): void {
    if (this.#timer === undefined || this.#isHeld) return;
    while (this.#lately.out.size + this.#before.out.size < this.#window) {
      if (this.#front.length === 0) {
        this.#front = this.#back.reverse();
        this.#back = [];
      }
      const waiter = this.#front.pop();
      if (waiter === undefined) return this.#open();
      this.#lately.out.add(waiter.who);
      this.#lately.count++;
      waiter.go();
    }
  }

  /** Nobody waits: the crowd is over. */
  #open(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#lately = { count: 0, out: new Set() };
    this.#before = { count: 0, out: new Set() };
    this.#window = WINDOW;
    this.#strangers = 0;
  }
}
