/**
 * Goes through the socket calls of a program, any program, one by one.
 *
 * @run deno run --preload lib/trace/step.ts --allow-net --allow-run=cat any_program.ts
 *
 * Before each call the program stops, and one sees the call, its line of source, and
 * what the kernel knows of each socket and of its other side, where that is on this
 * host. Enter lets the call happen, `r` runs on. `setTimeout` and
 * `AbortSignal.timeout` stand still meanwhile; the kernel's timeouts and those of
 * Node's modules do not.
 *
 * @module
 */

import { errorLine } from "./error_line.ts";
import { watchHttp } from "./http_calls.ts";
import { watchNodeSockets } from "./node_sockets.ts";
import { canStep, startStep, traceView } from "./start_step.ts";

if (!canStep()) {
  errorLine("step: standard input and standard error must be a terminal");
  Deno.exit(2);
}
const stepped = startStep(traceView()).recorder;
watchNodeSockets(stepped);
watchHttp(stepped);
