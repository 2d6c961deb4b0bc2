/** Echo servers, each with one mistake: `wrong_echo.ts MISTAKE`. */
import { isConnectionLost } from "../../../lib/connection_lost.ts";
import { writeFull } from "../../../lib/full_io.ts";
import { endWithInput } from "../../bench/servers/end_with_input.ts";

const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening on 127.0.0.1:${listener.addr.port}`);
endWithInput();

/** The right one, with places for a mistake. */
async function echo(
  conn: Deno.TcpConn,
  change: (data: Uint8Array<ArrayBuffer>) => unknown = (data) => data,
  write: (conn: Deno.TcpConn, data: Uint8Array) => Promise<unknown> = writeFull,
): Promise<number> {
  const buffer = new Uint8Array(16 * 1024);
  let sum = 0;
  while (true) {
    const count = await conn.read(buffer);
    if (count === null) return sum;
    sum += count;
    const data = await change(buffer.subarray(0, count)) ?? new Uint8Array();
    await write(conn, data as Uint8Array);
  }
}

/** Serves all clients at once, and goes on after a lost one. */
async function serve(handler: (conn: Deno.TcpConn) => Promise<unknown>) {
  while (true) {
    try {
      const conn = await listener.accept();
      handler(conn).catch((error) => {
        if (!isConnectionLost(error)) throw error;
      }).finally(() => conn[Symbol.dispose]());
    } catch (error) {
      if (!isConnectionLost(error)) throw error;
    }
  }
}

const leaked: Deno.Conn[] = [];

const MISTAKES: Record<string, () => Promise<unknown>> = {
  /** As in Deno's docs: nobody waits for the promise of pipeTo. */
  async docs() {
    for await (const conn of listener) conn.readable.pipeTo(conn.writable);
  },
  /** A loop without a try: one client at a time. */
  async for_await() {
    for await (const conn of listener) {
      await echo(conn);
      conn.close();
    }
  },
  ignores_write: () =>
    serve((conn) => echo(conn, undefined, (conn, data) => conn.write(data))),
  /** What is not sent yet at the end of the stream is lost. */
  drops_rest: () =>
    serve(async (conn) => {
      let sending = Promise.resolve<unknown>(0);
      await echo(conn, (data) => data.slice(), (_, data) => {
        sending = sending.then(() => writeFull(conn, data)).catch(() => {});
        return Promise.resolve();
      });
    }),
  /** Text is not bytes. */
  text: () =>
    serve((conn) =>
      echo(
        conn,
        (data) => new TextEncoder().encode(new TextDecoder().decode(data)),
      )
    ),
  shouts: () =>
    serve((conn) =>
      echo(conn, (data) => data.map((it) => it >= 97 ? it - 32 : it))
    ),
  /** It gives up long streams. */
  limit: () => {
    const most = 1024 * 1024;
    return serve(async (conn) => {
      let sum = 0;
      await echo(conn, (data) => {
        sum += data.length;
        if (sum > most) conn.close();
        return data;
      }).catch(() => {});
    });
  },
  /** A message must come. */
  needs_a_word: () =>
    serve(async (conn) => {
      if (await echo(conn).catch(() => 1) === 0) Deno.exit();
    }),
  /** It knows that a read may fail, and not that a write may. */
  write_fails: () =>
    serve((conn) =>
      echo(
        conn,
        undefined,
        (conn, data) => writeFull(conn, data).catch(() => Deno.exit()),
      )
    ),
  /** It thinks that so many clients lost in the middle are a sign of worse. */
  counts_lost: () => {
    let lost = 0;
    return serve(async (conn) => {
      let isSpeaking = false;
      await echo(conn, (data) => {
        isSpeaking = true;
        return data;
      }).catch(() => {
        // Other checks bring a handful. (A client that resets before it has said
        // anything may be seen here, or in accept(): those are not counted.)
        if (isSpeaking && ++lost > 25) Deno.exit();
      });
    });
  },
  /** It never closes a connection itself: one more descriptor for each client. */
  leaks: async () => {
    while (true) {
      const conn = await listener.accept().catch(() => null);
      if (conn === null) continue;
      leaked.push(conn);
      echo(conn).then(() => conn.closeWrite()).catch(() => {});
    }
  },
  /** It does not want to end. */
  ignores_sigterm: () => {
    Deno.addSignalListener("SIGTERM", () => {});
    return serve(echo);
  },
  /** It sends again what it has sent already. */
  repeats: () =>
    serve((conn) => {
      let all = new Uint8Array();
      return echo(conn, (data) => all = new Uint8Array([...all, ...data]));
    }),
  /** So many have a place. Nobody else is served until one of them leaves. */
  places: () => {
    let free = 50;
    let go = () => {};
    return serve(async (conn) => {
      while (free === 0) {
        await new Promise<void>((resolve) => {
          const others = go;
          go = () => (others(), resolve());
        });
      }
      free--;
      await echo(conn).catch(() => {});
      free++;
      go();
      go = () => {};
    });
  },
  /** Of three clients one always waits. */
  unfair: () => {
    let clients = 0;
    return serve((conn) => {
      const time = clients++ % 3 === 0 ? 150 : 0;
      return echo(conn, async (data) => {
        if (time > 0 && data.length === 64) {
          await new Promise((resolve) => setTimeout(resolve, time));
        }
        return data;
      });
    });
  },
};

await MISTAKES[Deno.args[0]]();
