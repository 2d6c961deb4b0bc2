/**
 * Serves every connection alike, when more of them are busy than Deno's own
 * loop serves evenly. This module imports nothing.
 *
 * The trouble: Deno lets at most 128 waiting reads complete in one turn of its
 * loop. It puts the others off until it has asked the kernel for news; and the
 * connections that were served just now, whose clients have answered meanwhile,
 * are news. They go first, again and again, and some of the others never.
 *
 * The cure: while there is a crowd, whoever has been served waits before it
 * reads again, in a queue, first in, first out. So the loop has only those left who
 * have not been served, and gets to all of them. Then the queue is let go, a
 * few at a time.
 *
 * The price: none that shows while there is no crowd. In a crowd whoever pauses
 * waits for its turn as well: a thousand clients with pauses of 20 ms, which kept
 * a server close to its limit, were served a fifth less often than without.
 *
 * @module
 */

/** A turn that serves so many has a crowd: a little less than Deno's limit. */
const CROWD = 112;
/** How many may be out at once: few, as all of them go first when they return. */
const WINDOW = 8;
/** How often to look what has become of those let go, in milliseconds. */
const TICK_TIME = 1;
/** After so many ticks somebody goes, however many strangers come. */
const LONGEST_HOLD = 20;

/** Who waits, and the function that lets it go. */
interface Waiter {
  who: object;
  go: () => void;
}

/** Those let go between two ticks: how many, and who of them is still out. */
interface Leavers {
  count: number;
  out: Set<object>;
}

/**
 * A gate that each connection of a server passes before it reads again. As long
 * as there is no crowd, it is open.
 *
 * Who waits: the 112th that comes in one turn of the loop, and from then on
 * everybody who comes, until the queue is empty.
 *
 * Who is let go: the one that has waited longest, as long as fewer than 8 of
 * those let go are out. But while many strangers come, that is connections that
 * were not let go, nobody is: the loop has not got to all of them yet.
 *
 * Why no one waits for ever: a timer runs while somebody waits, with a tick each
 * millisecond. Strangers end up in the queue, and become fewer; where they keep
 * coming, the next 8 go after 20 ticks all the same. Whoever is let go and stays
 * away, because its client is silent or far, is not counted any more after two
 * ticks, so that the next may go. Where more than a quarter stay away there is
 * no crowd any more, or there was one but for a moment: what may be out doubles
 * with each tick or two, until the queue is empty.
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
  /** Who waits, the first one last. */
  #front: Waiter[] = [];
  /** Who came after them, the first one first. */
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
   * connection, best when the first one's data has been dealt with.
   *
   * @param who The connection, or any object that stands for it.
   * @returns `undefined` if nobody has to wait, so that it costs next to
   * nothing; else a promise that is fulfilled in a while, and never rejected.
   */
  pass(who: object): Promise<void> | undefined {
    // Those whose reads completed in one turn come one after the other, without
    // anything in between. This microtask runs behind them.
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

  #endTurn = (): void => {
    this.#came = 0;
    if (this.#strangers >= CROWD / 2) this.#isHeld = true;
    this.#letGo();
  };

  #tick = (): void => {
    // Whoever is still out has had at least one turn of the loop: it is idle, or
    // its client is further away than two ticks.
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
