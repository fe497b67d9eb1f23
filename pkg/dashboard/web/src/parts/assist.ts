// Help while YAML is being written: what fields there are, what they mean, what is wrong.
import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { yamlLanguage } from "@codemirror/lang-yaml";
import { lintGutter, linter } from "@codemirror/lint";
import type { EditorState, Extension } from "@codemirror/state";
import { hoverTooltip } from "@codemirror/view";
import type { Client } from "../api";
import { check } from "../check";
import type { Resource } from "../discovery";
import { kindAt, placeAt, type Place } from "../place";
import { schemasOf, typesOf, type Schema, type Schemas } from "../schema";
import type { Text } from "../text";

const linesOf = (state: EditorState) => state.doc.toString().split("\n");
const versionOf = (r: Resource) => (r.group ? `${r.group}/${r.version}` : r.version);

/** assist makes an editor know the kinds of the cluster. */
export function assist(client: Client, resources: Resource[], words: Text["editor"]): Extension {
  const versions = new Set(resources.map(versionOf));
  const known = new Map<string, Promise<Schemas | undefined>>();
  /** load asks once for what an editor needs. Without a schema it is still one: the API server checks in the end. */
  const load = (apiVersion: string): Promise<Schemas | undefined> => {
    let schemas = known.get(apiVersion);
    if (!schemas) {
      schemas = versions.has(apiVersion) ? schemasOf(client, apiVersion).catch(() => undefined) : Promise.resolve(undefined);
      known.set(apiVersion, schemas);
    }
    return schemas;
  };

  /** mapAt is the schema of the map in which a place lies. */
  const mapAt = async (lines: string[], at: number, place: Place): Promise<[Schemas, Schema] | undefined> => {
    const { apiVersion, kind } = kindAt(lines, at);
    const schemas = await load(apiVersion);
    const schema = schemas?.at(schemas.kind(apiVersion, kind), place.path);
    return schemas && schema && [schemas, schema];
  };

  const complete = async (context: CompletionContext): Promise<CompletionResult | null> => {
    const line = context.state.doc.lineAt(context.pos);
    const cut = line.text.slice(0, context.pos - line.from);
    const word = /[^\s:]*$/.exec(cut)![0];
    if (!word && !context.explicit && !/[-:]\s$/.test(cut)) return null;
    if (/^\s*#/.test(cut)) return null;
    const lines = linesOf(context.state);
    const place = placeAt(lines, line.number - 1, cut);
    const result = (options: Completion[]): CompletionResult | null => (options.length ? { from: context.pos - word.length, options, validFor: /^[^\s:]*$/ } : null);
    if (!place.path.length && place.key === "apiVersion") return result([...versions].map((label) => ({ label, type: "constant" })));
    if (!place.path.length && place.key === "kind") {
      const { apiVersion } = kindAt(lines, line.number - 1);
      return result(resources.filter((r) => !apiVersion || versionOf(r) === apiVersion).map((r) => ({ label: r.kind, detail: versionOf(r), type: "constant" })));
    }
    const found = await mapAt(lines, line.number - 1, place);
    if (!found) {
      if (place.path.length || place.key !== undefined) return null;
      return result(["apiVersion", "kind", "metadata"].filter((name) => !place.others.has(name)).map((label) => ({ label, type: "property", apply: label === "metadata" ? "metadata:\n  " : `${label}: ` })));
    }
    const [schemas, schema] = found;
    if (place.key !== undefined) {
      const value = schemas.step(schema, place.key);
      return value ? result(valuesOf(value)) : null;
    }
    if (!schema.properties) return result(valuesOf(schema)); // an item of a list
    return result(
      Object.keys(schema.properties)
        .filter((name) => !place.others.has(name) && !(name === "status" && !place.path.length))
        .map((name) => fieldOption(schemas, schema, name, place.column)),
    );
  };

  return [
    yamlLanguage.data.of({ autocomplete: complete }),
    lintGutter(),
    linter((view) => check(view.state.doc.toString(), words, load), { delay: 500 }),
    hoverTooltip(async (view, pos) => {
      const line = view.state.doc.lineAt(pos);
      const key = /^(\s*(?:-\s+)*)([^\s:#"']+):(?:\s|$)/.exec(line.text);
      if (!key) return null;
      const from = line.from + key[1]!.length;
      const to = from + key[2]!.length;
      if (pos < from || pos > to) return null;
      const lines = linesOf(view.state);
      const found = await mapAt(lines, line.number - 1, placeAt(lines, line.number - 1));
      const field = found && found[0].step(found[1], key[2]!);
      return field?.description ? { pos: from, end: to, above: true, create: () => ({ dom: help(field) }) } : null;
    }),
  ];
}

const valuesOf = (s: Schema): Completion[] => {
  const values = s.enum?.filter((v) => v !== "") ?? (s.type === "boolean" ? [true, false] : []);
  return values.map((v) => ({ label: String(v), type: "constant" }));
};

function fieldOption(schemas: Schemas, of: Schema, name: string, column: number): Completion {
  const field = schemas.step(of, name) ?? {};
  const types = typesOf(field);
  const indent = `\n${" ".repeat(column)}`;
  const after = types[0] === "object" ? `:${indent}  ` : types[0] === "array" ? `:${indent}- ` : ": ";
  return {
    label: name,
    type: "property",
    detail: types.join(" | ") || undefined,
    boost: of.required?.includes(name) ? 2 : 0,
    apply: name + after,
    info: field.description ? () => help(field) : undefined,
  };
}

/** help shows a field's description, as text. */
function help(field: Schema): HTMLElement {
  const box = document.createElement("div");
  box.className = "field-help";
  const type = document.createElement("b");
  type.textContent = typesOf(field).join(" | ");
  const words = document.createElement("div");
  words.textContent = field.description ?? "";
  box.append(type, words);
  return box;
}
