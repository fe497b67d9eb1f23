// What can be done to objects: each button knows whether the user may.
import { Alert, Button, Group, Modal, NumberInput, Stack, Text, Tooltip } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useState, type ReactNode } from "react";
import type { Any, ApiError, Client, Item, Meta } from "../api";
import { useCan, type Deed } from "../can";
import { useCluster } from "../context";
import { pathOf, type Resource } from "../discovery";
import { go, toList } from "../route";
import { useText } from "../text";
import { Command } from "./basics";

interface ButtonProps {
  label: string;
  deed: Deed;
  run: () => Promise<unknown>;
  /** What is asked before. */
  ask?: string;
  help?: ReactNode;
  danger?: boolean;
  disabled?: boolean;
}

/** ActionButton is greyed out, with the reason, when the user may not. */
export function ActionButton({ label, deed, run, ask, help, danger, disabled }: ButtonProps) {
  const t = useText();
  const { client } = useCluster();
  const may = useCan(client, deed);
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const start = async () => {
    setBusy(true);
    setError("");
    try {
      const said = await run();
      notifications.show({ message: typeof said === "string" ? said : t.action.done(label), color: "green" });
      setOpen(false);
    } catch (e) {
      if (ask) setError((e as ApiError).message);
      else notifications.show({ message: (e as ApiError).message, color: "red", autoClose: false });
    }
    setBusy(false);
  };
  const what = [deed.resource, deed.subresource].filter(Boolean).join("/");
  return (
    <>
      <Tooltip label={t.action.forbidden(deed.verb, what)} disabled={may !== false} events={{ hover: true, focus: true, touch: true }}>
        <Button size="xs" variant={danger ? "light" : "default"} color={danger ? "red" : undefined} loading={busy && !open} disabled={disabled}
          data-disabled={may === false || undefined} aria-disabled={may !== true} title={may === false ? t.action.forbidden(deed.verb, what) : undefined}
          onClick={(e) => { if (may !== true) e.preventDefault(); else if (ask) setOpen(true); else void start(); }}>
          {label}
        </Button>
      </Tooltip>
      <Modal opened={open} onClose={() => setOpen(false)} title={ask} closeButtonProps={{ "aria-label": t.close }}>
        <Stack>
          {help && <Text component="div" size="sm">{help}</Text>}
          {error && <Alert color="red" role="alert">{error}</Alert>}
          <Group justify="end">
            <Button variant="default" onClick={() => setOpen(false)}>{t.cancel}</Button>
            <Button color={danger ? "red" : undefined} loading={busy} onClick={() => void start()} data-autofocus>{label}</Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}

interface DeleteProps {
  resource: Resource;
  objects: Meta[];
  namespace?: string;
  done: () => void;
}

export function DeleteButton({ resource, objects, namespace, done }: DeleteProps) {
  const t = useText();
  const { client } = useCluster();
  const one = objects.length === 1 ? objects[0] : undefined;
  const run = async () => {
    // A few at a time: the API server has other work.
    const left = [...objects];
    const worker = async () => {
      for (let o = left.pop(); o; o = left.pop()) await client.remove(pathOf(resource, o.namespace, o.name));
    };
    await Promise.all([worker(), worker(), worker(), worker()]);
    done();
  };
  return (
    <ActionButton danger label={t.action.delete} ask={t.action.deleteAsk(one ? `${resource.kind} ${one.name}` : `${objects.length} × ${resource.kind}`)}
      help={<><p>{t.action.deleteHelp}</p>{!one && <div style={{ maxHeight: 160, overflow: "auto" }}>{objects.map((o) => <div key={o.uid}>{o.name}</div>)}</div>}</>}
      deed={{ verb: "delete", group: resource.group, resource: resource.plural, namespace: one?.namespace ?? (namespace || undefined), name: one?.name }} run={run} />
  );
}

/** template finds where a workload keeps its pods' template. */
export const hasTemplate = (kind: string) => kind === "Deployment" || kind === "StatefulSet" || kind === "DaemonSet";

/** Actions are the buttons that an object's kind has. */
export function Actions({ resource, item }: { resource: Resource; item: Item }) {
  const t = useText();
  const { client } = useCluster();
  const { name, namespace } = item.metadata;
  const path = pathOf(resource, namespace, name);
  const deed = (verb: string, subresource?: string): Deed => ({ verb, group: resource.group, resource: resource.plural, subresource, namespace, name });
  const builtIn = ["apps", "batch", ""].includes(resource.group);
  return (
    <Group gap="xs">
      {resource.subresources.includes("scale") && <Scale resource={resource} item={item} deed={deed("patch", "scale")} />}
      {builtIn && hasTemplate(resource.kind) && (
        <ActionButton label={t.action.restart} ask={t.action.restartAsk(name)} deed={deed("patch")}
          run={() => client.merge(path, { spec: { template: { metadata: { annotations: { "kubectl.kubernetes.io/restartedAt": new Date().toISOString() } } } } })} />
      )}
      {builtIn && resource.kind === "Deployment" && (
        <ActionButton label={item.spec?.paused ? t.action.resume : t.action.pause} deed={deed("patch")} run={() => client.merge(path, { spec: { paused: item.spec?.paused ? null : true } })} />
      )}
      {builtIn && resource.kind === "CronJob" && (
        <>
          <ActionButton label={t.action.trigger} deed={{ verb: "create", group: "batch", resource: "jobs", namespace }} run={() => trigger(client, item)} />
          <ActionButton label={item.spec?.suspend ? t.action.unsuspend : t.action.suspend} deed={deed("patch")} run={() => client.merge(path, { spec: { suspend: !item.spec?.suspend } })} />
        </>
      )}
      {builtIn && resource.kind === "Job" && (
        <ActionButton label={item.spec?.suspend ? t.action.unsuspend : t.action.suspend} deed={deed("patch")} run={() => client.merge(path, { spec: { suspend: !item.spec?.suspend } })} />
      )}
      {builtIn && resource.kind === "Node" && (
        <>
          <ActionButton label={item.spec?.unschedulable ? t.action.uncordon : t.action.cordon} deed={deed("patch")} run={() => client.merge(path, { spec: { unschedulable: item.spec?.unschedulable ? null : true } })} />
          <ActionButton label={t.action.drain} ask={t.action.drainAsk(name)} help={t.action.drainHelp} danger deed={{ verb: "create", group: "", resource: "pods", subresource: "eviction" }}
            run={async () => t.action.drained(await drain(client, path, name))} />
        </>
      )}
      {builtIn && (resource.kind === "Pod" || resource.kind === "Service") && <Forward item={item} kind={resource.kind} />}
      <DeleteButton resource={resource} objects={[item.metadata]} done={() => go(toList(resource))} />
    </Group>
  );
}

function Scale({ resource, item, deed }: { resource: Resource; item: Item; deed: Deed }) {
  const t = useText();
  const { client } = useCluster();
  const now = Number(item.spec?.replicas ?? 1);
  const [replicas, setReplicas] = useState<number | string>(now);
  return (
    <ActionButton label={t.action.scale} ask={`${t.action.scale} ${item.metadata.name}`} deed={deed}
      help={<NumberInput label={`${t.action.replicas} (${now})`} min={0} value={replicas} onChange={setReplicas} allowDecimal={false} />}
      run={() => client.merge(`${pathOf(resource, item.metadata.namespace, item.metadata.name)}/scale`, { spec: { replicas: Number(replicas) } })} />
  );
}

function Forward({ item, kind }: { item: Item; kind: string }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const ports: number[] = kind === "Service" ? (item.spec?.ports ?? []).map((p: Any) => p.port) : (item.spec?.containers ?? []).flatMap((c: Any) => (c.ports ?? []).map((p: Any) => p.containerPort));
  if (!ports.length) return null;
  return (
    <>
      <Button size="xs" variant="default" onClick={() => setOpen(true)}>{t.action.forward}</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={t.action.forward} closeButtonProps={{ "aria-label": t.close }} size="lg">
        <Stack>
          <Text size="sm">{t.action.forwardHelp}</Text>
          {ports.map((port) => {
            const local = port < 1024 ? port + 8000 : port;
            return (
              <div key={port}>
                <Command>{`kubectl port-forward --namespace ${item.metadata.namespace} ${kind.toLowerCase()}/${item.metadata.name} ${local}:${port}`}</Command>
                <a className="link" href={`http://localhost:${local}/`} target="_blank" rel="noreferrer noopener">http://localhost:{local}/</a>
              </div>
            );
          })}
        </Stack>
      </Modal>
    </>
  );
}

async function trigger(client: Client, item: Item): Promise<void> {
  const { name, namespace, uid } = item.metadata;
  const template = item.spec.jobTemplate;
  await client.post(`/apis/batch/v1/namespaces/${namespace}/jobs`, {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: {
      generateName: `${name.slice(0, 50)}-manual-`,
      labels: template.metadata?.labels,
      annotations: { ...template.metadata?.annotations, "cronjob.kubernetes.io/instantiate": "manual" },
      ownerReferences: [{ apiVersion: "batch/v1", kind: "CronJob", name, uid, controller: true }],
    },
    spec: template.spec,
  });
}

/** drain cordons a node and evicts its pods, but for those that belong to the node. */
async function drain(client: Client, path: string, node: string): Promise<number> {
  await client.merge(path, { spec: { unschedulable: true } });
  const pods = await client.get<{ items: Item[] }>("/api/v1/pods", { query: { fieldSelector: `spec.nodeName=${node}` } });
  const go = pods.items.filter(
    (p) => !p.metadata.annotations?.["kubernetes.io/config.mirror"] && !p.metadata.ownerReferences?.some((o) => o.kind === "DaemonSet") && !["Succeeded", "Failed"].includes(p.status?.phase),
  );
  const refused: string[] = [];
  for (const { metadata } of go) {
    await client
      .post(`/api/v1/namespaces/${metadata.namespace}/pods/${metadata.name}/eviction`, { apiVersion: "policy/v1", kind: "Eviction", metadata: { name: metadata.name, namespace: metadata.namespace } })
      .catch((e: ApiError) => refused.push(`${metadata.name}: ${e.message}`));
  }
  if (refused.length) throw new Error(refused.join("\n"));
  return go.length;
}
