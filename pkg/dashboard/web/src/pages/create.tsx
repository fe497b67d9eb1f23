import { Alert, Button, Checkbox, FileButton, Group, Modal, NumberInput, Stack, Tabs, Text, TextInput, Title, useComputedColorScheme } from "@mantine/core";
import { useState } from "react";
import type { Any, Client, Item } from "../api";
import { useCluster } from "../context";
import { find, pathOf } from "../discovery";
import { Reference } from "../parts/basics";
import { Code } from "../parts/code";
import { useText } from "../text";
import { parse, toYAML } from "../yaml";

/** CreatePage makes objects from YAML, or a Deployment from a form. */
export default function CreatePage({ namespace }: { namespace: string }) {
  const t = useText();
  const [tab, setTab] = useState<string | null>("yaml");
  const [text, setText] = useState("");
  return (
    <Stack>
      <Title order={1} size="h3">{t.create}</Title>
      <Tabs value={tab} onChange={setTab} keepMounted={false}>
        <Tabs.List mb="md">
          <Tabs.Tab value="yaml">{t.createPage.yaml}</Tabs.Tab>
          <Tabs.Tab value="form">{t.createPage.form}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="yaml"><FromYAML namespace={namespace} text={text} setText={setText} /></Tabs.Panel>
        <Tabs.Panel value="form">
          <Form
            namespace={namespace}
            show={(yaml) => {
              setText(yaml);
              setTab("yaml");
            }}
          />
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

function FromYAML({ namespace, text, setText }: { namespace: string; text: string; setText: (text: string) => void }) {
  const t = useText();
  const { client, resources, rediscover } = useCluster();
  const dark = useComputedColorScheme("light") === "dark";
  const [error, setError] = useState("");
  const [checked, setChecked] = useState(0);
  const [made, setMade] = useState<Item[]>([]);
  const [busy, setBusy] = useState(false);

  const apply = async (dryRun: boolean) => {
    setBusy(true);
    setError("");
    setChecked(0);
    setMade([]);
    let what = "";
    const done: Item[] = [];
    try {
      const objects = parse(text);
      if (!objects.length) throw new Error(t.createPage.nothing);
      for (const object of objects) {
        what = `${object.kind ?? "?"} ${object.metadata?.name ?? "?"}: `;
        const resource = find(resources, object.apiVersion ?? "", object.kind ?? "");
        if (!resource) throw new Error(t.createPage.unknownKind(`${object.apiVersion} ${object.kind}`));
        const path = pathOf(resource, object.metadata?.namespace ?? namespace, object.metadata?.name);
        const response = await client.send("PATCH", path, JSON.stringify(object), {
          type: "application/apply-patch+yaml",
          query: { fieldManager: "kedge-dashboard", fieldValidation: "Strict", dryRun: dryRun ? "All" : undefined },
        });
        done.push((await response.json()) as Item);
      }
      what = "";
      if (dryRun) setChecked(done.length);
    } catch (e) {
      setError(what + (e as Error).message);
    }
    if (!dryRun) {
      setMade(done);
      if (done.some((o) => o.kind === "CustomResourceDefinition")) setTimeout(rediscover, 1500);
    }
    setBusy(false);
  };

  return (
    <Stack>
      <Text size="sm" c="dimmed">{t.createPage.help} {t.namespace}: {namespace}</Text>
      <Group>
        <Button size="xs" loading={busy} disabled={!text.trim()} onClick={() => void apply(false)}>{t.createPage.apply}</Button>
        <Button size="xs" variant="default" disabled={!text.trim() || busy} onClick={() => void apply(true)}>{t.createPage.check}</Button>
        <FileButton accept=".yaml,.yml,.json" onChange={(file) => void file?.text().then(setText)}>{(props) => <Button size="xs" variant="default" {...props}>{t.createPage.from}</Button>}</FileButton>
        <FromAddress client={client} show={setText} />
      </Group>
      {error && <Alert color="red" role="alert" style={{ whiteSpace: "pre-wrap" }}>{error}</Alert>}
      {checked > 0 && <Alert color="green">{t.createPage.checked(checked)}</Alert>}
      {made.length > 0 && (
        <Alert color="green" title={t.createPage.made(made.length)}>
          <Group>{made.map((o) => <Reference key={o.metadata.uid} apiVersion={o.apiVersion ?? ""} kind={o.kind ?? ""} name={o.metadata.name} namespace={o.metadata.namespace} />)}</Group>
        </Alert>
      )}
      <Code value={text} change={setText} dark={dark} label={t.editor.label} />
      <Text size="xs" c="dimmed">{t.editor.help}</Text>
    </Stack>
  );
}

/** FromAddress has the dashboard's server fetch a file: the page itself may ask no other host. */
function FromAddress({ client, show }: { client: Client; show: (text: string) => void }) {
  const t = useText();
  const [open, setOpen] = useState(false);
  const [url, setURL] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const fetchIt = async () => {
    setBusy(true);
    setError("");
    try {
      show(await (await client.send("POST", "fetch", { url: url.trim() }, { accept: "text/plain" })).text());
      setOpen(false);
    } catch (e) {
      setError((e as Error).message);
    }
    setBusy(false);
  };
  return (
    <>
      <Button size="xs" variant="default" onClick={() => setOpen(true)}>{t.createPage.fromAddress}</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={t.createPage.fromAddress} closeButtonProps={{ "aria-label": t.close }}>
        <form onSubmit={(e) => { e.preventDefault(); void fetchIt(); }}>
          <Stack>
            <TextInput type="url" required data-autofocus label={t.createPage.address} description={t.createPage.addressHelp} placeholder="https://…" value={url} onChange={(e) => setURL(e.currentTarget.value)} />
            {error && <Alert color="red" role="alert" style={{ overflowWrap: "anywhere" }}>{error}</Alert>}
            <Group justify="end">
              <Button variant="default" onClick={() => setOpen(false)}>{t.cancel}</Button>
              <Button type="submit" loading={busy} disabled={!url.trim()}>{t.createPage.fetch}</Button>
            </Group>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

function Form({ namespace, show }: { namespace: string; show: (yaml: string) => void }) {
  const t = useText();
  const [name, setName] = useState("");
  const [image, setImage] = useState("");
  const [replicas, setReplicas] = useState<number | string>(1);
  const [port, setPort] = useState<number | string>("");
  const [expose, setExpose] = useState(true);
  const made = () => {
    const labels = { app: name };
    const container: Any = { name, image };
    if (port) container.ports = [{ containerPort: Number(port) }];
    const deployment: Any = {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name, namespace, labels },
      spec: { replicas: Number(replicas), selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers: [container] } } },
    };
    const service: Any = { apiVersion: "v1", kind: "Service", metadata: { name, namespace, labels }, spec: { selector: labels, ports: [{ port: Number(port), targetPort: Number(port) }] } };
    return [deployment, ...(port && expose ? [service] : [])].map(toYAML).join("---\n");
  };
  return (
    <form
      onSubmit={(e) => {
        e.preventDefault();
        show(made());
      }}
    >
      <Stack maw={460}>
        <TextInput required label={t.createPage.name} value={name} onChange={(e) => setName(e.currentTarget.value)} pattern="[a-z]([-a-z0-9]*[a-z0-9])?" maxLength={63} />
        <TextInput required label={t.createPage.image} value={image} onChange={(e) => setImage(e.currentTarget.value)} placeholder="nginx:1.29" />
        <NumberInput label={t.createPage.replicas} value={replicas} onChange={setReplicas} min={0} allowDecimal={false} />
        <NumberInput label={t.createPage.port} value={port} onChange={setPort} min={1} max={65535} allowDecimal={false} />
        <Checkbox label={t.createPage.expose} checked={expose} onChange={(e) => setExpose(e.currentTarget.checked)} disabled={!port} />
        <Button type="submit" disabled={!name || !image}>{t.createPage.toYaml}</Button>
      </Stack>
    </form>
  );
}
