import { assertEquals } from "@std/assert";
import { runDeno } from "../testing.ts";

// In a process of its own, because the other tests need descriptors meanwhile.
Deno.test("leaveDescriptors() leaves so many, until it is disposed of", async () => {
  const module = new URL("../../lib/lab/few_descriptors.ts", import.meta.url);
  const program = `
    import { leaveDescriptors } from ${JSON.stringify(module.href)};
    const open = () => {
      const listeners = [];
      try {
        while (listeners.length < 100) {
          listeners.push(Deno.listen({ hostname: "127.0.0.1", port: 0 }));
        }
        return "all";
      } catch (error) {
        return [listeners.length, error.code];
      } finally {
        for (const listener of listeners) listener.close();
      }
    };
    open(); // What Deno opens for the first time, and keeps.
    const few = leaveDescriptors(7);
    const limited = open();
    few[Symbol.dispose]();
    console.log(JSON.stringify([limited, open()]));
  `;
  const url = `data:text/typescript,${encodeURIComponent(program)}`;
  const { code, stdout } = await runDeno([
    ...["run", "--allow-net", "--allow-ffi", url],
  ]);
  assertEquals(code, 0); // Deno may warn of a file of its own.
  assertEquals(JSON.parse(stdout), [[7, "EMFILE"], "all"]);
});
