/**
 * Traces the socket calls of a Deno program, any program, on standard error: an
 * strace(1) in the words of Deno.
 *
 * @run deno run --preload lib/trace/trace.ts --allow-net any_program.ts
 *
 * For each call it prints the file, line and function of the program, as the
 * tutorial's `printf("%s(%d):%s\n", __FILE__, __LINE__, __FUNCTION__)`, and
 * what came of it:
 *
 *     any_program.ts(7):serve write 6 of 6 bytes "hello\n"
 *
 * @module
 */

import { errorLine } from "./error_line.ts";
import { watchSocketCalls } from "./socket_calls.ts";

watchSocketCalls(({ file, line, function: name, what }) =>
  errorLine(`${file}(${line}):${name} ${what}`)
);
