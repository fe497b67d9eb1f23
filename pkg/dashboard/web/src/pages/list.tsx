import { ActionIcon, Alert, Group, Text, TextInput, Title } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { memo, useDeferredValue, useEffect, useMemo, useRef, useState, type KeyboardEvent } from "react";
import { useCluster } from "../context";
import { pathOf, type Resource } from "../discovery";
import { age } from "../format";
import { useNow, useTable, type Column, type Row } from "../live";
import { DeleteButton } from "../parts/actions";
import { State, Wait, Wrong } from "../parts/basics";
import { change, go, toObject, useRoute } from "../route";
import { useText } from "../text";

const height = 38;
const collator = new Intl.Collator(undefined, { numeric: true });
const statusColumns = new Set(["Status", "Phase", "Health", "State"]);

/** Shown is a column of the page: the server's, and the namespace. */
interface Shown {
  name: string;
  title: string;
  help?: string;
  width: string;
  value: (row: Row) => unknown;
  order: (row: Row) => string | number;
}

function columnsOf(columns: Column[], titles: Record<string, string>, withNamespace: boolean): Shown[] {
  const shown: Shown[] = [];
  columns.forEach((column, i) => {
    if (column.priority > 0) return;
    const isAge = column.name === "Age" || column.name === "Created At";
    shown.push({
      name: column.name,
      title: titles[column.name] ?? column.name,
      help: column.description,
      width: column.format === "name" ? "minmax(220px, 3fr)" : isAge || column.type === "integer" ? "minmax(90px, 0.6fr)" : /message/i.test(column.name) ? "minmax(320px, 5fr)" : "minmax(110px, 1.2fr)",
      value: (row) => row.cells[i],
      order: (row) => (isAge && row.meta.creationTimestamp ? -Date.parse(row.meta.creationTimestamp) : typeof row.cells[i] === "number" ? row.cells[i] : String(row.cells[i] ?? "")),
    });
    if (column.format === "name" && withNamespace) {
      shown.push({ name: "Namespace", title: titles.Namespace ?? "Namespace", width: "minmax(130px, 1.2fr)", value: (row) => row.meta.namespace, order: (row) => row.meta.namespace ?? "" });
    }
  });
  return shown;
}

/** ListPage shows all objects of a kind, as they are now. */
export function ListPage({ resource, namespace }: { resource: Resource; namespace: string }) {
  const t = useText();
  const { client } = useCluster();
  const { query } = useRoute();
  const search = query.get("q") ?? "";
  const labels = query.get("labels") ?? "";
  const [sort, descending] = [(query.get("sort") ?? "").replace(/^-/, ""), query.get("sort")?.startsWith("-") ?? false];
  const [typed, setTyped] = useState(labels);
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  const within = resource.namespaced ? namespace : "";
  const list = useTable(client, pathOf(resource, within), labels);
  const columns = useMemo(() => columnsOf(list.columns, t.columns, resource.namespaced && !within), [list.columns, t, resource, within]);
  const wanted = useDeferredValue(search.toLowerCase());
  const rows = useMemo(() => {
    const fit = wanted ? list.items.filter((row) => row.meta.name.toLowerCase().includes(wanted) || String(row.meta.namespace ?? "").includes(wanted)) : [...list.items];
    const column = columns.find((c) => c.name === sort);
    const key = new Map(fit.map((row) => [row, column ? column.order(row) : `${row.meta.namespace ?? ""}/${row.meta.name}`]));
    fit.sort((a, b) => {
      const [x, y] = [key.get(a)!, key.get(b)!];
      const order = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(String(x), String(y));
      return descending ? -order : order;
    });
    return fit;
  }, [list.items, columns, wanted, sort, descending]);
  useEffect(() => setChosen(new Set()), [within, labels]);
  const selection = rows.filter((row) => chosen.has(row.id));

  return (
    <>
      <Group justify="space-between" mb="sm" gap="xs">
        <Group gap="sm" align="baseline">
          <Title order={1} size="h3">{resource.kind}</Title>
          <Text c="dimmed" size="sm" aria-live="polite" id="count">
            {!list.loading && t.list.count(rows.length, list.items.length)} {!list.loading && !list.complete && !list.error && t.list.partial}
          </Text>
        </Group>
        <Group gap="xs">
          {selection.length > 0 && (
            <>
              <Text size="sm">{t.list.selected(selection.length)}</Text>
              <DeleteButton resource={resource} objects={selection.map((row) => row.meta)} namespace={within} done={() => setChosen(new Set())} />
            </>
          )}
          <TextInput id="search" size="sm" aria-label={t.list.search} placeholder={t.list.search} value={search} onChange={(e) => change({ q: e.currentTarget.value })}
            rightSection={search && <ActionIcon variant="subtle" color="gray" aria-label={t.cancel} onClick={() => change({ q: undefined })}>×</ActionIcon>} />
          <form onSubmit={(e) => { e.preventDefault(); change({ labels: typed.trim() }); }}>
            <TextInput size="sm" aria-label={t.list.labels} placeholder={t.list.labels} value={typed} onChange={(e) => setTyped(e.currentTarget.value)} onBlur={() => change({ labels: typed.trim() })} />
          </form>
        </Group>
      </Group>
      {list.error?.code === 403 ? (
        <Alert color="yellow" title={t.list.forbidden}>{list.error.message}</Alert>
      ) : list.error && !list.items.length ? (
        <Wrong error={list.error} />
      ) : list.loading ? (
        <Wait />
      ) : rows.length === 0 ? (
        <Alert color="gray">{list.items.length ? t.list.emptyFilter : t.list.empty}</Alert>
      ) : (
        <Grid resource={resource} columns={columns} rows={rows} chosen={chosen} setChosen={setChosen} sort={sort} descending={descending} />
      )}
    </>
  );
}

