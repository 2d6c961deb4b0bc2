/**
 * What a user asks of the trace, by the variable `SOCKET_TRACE`.
 * This module imports nothing.
 *
 * @module
 */

/** What is told, how, and where. */
export interface TraceOptions {
  /** How many bytes of what was read or written are shown. */
  bytes?: number;
  /** Only calls of these names, or on these ports; all if there is none. */
  filter: string[];
  /** A file to write to, instead of standard error. */
  out?: string;
  /** Lines of JSON. */
  json: boolean;
  /** At the end, a line for each socket. */
  summary: boolean;
  /** Whether to look where a call stands, which takes most of the time. */
  hasPlaces: boolean;
}

/**
 * Reads `bytes=64 filter=read,write,9527 out=FILE json summary noplaces`, any of
 * these words in any order.
 *
 * @throws {TypeError} If a word is not one of them.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 *
 * const { bytes, filter } = parseTraceOptions("bytes=64 filter=read,9527");
 * assertEquals([bytes, filter], [64, ["read", "9527"]]);
 * ```
 */
export function parseTraceOptions(text: string): TraceOptions {
  const options: TraceOptions = {
    filter: [],
    json: false,
    summary: false,
    hasPlaces: true,
  };
  for (const word of text.split(/\s+/).filter((it) => it !== "")) {
    const [, key, value = ""] = word.match(/^(\w+=?)(.*)$/) ?? [];
    if (key === "bytes=" && /^\d{1,9}$/.test(value)) {
      options.bytes = Number(value);
    } else if (key === "filter=" && /^[\w,]+$/.test(value)) {
      options.filter.push(...value.split(",").filter((it) => it !== ""));
    } else if (key === "out=" && value !== "") options.out = value;
    else if (word === "json") options.json = true;
    else if (word === "summary") options.summary = true;
    else if (word === "noplaces") options.hasPlaces = false;
    else {
      const known = "bytes=N, filter=NAME,PORT,..., out=FILE, json, summary";
      throw new TypeError(
        `no such option: ${JSON.stringify(word)}, there are ${known}, noplaces`,
      );
    }
  }
  return options;
}
