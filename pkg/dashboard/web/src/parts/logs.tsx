import { Button, Checkbox, Group, Select, Text, TextInput } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import type { Any, ApiError, Item } from "../api";
import { useCluster } from "../context";
import { useText } from "../text";
import { Wrong } from "./basics";

const kept = 20_000; // lines
const lineHeight = 18;
// Colours and other orders to a terminal.
// eslint-disable-next-line no-control-regex
const escapes = /\u001b\[[0-9;?]*[ -/]*[@-~]/g;

interface Line {
  n: number;
  from: string;
  text: string;
}

/** Logs shows what a pod's containers write, as they write it. */
export default function Logs({ pod }: { pod: Item }) {
  const t = useText();
  const { client } = useCluster();
  const containers: string[] = useMemo(() => [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? []), ...(pod.spec?.ephemeralContainers ?? [])].map((c: Any) => c.name), [pod.metadata.uid]);
  const [container, setContainer] = useState(containers[0] ?? "");
  const [follow, setFollow] = useState(true);
  const [previous, setPrevious] = useState(false);
  const [times, setTimes] = useState(false);
  const [search, setSearch] = useState("");
  const [lines, setLines] = useState<Line[]>([]);
  const [error, setError] = useState<ApiError | null>(null);
  const { name, namespace, uid } = pod.metadata;
  const path = `/api/v1/namespaces/${namespace}/pods/${name}/log`;

  useEffect(() => {
    const stop = new AbortController();
    let fresh: Line[] = [];
    let n = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    setLines([]);
    setError(null);
    const add = (from: string, text: string) => {
      fresh.push({ n: n++, from, text: text.replace(escapes, "") });
      timer ??= setTimeout(() => {
        timer = undefined;
        const more = fresh;
        fresh = [];
        setLines((old) => [...old, ...more].slice(-kept));
      }, 100);
    };
    const read = async (from: string, prefix: string) => {
      const query = { container: from, follow: follow && !previous, previous, timestamps: times, tailLines: 2000 };
      const response = await client.send("GET", path, undefined, { query, accept: "text/plain, */*", signal: stop.signal });
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        const parts = (rest + (value ?? "")).split("\n");
        rest = parts.pop() ?? "";
        for (const part of parts) add(prefix, part);
        if (done) break;
      }
      if (rest) add(prefix, rest);
    };
    for (const from of container ? [container] : containers) {
      read(from, container ? "" : from).catch((e: ApiError) => {
        if (!stop.signal.aborted && (container || e.code !== 400)) setError(e);
      });
    }
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [client, path, uid, container, containers, follow, previous, times]);

  const wanted = useDeferredValue(search.toLowerCase());
  const shown = useMemo(() => (wanted ? lines.filter((l) => l.text.toLowerCase().includes(wanted)) : lines), [lines, wanted]);
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const virtual = useVirtualizer({ count: shown.length, getScrollElement: () => box.current, estimateSize: () => lineHeight, overscan: 30 });
  useEffect(() => {
    if (follow && atEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown, follow]);

  const download = async () => {
    const response = await client.send("GET", path, undefined, { query: { container: container || containers[0], previous, timestamps: times }, accept: "text/plain, */*" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${namespace}_${name}_${container || containers[0]}.log`;
    link.click();
    URL.revokeObjectURL(link.href);
  };

  return (
    <>
      <Group mb="sm" gap="sm" align="end">
        {containers.length > 1 && (
          <Select size="xs" label={t.logs.container} allowDeselect={false} value={container || "*"} onChange={(v) => setContainer(v === "*" ? "" : (v ?? ""))} data={[...containers, { value: "*", label: t.logs.all }]} />
        )}
        <TextInput size="xs" id="search" aria-label={t.logs.search} placeholder={t.logs.search} value={search} onChange={(e) => setSearch(e.currentTarget.value)} />
        <Checkbox size="xs" label={t.logs.follow} checked={follow} onChange={(e) => setFollow(e.currentTarget.checked)} />
        <Checkbox size="xs" label={t.logs.previous} checked={previous} onChange={(e) => setPrevious(e.currentTarget.checked)} />
        <Checkbox size="xs" label={t.logs.times} checked={times} onChange={(e) => setTimes(e.currentTarget.checked)} />
        <Button size="xs" variant="default" onClick={() => void download().catch((e) => setError(e as ApiError))}>{t.logs.download}</Button>
        <Text size="xs" c="dimmed">{t.logs.lines(shown.length)}</Text>
      </Group>
      {error && <Wrong error={error} />}
      <div className="log" ref={box} role="log" aria-label={t.logs.label} tabIndex={0} onScroll={(e) => { const b = e.currentTarget; atEnd.current = b.scrollHeight - b.scrollTop - b.clientHeight < 30; }}>
        {!lines.length && !error && <div style={{ padding: 12 }}>{t.logs.empty}</div>}
        <div style={{ height: virtual.getTotalSize(), position: "relative" }}>
          {virtual.getVirtualItems().map((v) => {
            const line = shown[v.index]!;
            return (
              <div key={line.n} className="line" style={{ transform: `translateY(${v.start}px)` }}>
                {line.from && <span className="from">{line.from} </span>}
                <Marked text={line.text} find={wanted} />
              </div>
            );
          })}
        </div>
      </div>
    </>
  );
}

function Marked({ text, find }: { text: string; find: string }) {
  const at = find ? text.toLowerCase().indexOf(find) : -1;
  if (at < 0) return <>{text}</>;
  return (
    <>
      {text.slice(0, at)}
      <mark>{text.slice(at, at + find.length)}</mark>
      {text.slice(at + find.length)}
    </>
  );
}
