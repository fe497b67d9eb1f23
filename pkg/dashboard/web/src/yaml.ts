// YAML, loaded only where it is needed.
import { dump, load, loadAll } from "js-yaml";
import type { Any, Item } from "./api";

/** tokenOf finds the token of a kubeconfig's current user. */
export function tokenOf(kubeconfig: string): string {
  const config = load(kubeconfig) as Any;
  const context = config?.contexts?.find((c: Any) => c.name === config["current-context"]) ?? config?.contexts?.[0];
  const user = config?.users?.find((u: Any) => u.name === context?.context?.user) ?? config?.users?.[0];
  return user?.user?.token ?? "";
}

/** toYAML writes an object as people edit it. */
export function toYAML(object: Any): string {
  const { apiVersion, kind, ...rest } = object;
  const { managedFields: _, ...metadata } = object.metadata ?? {};
  return dump({ apiVersion, kind, ...rest, metadata }, { lineWidth: -1, noRefs: true });
}

/** parse reads one object or more; errors name the line. */
export function parse(text: string): Item[] {
  const all = (loadAll(text) as Any[]).filter((o) => o !== null && o !== undefined);
  return all.flatMap((o) => (o?.kind === "List" && Array.isArray(o.items) ? o.items : [o]));
}
