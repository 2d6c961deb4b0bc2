/**
 * What a process must not inherit, or Deno does not start it.
 * This module imports nothing.
 *
 * @module
 */

/**
 * For `env` of `Deno.Command`: Deno starts nothing that inherits such a variable,
 * unless it may run everything. Empty is as good as not there.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const command = new Deno.Command("deno", {
 *   args: ["eval", "console.log(Deno.env.get('LD_PRELOAD') === '')"],
 *   env: WITHOUT_LD,
 * });
 * const { stdout } = await command.output();
 * assertEquals(new TextDecoder().decode(stdout), "true\n");
 * ```
 */
export const WITHOUT_LD = {
  LD_LIBRARY_PATH: "",
  LD_PRELOAD: "",
  LD_RUN_PATH: "",
  LD_BIND_NOW: "",
};
