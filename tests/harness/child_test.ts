import { assert, assertEquals, assertRejects } from "@std/assert";
import { forkServer } from "../../lib/harness/child.ts";
import { replaced } from "../testing.ts";

/** Runs `script` as if it were a lesson's server. */
async function fork(
  script: string,
  parent: (port: number, stop: () => void) => unknown,
  signal?: AbortSignal,
) {
  const file = await Deno.makeTempFile({
    prefix: "child test ",
    suffix: ".ts",
  });
  await Deno.writeTextFile(file, script);
  const printed: string[] = [];
  try {
    const status = await forkServer({
      url: new URL(`file://${encodeURI(file)}`).href,
      args: { port: 0, host: "a b", nagle: true, wait: false },
      relay: (line) => printed.push(line),
      signal,
    }, parent);
    return { status, printed };
  } finally {
    await Deno.remove(file);
  }
}

const LISTENING = `console.log("listening on 127.0.0.1:1");`;
const UNTIL_STDIN_ENDS =
  `while (await Deno.stdin.read(new Uint8Array(9)) !== null);`;
const forever = () => new Promise<never>(() => {});

Deno.test("forkServer() passes arguments, lines and the exit code on", async () => {
  const { status, printed } = await fork(
    `
    console.log("listening on [::1]:4711");
    ${UNTIL_STDIN_ENDS}
    console.log(Deno.args.join("|"));
    await Deno.stdout.write(new TextEncoder().encode("one\\ntwo"));
    Deno.exit(7);`,
    (port, stop) => {
      assertEquals(port, 4711);
      stop();
      stop(); // Once more changes nothing.
    },
  );
  assertEquals(status, 7);
  assertEquals(printed, [
    "listening on [::1]:4711",
    "server|--child|--port=0|--host=a b|--nagle",
    "one",
    "two",
  ]);
});

Deno.test("forkServer() does not run the parent if the server does not listen", async () => {
  let ran = false;
  const { status, printed } = await fork("Deno.exit(3)", () => ran = true);
  assertEquals([status, printed, ran], [3, [], false]);
});

Deno.test("forkServer() ends the server when the parent fails", async () => {
  const printed: string[] = [];
  const url = "data:text/javascript," + encodeURIComponent(
    `${LISTENING} ${UNTIL_STDIN_ENDS} console.log("server closed");`,
  );
  const relay = (line: string) => printed.push(line);
  await assertRejects(
    () =>
      forkServer(
        { url, args: {}, relay },
        () => Promise.reject(new RangeError("parent")),
      ),
    RangeError,
    "parent",
  );
  // It has ended, and been waited for.
  assertEquals(printed, ["listening on 127.0.0.1:1", "server closed"]);
});

Deno.test("forkServer() ends the server when its signal is aborted", async () => {
  const script = `${LISTENING} ${UNTIL_STDIN_ENDS}`;
  const reason = new Error("enough");
  const stop = new AbortController();
  const abort = () => {
    stop.abort(reason);
    return forever(); // The parent need not come back.
  };
  const fails = () => fork(script, abort, stop.signal);
  await assertRejects(fails, Error, "enough");
  assert(Deno.exitCode === 0);

  // Before it listens, and before it is there at all.
  const early = new AbortController();
  const running = fork(UNTIL_STDIN_ENDS, forever, early.signal);
  early.abort(reason);
  await assertRejects(() => running, Error, "enough");
  await assertRejects(
    () => fork("", forever, early.signal),
    Error,
    "enough",
  );
});

Deno.test("forkServer() kills a server that does not end", async () => {
  const script = `${LISTENING} setInterval(() => {}, 1000);`;
  const stop = new AbortController();
  const [stopped] = await Promise.all([
    fork(script, (_, stop) => stop()),
    assertRejects(
      () => fork(script, () => stop.abort(), stop.signal),
      DOMException,
    ),
  ]);
  assertEquals(stopped.status, 128 + 9);
  assertEquals(Deno.exitCode, 0); // It was wanted, and is no failure.
});

Deno.test("forkServer() starts the server without LD_LIBRARY_PATH and LD_PRELOAD", async () => {
  // Deno does not start a child that inherits them, unless it may run everything.
  let environ = "";
  await fork(
    "console.log(`listening on 127.0.0.1:${Deno.pid}`);" + UNTIL_STDIN_ENDS,
    (pid, stop) => {
      environ = Deno.readTextFileSync(`/proc/${pid}/environ`);
      stop();
    },
  );
  const variables = environ.split("\0").filter((it) => it.startsWith("LD_"));
  assertEquals(variables.toSorted(), [
    "LD_BIND_NOW=",
    "LD_LIBRARY_PATH=",
    "LD_PRELOAD=",
    "LD_RUN_PATH=",
  ]);
});

Deno.test("forkServer() does not let the parent wait for a server that failed", async () => {
  const { setTimeout } = globalThis;
  const soon = (call: () => void, wait = 0) =>
    setTimeout(call, wait === 10_000 ? 0 : wait);
  using _ = replaced(globalThis, "setTimeout", soon);
  await assertRejects(
    () => fork(`${LISTENING} Deno.exit(9);`, forever),
    Error,
    "the server has ended with 9",
  );
  assertEquals(Deno.exitCode, 9);
  Deno.exitCode = 0;
});
