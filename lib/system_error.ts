/**
 * Telling what the system says from what the program has to answer for.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Says whether an error is the answer of the operating system to a call, such as
 * "No route to host". All others are about the program itself: a permission that
 * it does not have, a resource that it has closed, a mistake.
 *
 * @param error What a call of Deno's has thrown.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * try {
 *   Deno.listen({ hostname: "127.0.0.1", port: listener.addr.port });
 * } catch (error) {
 *   assert(isSystemError(error)); // Address already in use (os error 98)
 * }
 * assert(!isSystemError(new Deno.errors.NotCapable("Requires net access")));
 * ```
 */
export function isSystemError(error: unknown): boolean {
  return error instanceof Error && / \(os error \d+\)$/.test(error.message);
}
