/**
 * Variables that a process must not inherit: Deno would not start it. This
 * module imports nothing.
 *
 * @module
 */

/**
 * For `env` of `Deno.Command`: Deno does not start a process that inherits a
 * variable whose name begins with `LD_`, unless it may run everything. An empty
 * variable is allowed. These are the usual ones.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const command = new Deno.Command("deno", {
 *   args: ["eval", "console.log('<' + Deno.env.get('LD_PRELOAD') + '>')"],
 *   env: WITHOUT_LD,
 * });
 * const { stdout } = await command.output();
 * assertEquals(new TextDecoder().decode(stdout), "<>\n");
 * ```
 */
export const WITHOUT_LD = {
  LD_LIBRARY_PATH: "",
  LD_PRELOAD: "",
  LD_RUN_PATH: "",
  LD_BIND_NOW: "",
};
