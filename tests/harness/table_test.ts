import { assert, assertEquals } from "@std/assert";
import { grouped } from "../../lib/grouped.ts";
import { formatTable } from "../../lib/harness/table.ts";

Deno.test("formatTable() aligns text left and numbers right", () => {
  assertEquals(
    formatTable(["write", "offered", "accepted"], [
      [1, 67108864, 3919467],
      [2, 63189397, "waiting"],
    ], { color: false }),
    [
      "write   offered  accepted",
      "    1  67108864  3919467",
      "    2  63189397  waiting",
    ].join("\n"),
  );
});

Deno.test("formatTable() aligns numbers with their thousands apart to the right", () => {
  const rows = [["sent", "67,108,864"], ["got", "5"], ["lost", 0]];
  const table = formatTable(["", "bytes"], rows, { color: false });
  assertEquals(table.split("\n"), [
    "           bytes",
    "sent  67,108,864",
    "got            5",
    "lost           0",
  ]);
  const text = formatTable(["", "bytes"], [["a", "1,23"], ["b", "1"]]);
  assertEquals(text.split("\n").slice(1), ["a  1,23", "b  1"]);
});

Deno.test("formatTable() takes for a number what grouped() has written", () => {
  const rows = [[grouped(4_194_304), "8,1"], [grouped(999), 7], ["1.5", ""]];
  // The number of a process is a name.
  assertEquals(
    formatTable(["process"], [["12"], ["9527"]], { color: false }),
    "process\n12\n9527",
  );
  assertEquals(
    formatTable(["process"], [["12"], ["7"]], { color: false }),
    "process\n12\n7",
  );
  assertEquals(
    formatTable(["bytes", "what"], rows, { color: false }).split("\n"),
    ["    bytes  what", "4,194,304  8,1", "      999  7", "      1.5"],
  );
});

Deno.test("formatTable() leaves no spaces at the ends of lines", () => {
  const table = formatTable(["a", "long head"], [["long cell", ""], ["", "x"]]);
  for (const line of table.split("\n")) assertEquals(line, line.trimEnd());
});

Deno.test("formatTable() formats a table without rows", () => {
  assertEquals(formatTable(["a", "b"], [], { color: false }), "a  b");
});

Deno.test("formatTable() makes only the head bold", {
  ignore: Deno.noColor,
}, () => {
  const [head, row] = formatTable(["a"], [["b"]], { color: true }).split("\n");
  assertEquals([head, row], ["\x1b[1ma\x1b[22m", "b"]);
  assert(!formatTable(["a"], [["b"]]).includes("\x1b"), "in a pipe");
});

Deno.test("formatTable() gives wide characters two columns", () => {
  const rows = [["你好", 1], ["e\u0301", 2], ["abcd", 3]];
  assertEquals(formatTable(["text", "n"], rows, { color: false }).split("\n"), [
    "text  n",
    "你好  1",
    "e\u0301     2",
    "abcd  3",
  ]);
  const long = "一二三四五六七八九十百";
  const within = (columns: number) =>
    formatTable(["输出"], [[long]], { color: false, columns });
  assertEquals(within(22), `输出\n${long}`);
  assertEquals(within(21), "输出:\n  一二三四五六七八九\n  十百");
});

Deno.test("formatTable() is a list where it would be too wide", () => {
  const head = ["call", "", "returned"];
  const rows = [["read", "of the client", 12], ["write", "", "EPIPE"], [
    "accept",
    "twice",
    "",
  ]];
  const wide = formatTable(head, rows, { color: false, columns: 31 });
  assertEquals(wide.split("\n")[1], "read    of the client  12");
  const narrow = formatTable(head, rows, { color: false, columns: 30 });
  assertEquals(narrow.split("\n"), [
    "call: read",
    "of the client",
    "returned: 12",
    "",
    "call: write",
    "returned: EPIPE",
    "",
    "call: accept",
    "twice",
  ]);
  for (const columns of [20, 25, 30]) {
    for (const line of formatTable(head, rows, { columns }).split("\n")) {
      assert(line.length <= columns, line);
    }
  }
});

Deno.test("formatTable() adds rows to a table without a head", () => {
  const head = ["second", "state"];
  const options = { color: false, hasHead: false };
  assertEquals(
    formatTable(head, [[1.5, "LAST-ACK"]], options),
    "   1.5  LAST-ACK",
  );
  assertEquals(formatTable(head, [], options), "");
  assertEquals(
    formatTable(head, [[1.5, "LAST-ACK"]], { ...options, columns: 15 }),
    "second: 1.5\nstate: LAST-ACK\n",
  );
});

Deno.test("formatTable() breaks a cell that is too wide between its words", () => {
  const rows = [["one", "two three four"]];
  assertEquals(
    formatTable(["a", "b"], rows, { columns: 12, color: false }),
    "a: one\nb: two\n  three four",
  );
});

Deno.test("formatTable() has its head at the end too, if that is out of sight", () => {
  const rows = [[1], [2], [3]];
  const options = { columns: 80, color: false };
  const lines = ["n", "1", "2", "3"];
  assertEquals(
    formatTable(["n"], rows, { ...options, height: 5 }).split("\n"),
    lines,
  );
  assertEquals(
    formatTable(["n"], rows, { ...options, height: 4 }).split("\n"),
    [...lines, "n"],
  );
  assertEquals(
    formatTable(["n"], rows, { ...options, height: 2, hasHead: false })
      .split("\n"),
    lines.slice(1),
  );
});
