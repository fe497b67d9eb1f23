// Finds what a schema does not allow, before the API server is asked.
import { isAlias, isMap, isScalar, isSeq, type Node, type Pair } from "yaml";
import { typesOf, type Schema, type Schemas } from "./schema";
import type { Text } from "./text";
import { documentsOf } from "./yaml";

export interface Fault {
  from: number;
  to: number;
  severity: "error" | "warning";
  message: string;
}

/** check looks at each document of a text; load finds the schemas of a group and version. */
export async function check(text: string, words: Text["editor"], load: (apiVersion: string) => Promise<Schemas | undefined>): Promise<Fault[]> {
  const faults: Fault[] = [];
  for (const document of documentsOf(text)) {
    for (const e of document.errors) faults.push({ from: e.pos[0], to: e.pos[1], severity: "error", message: e.message.split(" at line")[0]! });
    const root = document.contents as Node | null;
    if (document.errors.length || !isMap(root)) continue;
    const [apiVersion, kind] = [root.get("apiVersion"), root.get("kind")];
    if (typeof apiVersion !== "string" || typeof kind !== "string") {
      faults.push({ ...span(root), severity: "warning", message: words.noKind });
      continue;
    }
    const schemas = await load(apiVersion);
    const schema = schemas?.kind(apiVersion, kind);
    if (!schemas || !schema) continue;
    new Walk(schemas, words, faults).value(root, schema, true);
  }
  return faults;
}

/** span marks a value, of one that goes over many lines its beginning. */
function span(node: Node): { from: number; to: number } {
  const [from, to] = node.range ?? [0, 0];
  return isScalar(node) ? { from, to } : { from, to: Math.min(to, from + 1) };
}

class Walk {
  constructor(
    private readonly schemas: Schemas,
    private readonly words: Text["editor"],
    private readonly faults: Fault[],
  ) {}

  private say(node: Node, severity: Fault["severity"], message: string) {
    this.faults.push({ ...span(node), severity, message });
  }

  value(node: Node, of: Schema, root = false) {
    const s = this.schemas.resolve(of);
    if (!s || isAlias(node) || (isScalar(node) && node.value === null)) return;
    const types = typesOf(s);
    if (types.length && !types.some((type) => is(node, type))) {
      this.say(node, "error", this.words.wrongType(types));
      return;
    }
    if (isScalar(node) && s.enum && !s.enum.includes(node.value)) this.say(node, "error", this.words.notOneOf(s.enum.map(String)));
    if (isSeq(node) && s.items) for (const item of node.items) this.value(item as Node, s.items);
    if (isMap(node)) this.fields(node.items as Pair<Node, Node | null>[], node, s, root);
  }

  private fields(pairs: Pair<Node, Node | null>[], map: Node, s: Schema, root: boolean) {
    const there = new Set<string>();
    for (const { key, value } of pairs) {
      if (!isScalar(key)) continue;
      const name = String(key.value);
      there.add(name);
      // What the cluster says of the object is not the user's to write.
      if (root && name === "status") continue;
      const field = this.schemas.step(s, name);
      if (field) {
        if (value) this.value(value, field);
      } else if (s.properties && !s.additionalProperties && !s["x-kubernetes-preserve-unknown-fields"] && !s["x-kubernetes-embedded-resource"]) {
        this.say(key, "error", this.words.unknownField(name));
      }
    }
    const missing = (s.required ?? []).filter((name) => !there.has(name));
    if (missing.length) this.say(map, "warning", this.words.missing(missing));
  }
}

/** is says whether a value is of a type of the schema's language. */
function is(node: Node, type: string): boolean {
  if (type === "object") return isMap(node);
  if (type === "array") return isSeq(node);
  if (!isScalar(node)) return false;
  if (type === "integer") return Number.isInteger(node.value) || typeof node.value === "bigint";
  return typeof node.value === type; // string, number, boolean
}
