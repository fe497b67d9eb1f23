import { Alert, Title } from "@mantine/core";
import { useMemo } from "react";
import type { Any, Item } from "../api";
import { useCluster } from "../context";
import { colorOf, type Health } from "../format";
import { useItems } from "../live";
import { Wait } from "../parts/basics";
import { toObject } from "../route";
import { health } from "../status";
import { useText } from "../text";

interface Box {
  id: string;
  column: number;
  label: string;
  href: string;
  health: Health;
  row: number;
}

const size = { width: 190, height: 34, gapX: 70, gapY: 14, top: 44, left: 20 };

/** MapPage draws who reaches whom in a namespace: Ingress, Service, workload, pods, node. */
export default function MapPage({ namespace }: { namespace: string }) {
  const t = useText();
  if (!namespace) return <Alert color="gray">{t.mapping.choose}</Alert>;
  return <Drawing key={namespace} namespace={namespace} />;
}

function Drawing({ namespace }: { namespace: string }) {
  const t = useText();
  const { client } = useCluster();
  const core = `/api/v1/namespaces/${namespace}`;
  const apps = `/apis/apps/v1/namespaces/${namespace}`;
  const ingresses = useItems(client, `/apis/networking.k8s.io/v1/namespaces/${namespace}/ingresses`).items;
  const services = useItems(client, `${core}/services`).items;
  const livePods = useItems(client, `${core}/pods`);
  const deployments = useItems(client, `${apps}/deployments`).items;
  const sets = useItems(client, `${apps}/statefulsets`).items;
  const daemons = useItems(client, `${apps}/daemonsets`).items;
  const jobs = useItems(client, `/apis/batch/v1/namespaces/${namespace}/jobs`).items;
  const replicaSets = useItems(client, `${apps}/replicasets`).items;
  const nodes = useItems(client, "/api/v1/nodes").items;
  const pods = livePods.items;

  const { boxes, lines } = useMemo(() => {
    const boxes = new Map<string, Box>();
    const lines = new Set<string>();
    const rows = [0, 0, 0, 0, 0];
    const put = (column: number, id: string, label: string, href: string, h: Health) => {
      if (!boxes.has(id)) boxes.set(id, { id, column, label, href, health: h, row: rows[column]!++ });
    };
    const line = (from: string, to: string) => lines.add(`${from} ${to}`);
    const node = (name: string) => {
      const item = nodes.find((n) => n.metadata.name === name);
      put(4, `node/${name}`, name, toObject({ group: "", plural: "nodes" }, undefined, name), item ? health({ group: "", kind: "Node" }, item) : "unknown");
    };
    const owners = new Map<string, { id: string; kind: string; group: string; plural: string; item: Item }>();
    const add = (items: Item[], kind: string, plural: string, group = "apps") => {
      for (const item of items) owners.set(item.metadata.uid, { id: `${plural}/${item.metadata.name}`, kind, group, plural, item });
    };
    add(deployments, "Deployment", "deployments");
    add(sets, "StatefulSet", "statefulsets");
    add(daemons, "DaemonSet", "daemonsets");
    add(jobs, "Job", "jobs", "batch");
    const deploymentOf = new Map(replicaSets.map((rs) => [rs.metadata.uid, rs.metadata.ownerReferences?.[0]?.uid]));
    const sortedPods = [...pods].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name));

    const fits = (service: Item, pod: Item) => {
      const selector = Object.entries<string>(service.spec?.selector ?? {});
      return selector.length > 0 && selector.every(([k, v]) => pod.metadata.labels?.[k] === v);
    };
    for (const pod of sortedPods) {
      const id = `pod/${pod.metadata.name}`;
      put(3, id, pod.metadata.name, toObject({ group: "", plural: "pods" }, namespace, pod.metadata.name), health({ group: "", kind: "Pod" }, pod));
      const owner = pod.metadata.ownerReferences?.[0];
      const workload = owner && owners.get(deploymentOf.get(owner.uid) ?? owner.uid);
      if (workload) {
        put(2, workload.id, workload.item.metadata.name, toObject(workload, namespace, workload.item.metadata.name), health(workload, workload.item));
        line(workload.id, id);
      }
      if (pod.spec?.nodeName) {
        node(pod.spec.nodeName);
        line(id, `node/${pod.spec.nodeName}`);
      }
      for (const service of services) if (fits(service, pod)) line(`service/${service.metadata.name}`, workload ? workload.id : id);
    }
    for (const w of owners.values()) put(2, w.id, w.item.metadata.name, toObject(w, namespace, w.item.metadata.name), health(w, w.item));
    for (const service of services) {
      const serving = pods.filter((p) => fits(service, p));
      const good = serving.some((p) => health({ group: "", kind: "Pod" }, p) === "good");
      put(1, `service/${service.metadata.name}`, service.metadata.name, toObject({ group: "", plural: "services" }, namespace, service.metadata.name), !service.spec?.selector ? "unknown" : good ? "good" : "bad");
    }
    for (const ingress of ingresses) {
      const id = `ingress/${ingress.metadata.name}`;
      const backends: string[] = [ingress.spec?.defaultBackend, ...(ingress.spec?.rules ?? []).flatMap((r: Any) => (r.http?.paths ?? []).map((p: Any) => p.backend))].map((b: Any) => b?.service?.name).filter(Boolean);
      const there = backends.every((b) => boxes.has(`service/${b}`));
      put(0, id, ingress.metadata.name, toObject({ group: "networking.k8s.io", plural: "ingresses" }, namespace, ingress.metadata.name), there ? "good" : "bad");
      for (const b of backends) if (boxes.has(`service/${b}`)) line(id, `service/${b}`);
    }
    return { boxes: [...boxes.values()], lines: [...lines] };
  }, [ingresses, services, pods, deployments, sets, daemons, jobs, replicaSets, nodes, namespace]);

  const titles = [t.mapping.ingress, t.mapping.service, t.mapping.workload, t.mapping.pod, t.mapping.node];
  const tallest = Math.max(1, ...titles.map((_, c) => boxes.filter((b) => b.column === c).length));
  const height = size.top + tallest * (size.height + size.gapY) + 20;
  const width = size.left * 2 + 5 * size.width + 4 * size.gapX;
  const at = (b: Box) => {
    const n = boxes.filter((x) => x.column === b.column).length;
    const free = height - size.top - n * (size.height + size.gapY);
    return { x: size.left + b.column * (size.width + size.gapX), y: size.top + free / 2 + b.row * (size.height + size.gapY) };
  };
  const byId = new Map(boxes.map((b) => [b.id, b]));

  return (
    <>
      <Title order={1} size="h3" mb="sm">{t.mapping.title(namespace)}</Title>
      {livePods.loading ? (
        <Wait />
      ) : !boxes.length ? (
        <Alert color="gray">{t.mapping.empty}</Alert>
      ) : (
        <div className="map" tabIndex={0}>
          <svg style={{ width: "100%", minWidth: 860, maxWidth: width }} viewBox={`0 0 ${width} ${height}`} aria-label={t.mapping.title(namespace)}>
            {titles.map((title, c) => <text key={title} className="column" x={size.left + c * (size.width + size.gapX)} y={26}>{title}</text>)}
            {lines.map((l) => {
              const [a, b] = l.split(" ").map((id) => byId.get(id));
              if (!a || !b) return null;
              const [p, q] = [at(a), at(b)];
              const [x1, y1, x2, y2] = [p.x + size.width, p.y + size.height / 2, q.x, q.y + size.height / 2];
              return <path key={l} d={`M${x1} ${y1} C${x1 + 40} ${y1}, ${x2 - 40} ${y2}, ${x2} ${y2}`} />;
            })}
            {boxes.map((b) => {
              const { x, y } = at(b);
              return (
                <a key={b.id} href={b.href} aria-label={`${titles[b.column]} ${b.label}: ${b.health}`}>
                  <title>{b.label}</title>
                  <rect x={x} y={y} width={size.width} height={size.height} rx={7} stroke={`var(--mantine-color-${colorOf[b.health]}-6)`} />
                  <circle cx={x + 14} cy={y + size.height / 2} r={5} fill={`var(--mantine-color-${colorOf[b.health]}-6)`} />
                  <foreignObject x={x + 26} y={y} width={size.width - 34} height={size.height}>
                    <div className="label"><span>{b.label.slice(0, -9)}</span><span>{b.label.slice(-9)}</span></div>
                  </foreignObject>
                </a>
              );
            })}
          </svg>
        </div>
      )}
    </>
  );
}
