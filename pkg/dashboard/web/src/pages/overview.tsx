import { Group, Paper, Progress, SimpleGrid, Stack, Text, Title } from "@mantine/core";
import { useEffect, useState, type ReactNode } from "react";
import type { Any, Item } from "../api";
import { useCluster } from "../context";
import { age, bytes, colorOf, cores, healthOf, quantity, type Health } from "../format";
import { useItems, useNow, usePolled } from "../live";
import { Box, Reference, State } from "../parts/basics";
import { EventTable, whenOf } from "../parts/events";
import { health, podStatus, statusOf } from "../status";
import { toList, useRoute } from "../route";
import { useText } from "../text";

const order: Health[] = ["good", "over", "busy", "unknown", "bad"];

/** Overview is the cluster at a glance, as it is now. */
export function Overview() {
  const t = useText();
  const { client, resources } = useCluster();
  const { query } = useRoute();
  const namespace = query.get("ns") ?? "";
  const within = namespace ? `/namespaces/${namespace}` : "";
  const nodes = useItems(client, "/api/v1/nodes");
  const pods = useItems(client, `/api/v1${within}/pods`);
  const deployments = useItems(client, `/apis/apps/v1${within}/deployments`);
  const sets = useItems(client, `/apis/apps/v1${within}/statefulsets`);
  const daemons = useItems(client, `/apis/apps/v1${within}/daemonsets`);
  const warnings = useItems(client, `/api/v1${within}/events`, { fieldSelector: "type=Warning" });
  const addonKind = resources.find((r) => r.plural === "addons" && r.group === "kedge.io");
  const addons = useItems(client, addonKind ? `/apis/${addonKind.group}/${addonKind.version}/addons` : null);
  const snapshotKind = resources.find((r) => r.plural === "snapshots" && r.group === "kedge.io");
  const snapshots = useItems(client, snapshotKind ? `/apis/${snapshotKind.group}/${snapshotKind.version}/snapshots` : null);
  const now = useNow(30_000);
  const usage = usePolled<{ items: Any[] }>(client, "/apis/metrics.k8s.io/v1beta1/nodes", 15_000);
  const [version, setVersion] = useState("");
  useEffect(() => {
    client.get<Any>("/version").then((v) => setVersion(v.gitVersion), () => setVersion(""));
  }, [client]);

  const counts = new Map<Health, number>();
  for (const pod of pods.items) {
    const h = healthOf(podStatus(pod));
    counts.set(h, (counts.get(h) ?? 0) + 1);
  }
  const ready = nodes.items.filter((n) => statusOf({ group: "", kind: "Node" }, n).startsWith("Ready")).length;
  const sum = (list: Any[], read: (x: Any) => unknown) => list.reduce((n: number, x) => n + quantity(read(x)), 0);
  const cpu = sum(nodes.items, (n) => n.status?.allocatable?.cpu);
  const memory = sum(nodes.items, (n) => n.status?.allocatable?.memory);
  const cpuUsed = usage.value ? sum(usage.value.items, (n) => n.usage?.cpu) : null;
  const memoryUsed = usage.value ? sum(usage.value.items, (n) => n.usage?.memory) : null;
  const workloads: [string, Item][] = [
    ...deployments.items.map((i): [string, Item] => ["Deployment", i]),
    ...sets.items.map((i): [string, Item] => ["StatefulSet", i]),
    ...daemons.items.map((i): [string, Item] => ["DaemonSet", i]),
  ];
  const unwell = workloads.filter(([kind, item]) => health({ group: "apps", kind }, item) !== "good");
  const badPods = pods.items.filter((p) => healthOf(podStatus(p)) === "bad");
  const created = (s: Item): string => s.status?.creationTime ?? "";
  const snapshot = snapshots.items.filter((s) => s.status?.readyToUse && created(s)).sort((a, b) => created(b).localeCompare(created(a)))[0];
  const { expires, certificates } = client.session;
  const recent = [...warnings.items].sort((a, b) => whenOf(b).localeCompare(whenOf(a))).slice(0, 15);

  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">{t.overview}{namespace && ` · ${namespace}`}</Title>
        <Text size="sm" c="dimmed">{version && `${t.fields.version} ${version}`}</Text>
      </Group>
      <SimpleGrid cols={{ base: 1, xs: 2, lg: 4 }}>
        <Tile label={t.home.nodes} href={toList({ group: "", plural: "nodes" }, { ns: undefined })} problem={nodes.error?.message}>
          <Big>{nodes.items.length}</Big>
          <Text size="sm" c="dimmed">{t.home.ready(ready, nodes.items.length)}</Text>
          <Bar value={nodes.items.length ? (100 * ready) / nodes.items.length : 0} color={ready === nodes.items.length ? "green" : "red"} label={t.home.ready(ready, nodes.items.length)} />
        </Tile>
        <Tile label={t.home.pods} href={toList({ group: "", plural: "pods" })} problem={pods.error?.message}>
          <Big>{pods.items.length}</Big>
          <Text size="sm" c="dimmed">{[...groupBy(pods.items.map(podStatus))].map(([word, n]) => `${n} ${word}`).join(", ")}</Text>
          <Progress.Root size="lg">
            {order.map((h) => counts.get(h) && <Progress.Section key={h} value={(100 * counts.get(h)!) / pods.items.length} color={colorOf[h]} aria-label={`${counts.get(h)} ${h}`} />)}
          </Progress.Root>
        </Tile>
        <Tile label={t.home.cpu} problem={nodes.error?.message}>
          <Big>{cpuUsed === null ? "–" : cores(cpuUsed)}</Big>
          <Text size="sm" c="dimmed">{cpuUsed !== null && t.home.used(cores(cpuUsed), cores(cpu))}</Text>
          <Bar value={cpu && cpuUsed !== null ? (100 * cpuUsed) / cpu : 0} label={t.home.cpu} />
        </Tile>
        <Tile label={t.home.memory} problem={nodes.error?.message}>
          <Big>{memoryUsed === null ? "–" : bytes(memoryUsed)}</Big>
          <Text size="sm" c="dimmed">{memoryUsed !== null && t.home.used(bytes(memoryUsed), bytes(memory))}</Text>
          <Bar value={memory && memoryUsed !== null ? (100 * memoryUsed) / memory : 0} label={t.home.memory} />
        </Tile>
      </SimpleGrid>
      <SimpleGrid cols={{ base: 1, lg: 2 }}>
        <Stack>
          <Box title={t.home.workloads}>
            {unwell.length + badPods.length === 0 ? (
              <Text size="sm" c="dimmed">{workloads.length ? t.home.allWell : t.object.none}</Text>
            ) : (
              <Stack gap={6}>
                {unwell.map(([kind, item]) => (
                  <Line key={item.metadata.uid} apiVersion="apps/v1" kind={kind} item={item} word={statusOf({ group: "apps", kind }, item)} />
                ))}
                {badPods.slice(0, 20).map((p) => (
                  <Line key={p.metadata.uid} apiVersion="v1" kind="Pod" item={p} word={podStatus(p)} />
                ))}
              </Stack>
            )}
          </Box>
          {addonKind && !addons.error && (
            <Box title={t.home.addons}>
              <Group gap={8}>
                {[...addons.items].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name)).map((a) => (
                  <Reference key={a.metadata.uid} apiVersion={`${addonKind.group}/${addonKind.version}`} kind={addonKind.kind} name={a.metadata.name} namespace={a.metadata.namespace} short />
                ))}
              </Group>
            </Box>
          )}
        </Stack>
        <Box title={t.home.cluster}>
          <dl className="facts">
            {snapshotKind && !snapshots.error && (
              <>
                <dt>{t.home.snapshot}</dt>
                <dd>
                  {snapshot ? (
                    <>
                      {t.home.ago(age(created(snapshot), now))} <Reference apiVersion={`${snapshotKind.group}/${snapshotKind.version}`} kind={snapshotKind.kind} name={snapshot.metadata.name} short />
                    </>
                  ) : snapshots.loading ? "…" : t.home.noSnapshot}
                </dd>
              </>
            )}
            <End label={t.home.apiServer} at={certificates?.apiServer} now={now} />
            <End label={t.home.authority} at={certificates?.authority} now={now} />
            <dt>{t.home.user}</dt>
            <dd>{client.session.user}</dd>
            <End label={t.home.certificate} at={expires} now={now} token />
          </dl>
        </Box>
      </SimpleGrid>
      <Box title={t.home.warnings}>{recent.length ? <EventTable events={recent} objects /> : <Text size="sm" c="dimmed">{warnings.error?.message ?? t.home.noWarnings}</Text>}</Box>
    </Stack>
  );
}

