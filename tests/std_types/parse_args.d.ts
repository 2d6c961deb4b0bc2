/** What lib uses of `jsr:@std/cli/parse-args`. */
export function parseArgs(
  args: string[],
  options?: {
    string?: string[];
    "--"?: boolean;
    boolean?: string[];
    alias?: Record<string, string>;
    unknown?: (arg: string, key?: string, value?: unknown) => unknown;
  },
): { [x: string]: unknown; _: Array<string | number> };
