import { assert, assertEquals } from "@std/assert";
import {
  formatAddress,
  quoteBytes,
  type TraceEvent,
  traceTo,
} from "../lib/trace.ts";

Deno.test("traceTo() knows line and function of the call, also after an await", async () => {
  const events: TraceEvent[] = [];
  const trace = traceTo((event) => events.push(event));
  async function server() {
    trace("accept");
    await Promise.resolve();
    trace("write", "to peer");
  }
  class Client {
    run() {
      trace("connect");
    }
  }
  await server();
  new Client().run();

  const lines = Deno.readTextFileSync(new URL(import.meta.url)).split("\n");
  for (const { file, line, what } of events) {
    assertEquals(file, "trace_test.ts");
    assert(lines[line - 1].includes(`trace("${what}"`), `${what} at ${line}`);
  }
  assertEquals(
    events.map((it) => [it.what, it.function, it.toPeer]),
    [
      ["accept", "server", false],
      ["write", "server", true],
      ["connect", "run", false],
    ],
  );
});

Deno.test("traceTo() takes the time of the call", () => {
  const times: number[] = [];
  const trace = traceTo((event) => times.push(event.at));
  const before = performance.timeOrigin + performance.now();
  trace("first");
  trace("second");
  const after = performance.timeOrigin + performance.now();
  assertEquals([before, ...times, after], [before, ...times, after].toSorted());
  assert(Math.abs(times[0] - Date.now()) < 60_000);
});

Deno.test("formatAddress() puts IPv6 addresses in brackets, once", () => {
  const format = (hostname: string) => formatAddress({ hostname, port: 9527 });
  assertEquals(format("127.0.0.1"), "127.0.0.1:9527");
  assertEquals(format("localhost"), "localhost:9527");
  assertEquals(format("::"), "[::]:9527");
  assertEquals(format("[::1]"), "[::1]:9527");
});

Deno.test("quoteBytes() is printable ASCII, whatever the bytes", () => {
  const quote = (text: string) => quoteBytes(new TextEncoder().encode(text));
  assertEquals(quote(""), '""');
  assertEquals(quote('a"b\\c\n'), '"a\\"b\\\\c\\n"');
  assertEquals(quote("\0\x1b\x7f~ "), '"\\x00\\x1b\\x7f~ "');
  assertEquals(quote("好"), '"\\xe5\\xa5\\xbd"');
  assertEquals(quote("0123456789abcdef"), '"0123456789abcdef"');
  assertEquals(quote("0123456789abcdefg"), '"0123456789abcdef"...');
});
