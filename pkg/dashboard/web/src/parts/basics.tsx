import { Alert, Anchor, Badge, Button, Center, Code, CopyButton, Group, Loader, Paper, Text, Title } from "@mantine/core";
import type { ReactNode } from "react";
import type { ApiError } from "../api";
import { useCluster } from "../context";
import { find } from "../discovery";
import { colorOf, healthOf } from "../format";
import { toObject } from "../route";
import { useText } from "../text";

export function Wait() {
  const t = useText();
  return (
    <Center h={200}>
      <Loader aria-label={t.loading} />
    </Center>
  );
}

export function Wrong({ error, retry }: { error: ApiError; retry?: () => void }) {
  const t = useText();
  return (
    <Alert color="red" m="md" role="alert">
      <Text size="sm" style={{ overflowWrap: "anywhere" }}>{error.message}</Text>
      {retry && <Button mt="sm" size="xs" onClick={retry}>{t.retry}</Button>}
    </Alert>
  );
}

export function Box({ title, children, aside }: { title: string; children: ReactNode; aside?: ReactNode }) {
  return (
    <Paper withBorder p="md" component="section" aria-label={title} style={{ minWidth: 0 }}>
      <Group justify="space-between" mb="sm">
        <Title order={2} size="h5">{title}</Title>
        {aside}
      </Group>
      {children}
    </Paper>
  );
}

/** State shows a status word in the colour of what it means. */
export function State({ word }: { word: string }) {
  return (
    <Badge variant="light" color={colorOf[healthOf(word)]} tt="none" fw={600} autoContrast styles={{ label: { color: "var(--mantine-color-text)" } }}>
      {word}
    </Badge>
  );
}

/** Reference links to another object, if the API knows its kind. */
export function Reference({ apiVersion, kind, name, namespace, short }: { apiVersion: string; kind: string; name: string; namespace?: string; short?: boolean }) {
  const { resources } = useCluster();
  const r = find(resources, apiVersion, kind);
  const text = short ? name : `${kind} ${name}`;
  if (!r || !name) return <>{text}</>;
  return (
    <Anchor className="link" size="sm" href={toObject(r, r.namespaced ? namespace : undefined, name)}>
      {text}
    </Anchor>
  );
}

export function Pairs({ of }: { of?: Record<string, string> }) {
  const t = useText();
  const entries = Object.entries(of ?? {});
  if (!entries.length) return <Text size="sm" c="dimmed">{t.object.none}</Text>;
  return (
    <Group gap={6}>
      {entries.map(([key, value]) => (
        <Code key={key} style={{ overflowWrap: "anywhere", maxHeight: 120, overflow: "auto" }}>
          {key}={value}
        </Code>
      ))}
    </Group>
  );
}

export function Command({ children }: { children: string }) {
  const t = useText();
  return (
    <Group gap="xs" wrap="nowrap" align="start">
      <Code block style={{ flex: 1, whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{children}</Code>
      <CopyButton value={children}>
        {({ copied, copy }) => (
          <Button size="compact-xs" variant="default" onClick={copy}>
            {copied ? t.copied : t.copy}
          </Button>
        )}
      </CopyButton>
    </Group>
  );
}
