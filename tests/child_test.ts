import { assertEquals } from "@std/assert";
import { forkServer, type ServerCommand } from "../lib/child.ts";

/** Runs `script` as if it were a lesson's server. */
async function fork(
  script: string,
  parent: (port: number, stop: () => void) => Promise<void>,
  signal?: AbortSignal,
) {
  const file = await Deno.makeTempFile({
    prefix: "child test ",
    suffix: ".ts",
  });
  await Deno.writeTextFile(file, script);
  const printed: string[] = [];
  const events: unknown[] = [];
  const errors: unknown[] = [];
  const command: ServerCommand = {
    url: new URL(`file://${encodeURI(file)}`).href,
    flags: ["--allow-env"],
    args: { port: 0, host: "a b", quiet: true },
    signal,
    print: (line) => printed.push(line),
    report: (error) => errors.push(error),
    onEvent: (event) => events.push(event),
  };
  try {
    const status = await forkServer(command, parent);
    return { status, printed, events, errors };
  } finally {
    await Deno.remove(file);
  }
}

const untilStdinEnds =
  `while (await Deno.stdin.read(new Uint8Array(9)) !== null);`;

Deno.test("forkServer() passes arguments, events, lines and the exit code on", async () => {
  const { status, printed, events, errors } = await fork(
    `
    console.error('{"at":1,"what":"' + Deno.args.join("|") + '"}');
    console.log("listening on [::1]:4711");
    ${untilStdinEnds}
    console.error('{"at":2}');
    await Deno.stdout.write(new TextEncoder().encode("one\\ntwo"));
    Deno.exit(7);`,
    (port, stop) => {
      assertEquals(port, 4711);
      stop();
      return Promise.resolve();
    },
  );
  assertEquals(status, 7);
  assertEquals(printed, ["listening on [::1]:4711", "one", "two"]);
  assertEquals(events, [
    { at: 1, what: "server|--child|--port=0|--host=a b|--quiet" },
    { at: 2 },
  ]);
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

Deno.test("forkServer() ends the server on an abort at any time", async () => {
  for (const when of ["before", "while it starts", "while it runs"]) {
    const stop = new AbortController();
    if (when === "before") stop.abort();
    const forked = fork(
      `console.log("listening on 127.0.0.1:1"); ${untilStdinEnds}`,
      () => {
        if (when === "while it runs") stop.abort();
        return Promise.resolve();
      },
      stop.signal,
    );
    if (when === "while it starts") stop.abort();
    assertEquals((await forked).status, 0);
  }
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
