import { assertEquals } from "@std/assert";
import { childTrace, forkServer } from "../../lib/harness/child.ts";
import { beforeExit } from "../../lib/harness/run_lesson.ts";

/** Runs `script` as if it were a lesson's server. */
async function fork(
  script: string,
  parent: (port: number, stop: () => void) => unknown,
) {
  const file = await Deno.makeTempFile({
    prefix: "child test ",
    suffix: ".ts",
  });
  await Deno.writeTextFile(file, script);
  const printed: string[] = [];
  const events: string[] = [];
  const errors: unknown[] = [];
  const { takes } = childTrace;
  childTrace.takes = (line) => events.push(line) > 0;
  try {
    const status = await forkServer({
      url: new URL(`file://${encodeURI(file)}`).href,
      flags: ["--allow-env"],
      args: { port: 0, host: "a b" },
      print: (line) => printed.push(line),
      report: (error) => errors.push(error),
    }, async (port, stop) => await parent(port, stop));
    return { status, printed, events, errors };
  } finally {
    childTrace.takes = takes;
    await Deno.remove(file);
  }
}

const untilStdinEnds =
  `while (await Deno.stdin.read(new Uint8Array(9)) !== null);`;

Deno.test("forkServer() passes arguments, events, lines and the exit code on", async () => {
  const { status, printed, events, errors } = await fork(
    `
    console.error(Deno.args.join("|"));
    console.log("listening on [::1]:4711");
    ${untilStdinEnds}
    console.error("second");
    await Deno.stdout.write(new TextEncoder().encode("one\\ntwo"));
    Deno.exit(7);`,
    (port, stop) => {
      assertEquals(port, 4711);
      stop();
    },
  );
  assertEquals(status, 7);
  assertEquals(printed, ["listening on [::1]:4711", "one", "two"]);
  assertEquals(events, ["server|--child|--port=0|--host=a b", "second"]);
  assertEquals(errors, []);
});

Deno.test("forkServer() does not run the parent if the server does not listen", async () => {
  let ran = false;
  const { status, printed } = await fork("Deno.exit(3)", () => {
    ran = true;
    return Promise.resolve();
  });
  assertEquals([status, printed, ran], [3, [], false]);
});

Deno.test("forkServer() ends the server when the parent fails", async () => {
  const error = new RangeError("parent");
  const { status, errors } = await fork(
    `console.log("listening on 127.0.0.1:1"); ${untilStdinEnds}`,
    () => Promise.reject(error),
  );
  assertEquals(status, 1);
  assertEquals(errors, [error]);
});

Deno.test("forkServer() ends the server before this process ends", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { status, printed } = await fork(
    `console.log("listening on 127.0.0.1:1"); ${untilStdinEnds}
    console.log("server closed");`,
    async () => {
      // What a signal does: the parent may never come back.
      assertEquals(beforeExit.size, 1);
      const [ending] = beforeExit;
      await ending();
      resolve();
    },
  );
  await promise;
  assertEquals(status, 0);
  assertEquals(printed, ["listening on 127.0.0.1:1", "server closed"]);
  assertEquals(beforeExit.size, 0);
});

Deno.test("forkServer() kills a server that does not end", async () => {
  const { status, errors } = await fork(
    `console.log("listening on 127.0.0.1:1");
    await new Promise((resolve) => setTimeout(resolve, 5_000));`,
    (_port, stop) => {
      stop();
      return Promise.resolve();
    },
  );
  assertEquals([status, errors.length], [128 + 9, 1]);
});

Deno.test("forkServer() starts the server without LD_LIBRARY_PATH and LD_PRELOAD", async () => {
  const { printed } = await fork(
    `const names = Object.keys(Deno.env.toObject()).filter((it) => it.startsWith("LD_"));
    console.log(names.toSorted().map((it) => it + "=" + Deno.env.get(it)).join(" "));`,
    () => Promise.resolve(),
  );
  assertEquals(printed, [
    "LD_BIND_NOW= LD_LIBRARY_PATH= LD_PRELOAD= LD_RUN_PATH=",
  ]);
});
