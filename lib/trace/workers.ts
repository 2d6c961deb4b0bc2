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
 * @param traceOf Says by which URL a Worker loads the trace: its number from 1, and
 * its own module.
 */
export function watchWorkers(
  recorder: Recorder,
  traceOf: (number: number, module: string) => string,
): void {
  let count = 0;
  globalThis.Worker = class Worker extends globalThis.Worker {
    constructor(specifier: string | URL, options: WorkerOptions = {}) {
      const begun = recorder.begin({ name: "Worker" }, new.target);
      const url = String(specifier);
      const trace = traceOf(count + 1, url);
      const mayRead = [trace, url].every((it) =>
        it.startsWith("file:") && canRead(it)
      );
      const { deno } = Object(options);
      if (!mayRead || deno?.permissions !== undefined) {
        super(specifier, options);
        recorder.end(begun, () => ({ result: ": not watched" }));
        return;
      }
      count++;
      const imports = [trace, url]
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

/** What a `location` says. */
const LOCATION = [
  ...["href", "origin", "protocol", "host", "hostname"] as const,
  ...["port", "pathname", "search", "hash"] as const,
];

/** A Worker loads the trace first, and asks where it is: this is its own module. */
export function standIn(module: string): void {
  const url = new URL(module);
  const location = Object.create(globalThis.location);
  for (const key of LOCATION) {
    Object.defineProperty(location, key, { value: url[key], enumerable: true });
  }
  Object.defineProperty(location, "toString", { value: () => url.href });
  Object.defineProperty(globalThis, "location", { value: location });
}
