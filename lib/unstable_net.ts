/**
 * Datagrams are unstable in Deno, and so are shared ports.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Says which flag is missing where there is no `Deno.listenDatagram`. TypeScript
 * does not know: to it, the function is there with and without the flag.
 *
 * @param what The name of what needs the flag.
 * @throws {Error} Without `--unstable-net`.
 *
 * @example
 * ```ts
 * import { assertThrows } from "@std/assert";
 *
 * needUnstableNet(); // Does nothing: this runs with the flag.
 * const { listenDatagram } = Deno;
 * Object.assign(Deno, { listenDatagram: undefined });
 * assertThrows(() => needUnstableNet(), Error, "--unstable-net");
 * Object.assign(Deno, { listenDatagram });
 * ```
 */
export function needUnstableNet(what = "Deno.listenDatagram"): void {
  if (typeof Deno.listenDatagram === "function") return;
  throw new Error(
    `${what} is unstable, run again with the --unstable-net flag`,
  );
}
