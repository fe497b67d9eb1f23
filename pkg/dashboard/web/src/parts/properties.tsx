// What matters of an object, by its kind.
import { Button, Code, Group, SimpleGrid, Stack, Text } from "@mantine/core";
import { useState, type ReactNode } from "react";
import type { Any, Item } from "../api";
import { useCluster } from "../context";
import { pathOf, type Resource } from "../discovery";
import { age } from "../format";
import { useItems, useNow } from "../live";
import { podStatus } from "../status";
import { useText, type Text as Words } from "../text";
import { ActionButton } from "./actions";
import { Box, Pairs, Reference, State } from "./basics";

type Fact = [string, ReactNode];

export function Properties({ resource, item }: { resource: Resource; item: Item }) {
  const t = useText();
  const now = useNow(10_000);
  const { metadata } = item;
  const facts: Fact[] = [
    ...kindFacts(resource, item, t),
    [t.object.created, `${age(metadata.creationTimestamp, now)} (${metadata.creationTimestamp})`],
    ...(metadata.ownerReferences ?? []).map((o): Fact => [t.object.owner, <Reference key={o.uid} {...o} namespace={metadata.namespace} />]),
    [t.object.labels, <Pairs key="l" of={metadata.labels} />],
    [t.object.annotations, <Pairs key="a" of={withoutLastApplied(metadata.annotations)} />],
  ];
  const conditions: Any[] = item.status?.conditions ?? [];
  const selector = selectorOf(resource, item);
  return (
    <Stack>
      <Box title={t.object.details}><Facts of={facts} /></Box>
      {resource.group === "" && resource.kind === "Pod" && <Containers pod={item} />}
      {resource.group === "" && (resource.kind === "Secret" || resource.kind === "ConfigMap") && <Data item={item} secret={resource.kind === "Secret"} />}
      {resource.group === "rbac.authorization.k8s.io" && <Access item={item} />}
      {Array.isArray(conditions) && conditions.length > 0 && <Conditions of={conditions} />}
      {selector && <Pods namespace={selector.all ? undefined : metadata.namespace} query={selector.query} />}
      {resource.group === "apps" && resource.kind === "Deployment" && <DeploymentHistory resource={resource} deployment={item} />}
      {resource.group === "apps" && (resource.kind === "StatefulSet" || resource.kind === "DaemonSet") && <SetHistory resource={resource} set={item} />}
      {resource.group === "batch" && resource.kind === "CronJob" && <Owned kind="Job" of={item} path={`/apis/batch/v1/namespaces/${metadata.namespace}/jobs`} apiVersion="batch/v1" />}
      {resource.group === "helm.cattle.io" && resource.kind === "HelmChart" && <Releases chart={item} />}
    </Stack>
  );
}

function withoutLastApplied(annotations?: Record<string, string>): Record<string, string> {
  const { "kubectl.kubernetes.io/last-applied-configuration": _, ...rest } = annotations ?? {};
  return rest;
}

function Facts({ of }: { of: Fact[] }) {
  return (
    <dl className="facts">
      {of.map(([label, value], i) =>
        value === undefined || value === null || value === "" ? null : (
          <div key={i} style={{ display: "contents" }}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </div>
        ),
      )}
    </dl>
  );
}

const labelText = (labels?: Record<string, string>) => Object.entries(labels ?? {}).map(([k, v]) => `${k}=${v}`).join(", ");
const selectorText = (s: Any) => [labelText(s?.matchLabels), ...(s?.matchExpressions ?? []).map((e: Any) => `${e.key} ${e.operator} ${(e.values ?? []).join("|")}`)].filter(Boolean).join(", ");

