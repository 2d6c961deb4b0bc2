import { assert, assertEquals } from "@std/assert";
import { Progress } from "../../lib/harness/progress.ts";

function fakeTerminal() {
  const terminal = {
    drawn: [] as string[],
    writeSync(p: Uint8Array) {
      terminal.drawn.push(new TextDecoder().decode(p));
      return p.length;
    },
  };
  return terminal;
}

Deno.test("Progress draws each percent once, in place, and clears the line", () => {
  const stream = fakeTerminal();
  {
    using progress = new Progress("reading", 1000, {
      stream,
      isTerminal: true,
      color: false,
    });
    for (let i = 0; i <= 1000; i++) progress.update(i);
    progress.update(2000);
    progress.update(-1);
  }
  assertEquals(stream.drawn.length, 103);
  assertEquals(
    stream.drawn[0],
    "\r\x1b[Kreading [--------------------]   0%",
  );
  assertEquals(
    stream.drawn[55],
    "\r\x1b[Kreading [###########---------]  55%",
  );
  assertEquals(
    stream.drawn[100],
    "\r\x1b[Kreading [####################] 100%",
  );
  assertEquals(stream.drawn.at(-1), "\r\x1b[K");
});

Deno.test("Progress is silent where there is no terminal", () => {
  const stream = fakeTerminal();
  {
    using progress = new Progress("reading", 10, { stream, isTerminal: false });
    progress.update(5);
  }
  assertEquals(stream.drawn, []);
});

Deno.test("Progress has a shorter bar on a narrow terminal", () => {
  const stream = fakeTerminal();
  const narrow = { stream, isTerminal: true, color: false, columns: 24 };
  new Progress("reading", 10, narrow).update(5);
  const [drawn] = stream.drawn;
  assertEquals(drawn, "\r\x1b[Kreading [####----]  50%");
  // The last column stays free: a character there would begin a new line.
  assert(drawn.length - "\r\x1b[K".length < narrow.columns);
});

Deno.test("Progress of nothing is all of it", () => {
  const stream = fakeTerminal();
  const options = { stream, isTerminal: true, color: false };
  using progress = new Progress("reading", 0, options);
  progress.update(0);
  assertEquals(stream.drawn, ["\r\x1b[Kreading [####################] 100%"]);
});

Deno.test("Progress survives a terminal that is gone", () => {
  const stream = {
    writeSync(): number {
      throw new Deno.errors.BrokenPipe();
    },
  };
  using progress = new Progress("reading", 10, { stream, isTerminal: true });
  progress.update(5);
});
