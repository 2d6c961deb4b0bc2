/**
 * Ends this process when its standard input ends: so it is not left behind,
 * whatever becomes of the benchmark.
 */
export async function endWithInput(): Promise<void> {
  await Deno.stdin.readable.pipeTo(new WritableStream());
  Deno.exit();
}
