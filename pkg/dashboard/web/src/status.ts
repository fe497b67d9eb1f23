// An object's state in one word, as kubectl prints it.
import type { Any, Item } from "./api";
import type { Health } from "./format";
import { healthOf } from "./format";

export function podStatus(pod: Item): string {
  const status: Any = pod.status ?? {};
  if (pod.metadata.deletionTimestamp) return "Terminating";
  let word: string = status.reason || status.phase || "Unknown";
  for (const [i, c] of (status.initContainerStatuses ?? []).entries()) {
    if (c.state?.terminated?.exitCode === 0 || (c.started && c.state?.running)) continue;
    const reason = c.state?.terminated?.reason ?? c.state?.waiting?.reason;
    return reason && reason !== "PodInitializing" ? `Init:${reason}` : `Init:${i}/${pod.spec.initContainers.length}`;
  }
  for (const c of status.containerStatuses ?? []) {
    if (c.state?.waiting?.reason) word = c.state.waiting.reason;
    else if (c.state?.terminated && status.phase !== "Succeeded") word = c.state.terminated.reason || "Error";
  }
  if (word === "Running" && !(status.conditions ?? []).some((c: Any) => c.type === "Ready" && c.status === "True")) return "NotReady";
  return word;
}

/** statusOf is the word, or nothing for kinds without a state. */
export function statusOf(kind: { group: string; kind: string }, item: Item): string {
  const status: Any = item.status ?? {};
  const condition = (type: string) => (status.conditions ?? []).find((c: Any) => c.type === type)?.status;
  switch (kind.kind) {
    case "Pod":
      return kind.group === "" ? podStatus(item) : "";
    case "Node":
      return (condition("Ready") === "True" ? "Ready" : "NotReady") + (item.spec?.unschedulable ? ",SchedulingDisabled" : "");
    case "Deployment":
    case "StatefulSet":
    case "ReplicaSet": {
      const wanted = item.spec?.replicas ?? 1;
      if (kind.kind === "Deployment" && condition("Progressing") === "False") return "Failed";
      return (status.readyReplicas ?? 0) >= wanted && (status.updatedReplicas ?? status.readyReplicas ?? 0) >= wanted ? "Ready" : "Progressing";
    }
    case "DaemonSet":
      return (status.numberReady ?? 0) >= (status.desiredNumberScheduled ?? 0) ? "Ready" : "Progressing";
    case "Job":
      return condition("Failed") === "True" ? "Failed" : condition("Complete") === "True" ? "Complete" : item.spec?.suspend ? "Suspended" : "Running";
    case "CronJob":
      return item.spec?.suspend ? "Suspended" : "";
  }
  if (typeof status.phase === "string") return status.phase;
  const ready = condition("Ready") ?? condition("Available") ?? condition("Established");
  return ready === undefined ? "" : ready === "True" ? "Ready" : "NotReady";
}

export function health(kind: { group: string; kind: string }, item: Item): Health {
  return healthOf(statusOf(kind, item));
}
