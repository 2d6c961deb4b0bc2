import { assertEquals, assertThrows } from "@std/assert";
import { announce, formatAddress, plainAddress } from "../../lib/address.ts";
import { replaced } from "../testing.ts";

Deno.test("formatAddress() puts IPv6 addresses in brackets, once", () => {
  const format = (hostname: string) => formatAddress({ hostname, port: 9527 });
  assertEquals(format("127.0.0.1"), "127.0.0.1:9527");
  assertEquals(format("localhost"), "localhost:9527");
  assertEquals(format("::"), "[::]:9527");
  assertEquals(format("[::1]"), "[::1]:9527");
});

Deno.test("plainAddress() writes each address in one way", () => {
  const cases = [
    ["127.0.0.1", "127.0.0.1"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["::FFFF:127.0.0.1", "::ffff:7f00:1"],
    ["FE80::0001%eth0", "fe80::1"],
    ["::", "::"],
  ];
  for (const [address, plain] of cases) {
    assertEquals(plainAddress(address), plain);
  }
  // What has no colon is taken as it is, so a name is too.
  assertEquals(plainAddress("localhost"), "localhost");
  for (const address of ["a:b", ":", "1::2::3", "127.0.0.1:80"]) {
    assertThrows(() => plainAddress(address), TypeError);
  }
});

Deno.test("announce() prints the line that programs wait for", () => {
  const lines: unknown[] = [];
  using _ = replaced(console, "log", (...words: unknown[]) => {
    lines.push(words);
  });
  announce({ transport: "tcp", hostname: "::", port: 9527 });
  assertEquals(lines, [["listening on [::]:9527"]]);
});
