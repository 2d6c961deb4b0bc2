import { assertEquals } from "@std/assert";
import { OrderedOutput } from "../../lib/harness/ordered_output.ts";

/** An output that takes at most four bytes at once, or throws what it is told. */
function fakeOutput(errors: unknown[] = []) {
  const decoder = new TextDecoder();
  const output = {
    written: "",
    write(p: Uint8Array) {
      const error = errors.shift();
      if (error) return Promise.reject(error);
      output.written += decoder.decode(p.subarray(0, 4), { stream: true });
      return Promise.resolve(Math.min(4, p.length));
    },
  };
  return output;
}

const fail = (error: unknown) => {
  throw error;
};

Deno.test("OrderedOutput writes whole texts in their order, and waits for all", async () => {
  const output = fakeOutput();
  const stdout = new OrderedOutput(fail, output);
  stdout.print("the first line");
  assertEquals(await stdout.write(new Uint8Array([0x3e])), 1);
  stdout.print("你好, the last one");
  await stdout.flush();
  assertEquals(output.written, "the first line\n>你好, the last one\n");
});

Deno.test("OrderedOutput tries again where somebody has set O_NONBLOCK", async () => {
  const full = () => new Deno.errors.WouldBlock();
  const output = fakeOutput([full(), full()]);
  await new OrderedOutput(fail, output).print("late, and whole");
  assertEquals(output.written, "late, and whole\n");
});

Deno.test("OrderedOutput says once that it cannot write, and drops the rest", async () => {
  const error = new Deno.errors.BrokenPipe();
  const output = fakeOutput([error, new Error("never tried")]);
  const told: unknown[] = [];
  const stdout = new OrderedOutput((it) => told.push(it), output);
  const written = await Promise.all([stdout.print("one"), stdout.print("two")]);
  await stdout.flush();
  assertEquals([written, told, output.written], [[4, 4], [error], ""]);
});

Deno.test("OrderedOutput lets others have their turn, although nothing is written", async () => {
  const output = fakeOutput([new Deno.errors.BrokenPipe()]);
  const stdout = new OrderedOutput(() => {}, output);
  let isOver = false;
  setTimeout(() => isOver = true, 1);
  while (!isOver) await stdout.print("more");
});