function kindFacts({ group, kind }: Resource, item: Item, t: Words): Fact[] {
  const f = t.fields;
  const { namespace } = item.metadata;
  const spec: Any = item.spec ?? {};
  const status: Any = item.status ?? {};
  const ref = (apiVersion: string, kind: string, name?: string) => name && <Reference apiVersion={apiVersion} kind={kind} name={name} namespace={namespace} short />;
  const yes = (b: unknown) => (b ? f.yes : f.no);
  switch (`${group}/${kind}`) {
    case "/Pod":
      return [
        [f.status, <State key="s" word={podStatus(item)} />],
        [f.message, status.message],
        [f.node, ref("v1", "Node", spec.nodeName)],
        [f.ip, (status.podIPs ?? []).map((p: Any) => p.ip).join(", ")],
        [f.qos, status.qosClass],
        [f.serviceAccount, ref("v1", "ServiceAccount", spec.serviceAccountName)],
      ];
    case "apps/Deployment":
    case "apps/StatefulSet":
    case "apps/ReplicaSet":
      return [
        [f.replicas, `${spec.replicas ?? 1}: ${status.readyReplicas ?? 0} ${f.ready}, ${status.updatedReplicas ?? status.readyReplicas ?? 0} ${f.updated}, ${status.availableReplicas ?? 0} ${f.available}`],
        [f.strategy, spec.strategy?.type ?? spec.updateStrategy?.type],
        [f.paused, spec.paused && f.yes],
        [f.selector, selectorText(spec.selector)],
        [f.image, images(spec.template)],
      ];
    case "apps/DaemonSet":
      return [
        [f.replicas, `${status.desiredNumberScheduled ?? 0}: ${status.numberReady ?? 0} ${f.ready}, ${status.updatedNumberScheduled ?? 0} ${f.updated}, ${status.numberAvailable ?? 0} ${f.available}`],
        [f.strategy, spec.updateStrategy?.type],
        [f.selector, selectorText(spec.selector)],
        [f.image, images(spec.template)],
      ];
    case "batch/Job":
      return [
        [f.completions, `${status.succeeded ?? 0} / ${spec.completions ?? 1}`],
        [f.active, status.active ?? 0],
        [f.suspended, spec.suspend && f.yes],
        [f.duration, status.startTime && status.completionTime && age(status.startTime, Date.parse(status.completionTime))],
        [f.image, images(spec.template)],
      ];
    case "batch/CronJob":
      return [
        [f.schedule, <Code key="c">{spec.schedule}</Code>],
        [f.suspended, yes(spec.suspend)],
        [f.lastRun, status.lastScheduleTime],
        [f.image, images(spec.jobTemplate?.spec?.template)],
      ];
    case "/Service":
      return [
        [f.type, spec.type],
        [f.clusterIP, (spec.clusterIPs ?? [spec.clusterIP]).join(", ")],
        [f.externalIP, [...(status.loadBalancer?.ingress ?? []).map((i: Any) => i.ip ?? i.hostname), ...(spec.externalIPs ?? []), spec.externalName].filter(Boolean).join(", ")],
        [f.ports, (spec.ports ?? []).map((p: Any) => `${p.name ? `${p.name}: ` : ""}${p.port} → ${p.targetPort ?? p.port}${p.nodePort ? ` (${f.node}: ${p.nodePort})` : ""}/${p.protocol}`).join(", ")],
        [f.selector, labelText(spec.selector)],
      ];
    case "networking.k8s.io/Ingress":
      return [
        [f.class, ref("networking.k8s.io/v1", "IngressClass", spec.ingressClassName)],
        [f.externalIP, (status.loadBalancer?.ingress ?? []).map((i: Any) => i.ip ?? i.hostname).join(", ")],
        [
          f.rules,
          <Stack key="r" gap={2}>
            {(spec.rules ?? []).flatMap((rule: Any, i: number) =>
              (rule.http?.paths ?? []).map((p: Any, j: number) => (
                <span key={`${i}.${j}`}>
                  {rule.host ?? "*"}{p.path ?? "/"} → {ref("v1", "Service", p.backend?.service?.name)}:{p.backend?.service?.port?.number ?? p.backend?.service?.port?.name}
                </span>
              )),
            )}
          </Stack>,
        ],
        ["TLS", (spec.tls ?? []).map((tls: Any, i: number) => <span key={i}>{(tls.hosts ?? []).join(", ")} {ref("v1", "Secret", tls.secretName)} </span>)],
      ];
    case "/PersistentVolumeClaim":
      return [
        [f.status, <State key="s" word={status.phase ?? ""} />],
        [f.volume, ref("v1", "PersistentVolume", spec.volumeName)],
        [f.storageClass, ref("storage.k8s.io/v1", "StorageClass", spec.storageClassName)],
        [f.capacity, status.capacity?.storage ?? spec.resources?.requests?.storage],
        [f.accessModes, (spec.accessModes ?? []).join(", ")],
      ];
    case "/PersistentVolume":
      return [
        [f.status, <State key="s" word={status.phase ?? ""} />],
        [f.claim, spec.claimRef && <Reference key="c" apiVersion="v1" kind="PersistentVolumeClaim" name={spec.claimRef.name} namespace={spec.claimRef.namespace} />],
        [f.storageClass, ref("storage.k8s.io/v1", "StorageClass", spec.storageClassName)],
        [f.capacity, spec.capacity?.storage],
        [f.accessModes, (spec.accessModes ?? []).join(", ")],
        [f.reclaim, spec.persistentVolumeReclaimPolicy],
      ];
    case "storage.k8s.io/StorageClass":
      return [[f.provisioner, item.provisioner], [f.reclaim, item.reclaimPolicy], [f.binding, item.volumeBindingMode]];
    case "/Node": {
      const info = status.nodeInfo ?? {};
      return [
        [f.version, info.kubeletVersion],
        [f.os, `${info.osImage ?? ""} (${info.architecture ?? ""})`],
        [f.kernel, info.kernelVersion],
        [f.runtime, info.containerRuntimeVersion],
        [f.addresses, (status.addresses ?? []).map((a: Any) => `${a.type}: ${a.address}`).join(", ")],
        [f.podRange, (spec.podCIDRs ?? []).join(", ")],
        [f.capacity, `CPU ${status.capacity?.cpu}, ${status.capacity?.memory}, ${status.capacity?.pods} pods`],
        [f.taints, (spec.taints ?? []).map((x: Any) => `${x.key}${x.value ? `=${x.value}` : ""}:${x.effect}`).join(", ")],
      ];
    }
    case "/Namespace":
      return [[f.status, <State key="s" word={status.phase ?? ""} />]];
    case "networking.k8s.io/NetworkPolicy":
      return [
        [f.podSelector, selectorText(spec.podSelector) || "*"],
        [f.policyTypes, (spec.policyTypes ?? []).join(", ")],
        [f.rules, <Code key="r" block>{JSON.stringify({ ingress: spec.ingress, egress: spec.egress }, null, 2)}</Code>],
      ];
    case "autoscaling/HorizontalPodAutoscaler":
      return [
        [f.target, spec.scaleTargetRef && <Reference key="t" {...spec.scaleTargetRef} namespace={namespace} />],
        [f.limits, `${spec.minReplicas ?? 1} – ${spec.maxReplicas}`],
        [f.replicas, `${status.currentReplicas ?? 0} → ${status.desiredReplicas ?? 0}`],
        [
          f.metrics,
          (spec.metrics ?? []).map((m: Any, i: number) => {
            const now = status.currentMetrics?.[i]?.resource?.current;
            return m.resource ? `${m.resource.name}: ${now?.averageUtilization ?? "?"} % / ${m.resource.target?.averageUtilization ?? m.resource.target?.averageValue} %  ` : `${m.type}  `;
          }),
        ],
      ];
    case "helm.cattle.io/HelmChart":
      return [
        [f.chart, spec.chart],
        [f.version, spec.version],
        [f.repository, spec.repo],
        [f.targetNamespace, spec.targetNamespace ?? namespace],
      ];
    case "/Secret":
      return [[f.type, item.type], [f.keys, Object.keys(item.data ?? {}).join(", ")]];
    case "/ConfigMap":
      return [[f.keys, [...Object.keys(item.data ?? {}), ...Object.keys(item.binaryData ?? {})].join(", ")]];
    default:
      return [];
  }
}

