import { assertEquals, assertRejects } from "@std/assert";
import { resolveHost } from "../../lib/resolve_host.ts";
import { canMount, hasIpv6, withHosts } from "../testing.ts";

const MODULE = new URL("../../lib/resolve_host.ts", import.meta.url);

Deno.test("resolveHost() takes the address that Deno.listen() takes", async () => {
  using listener = Deno.listen({ hostname: "localhost", port: 0 });
  assertEquals(await resolveHost("localhost"), listener.addr.hostname);
});

Deno.test(
  "resolveHost() agrees with Deno.listen() in whatever order names stand",
  {
    ignore: !hasIpv6() || !await canMount(),
  },
  async () => {
    const script = `
    import { resolveHost } from "${MODULE}";
    using listener = Deno.listen({ hostname: "localhost", port: 0 });
    console.log(listener.addr.hostname, await resolveHost("localhost"));`;
    for (const addresses of [["::1", "127.0.0.1"], ["127.0.0.1", "::1"]]) {
      await using hosts = await withHosts(
        addresses.map((it) => `${it} localhost\n`).join(""),
      );
      const [program, ...args] = hosts.wrapper([
        ...[Deno.execPath(), "eval", script],
      ]);
      const { stdout } = await new Deno.Command(program, { args }).output();
      const [listened, resolved] = new TextDecoder().decode(stdout).trim()
        .split(" ");
      assertEquals(resolved, listened);
      assertEquals(addresses.includes(resolved), true, resolved);
    }
  },
);

Deno.test("resolveHost() leaves IP addresses as they are, without brackets", async () => {
  for (const address of ["127.0.0.1", "0.0.0.0", "::1", "::", "192.0.2.1"]) {
    assertEquals(await resolveHost(address), address);
    if (address.includes(":")) {
      assertEquals(await resolveHost(`[${address}]`), address);
    }
  }
});

Deno.test("resolveHost() rejects where there is no such name", async () => {
  const error = await assertRejects(() => resolveHost("no.such.host.invalid"));
  const { code } = error as { code?: unknown };
  // Without any resolver that answers it is EAI_AGAIN.
  assertEquals(["ENOTFOUND", "EAI_AGAIN"].includes(String(code)), true);
});
