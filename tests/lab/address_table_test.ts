import { assert, assertEquals } from "@std/assert";
import { readAddressTable } from "../../lib/lab/address_table.ts";
import { canUnshare, inNetwork, runDeno } from "../testing.ts";

Deno.test("readAddressTable() has what Deno and the system list", async () => {
  const table = await readAddressTable();
  const listed = Deno.networkInterfaces().map(({ address, name, scopeid }) =>
    scopeid ? `${address}%${name}` : address
  );
  const isNetwork = (address: string) => address.includes("/");
  assertEquals(
    table.filter((it) => !isNetwork(it)).toSorted(),
    [...new Set(listed)].toSorted(),
  );
  assert(table.filter(isNetwork).includes("127.0.0.0/8"));
});

Deno.test(
  "readAddressTable() reads what a network has, and no broadcast address",
  {
    ignore: !await canUnshare(),
  },
  async () => {
    const url = new URL("../../lib/lab/address_table.ts", import.meta.url);
    const program = `console.log(
    JSON.stringify(await (await import("${url}")).readAddressTable()),
  );`;
    const wrapper = inNetwork([
      "ip addr add 10.1.2.3/32 dev lo",
      "ip addr add 10.1.2.4/32 dev lo",
      "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    ].join(" && "));
    const [command, ...args] = wrapper([Deno.execPath(), "eval", program]);
    const { stdout } = await new Deno.Command(command, { args }).output();
    assertEquals(JSON.parse(new TextDecoder().decode(stdout)).toSorted(), [
      "10.1.2.3",
      "10.1.2.4",
      "127.0.0.0/8",
      "127.0.0.1",
    ]);
  },
);

Deno.test("readAddressTable() needs --allow-run=cat, and no more", async () => {
  const url = new URL("../../lib/lab/address_table.ts", import.meta.url);
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(
    file,
    `import { readAddressTable } from "${url}";
    console.log((await readAddressTable()).length > 0);`,
  );
  const run = ["run", "--no-prompt"];
  const { stdout } = await runDeno([...run, "--allow-run=cat", file]);
  assertEquals(stdout, "true\n");
  const { code, stderr } = await runDeno([...run, file]);
  assertEquals([code, stderr.includes("NotCapable")], [1, true], stderr);
  await Deno.remove(file);
});
