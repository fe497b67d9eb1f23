// Where in an object a line of YAML is, also while the line is being written and the
// text is no YAML. Lists and maps in brackets are not looked into.

export type Path = (string | null)[]; // names of fields; null: an item of a list

export interface Place {
  /** path leads to the map or the list in which the line stands. */
  path: Path;
  /** key is the field whose value is being written; without one a name is. */
  key?: string;
  /** column is where the line's field begins. */
  column: number;
  /** others are the fields that the map has already. */
  others: Set<string>;
}

const split = /^(\s*(?:-\s+)*)(?:(["']?)([^\s"'#][^"'#]*?)\2:(?=\s|$))?(.*)$/;

interface Line {
  column: number; // of its first field, after the dashes
  dashes: number[]; // their columns
  key?: string;
  empty: boolean;
}

function read(text: string): Line {
  const [, lead = "", , key, rest = ""] = split.exec(text) ?? [];
  const dashes = [...lead.matchAll(/-/g)].map((m) => m.index);
  if (key === undefined && /^-\s*$/.test(rest)) return { column: lead.length + 2, dashes: [...dashes, lead.length], empty: false };
  return { column: lead.length, dashes, key, empty: key === undefined && (rest.trim() === "" || rest.startsWith("#")) && !dashes.length };
}

const parted = (text: string) => /^(---|\.\.\.)(\s|$)/.test(text);

/** documentAt is the first and the last line of the document around a line. */
function documentAt(lines: string[], at: number): [number, number] {
  let [first, last] = [at, at];
  while (first > 0 && !parted(lines[first - 1]!)) first--;
  while (last + 1 < lines.length && !parted(lines[last + 1]!)) last++;
  return [first, last];
}

/** kindAt is what the document around a line says it is. */
export function kindAt(lines: string[], at: number): { apiVersion: string; kind: string } {
  const [first, last] = documentAt(lines, at);
  const found = { apiVersion: "", kind: "" };
  for (const line of lines.slice(first, last + 1)) {
    const match = /^(apiVersion|kind):\s+["']?([^\s"'#]+)/.exec(line);
    if (match) found[match[1] as keyof typeof found] = match[2]!;
  }
  return found;
}

/** placeAt finds the place of the end of a line that is cut off at the cursor. */
export function placeAt(lines: string[], at: number, cut = lines[at]!): Place {
  const [first, last] = documentAt(lines, at);
  const here = read(cut);
  const column = here.column;
  const path: Path = [];
  let low = column;
  let item = false; // the last step was into a list, whose dashes may stand below the field's name
  const dashes = (line: Line) => {
    for (const d of [...line.dashes].reverse()) {
      if (d < low) {
        path.unshift(null);
        low = d;
        item = true;
      }
    }
  };
  dashes(here);
  for (let n = at - 1; n >= first && (low > 0 || item); n--) {
    const line = read(lines[n]!);
    if (line.empty) continue;
    if (line.key !== undefined && (line.column < low || (item && line.column === low))) {
      path.unshift(line.key);
      low = line.column;
      item = false;
    }
    dashes(line);
  }
  const others = new Set<string>();
  const start = (line: Line) => line.dashes[0] ?? line.column;
  const add = (line: Line) => line.column === column && line.key !== undefined && others.add(line.key);
  for (let n = at + 1; n <= last; n++) {
    const line = read(lines[n]!);
    if (line.empty) continue;
    if (start(line) < column) break;
    add(line);
  }
  for (let n = at - 1; n >= first && !here.dashes.length; n--) {
    const line = read(lines[n]!);
    if (line.empty) continue;
    add(line);
    if (start(line) < column) break;
  }
  return { path, key: here.key, column, others };
}
