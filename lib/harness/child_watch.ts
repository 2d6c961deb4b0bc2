/**
 * Watches what the processes do that a program starts by `deno run`: as its own
 * calls, from outside.
 *
 * @module
 */

/**
 * Lets each `deno run` load a module first.
 *
 * @param module The module.
 * @param onErrors Gets the standard error of each, where it is not turned off. If
 * there is none, standard error stays where it is.
 */
export function watchChildren(
  module: URL,
  onErrors?: (stderr: ReadableStream<Uint8Array<ArrayBuffer>>) => void,
): void {
  const { Command } = Deno;
  Deno.Command = class extends Command {
    #isWatched: boolean;

    constructor(program: string | URL, options: Deno.CommandOptions = {}) {
      const [first, ...args] = options.args ?? [];
      const isWatched = program === "deno" && first === "run" &&
        options.stderr !== "null";
      const watched: Deno.CommandOptions = {
        ...options,
        args: ["run", `--preload=${module.href}`, ...args],
        ...onErrors && { stderr: "piped" },
      };
      super(program, isWatched ? watched : options);
      this.#isWatched = isWatched;
    }

    override spawn(): Deno.ChildProcess {
      const child = super.spawn();
      if (this.#isWatched) onErrors?.(child.stderr);
      return child;
    }
  };
}
