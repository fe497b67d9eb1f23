// What the cluster's own OpenAPI says of the fields of its kinds.
import type { Client } from "./api";

/** A schema, as far as the API server's documents use the language. */
export interface Schema {
  $ref?: string;
  type?: string;
  description?: string;
  enum?: unknown[];
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  allOf?: Schema[];
  oneOf?: Schema[];
  anyOf?: Schema[];
  "x-kubernetes-group-version-kind"?: { group: string; version: string; kind: string }[];
  "x-kubernetes-int-or-string"?: boolean;
  "x-kubernetes-preserve-unknown-fields"?: boolean;
  "x-kubernetes-embedded-resource"?: boolean;
}

/** Schemas are those of one group and version. */
export class Schemas {
  constructor(private readonly all: Record<string, Schema>) {}

  /** kind is the schema of a kind. */
  kind(apiVersion: string, kind: string): Schema | undefined {
    const [version, group = ""] = apiVersion.split("/").reverse();
    return Object.values(this.all).find((s) => s["x-kubernetes-group-version-kind"]?.some((k) => k.group === group && k.version === version && k.kind === kind));
  }

  /** resolve follows references. */
  resolve(schema: Schema | undefined): Schema | undefined {
    for (let depth = 0; schema && depth < 8; depth++) {
      const next: Schema | undefined = schema.$ref ? { $ref: schema.$ref } : schema.allOf?.length === 1 ? schema.allOf[0] : undefined;
      if (!next) return schema;
      const target: Schema | undefined = next.$ref ? this.all[next.$ref.replace("#/components/schemas/", "")] : next;
      // The field's own words say more than those of its type.
      schema = target && { ...target, description: schema.description ?? target.description };
    }
    return schema;
  }

  /** step goes one field down, or into a list. */
  step(schema: Schema | undefined, field: string | null): Schema | undefined {
    const s = this.resolve(schema);
    if (field === null) return this.resolve(s?.items);
    const more = s?.additionalProperties;
    return this.resolve((s?.properties && Object.hasOwn(s.properties, field) ? s.properties[field] : undefined) ?? (typeof more === "object" ? more : undefined));
  }

  /** at is the schema of the value at a path: names of fields, null for a list's item. */
  at(root: Schema | undefined, path: (string | null)[]): Schema | undefined {
    return path.reduce<Schema | undefined>((s, field) => this.step(s, field), this.resolve(root));
  }
}

/** typesOf are the types that a value may have; none: any. */
export function typesOf(s: Schema): string[] {
  if (s["x-kubernetes-int-or-string"]) return ["integer", "string"];
  const choices = s.oneOf ?? s.anyOf;
  if (!s.type && choices?.every((c) => c.type)) return choices.map((c) => c.type!);
  return s.type ? [s.type] : s.properties ? ["object"] : [];
}

interface Index {
  paths: Record<string, { serverRelativeURL: string }>;
}

/**
 * schemasOf asks for the document of one group and version, and for no other: the API
 * server builds each when it is asked. Its address changes with its content, so that
 * the browser keeps it.
 */
export async function schemasOf(client: Client, apiVersion: string): Promise<Schemas | undefined> {
  const index = await client.get<Index>("/openapi/v3");
  const entry = index.paths[apiVersion.includes("/") ? `apis/${apiVersion}` : `api/${apiVersion}`];
  if (!entry) return undefined;
  const { pathname, searchParams } = new URL(entry.serverRelativeURL, "https://cluster");
  return client.remember(`schemas ${entry.serverRelativeURL}`, async () => {
    const document = await client.get<{ components?: { schemas?: Record<string, Schema> } }>(pathname, { query: Object.fromEntries(searchParams) });
    return new Schemas(document.components?.schemas ?? {});
  });
}
