/**
 * Traces the socket calls of a demo's child for its parent: each one a line of
 * JSON on standard error, which begins with `{"at":`.
 *
 * @module
 */

import { LineQueue } from "./line_queue.ts";
import { beforeExit } from "./run_lesson.ts";
import { watchSocketCalls } from "./socket_calls.ts";

const queue = new LineQueue();
// On a busy machine the last lines would not be written by then.
beforeExit.add(() => queue.flush());
watchSocketCalls((call) => queue.write(JSON.stringify(call)));
