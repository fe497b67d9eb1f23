// Which kinds the API has: its own and those of custom resources.
import type { Client } from "./api";

export interface Resource {
  group: string; // empty: the core group
  version: string;
  kind: string;
  plural: string;
  namespaced: boolean;
  verbs: string[];
  shortNames: string[];
  subresources: string[];
}

interface Discovery {
  items: {
    metadata: { name?: string };
    versions: {
      version: string;
      resources?: {
        resource: string;
        responseKind?: { kind: string; group?: string; version?: string };
        scope: string;
        verbs: string[];
        shortNames?: string[];
        subresources?: { subresource: string }[];
      }[];
    }[];
  }[];
}

const accept =
  "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/** Kinds that other kinds replace, or that nobody lists. */
const left = new Set(["/componentstatuses", "/endpoints", "/bindings"]);

/** discover lists the kinds that can be listed, each in its preferred version. */
export async function discover(client: Client): Promise<Resource[]> {
  const [core, groups] = await Promise.all([client.get<Discovery>("/api", { accept }), client.get<Discovery>("/apis", { accept })]);
  const all = new Map<string, Resource>();
  for (const group of [...core.items, ...groups.items]) {
    for (const version of group.versions) {
      for (const r of version.resources ?? []) {
        const name = group.metadata.name ?? "";
        const key = `${name}/${r.resource}`;
        if (all.has(key) || left.has(key) || !r.verbs.includes("list")) continue;
        all.set(key, {
          group: name,
          version: version.version,
          kind: r.responseKind?.kind ?? r.resource,
          plural: r.resource,
          namespaced: r.scope === "Namespaced",
          verbs: r.verbs,
          shortNames: r.shortNames ?? [],
          subresources: (r.subresources ?? []).map((s) => s.subresource),
        });
      }
    }
  }
  if (all.has("events.k8s.io/events")) all.delete("/events");
  return [...all.values()];
}

/** pathOf is a collection's path in the API, or an object's. */
export function pathOf(r: Pick<Resource, "group" | "version" | "plural" | "namespaced">, namespace?: string, name?: string): string {
  let path = r.group ? `/apis/${r.group}/${r.version}` : `/api/${r.version}`;
  if (r.namespaced && namespace) path += `/namespaces/${encodeURIComponent(namespace)}`;
  path += `/${r.plural}`;
  return name ? `${path}/${encodeURIComponent(name)}` : path;
}

/** named selects an object by its name; those of roles may hold anything. */
export const named = (name: string, field = "metadata.name") => `${field}=${name.replace(/[\\,=]/g, "\\$&")}`;

/** find finds the resource of an apiVersion and a kind. */
export function find(all: Resource[], apiVersion: string, kind: string): Resource | undefined {
  const [group] = apiVersion.includes("/") ? apiVersion.split("/") : [""];
  return all.find((r) => r.kind === kind && r.group === group);
}

/** Where kinds stand in the menu; others stand under their group. */
export const menu: { title: "workloads" | "network" | "configuration" | "storage" | "access" | "cluster"; kinds: string[] }[] = [
  {
    title: "workloads",
    kinds: ["/pods", "apps/deployments", "apps/statefulsets", "apps/daemonsets", "batch/jobs", "batch/cronjobs", "apps/replicasets", "autoscaling/horizontalpodautoscalers"],
  },
  {
    title: "network",
    kinds: [
      "/services",
      "networking.k8s.io/ingresses",
      "gateway.networking.k8s.io/gateways",
      "gateway.networking.k8s.io/httproutes",
      "networking.k8s.io/networkpolicies",
      "discovery.k8s.io/endpointslices",
      "networking.k8s.io/ingressclasses",
    ],
  },
  { title: "configuration", kinds: ["/configmaps", "/secrets", "/resourcequotas", "/limitranges", "helm.cattle.io/helmcharts", "helm.cattle.io/helmchartconfigs"] },
  { title: "storage", kinds: ["/persistentvolumeclaims", "/persistentvolumes", "storage.k8s.io/storageclasses"] },
  {
    title: "access",
    kinds: [
      "/serviceaccounts",
      "rbac.authorization.k8s.io/roles",
      "rbac.authorization.k8s.io/rolebindings",
      "rbac.authorization.k8s.io/clusterroles",
      "rbac.authorization.k8s.io/clusterrolebindings",
    ],
  },
  { title: "cluster", kinds: ["/nodes", "/namespaces", "events.k8s.io/events", "apiextensions.k8s.io/customresourcedefinitions"] },
];

export const keyOf = (r: Resource) => `${r.group}/${r.plural}`;
