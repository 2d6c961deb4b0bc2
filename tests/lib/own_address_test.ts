import { assertEquals } from "@std/assert";
import { isOwnAddress } from "../../lib/own_address.ts";

Deno.test("isOwnAddress() knows every address of this host's interfaces", () => {
  const own = Deno.networkInterfaces()
    // A link-local address is one only with its scope.
    .map(({ address, name }) =>
      address.startsWith("fe80:") ? `${address}%${name}` : address
    );
  // All of 127.0.0.0/8 is the loopback interface's.
  for (const address of ["127.0.0.1", "127.0.0.2", "127.255.255.254", ...own]) {
    assertEquals(isOwnAddress(address), true, address);
  }
});

Deno.test("isOwnAddress() tells those of other hosts from them", () => {
  // RFC 5737 and RFC 3849: nobody's, and examples in books. The last one's scope
  // is not there.
  const foreign = ["192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1"];
  for (const address of [...foreign, "fe80::1%no_such_if"]) {
    assertEquals(isOwnAddress(address), false, address);
  }
});