const images = (template: Any) => (template?.spec?.containers ?? []).map((c: Any) => c.image).join(", ");

function selectorOf({ group, kind }: Resource, item: Item): { query: Record<string, string>; all?: boolean } | null {
  const spec: Any = item.spec ?? {};
  if (group === "" && kind === "Node") return { query: { fieldSelector: `spec.nodeName=${item.metadata.name}` }, all: true };
  const labels: Record<string, string> | undefined =
    group === "" && kind === "Service" ? spec.selector : (group === "apps" || group === "batch" || kind === "NetworkPolicy") && kind !== "CronJob" ? (spec.selector ?? spec.podSelector)?.matchLabels : undefined;
  if (!labels) return null;
  return { query: { labelSelector: Object.entries(labels).map(([k, v]) => `${k}=${v}`).join(",") } };
}

/** Pods lists those of a workload, a Service or a node. */
function Pods({ namespace, query }: { namespace?: string; query: Record<string, string> }) {
  const t = useText();
  const now = useNow(10_000);
  const { client } = useCluster();
  const { items } = useItems(client, namespace ? `/api/v1/namespaces/${namespace}/pods` : "/api/v1/pods", query);
  return (
    <Box title={`${t.object.pods} (${items.length})`}>
      {items.length > 0 && (
        <div className="scroll" tabIndex={0}>
          <table className="plain">
            <thead>
              <tr><th>{t.fields.name}</th><th>{t.fields.status}</th><th>{t.fields.restarts}</th><th>{t.fields.node}</th><th>{t.columns.Age}</th></tr>
            </thead>
            <tbody>
              {items.map((p) => (
                <tr key={p.metadata.uid}>
                  <td><Reference apiVersion="v1" kind="Pod" name={p.metadata.name} namespace={p.metadata.namespace} short /></td>
                  <td><State word={podStatus(p)} /></td>
                  <td>{(p.status?.containerStatuses ?? []).reduce((n: number, c: Any) => n + c.restartCount, 0)}</td>
                  <td><Reference apiVersion="v1" kind="Node" name={p.spec?.nodeName ?? ""} short /></td>
                  <td>{age(p.metadata.creationTimestamp, now)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Box>
  );
}

function Owned({ kind, of, path, apiVersion }: { kind: string; of: Item; path: string; apiVersion: string }) {
  const { client } = useCluster();
  const now = useNow(10_000);
  const { items } = useItems(client, path);
  const own = items.filter(ownedBy(of));
  return (
    <Box title={`${kind} (${own.length})`}>
      <Stack gap={4}>
        {own.map((i) => (
          <Group key={i.metadata.uid} gap="sm">
            <Reference apiVersion={apiVersion} kind={kind} name={i.metadata.name} namespace={i.metadata.namespace} short />
            <Text size="sm" c="dimmed">{age(i.metadata.creationTimestamp, now)}</Text>
          </Group>
        ))}
      </Stack>
    </Box>
  );
}

function Containers({ pod }: { pod: Item }) {
  const t = useText();
  const f = t.fields;
  const now = useNow(10_000);
  const statuses: Any[] = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? []), ...(pod.status?.ephemeralContainerStatuses ?? [])];
  const all: Any[] = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? []), ...(pod.spec?.ephemeralContainers ?? [])];
  return (
    <Box title={t.object.containers}>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        {all.map((c) => {
          const s = statuses.find((x) => x.name === c.name);
          const state = s?.state ?? {};
          const word = state.running ? (s.ready ? "Running" : "NotReady") : (state.terminated?.reason ?? state.waiting?.reason ?? "Pending");
          const last = s?.lastState?.terminated;
          const quantities = (x: Any) => (x ? Object.entries(x).map(([k, v]) => `${k} ${String(v)}`).join(", ") : "");
          return (
            <div key={c.name}>
              <Group gap="xs" mb={6}><Text fw={600}>{c.name}</Text><State word={word} /></Group>
              <Facts
                of={[
                  [f.image, c.image],
                  [f.state, state.running ? `${age(state.running.startedAt, now)}` : (state.waiting?.message ?? state.terminated?.message)],
                  [f.restarts, s?.restartCount],
                  [f.lastState, last && `${last.reason ?? ""}, ${f.exitCode} ${last.exitCode}, ${age(last.finishedAt, now)}`],
                  [f.ports, (c.ports ?? []).map((p: Any) => `${p.containerPort}/${p.protocol ?? "TCP"}`).join(", ")],
                  [f.requests, [quantities(c.resources?.requests), c.resources?.limits && `≤ ${quantities(c.resources.limits)}`].filter(Boolean).join("; ")],
                ]}
              />
            </div>
          );
        })}
      </SimpleGrid>
    </Box>
  );
}

/** Data shows the values of a ConfigMap, and those of a Secret when asked. */
function Data({ item, secret }: { item: Item; secret: boolean }) {
  const t = useText();
  const [shown, setShown] = useState<Set<string>>(new Set());
  const text = (value: string) => {
    if (!secret) return value;
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(atob(value), (c) => c.charCodeAt(0)));
    } catch {
      return value; // not text: as it is
    }
  };
  return (
    <Box title={t.object.data}>
      <Stack>
        {Object.entries<string>(item.data ?? {}).map(([key, value]) => (
          <div key={key}>
            <Group gap="xs" mb={4}>
              <Text size="sm" fw={600}>{key}</Text>
              {secret && (
                <Button size="compact-xs" variant="default" aria-label={`${shown.has(key) ? t.object.hide : t.object.show} ${key}`}
                  onClick={() => setShown((s) => { const next = new Set(s); if (!next.delete(key)) next.add(key); return next; })}>
                  {shown.has(key) ? t.object.hide : t.object.show}
                </Button>
              )}
            </Group>
            <Code block tabIndex={0} style={{ maxHeight: 300, overflow: "auto" }}>{secret && !shown.has(key) ? "••••••••" : text(value)}</Code>
          </div>
        ))}
      </Stack>
    </Box>
  );
}

