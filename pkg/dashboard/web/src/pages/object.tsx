import { Alert, Badge, Group, Stack, Tabs, Text, Title } from "@mantine/core";
import { Suspense, lazy } from "react";
import { useCluster } from "../context";
import { named, pathOf, type Resource } from "../discovery";
import { useItems } from "../live";
import { Actions } from "../parts/actions";
import { State, Wait, Wrong } from "../parts/basics";
import { Events } from "../parts/events";
import { Properties } from "../parts/properties";
import { statusOf } from "../status";
import { change, toList, useRoute } from "../route";
import { useText } from "../text";

const Editor = lazy(() => import("../parts/editor"));
const Logs = lazy(() => import("../parts/logs"));
const Shell = lazy(() => import("../parts/shell"));
const Usage = lazy(() => import("../parts/usage"));

/** ObjectPage shows one object, as it is now. */
export default function ObjectPage({ resource, namespace, name }: { resource: Resource; namespace?: string; name: string }) {
  const t = useText();
  const { client } = useCluster();
  const { query } = useRoute();
  const live = useItems(client, pathOf(resource, namespace), { fieldSelector: named(name) });
  const item = live.items[0];
  if (!item) {
    if (live.loading) return <Wait />;
    if (live.error) return <Wrong error={live.error} />;
    return (
      <Alert color="gray">
        {t.notFound} <a className="link" href={toList(resource)}>{t.back}</a>
      </Alert>
    );
  }
  const pod = resource.kind === "Pod" && resource.group === "";
  const node = resource.kind === "Node" && resource.group === "";
  const tab = query.get("tab") ?? "details";
  const status = statusOf(resource, item);
  return (
    <Stack gap="md">
      <Group justify="space-between" align="start">
        <div style={{ minWidth: 0 }}>
          <Text size="sm" c="dimmed">
            <a className="crumb" href={toList(resource)}>{resource.kind}</a>
            {namespace && ` · ${namespace}`}
          </Text>
          <Group gap="sm">
            <Title order={1} size="h3" style={{ overflowWrap: "anywhere" }}>{name}</Title>
            {status && <State word={status} />}
            {item.metadata.deletionTimestamp && <Badge color="yellow" tt="none" variant="light" styles={{ label: { color: "var(--mantine-color-text)" } }}>{t.object.deleting}</Badge>}
          </Group>
        </div>
        <Actions resource={resource} item={item} />
      </Group>
      <Tabs value={tab} onChange={(value) => change({ tab: value === "details" ? undefined : (value ?? undefined) })} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="details">{t.object.details}</Tabs.Tab>
          <Tabs.Tab value="yaml">{t.object.yaml}</Tabs.Tab>
          <Tabs.Tab value="events">{t.object.events}</Tabs.Tab>
          {pod && <Tabs.Tab value="logs">{t.object.logs}</Tabs.Tab>}
          {pod && <Tabs.Tab value="shell">{t.object.shell}</Tabs.Tab>}
          {(pod || node) && <Tabs.Tab value="usage">{t.object.usage}</Tabs.Tab>}
        </Tabs.List>
        <Suspense fallback={<Wait />}>
          <Tabs.Panel value="details"><Properties resource={resource} item={item} /></Tabs.Panel>
          <Tabs.Panel value="yaml"><Editor resource={resource} item={item} /></Tabs.Panel>
          <Tabs.Panel value="events"><Events item={item} kind={resource.kind} /></Tabs.Panel>
          {pod && <Tabs.Panel value="logs"><Logs pod={item} /></Tabs.Panel>}
          {pod && <Tabs.Panel value="shell"><Shell pod={item} /></Tabs.Panel>}
          {(pod || node) && <Tabs.Panel value="usage"><Usage path={pod ? `/apis/metrics.k8s.io/v1beta1/namespaces/${namespace}/pods/${name}` : `/apis/metrics.k8s.io/v1beta1/nodes/${name}`} /></Tabs.Panel>}
        </Suspense>
      </Tabs>
    </Stack>
  );
}
