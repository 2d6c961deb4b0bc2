/** What lib uses of `jsr:@std/fmt/colors`. */
export function bold(str: string): string;
export function cyan(str: string): string;
export function green(str: string): string;
export function red(str: string): string;
