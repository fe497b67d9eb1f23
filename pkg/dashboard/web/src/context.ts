// What every part of the page works with once somebody is logged in.
import { createContext, useContext } from "react";
import type { Client } from "./api";
import type { Resource } from "./discovery";

export interface Cluster {
  client: Client;
  resources: Resource[];
  /** The kinds may have changed: a custom resource has come. */
  rediscover: () => void;
}

export const ClusterContext = createContext<Cluster | null>(null);

export function useCluster(): Cluster {
  const cluster = useContext(ClusterContext);
  if (!cluster) throw new Error("used before the login");
  return cluster;
}

/** useResource finds a kind by its group and plural name. */
export function useResource(group: string, plural: string): Resource | undefined {
  const { resources } = useCluster();
  return resources.find((r) => r.group === (group === "core" ? "" : group) && r.plural === plural);
}
