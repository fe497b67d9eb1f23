// What the editor knows of YAML, without a browser; npm test runs it.
import assert from "node:assert/strict";
import test from "node:test";
import { check } from "../src/check";
import { named } from "../src/discovery";
import { kindAt, placeAt } from "../src/place";
import { Schemas } from "../src/schema";
import { en } from "../src/text/en";
import { parse, toYAML } from "../src/yaml";

/** at reads a text in which | stands for the cursor. */
function at(text) {
  const lines = text.split("\n");
  const n = lines.findIndex((l) => l.includes("|"));
  const cut = lines[n].slice(0, lines[n].indexOf("|"));
  lines[n] = lines[n].replace("|", "");
  const { path, key, others } = placeAt(lines, n, cut);
  return { path: path.map((p) => p ?? "-").join("."), key, others: [...others].sort().join(" "), ...kindAt(lines, n) };
}

test("places", () => {
  const table = {
    "|": { path: "", others: "" },
    "kind: Pod\nspec:\n  |": { path: "spec", kind: "Pod" },
    "spec:\n  containers:\n  - |": { path: "spec.containers.-" },
    "spec:\n  containers:\n    - name: a\n      |": { path: "spec.containers.-", others: "name" },
    "spec:\n  containers:\n  - name: a\n    image: b\n  - name: c\n    im|\n  volumes: []": { path: "spec.containers.-", others: "name" },
    "spec:\n  containers:\n  - name: a\n    ports:\n    - containerPort: 80\n  |": { path: "spec", others: "containers" },
    "a:\n  b:\n    c: 1\n\n    # note\n    |\n  d: 2": { path: "a.b", others: "c" },
    "a:\n  b:\n    c: 1\n  d|: 2\n  e: 3": { path: "a", others: "b e" },
    "spec:\n  template:\n    x: |": { path: "spec.template", key: "x" },
    'metadata:\n  labels:\n    "a/b": |': { path: "metadata.labels", key: "a/b" },
    "apiVersion: v1\nkind: Pod\n---\napiVersion: apps/v1\nkind: Deployment\nspec:\n  |\n---\nkind: Secret": { path: "spec", apiVersion: "apps/v1", kind: "Deployment" },
    "command:\n- sh\n- -c|": { path: "command.-" },
    "a:\n- - b: 1\n    |": { path: "a.-.-", others: "b" },
    "image: nginx:1\nx|": { path: "", others: "image" },
  };
  for (const [text, want] of Object.entries(table)) {
    const got = at(text);
    for (const [field, value] of Object.entries(want)) assert.equal(got[field], value, `${field} of ${JSON.stringify(text)}`);
  }
});

const schemas = new Schemas({
  Thing: {
    type: "object",
    required: ["spec"],
    "x-kubernetes-group-version-kind": [{ group: "test.io", version: "v1", kind: "Thing" }],
    properties: {
      apiVersion: { type: "string" },
      kind: { type: "string" },
      metadata: { allOf: [{ $ref: "#/components/schemas/Meta" }], description: "the field's own words" },
      spec: { $ref: "#/components/schemas/Spec" },
      status: { type: "object", properties: {} },
    },
  },
  Meta: { description: "metadata", type: "object", properties: { name: { type: "string" }, labels: { type: "object", additionalProperties: { type: "string" } } } },
  Spec: {
    type: "object",
    properties: {
      replicas: { type: "integer" },
      on: { type: "boolean" },
      policy: { type: "string", enum: ["Always", "Never"] },
      port: { format: "int-or-string", oneOf: [{ type: "integer" }, { type: "string" }] },
      either: { "x-kubernetes-int-or-string": true, anyOf: [{ type: "integer" }, { type: "string" }] },
      list: { type: "array", items: { $ref: "#/components/schemas/Meta" } },
      free: { type: "object", "x-kubernetes-preserve-unknown-fields": true, properties: { known: { type: "string" } } },
      again: { $ref: "#/components/schemas/Spec" },
    },
  },
});

