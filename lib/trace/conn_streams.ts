/**
 * Watches `readable` and `writable` of Deno's connections.
 *
 * @module
 */

import type { Place } from "./call_site.ts";
import type { Begun, Recorder, SocketInfo } from "./recorder.ts";
import type { Any } from "./replace.ts";

/** Deno's: a program may put others in their place. */
const Streams = { ReadableStream, WritableStream };

/**
 * `readable` and `writable` do not call `read` and `write`. So our own streams
 * stand in front of Deno's, with the same buffers: none for reading, one chunk
 * for writing.
 *
 * @param prototype Where the getters of both are.
 */
export function watchStreams(recorder: Recorder, prototype: Any): void {
  const getter = (
    key: string,
    make: (conn: Any, socket: SocketInfo, stream: Any) => object,
  ) => {
    const original = Object.getOwnPropertyDescriptor(prototype, key);
    const { get } = original ?? {};
    if (get === undefined) return;
    const made = new WeakMap<object, object>();
    Reflect.defineProperty(prototype, key, {
      ...original,
      get(this: Any) {
        const stream = get.call(this); // Throws for another `this`.
        const socket = recorder.info(this);
        if (socket === undefined) return stream;
        const ours = made.get(stream) ?? make(this, socket, stream);
        made.set(stream, ours);
        return ours;
      },
    });
  };
  getter(
    "readable",
    (conn, socket, stream) => watchReadable(recorder, conn, socket, stream),
  );
  getter(
    "writable",
    (conn, socket, stream) => watchWritable(recorder, conn, socket, stream),
  );
}

/** At their end, and after an error, Deno's streams close the connection. */
function closedBy(recorder: Recorder, conn: object, closing: Begun): void {
  if (recorder.close(conn)) recorder.end(closing, () => ({}));
}

function watchReadable(
  recorder: Recorder,
  conn: object,
  socket: SocketInfo,
  stream: ReadableStream<Uint8Array>,
): ReadableStream<Uint8Array> {
  // pipeTo() reads while no line of the program is on the stack.
  const gotAt = recorder.place();
  const reader = stream.getReader({ mode: "byob" });
  let isReading = false;
  let isCancelled = false;
  let next: Place | undefined; // Of a read that waits for another one.
  const closing = (otherwise: Place) => {
    const name = "close, by readable";
    return recorder.begin({ name, socket, isSending: true, otherwise });
  };
  const closed = (place: Place) => closedBy(recorder, conn, closing(place));
  const read = async (controller: ReadableByteStreamController) => {
    const call = { name: "read", socket, otherwise: next ?? gotAt };
    const begun = recorder.begin(call);
    const request = controller.byobRequest!;
    isReading = true;
    try {
      const { value, done } = await recorder.pass(begun, () => {
        recorder.wait(begun);
        return reader.read(request.view as Any);
      });
      isReading = false;
      if (isCancelled) return recorder.forget(begun); // That ends a read as well.
      next ??= begun.place; // A read that wants more goes on at once.
      recorder.end(begun, () => recorder.readOutcome(done ? null : value));
      if (done) {
        closed(begun.place);
        controller.close();
      }
      if (value) request.respondWithNewView(value as Any);
      else request.respond(0);
      next = undefined;
    } catch (error) {
      recorder.fail(begun, error);
      closed(begun.place);
      controller.error(error);
    }
  };
  return new Streams.ReadableStream({
    type: "bytes",
    autoAllocateChunkSize: 64 * 1024, // As Deno's own has it.
    // It does not wait: while it does, the stream takes the program's next
    // read without a call, and so without a place.
    pull(controller) {
      if (isReading) next = recorder.place(gotAt);
      else read(controller);
    },
    async cancel(reason) {
      const begun = closing(gotAt);
      isCancelled = true;
      await reader.cancel(reason);
      closedBy(recorder, conn, begun);
    },
  }, { highWaterMark: 0 });
}

function watchWritable(
  recorder: Recorder,
  conn: object,
  socket: SocketInfo,
  stream: WritableStream<Uint8Array>,
): WritableStream<Uint8Array> {
  const gotAt = recorder.place();
  const writer = stream.getWriter();
  const places: Place[] = [];
  const closing = (otherwise: Place) => {
    const name = "close, by writable";
    return recorder.begin({ name, socket, isSending: true, otherwise });
  };
  const end = async (call: () => Promise<void>) => {
    const begun = closing(gotAt);
    await call();
    closedBy(recorder, conn, begun);
  };
  return new Streams.WritableStream<Uint8Array>({
    start(controller) {
      // In Deno 2.8 a write that fails resolves; the stream has its error.
      writer.closed.catch((error) => controller.error(error));
    },
    async write(chunk) {
      const otherwise = places.shift() ?? gotAt;
      const offered = recorder.quote(chunk);
      const call = { name: "write", socket, isSending: true, otherwise };
      const begun = recorder.begin(call);
      const failed = (error: unknown) => {
        recorder.fail(begun, error);
        closedBy(recorder, conn, closing(begun.place));
      };
      try {
        await recorder.pass(begun, () => {
          recorder.wait(begun);
          return writer.write(chunk);
        });
      } catch (error) {
        failed(error);
        throw error;
      }
      if (writer.desiredSize === null) {
        writer.closed.catch(failed);
        return;
      }
      // It says so only when all of it is written.
      const bytes = chunk?.byteLength ?? 0;
      const result = ` ${parseInt(offered)} of ${offered}`;
      recorder.end(begun, () => ({ result, bytes }));
    },
    close: () => end(() => writer.close()),
    abort: (reason) => end(() => writer.abort(reason)),
  }, {
    // Asked for by each write, also by one that has to wait for another one.
    size() {
      places.push(recorder.place(gotAt));
      return 1;
    },
  });
}