function groupBy(words: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

/** End is when something ends, in red when that is soon. Kedge renews certificates a month before. */
function End({ label, at, now, token }: { label: string; at?: string; now: number; token?: boolean }) {
  const t = useText();
  if (!at) return null;
  const soon = !token && Date.parse(at) - now < 14 * 86_400_000;
  return (
    <>
      <dt>{label}</dt>
      <dd>{token ? new Date(at).toLocaleString() : `${t.home.inDays(Math.floor((Date.parse(at) - now) / 86_400_000))} (${at.slice(0, 10)})`} {soon && <State word="Warning" />}</dd>
    </>
  );
}

function Tile({ label, href, problem, children }: { label: string; href?: string; problem?: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" component="section" aria-label={label}>
      <Text component="h2" size="sm" fw={600} m={0}>{href ? <a className="link" href={href}>{label}</a> : label}</Text>
      {problem ? <Text size="xs" c="dimmed">{problem}</Text> : children}
    </Paper>
  );
}

const Big = ({ children }: { children: ReactNode }) => <Text fz={30} fw={700} lh={1.3}>{children}</Text>;

function Bar({ value, label, color }: { value: number; label: string; color?: string }) {
  return (
    <Progress.Root size="lg" mt={4}>
      <Progress.Section value={value} color={color ?? (value > 90 ? "red" : value > 75 ? "yellow" : "blue")} aria-label={label} />
    </Progress.Root>
  );
}

function Line({ apiVersion, kind, item, word }: { apiVersion: string; kind: string; item: Item; word: string }) {
  return (
    <Group gap="sm">
      <State word={word} />
      <Reference apiVersion={apiVersion} kind={kind} name={item.metadata.name} namespace={item.metadata.namespace} />
      <Text size="sm" c="dimmed">{item.metadata.namespace}</Text>
    </Group>
  );
}