function Access({ item }: { item: Item }) {
  const t = useText();
  return (
    <>
      {item.roleRef && (
        <Box title={t.fields.role}>
          <Reference apiVersion={`${item.roleRef.apiGroup}/v1`} kind={item.roleRef.kind} name={item.roleRef.name} namespace={item.metadata.namespace} />
        </Box>
      )}
      {item.subjects && (
        <Box title={t.object.subjects}>
          <Stack gap={4}>
            {item.subjects.map((s: Any, i: number) => (
              <Text size="sm" key={i}>
                {s.kind === "ServiceAccount" ? <Reference apiVersion="v1" kind={s.kind} name={s.name} namespace={s.namespace} /> : `${s.kind} ${s.name}`} {s.namespace && `(${s.namespace})`}
              </Text>
            ))}
          </Stack>
        </Box>
      )}
      {item.rules && (
        <Box title={t.object.rules}>
          <div className="scroll" tabIndex={0}>
            <table className="plain">
              <tbody>
                {item.rules.map((r: Any, i: number) => (
                  <tr key={i}>
                    <td><b>{(r.verbs ?? []).join(", ")}</b></td>
                    <td>{[...(r.resources ?? []), ...(r.nonResourceURLs ?? [])].join(", ")}{r.resourceNames && ` (${r.resourceNames.join(", ")})`}</td>
                    <td>{(r.apiGroups ?? []).map((g: string) => g || "core").join(", ")}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </Box>
      )}
    </>
  );
}

// Of most conditions the good end is True; of these it is False.
const badWhenTrue = /Pressure|Unavailable|Failed|Failure|DisruptionTarget|ScalingLimited/;

function Conditions({ of }: { of: Any[] }) {
  const t = useText();
  const now = useNow(10_000);
  return (
    <Box title={t.object.conditions}>
      <div className="scroll" tabIndex={0}>
        <table className="plain">
          <tbody>
            {of.map((c) => {
              const words = t.condition[c.type];
              const good = badWhenTrue.test(c.type) ? c.status === "False" : c.status === "True";
              return (
                <tr key={c.type}>
                  <td style={{ whiteSpace: "nowrap" }}><span aria-hidden style={{ color: good ? "var(--mantine-color-green-7)" : "var(--mantine-color-red-7)" }}>{good ? "✔" : "✘"}</span> {c.type}: {c.status === "True" ? t.fields.yes : c.status === "False" ? t.fields.no : "?"}</td>
                  <td>{words?.[c.status === "True" ? 0 : 1]} <Text span size="sm" c="dimmed">{[c.reason, c.message].filter(Boolean).join(": ")}</Text></td>
                  <td style={{ whiteSpace: "nowrap" }}>{age(c.lastTransitionTime, now)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </Box>
  );
}

/** Revision is one of a workload's, and what goes back to it. */
interface Revision {
  number: number;
  of: Item;
  template: Any;
  pods?: number;
  undo: () => Promise<unknown>;
}

const ownedBy = (owner: Item) => (item: Item) => item.metadata.ownerReferences?.some((o) => o.uid === owner.metadata.uid) ?? false;

/** DeploymentHistory: a ReplicaSet keeps each revision of a Deployment. */
function DeploymentHistory({ resource, deployment }: { resource: Resource; deployment: Item }) {
  const { client } = useCluster();
  const { namespace, name } = deployment.metadata;
  const { items } = useItems(client, `/apis/apps/v1/namespaces/${namespace}/replicasets`);
  const revisions = items.filter(ownedBy(deployment)).map((of): Revision => ({
    number: Number(of.metadata.annotations?.["deployment.kubernetes.io/revision"] ?? 0),
    of,
    template: of.spec?.template,
    pods: of.status?.replicas ?? 0,
    undo: () => {
      const template = structuredClone(of.spec.template);
      delete template.metadata?.labels?.["pod-template-hash"];
      return client.send("PATCH", pathOf(resource, namespace, name), [{ op: "replace", path: "/spec/template", value: template }], { type: "application/json-patch+json" });
    },
  }));
  return <History resource={resource} item={deployment} revisions={revisions} />;
}

/** SetHistory: a ControllerRevision keeps each of a StatefulSet or DaemonSet, as the patch that leads back to it. */
function SetHistory({ resource, set }: { resource: Resource; set: Item }) {
  const { client } = useCluster();
  const { namespace, name } = set.metadata;
  const { items } = useItems(client, `/apis/apps/v1/namespaces/${namespace}/controllerrevisions`);
  const revisions = items.filter(ownedBy(set)).map((of): Revision => ({
    number: Number(of.revision),
    of,
    template: of.data?.spec?.template,
    undo: () => client.send("PATCH", pathOf(resource, namespace, name), of.data, { type: "application/strategic-merge-patch+json" }),
  }));
  return <History resource={resource} item={set} revisions={revisions} />;
}

/** History shows a workload's revisions, each with the way back to it. */
function History({ resource, item, revisions }: { resource: Resource; item: Item; revisions: Revision[] }) {
  const t = useText();
  const now = useNow(10_000);
  const { namespace, name } = item.metadata;
  const deed = { verb: "patch", group: resource.group, resource: resource.plural, namespace, name };
  return (
    <Box title={t.object.history}>
      <div className="scroll" tabIndex={0}>
        <table className="plain">
          <tbody>
            {[...revisions].sort((a, b) => b.number - a.number).map((r, i) => (
              <tr key={r.of.metadata.uid}>
                <td>{t.fields.revision} {r.number}</td>
                <td>{images(r.template)}</td>
                <td>{r.of.metadata.annotations?.["kubernetes.io/change-cause"]}</td>
                <td>{r.pods !== undefined && `${r.pods} ${t.fields.replicas}`}</td>
                <td>{age(r.of.metadata.creationTimestamp, now)}</td>
                <td>{i > 0 && <ActionButton label={t.action.undo} deed={deed} run={r.undo} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Box>
  );
}

/** Releases shows the Helm releases that a HelmChart has made. */
function Releases({ chart }: { chart: Item }) {
  const t = useText();
  const now = useNow(10_000);
  const { client } = useCluster();
  const namespace = chart.spec?.targetNamespace ?? chart.metadata.namespace;
  const { items } = useItems(client, `/api/v1/namespaces/${namespace}/secrets`, { labelSelector: `owner=helm,name=${chart.metadata.name}` });
  const sorted = [...items].sort((a, b) => Number(b.metadata.labels?.version) - Number(a.metadata.labels?.version));
  return (
    <Box title={t.object.releases}>
      {sorted.map((s) => (
        <Group key={s.metadata.uid} gap="sm">
          <Text size="sm">{t.fields.revision} {s.metadata.labels?.version}</Text>
          <State word={s.metadata.labels?.status ?? ""} />
          <Text size="sm" c="dimmed">{age(s.metadata.creationTimestamp, now)}</Text>
        </Group>
      ))}
    </Box>
  );
}
