/**
 * Lets each Worker load a module first, as `--preload` does for a program.
 *
 * @module
 */

import type { Recorder } from "./recorder.ts";
import type { Any } from "./replace.ts";

/**
 * Traces the Workers that the program starts.
 *
 * @param module The URL of the trace, but for the number of the Worker.
 */
export function watchWorkers(recorder: Recorder, module: string): void {
  let count = 0;
  globalThis.Worker = class Worker extends globalThis.Worker {
    constructor(specifier: string | URL, options: WorkerOptions = {}) {
      const begun = recorder.begin({ name: "Worker" }, new.target);
      const url = String(specifier);
      const mayRead = [module, url].every((it) =>
        it.startsWith("file:") && canRead(it)
      );
      const { deno } = Object(options);
      if (!mayRead || deno?.permissions !== undefined) {
        super(specifier, options);
        recorder.end(begun, () => ({ result: ": not watched" }));
        return;
      }
      const imports = [`${module}${++count}`, url]
        .map((it) => `import ${JSON.stringify(it)};`).join("\n");
      super(
        `data:application/javascript,${encodeURIComponent(imports)}`,
        options,
      );
    }
  } as Any;
}

function canRead(url: string): boolean {
  const path = decodeURIComponent(new URL(url).pathname);
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}
