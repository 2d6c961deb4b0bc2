import { setImmediate } from "node:timers";
import { assert, assertEquals } from "@std/assert";
import { jainsIndex } from "../../lib/lab/load.ts";
import { ReadGate } from "../../lib/read_gate.ts";

/** So many in one turn are a crowd: as lib/read_gate.ts has it. */
const CROWD = 112;
const WINDOW = 8;

/**
 * Runs `test` with a timer that fires when `tick()` is called, and only then.
 * `tick` resolves when all that follows from it is done.
 */
async function withTicks(
  test: (timer: { tick(): Promise<void>; isRunning(): boolean }) => unknown,
) {
  const { setInterval, clearInterval } = globalThis;
  let callback: (() => void) | null = null;
  Object.assign(globalThis, {
    setInterval: (f: () => void) => {
      assertEquals(callback, null, "a second timer");
      callback = f;
      return 1;
    },
    clearInterval: () => callback = null,
  });
  try {
    await test({
      async tick() {
        callback?.();
        await settle();
      },
      isRunning: () => callback !== null,
    });
    assertEquals(callback, null, "the timer still runs");
  } finally {
    Object.assign(globalThis, { setInterval, clearInterval });
  }
}

/** Resolves when every microtask that is due has run. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Connections that come in one turn, and the names of those let go. */
async function come(gate: ReadGate, names: string[], gone: string[]) {
  for (const name of names) {
    const turn = gate.pass(who(name));
    if (turn === undefined) gone.push(name);
    else turn.then(() => gone.push(name));
  }
  await settle();
}

const objects = new Map<string, object>();
function who(name: string): object {
  return objects.getOrInsertComputed(name, () => ({ name }));
}

const names = (count: number, prefix = "") =>
  Array.from({ length: count }, (_, i) => `${prefix}${i}`);

Deno.test("ReadGate is open, without a timer, while there is no crowd", async () => {
  await withTicks(async ({ isRunning }) => {
    const gate = new ReadGate();
    for (let turn = 0; turn < 5; turn++) {
      for (const name of names(CROWD - 1)) {
        assertEquals(gate.pass(who(name)), undefined);
      }
      await settle();
    }
    assert(!isRunning());
  });
});

Deno.test("ReadGate lets go those who have waited longest, a few at a time", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    const all = names(200);
    await come(gate, all, gone);
    assertEquals(gone, all.slice(0, CROWD - 1)); // The others make the crowd.
    const waiting = all.slice(CROWD - 1);
    gone.length = 0;
    await tick(); // They were strangers, and many: there may be more.
    assertEquals(gone, []);
    await tick();
    assertEquals(gone, waiting.slice(0, WINDOW));
    await tick();
    assertEquals(gone, waiting.slice(0, WINDOW)); // Those are still out.
    // Each one that comes back makes room for the next, and goes to the end.
    await come(gate, waiting.slice(0, 3), gone);
    assertEquals(gone, waiting.slice(0, WINDOW + 3));
    let count = 0;
    for (let i = 3; count < waiting.length; i++) {
      gone.length = 0;
      await come(gate, [waiting[i % waiting.length]], gone);
      assertEquals(gone, [waiting[(i + WINDOW) % waiting.length]]);
      count++;
    }
    while (isRunning()) await tick();
  });
});

Deno.test("ReadGate lets nobody go while many strangers come", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    await come(gate, names(128), gone);
    gone.length = 0;
    for (let turn = 0; turn < 10; turn++) {
      await come(gate, names(64, `turn ${turn}, `), gone);
      await tick();
      assertEquals(gone, []);
    }
    await tick();
    assertEquals(gone.length, WINDOW);
    // A few strangers are no reason to wait.
    await come(gate, names(10, "late "), gone);
    await come(gate, gone.slice(0, 4), gone);
    assertEquals(gone.length, WINDOW + 4);
    // Many are, again, and those that are out come back to the queue.
    await come(gate, names(64, "more "), gone);
    await come(gate, gone.slice(4), gone);
    assertEquals(gone.length, WINDOW + 4);
    while (isRunning()) await tick();
  });
});

Deno.test("ReadGate lets some go though strangers come without end", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    await come(gate, names(200), gone);
    const waiting = names(200).slice(CROWD - 1);
    gone.length = 0;
    let turn = 0;
    for (; gone.length < waiting.length; turn++) {
      assert(turn < 2000, `${gone.length} of ${waiting.length}`);
      await come(gate, names(64, `turn ${turn}, `), gone);
      await tick();
    }
    assertEquals(gone.slice(0, waiting.length), waiting);
    while (isRunning()) await tick();
  });
});

