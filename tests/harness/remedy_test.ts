import { assertEquals } from "@std/assert";
import { remedyOf, rootOf } from "../../lib/harness/remedy.ts";

const errorOf = (code: string) => Object.assign(new Error(), { code });
const cases: [code: string, where: Parameters<typeof remedyOf>[1], string][] = [
  ["ECONNREFUSED", { call: "connect", port: 1 }, "does a server listen there?"],
  [
    "EADDRINUSE",
    { call: "listen", port: 9527 },
    "ss -tlnp 'sport = :9527' says who has it",
  ],
  [
    "EADDRINUSE",
    { call: "bind", port: 9527 },
    "ss -ulnp 'sport = :9527' says who has it",
  ],
  ["EADDRINUSE", { call: "listen" }, "ss -tlnp says who has it"],
  // A port of 0 is not the one that the kernel has chosen.
  ["EADDRINUSE", { port: 0 }, "ss -tulnp says who has it"],
  [
    "EADDRNOTAVAIL",
    { call: "bind", port: 80 },
    "no address of this host, ip addr lists those",
  ],
  ["EADDRNOTAVAIL", { call: "connect" }, "this host has no port left for it"],
  [
    "EACCES",
    { call: "listen", port: 1023 },
    "ports below 1024 are for root, take a higher one",
  ],
  ["EACCES", { call: "listen", port: 1024 }, ""],
  ["EACCES", { call: "open" }, ""],
  [
    "EADDRINUSE",
    { call: "listen", path: "/run/echo.sock" },
    "ss -xlp says who has it, or whether the file was only left behind",
  ],
  [
    "EACCES",
    { call: "connect", path: "/run/echo.sock" },
    "ls -l says who may use this file, and ls -ld its folder",
  ],
  ["ENOENT", { path: "/run/echo.sock" }, "no server has made this file"],
  ["ENOENT", {}, ""],
  ["toString", {}, ""],
  ["EXDEV", {}, ""],
];

Deno.test("remedyOf() names what to do about an error, by code, call and port", () => {
  for (const [code, where, remedy] of cases) {
    assertEquals(remedyOf(errorOf(code), where), remedy, code);
  }
});

Deno.test("remedyOf() looks for the cause that is at the bottom", () => {
  const cause = errorOf("ECONNREFUSED");
  const middle = new Error("connect", { cause });
  const error = new Error("judge", { cause: middle });
  assertEquals(rootOf(error), cause);
  assertEquals(remedyOf(error), "does a server listen there?");
});

Deno.test("remedyOf() knows a stream that has ended too early, and takes anything", () => {
  const error = new Deno.errors.UnexpectedEof("read 0 of 6 bytes");
  assertEquals(remedyOf(error), "the server has closed the connection");
  for (const thrown of [undefined, null, "text", 7, new Error(), {}]) {
    assertEquals(remedyOf(thrown), "");
  }
});
