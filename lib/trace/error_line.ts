/**
 * Lines on standard error.
 * This module imports nothing.
 *
 * @module
 */

const { stderr } = Deno; // A program may put others in their place.
const standardError = { writeSync: stderr.writeSync.bind(stderr) };
const encoder = new TextEncoder();
/** How long to wait before a write is tried again, in milliseconds. */
const ERROR_RETRY_PAUSE = 10;

/**
 * Writes a line on standard error, before the program goes on: so it is in order
 * with what the program itself prints, and nothing is lost if the program is
 * killed. If nobody reads standard error, this waits, as a write of any program
 * does. An error of it is nobody's: the reader is gone, or the disk is full.
 *
 * @param output Writes somewhere else.
 *
 * @example
 * ```ts no-assert
 * errorLine("connect 127.0.0.1:9527: ECONNREFUSED (Connection refused)");
 * ```
 */
export function errorLine(line: string, output = standardError): void {
  errorText(`${line}\n`, output);
}

/** The same for any text: a question, say, which ends without a newline. */
export function errorText(text: string, output = standardError): void {
  let rest = encoder.encode(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(output.writeSync(rest));
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) return;
      // Somebody who shares it has set O_NONBLOCK, and it is full.
      Atomics.wait(
        new Int32Array(new SharedArrayBuffer(4)),
        0,
        0,
        ERROR_RETRY_PAUSE,
      );
    }
  }
}