interface GridProps {
  resource: Resource;
  columns: Shown[];
  rows: Row[];
  chosen: Set<string>;
  setChosen: (chosen: Set<string>) => void;
  sort: string;
  descending: boolean;
}

/** Grid draws only the rows in sight: there may be thousands. */
function Grid({ resource, columns, rows, chosen, setChosen, sort, descending }: GridProps) {
  const t = useText();
  const now = useNow(10_000);
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => height, overscan: 12 });
  const template = `44px ${columns.map((c) => c.width).join(" ")}`;
  const all = rows.every((row) => chosen.has(row.id));
  const latest = useRef(chosen);
  latest.current = chosen;
  const choose = useMemo(
    () => (id: string) => {
      const next = new Set(latest.current);
      if (!next.delete(id)) next.add(id);
      setChosen(next);
    },
    [setChosen],
  );
  const move = (event: KeyboardEvent) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...scroller.current!.querySelectorAll<HTMLElement>(".body a")];
    const next = links[links.indexOf(document.activeElement as HTMLElement) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) {
      event.preventDefault();
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  };
  return (
    <div className="grid" ref={scroller} role="table" aria-label={resource.kind} aria-rowcount={rows.length + 1} onKeyDown={move} tabIndex={0}>
      <div className="head" role="rowgroup">
        <div role="row" style={{ gridTemplateColumns: template }}>
          <div role="columnheader">
            <input type="checkbox" aria-label={t.list.selectAll} checked={all} onChange={() => setChosen(all ? new Set() : new Set(rows.map((row) => row.id)))} />
          </div>
          {columns.map((column) => (
            <div role="columnheader" key={column.name} title={column.help} aria-sort={sort === column.name ? (descending ? "descending" : "ascending") : "none"}>
              <button onClick={() => change({ sort: sort === column.name && !descending ? `-${column.name}` : column.name })}>
                {column.title} {sort === column.name ? (descending ? "↓" : "↑") : ""}
              </button>
            </div>
          ))}
        </div>
      </div>
      <div className="body" role="rowgroup" style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const row = rows[item.index]!;
          return <Line key={row.id} row={row} at={item.start} index={item.index} template={template} columns={columns} resource={resource} chosen={chosen.has(row.id)} choose={choose} now={now} />;
        })}
      </div>
    </div>
  );
}

interface LineProps {
  row: Row;
  at: number;
  index: number;
  template: string;
  columns: Shown[];
  resource: Resource;
  chosen: boolean;
  choose: (id: string) => void;
  now: number;
}

const Line = memo(function Line({ row, at, index, template, columns, resource, chosen, choose, now }: LineProps) {
  const t = useText();
  const address = toObject(resource, row.meta.namespace, row.meta.name);
  const cell = (column: Shown, first: boolean) => {
    if (first) {
      return <a className="link" href={address}>{String(column.value(row) ?? row.meta.name)}</a>;
    }
    const value = column.value(row);
    const text = value === null || value === undefined ? "" : column.name === "Age" && resource.plural !== "events" ? age(row.meta.creationTimestamp, now) : String(value);
    if (statusColumns.has(column.name) && text) return <State word={row.meta.deletionTimestamp ? "Terminating" : text} />;
    return text;
  };
  const name = columns.findIndex((c) => c.name === "Name");
  return (
    <div role="row" aria-rowindex={index + 2} style={{ gridTemplateColumns: template, transform: `translateY(${at}px)` }} onDoubleClick={() => go(address)}>
      <div role="cell">
        <input type="checkbox" aria-label={t.list.select(row.meta.name)} checked={chosen} onChange={() => choose(row.id)} />
      </div>
      {columns.map((column, i) => (
        <div role="cell" key={column.name} title={String(column.value(row) ?? "")}>
          {cell(column, i === Math.max(0, name))}
        </div>
      ))}
    </div>
  );
});
