/**
 * Where in the program a call stands.
 * This module imports nothing.
 *
 * @module
 */

/** A place in a program, or in a package that it uses. */
export interface Place {
  /** The name of the program's file, or as much of its path as tells it apart. */
  file: string;
  /** The path or the URL of this file. */
  path: string;
  /** The line of the program's own call, from 1; 0 if it is not known. */
  line: number;
  /** The function it stands in, or `""` outside of any. */
  function: string;
  /** The npm package that made the call for the program, or `""`. */
  package: string;
  /** Whether it was called from `lib/`, and the program's line is not known. */
  isOfLib: boolean;
}

/** Writes a place as the tutorial does; `""` if none is known. */
export function placeText(
  { file, line, function: name }: Pick<Place, "file" | "line" | "function">,
): string {
  return file === "" ? "" : `${file}(${line}):${name}`;
}

/** No place is known. */
export const NOWHERE: Place = {
  file: "",
  path: "",
  line: 0,
  function: "",
  package: "",
  isOfLib: false,
};

/** As much as is used of V8's `CallSite`: a frame of a stack. */
interface Frame {
  /** As the module is loaded; `""` for what is not a file's. */
  getScriptNameOrSourceURL(): string | null;
  getLineNumber(): number | null;
  getFunctionName(): string | null;
  isEval(): boolean;
}

/** What V8 reads of `Error` when it writes a stack. */
interface StackSettings {
  stackTraceLimit: number;
  prepareStackTrace?: unknown;
  captureStackTrace(holder: object, above: unknown): void;
}

/** Usually the program's own line is among so many, and each one takes time. */
const FEW_FRAMES = 3;
const ALL_FRAMES = 50;

/** This file, as stacks name it: not always as `import.meta.url` does. */
const THIS_FILE = stackOf(1, stackOf)[0]?.getScriptNameOrSourceURL() ?? "";
/** Where `writeFull` and the like are: their caller is the program. */
const LIB = THIS_FILE.replace(/trace\/call_site\.ts$/, "");
/** In a copy they stand in the program. */
const HELPERS = ["readFull", "readSome", "readExactly", "writeFull"];
/** A package, in `node_modules` or in Deno's own cache. */
const PACKAGE =
  /.*(?:\/node_modules|\/npm\/[^/]+)\/((?:@[^/]+\/)?[^/@.][^/]*)(?:\/|$)/;

/** Whose code a file is. */
interface Owner {
  kind: "deno" | "trace" | "relay" | "lib" | "package" | "program" | "other";
  /** The name of the file, or of the package. */
  name: string;
  /** The path of the file. */
  path: string;
}

/** What is known of files, by their URLs. */
const owners = new Map<string, Owner>();
/** The files of programs that have a name, by this name. */
const filesNamed = new Map<string, Set<string>>();

/**
 * Finds the program's own line on the stack: the first one that is neither
 * Deno's, nor of a package, nor of `lib/`. The stack goes on after an `await`.
 *
 * @param otherwise Where the call stands if no line of the program is there,
 * because the event loop has made it.
 * @param above The stack is looked at from the caller of this function on.
 *
 * @example
 * ```ts no-assert
 * function greet() {
 *   console.error(callSite()); // { file: "greet.ts", line: 2, function: "greet", ...
 * }
 * ```
 */
export function callSite(
  otherwise?: Place,
  above: unknown = callSite,
): Place {
  let first: Place | undefined;
  let by = "";
  for (const limit of [FEW_FRAMES, ALL_FRAMES]) {
    const frames = stackOf(limit, above);
    for (const frame of frames) {
      const owner = ownerOf(frame.getScriptNameOrSourceURL() ?? "");
      const { kind } = owner;
      if (kind === "deno" || kind === "trace" || frame.isEval()) continue;
      if (kind === "package") by = owner.name; // The one that the program calls.
      else if (kind === "lib" || kind === "other") {
        first ??= placeOf(frame, owner, by);
      } else if (!HELPERS.includes(frame.getFunctionName() ?? "")) {
        return placeOf(frame, owner, by);
      }
    }
    if (frames.length < limit) break; // These are all.
  }
  const place = otherwise ?? first ?? NOWHERE;
  return { ...place, package: by || place.package };
}

/** The stack as V8 has it, whatever the program has set for its own. */
function stackOf(limit: number, above: unknown): Frame[] {
  const settings = Error as unknown as StackSettings;
  const { stackTraceLimit, prepareStackTrace } = settings;
  const holder: { stack?: Frame[] } = {};
  try {
    settings.stackTraceLimit = limit;
    settings.prepareStackTrace = takeFrames;
    settings.captureStackTrace(holder, above);
    return holder.stack ?? [];
  } finally {
    settings.stackTraceLimit = stackTraceLimit;
    settings.prepareStackTrace = prepareStackTrace;
  }
}

function takeFrames(_: unknown, frames: Frame[]): Frame[] {
  return frames;
}

function ownerOf(url: string): Owner {
  const known = owners.get(url);
  if (known !== undefined) return known;
  const owner = findOwner(url);
  owners.set(url, owner);
  return owner;
}

function findOwner(url: string): Owner {
  const path = url.startsWith("file:")
    ? decodeURIComponent(new URL(url).pathname)
    : url;
  const name = path.slice(path.lastIndexOf("/") + 1);
  const kind = url === "" || /^(ext|node):/.test(url)
    ? "deno"
    : url === THIS_FILE || url.startsWith(`${LIB}trace/`)
    ? "trace"
    // It plays the network: none of its calls is the program's. A copy has none.
    : url === `${LIB}lab/relay.ts`
    ? "relay"
    : url.startsWith(LIB)
    ? "lib"
    : path === url
    ? "other"
    : "program";
  const [, ofPackage] = kind === "program" && path.match(PACKAGE) || [];
  if (ofPackage !== undefined) {
    return { kind: "package", name: ofPackage, path };
  }
  if (kind === "program") {
    const files = filesNamed.get(name) ?? new Set();
    filesNamed.set(name, files.add(path));
  }
  return { kind, name, path };
}

function placeOf(frame: Frame, { kind, name, path }: Owner, by: string): Place {
  const inFunction = frame.getFunctionName() ?? "";
  // By its path from here, if another file has the same name.
  const isKnown = (filesNamed.get(name)?.size ?? 0) > 1;
  const here = isKnown ? `${Deno.cwd()}/` : "";
  return {
    file: !isKnown
      ? name
      : path.startsWith(here)
      ? path.slice(here.length)
      : path,
    path,
    line: frame.getLineNumber() ?? 0,
    // A timer calls functions without a name by one of its own.
    function: inFunction === "_onTimeout" ? "" : inFunction,
    package: by,
    isOfLib: kind === "lib" || kind === "relay",
  };
}