Deno.test("ReadGate lets all go in a few ticks if all are idle", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    await come(gate, names(5000), gone);
    let ticks = 0;
    for (; isRunning(); ticks++) await tick();
    assertEquals(gone, names(5000));
    assert(ticks <= 30, `${ticks} ticks`);
  });
});

Deno.test("ReadGate opens soon for connections that are mostly idle", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    await come(gate, names(2000), gone);
    // Every other one of those let go has had a message meanwhile, and comes
    // back at once; and a few strangers come all the time.
    let ticks = 0;
    for (; isRunning() && ticks < 200; ticks++) {
      gone.length = 0;
      await tick();
      await come(gate, gone.filter((_, i) => i % 2 === 0), gone);
      await come(gate, names(10, `tick ${ticks}, `), gone);
    }
    assert(ticks < 40, `${ticks} ticks`);
  });
});

Deno.test("ReadGate lets few go again when those let go come back", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    for (let crowd = 0; crowd < 2; crowd++) {
      const gone: string[] = [];
      await come(gate, names(1000), gone);
      gone.length = 0;
      while (gone.length < 10 * WINDOW) await tick(); // None comes back.
      for (let i = 0; i < 10; i++) {
        const back = gone.slice();
        gone.length = 0;
        await come(gate, back, gone);
        await tick();
      }
      assertEquals(gone.length, WINDOW);
      while (isRunning()) await tick(); // The second crowd begins anew.
    }
  });
});

Deno.test("ReadGate opens again when the crowd is gone", async () => {
  await withTicks(async ({ tick, isRunning }) => {
    const gate = new ReadGate();
    for (let crowd = 0; crowd < 3; crowd++) {
      const gone: string[] = [];
      await come(gate, names(150), gone);
      assert(isRunning());
      gone.length = 0;
      while (gone.length === 0) await tick();
      assertEquals(gone.length, WINDOW); // As in the crowd before.
      while (isRunning()) await tick();
      assertEquals(gate.pass(who("0")), undefined);
      await settle();
    }
  });
});

Deno.test("ReadGate.letAllGo() lets everybody go, in order, and is open", async () => {
  await withTicks(async ({ isRunning }) => {
    const gate = new ReadGate();
    const gone: string[] = [];
    const all = names(2 * CROWD);
    await come(gate, all, gone);
    assert(isRunning() && gone.length < all.length);
    gate.letAllGo();
    await settle();
    assertEquals(gone, all);
    assert(!isRunning());
    assertEquals(gate.pass(who("later")), undefined);
  });
});

/** Who passes between two reads: a gate, or nobody. */
type Pass = (who: object) => Promise<void> | undefined;

/**
 * Deno's loop as the gate sees it. In each turn at most 128 socket operations
 * of those that are ready are done. What has become ready since is done first;
 * what was put off comes after it, the last one first. Every client answers at
 * once. Returns how often each connection was served.
 */
async function simulate(
  connections: number,
  turns: number,
  pass: Pass,
  tick: () => Promise<void>,
): Promise<number[]> {
  const served = new Array<number>(connections).fill(0);
  const conns = served.map((_, id) => ({ id }));
  let fresh = conns;
  let putOff: { id: number }[] = [];
  for (let turn = 0; turn < turns; turn++) {
    const ready = [...fresh, ...putOff];
    const done = ready.slice(0, 128);
    putOff = ready.slice(done.length).reverse();
    fresh = [];
    const next = fresh;
    for (const conn of done) {
      served[conn.id]++;
      const waiting = pass(conn);
      if (waiting === undefined) next.push(conn);
      else waiting.then(() => next.push(conn));
    }
    await settle();
    // A turn takes about as long as the timer.
    await tick();
  }
  return served;
}

for (const connections of [200, 1000, 3000]) {
  Deno.test(`ReadGate serves ${connections} evenly in a model of the loop`, async () => {
    const turns = 200;
    const plain = await simulate(
      connections,
      turns,
      () => undefined,
      () => Promise.resolve(),
    );
    assert(plain.includes(0), "the model starves nobody");

    await withTicks(async ({ tick, isRunning }) => {
      const gate = new ReadGate();
      const pass: Pass = (who) => gate.pass(who);
      const served = await simulate(connections, turns, pass, tick);
      assert(!served.includes(0), "somebody was never served");
      assert(jainsIndex(served) > 0.9, `${jainsIndex(served)}`);
      while (isRunning()) await tick();
    });
  });
}
