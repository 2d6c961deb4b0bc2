import { assert, assertEquals, assertRejects } from "@std/assert";
import { forkServer, textLines } from "../../lib/harness/child.ts";
import { beforeExit } from "../../lib/harness/run_lesson.ts";
import { stage } from "../../lib/harness/stage.ts";

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
  const { childFlags, childErrors, watchErrors } = stage;
  stage.childFlags = ["--allow-env"];
  stage.childErrors = "piped";
  stage.watchErrors = async ({ stderr }) => {
    for await (const line of textLines(stderr)) events.push(line);
  };
  try {
    const status = await forkServer({
      url: new URL(`file://${encodeURI(file)}`).href,
      args: { port: 0, host: "a b", nagle: true, wait: false },
      print: (line) => printed.push(line),
    }, async (port, stop) => await parent(port, stop));
    return { status, printed, events };
  } finally {
    Object.assign(stage, { childFlags, childErrors, watchErrors });
    await Deno.remove(file);
  }
}

const untilStdinEnds =
  `while (await Deno.stdin.read(new Uint8Array(9)) !== null);`;

Deno.test("forkServer() passes arguments, events, lines and the exit code on", async () => {
  const { status, printed, events } = await fork(
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
  assertEquals(events, [
    "server|--child|--port=0|--host=a b|--nagle",
    "second",
  ]);
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
  await assertRejects(
    () =>
      fork(
        `console.log("listening on 127.0.0.1:1"); ${untilStdinEnds}`,
        () => Promise.reject(new RangeError("parent")),
      ),
    RangeError,
    "parent",
  );
  assertEquals(beforeExit.size, 0); // It has ended, and been waited for.
});

Deno.test("forkServer() ends the server before this process ends", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { status, printed } = await fork(
    `console.log("listening on 127.0.0.1:1"); ${untilStdinEnds}
    console.log("server closed");`,
    async () => {
      // What a signal does: the parent may never come back.
      assert(beforeExit.size > 0);
      await Promise.all([...beforeExit].map((end) => end()));
      resolve();
    },
  );
  await promise;
  assertEquals(status, 0);
  assertEquals(printed, ["listening on 127.0.0.1:1", "server closed"]);
  assertEquals(beforeExit.size, 0);
});

Deno.test("forkServer() kills a server that does not end", async () => {
  const { status } = await fork(
    `console.log("listening on 127.0.0.1:1");
    await new Promise((resolve) => setTimeout(resolve, 5_000));`,
    (_port, stop) => {
      stop();
      return Promise.resolve();
    },
  );
  assertEquals(status, 128 + 9);
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
