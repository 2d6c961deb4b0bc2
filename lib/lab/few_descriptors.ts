/**
 * A process that has hardly any descriptors left.
 *
 * @module
 */

import { openLibc, SOCK_STREAM } from "./libc_socket.ts";

const RLIMIT_NOFILE = 7;

/**
 * Lets this process open only a few more descriptors, until it is disposed of:
 * `ulimit -n` for a while.
 *
 * It is for all threads of the process. So the example is not run: other tests
 * run beside it, and would have no descriptors either.
 *
 * @param count How many, if there are no gaps between those that are open.
 *
 * @example
 * ```ts ignore
 * import { assertEquals } from "@std/assert";
 *
 * using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * using _few = leaveDescriptors(0);
 * const connecting = Deno.connect({ port: listener.addr.port });
 * assertEquals(await connecting.catch((error) => error.code), "EMFILE");
 * ```
 */
export function leaveDescriptors(count: number): Disposable {
  using stack = new DisposableStack();
  const libc = stack.use(openLibc());
  const limits = new BigUint64Array(2); // A struct rlimit: now, and at most.
  libc.call("getrlimit", RLIMIT_NOFILE, limits);
  const [before] = limits;
  stack.defer(() => {
    limits[0] = before!;
    libc.call("setrlimit", RLIMIT_NOFILE, limits);
  });
  using next = libc.socket(SOCK_STREAM); // The lowest number that is free.
  limits[0] = BigInt(next.fd + count);
  libc.call("setrlimit", RLIMIT_NOFILE, limits);
  return stack.move();
}
