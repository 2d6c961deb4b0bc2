/** Timeouts that stand still, by a clock of the test's. */
import { assertEquals } from "@std/assert";
import { runDeno } from "../testing.ts";
import { programFolder } from "./programs.ts";

const MODULE = new URL("../../lib/trace/hold_timers.ts", import.meta.url).href;

Deno.test("holdTimers() counts the time in which the program moves", async () => {
  await using program = await programFolder(`
    import { holdTimers } from "${MODULE}";
    const start = performance.now();
    /** The program stands still for 300 ms, 50 ms after it was started. */
    const movedFor = () => {
      const time = performance.now() - start;
      return Math.min(time, 50) + Math.max(time - 350, 0);
    };
    holdTimers(movedFor);
    const log = [];
    const after = (least, name) => () => log.push(performance.now() - start < least ? "early" : name);
    setTimeout(after(430, "130"), 130);
    setTimeout(after(400, "100"), 100);
    setTimeout(after(370, "70"), "70"); // A string is no deadline.
    setTimeout((...words) => log.push(...words), 60, "with", "words");
    const cleared = setTimeout(() => log.push("cleared"), 90);
    setTimeout(() => clearTimeout(cleared), 5);
    const refreshed = setTimeout(after(560, "refreshed"), 200);
    setTimeout(() => refreshed.refresh(), 80); // Then it is 380.
    setTimeout(() => log.push("short"), 40);
    const signal = AbortSignal.timeout(150);
    signal.addEventListener("abort", () => log.push(String(signal.reason)));
    addEventListener("unload", () => console.log(log.join("\\n")));`);
  const { stdout, stderr } = await runDeno(["run", "--no-check", program.file]);
  assertEquals(stderr, "");
  assertEquals(stdout.trimEnd().split("\n"), [
    "short",
    "early", // The one whose delay was a string.
    "with",
    "words",
    "100",
    "130",
    "TimeoutError: The operation was aborted due to timeout",
    "refreshed",
  ]);
});
