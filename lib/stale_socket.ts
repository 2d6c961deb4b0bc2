/**
 * The file that a server on a Unix socket leaves behind.
 * This module imports nothing.
 *
 * @module
 */

/**
 * Removes the file of a server that is gone, so that another one can listen at
 * this path. A server that was ended by a signal could not remove it itself, and
 * then `Deno.listen` fails with EADDRINUSE.
 *
 * Whether somebody listens there is asked by a connection, which a live server
 * sees come and go. Nothing is removed if it answers, if there is no file, or if
 * the file is no socket: then `Deno.listen` says what is wrong. Two servers that
 * start in the same moment may remove each other's file, so where that can happen,
 * something else has to decide which one may start, such as a locked file.
 *
 * @param path Where the server will listen.
 * @throws {Error} If the file cannot be removed: it is another user's, say.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 *
 * const path = `${await Deno.makeTempDir()}/echo.sock`;
 * await removeStaleSocket(path); // There is nothing to remove.
 * using listener = Deno.listen({ transport: "unix", path });
 * await removeStaleSocket(path); // It answers, so its file stays.
 * assert((await Deno.lstat(path)).isSocket);
 * ```
 */
export async function removeStaleSocket(path: string): Promise<void> {
  try {
    // A connection to a file of any other kind is refused as well.
    if (!(await Deno.lstat(path)).isSocket) return;
    (await Deno.connect({ transport: "unix", path })).close();
  } catch (error) {
    // The file has no socket any more, because nobody has it open.
    if (error instanceof Deno.errors.ConnectionRefused) await Deno.remove(path);
  }
}
