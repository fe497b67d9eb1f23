// YAML, loaded only where it is needed.
import { parse as parseOne, parseAllDocuments, stringify } from "yaml";
import type { Any, Item } from "./api";

/** tokenOf finds the token of a kubeconfig's current user. */
export function tokenOf(kubeconfig: string): string {
  const config = parseOne(kubeconfig) as Any;
  const context = config?.contexts?.find((c: Any) => c.name === config["current-context"]) ?? config?.contexts?.[0];
  const user = config?.users?.find((u: Any) => u.name === context?.context?.user) ?? config?.users?.[0];
  return user?.user?.token ?? "";
}

/** toYAML writes an object as people edit it. Strings that only newer YAML takes for such are quoted: kubectl reads the older. */
export function toYAML(object: Any): string {
  const { apiVersion, kind, ...rest } = object;
  const { managedFields: _, ...metadata } = object.metadata ?? {};
  return stringify({ apiVersion, kind, ...rest, metadata }, { version: "1.1", lineWidth: 0, indentSeq: false, aliasDuplicateObjects: false });
}

/** documentsOf reads the documents of a text, with their faults. */
export function documentsOf(text: string) {
  const documents = parseAllDocuments(text);
  return Array.isArray(documents) ? documents : [];
}

/** parse reads one object or more; errors name the line. */
export function parse(text: string): Item[] {
  const all = documentsOf(text).map((d) => {
    if (d.errors[0]) throw d.errors[0];
    return d.toJS() as Any;
  });
  return all.filter((o) => o !== null && o !== undefined).flatMap((o) => (o?.kind === "List" && Array.isArray(o.items) ? o.items : [o]));
}