test("schemas", () => {
  const thing = schemas.kind("test.io/v1", "Thing");
  assert.ok(thing);
  assert.equal(schemas.kind("test.io/v2", "Thing"), undefined);
  assert.equal(schemas.kind("v1", "Thing"), undefined);
  assert.equal(schemas.at(thing, ["metadata"]).description, "the field's own words");
  assert.equal(schemas.at(thing, ["spec", "again", "again", "list", null, "labels", "any"]).type, "string");
  assert.equal(schemas.at(thing, ["spec", "nowhere", "else"]), undefined);
  assert.equal(schemas.at(thing, ["constructor"]), undefined);
});

test("faults", async () => {
  const head = "apiVersion: test.io/v1\nkind: Thing\n";
  const table = {
    [`${head}metadata: {name: a, labels: {a: b}}\nspec: {replicas: 3, on: true, policy: Never, port: http, either: 8, list: [{name: a}], free: {any: 1}}\nstatus: {x: 1}`]: [],
    [`${head}spec:\n  replica: 3`]: ["replica", "no field replica"],
    [`${head}spec:\n  replicas: "3"`]: ['"3"', "a whole number"],
    [`${head}spec:\n  replicas: 1.5`]: ["1.5", "a whole number"],
    [`${head}spec:\n  on: "yes"`]: ['"yes"', "true or false"],
    [`${head}spec:\n  policy: Sometimes`]: ["Sometimes", "Always, Never"],
    [`${head}spec:\n  port: {}`]: ["{", "a whole number, or text"],
    [`${head}spec:\n  list: {name: a}`]: ["{", "a list"],
    [`${head}spec:\n  list:\n  - nam: a`]: ["nam", "no field nam"],
    [`${head}spec:\n  free:\n    known: 1`]: ["1", "text"],
    [`${head}metadata:\n  labels:\n    a: 1\nspec: {}`]: ["1", "text"],
    [`${head}spec:\nmetadata:`]: [],
    [head]: ["a", "Needed and not there: spec"],
    "kind: Thing": ["k", "apiVersion and kind"],
    "apiVersion: other/v1\nkind: Unknown\nanything: 1": [],
    "a: b: c": ["", "ested mappings"],
    "# nothing": [],
    [`${head}spec: {}\n---\n${head}spec: {x: 1}`]: ["x", "no field x"],
  };
  for (const [text, [where, what]] of Object.entries(table)) {
    const faults = await check(text, en.editor, async (v) => (v === "test.io/v1" ? schemas : undefined));
    if (what === undefined) {
      assert.deepEqual(faults, [], text);
      continue;
    }
    assert.equal(faults.length, 1, `${text}: ${JSON.stringify(faults)}`);
    assert.ok(faults[0].message.includes(what), `${text}: ${faults[0].message}`);
    if (where) assert.equal(text.slice(faults[0].from, faults[0].to), where, text);
  }
});

test("objects as YAML and back", () => {
  const object = { kind: "ConfigMap", apiVersion: "v1", metadata: { name: "a", managedFields: [1] }, data: { yes: "no", number: "12", octal: "012", long: "a ".repeat(200), lines: "a\nb\n", none: "", time: "12:30:00" } };
  const text = toYAML(object);
  assert.ok(text.startsWith("apiVersion: v1\nkind: ConfigMap\n"));
  assert.match(text, /: "no"/); // kubectl would read a boolean
  const [back] = parse(text);
  delete object.metadata.managedFields;
  assert.deepEqual(back, object);
  assert.equal(parse("a: 1\n---\n---\nkind: List\nitems: [{a: 2}, {a: 3}]\n").length, 3);
  assert.throws(() => parse("a: [1"), /line 1/);
});

test("field selectors", () => {
  assert.equal(named("web"), "metadata.name=web");
  assert.equal(named("a=b,c\\d"), "metadata.name=a\\=b\\,c\\\\d");
});
