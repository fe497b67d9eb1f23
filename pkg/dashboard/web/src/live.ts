// Lists and objects that stay as they are in the cluster.
import { useEffect, useState } from "react";
import { ApiError, type Any, type Client, type Item } from "./api";

export interface Column {
  name: string;
  type: string;
  format?: string;
  description?: string;
  priority: number;
}

export interface Row {
  id: string;
  meta: Item["metadata"];
  cells: Any[];
}

interface Source<T> {
  path: string;
  query?: Record<string, string | undefined>;
  table: boolean;
  /** keyed turns what the API sends into what is kept, by key. */
  keyed: (object: Any) => [string, T][];
  reset: (all: Map<string, T>, complete: boolean, first: Any) => void;
  change: (changes: Map<string, T | null>) => void;
  failed: (error: ApiError | null) => void;
}

const chunk = 500;
const pause = 80; // ms in which changes are gathered
const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/** follow lists, then watches, for ever; what it returns ends it. */
function follow<T>(client: Client, source: Source<T>): () => void {
  const stop = new AbortController();
  let socket: WebSocket | undefined;
  let retry = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let changes = new Map<string, T | null>();
  let flush: ReturnType<typeof setTimeout> | undefined;

  const later = (what: () => void) => {
    if (stop.signal.aborted) return;
    const wait = Math.min(15_000, 500 * 2 ** Math.min(retry++, 5));
    timer = setTimeout(what, wait);
  };

  const list = async () => {
    changes = new Map();
    const all = new Map<string, T>();
    try {
      let first: Any;
      let version = "";
      let more: string | undefined;
      do {
        const page: Any = await client.get(source.path, {
          query: { ...source.query, limit: chunk, continue: more },
          accept: source.table ? asTable : undefined,
          signal: stop.signal,
        });
        first ??= page;
        version = page.metadata.resourceVersion;
        more = page.metadata.continue;
        for (const [key, value] of source.keyed(page)) all.set(key, value);
        source.reset(all, !more, first);
      } while (more);
      source.failed(null);
      retry = 0;
      watch(version);
    } catch (error) {
      if (stop.signal.aborted) return;
      const known = error instanceof ApiError ? error : new ApiError(0, String(error));
      source.failed(known);
      // What is forbidden or unknown stays so for a while.
      if (known.code === 401) return;
      if (known.code === 403 || known.code === 404) timer = setTimeout(list, 30_000);
      else later(list);
    }
  };

  const watch = (version: string) => {
    let last = version;
    let heard = false;
    socket = client.socket(`/stream/watch${source.path}`, {
      ...source.query,
      resourceVersion: last,
      allowWatchBookmarks: true,
      as: source.table ? "Table" : undefined,
    });
    socket.onmessage = (message: MessageEvent) => {
      heard = true;
      retry = 0;
      const event: Any = JSON.parse(String(message.data));
      if (event.type === "ERROR") {
        last = "";
        socket?.close();
        return;
      }
      const at = source.table ? event.object.rows?.[0]?.object?.metadata : event.object.metadata;
      last = at?.resourceVersion ?? event.object.metadata?.resourceVersion ?? last;
      if (event.type === "BOOKMARK") return;
      for (const [key, value] of source.keyed(event.object)) changes.set(key, event.type === "DELETED" ? null : value);
      flush ??= setTimeout(() => {
        flush = undefined;
        const now = changes;
        changes = new Map();
        if (!stop.signal.aborted) source.change(now);
      }, pause);
    };
    socket.onclose = () => {
      if (stop.signal.aborted) return;
      if (!heard) void client.check(); // a session that has ended shows so
      later(() => (last && heard ? watch(last) : void list()));
    };
  };

  void list();
  return () => {
    stop.abort();
    clearTimeout(timer);
    clearTimeout(flush);
    if (socket) socket.onclose = null;
    socket?.close();
  };
}

export interface Live<T> {
  items: T[];
  loading: boolean;
  /** complete: the whole list is there, not its beginning alone. */
  complete: boolean;
  error: ApiError | null;
}

/** slim keeps of an object's metadata what lists need: thousands are kept. */
function slim(meta: Item["metadata"]): Item["metadata"] {
  const { name, namespace, uid, creationTimestamp, deletionTimestamp, labels } = meta;
  return { name, namespace, uid, creationTimestamp, deletionTimestamp, labels };
}

export interface Table extends Live<Row> {
  columns: Column[];
}

/** useTable follows a list as the server prints it. */
export function useTable(client: Client, path: string, labelSelector: string): Table {
  const [state, setState] = useState<Table>({ items: [], columns: [], loading: true, complete: false, error: null });
  useEffect(() => {
    setState({ items: [], columns: [], loading: true, complete: false, error: null });
    const all = new Map<string, Row>();
    return follow<Row>(client, {
      path,
      query: { labelSelector: labelSelector || undefined },
      table: true,
      keyed: (object) =>
        (object.rows ?? []).map((row: Any) => {
          const meta = slim(row.object.metadata);
          const id = meta.uid || `${meta.namespace}/${meta.name}`;
          return [id, { id, meta, cells: row.cells }];
        }),
      reset: (list, complete, first) => {
        all.clear();
        for (const [id, row] of list) all.set(id, row);
        setState({ items: [...all.values()], columns: first.columnDefinitions ?? [], loading: false, complete, error: null });
      },
      change: (changes) => {
        for (const [id, row] of changes) row ? all.set(id, row) : all.delete(id);
        setState((s) => ({ ...s, items: [...all.values()] }));
      },
      failed: (error) => setState((s) => ({ ...s, error, loading: error ? false : s.loading })),
    });
  }, [client, path, labelSelector]);
  return state;
}

/** useItems follows whole objects; a path of null is of nothing. */
export function useItems(client: Client, path: string | null, query: Record<string, string | undefined> = {}): Live<Item> {
  const [state, setState] = useState<Live<Item>>({ items: [], loading: true, complete: false, error: null });
  const key = JSON.stringify(query);
  useEffect(() => {
    setState({ items: [], loading: path !== null, complete: false, error: null });
    if (path === null) return;
    const all = new Map<string, Item>();
    return follow<Item>(client, {
      path,
      query: JSON.parse(key) as Record<string, string>,
      table: false,
      keyed: (object: Any) => {
        const list: Item[] = object.items ?? [object];
        return list.map((item) => [item.metadata.uid, item]);
      },
      reset: (list, complete, first) => {
        all.clear();
        const kind = String(first.kind ?? "").replace(/List$/, "");
        for (const [id, item] of list) all.set(id, { apiVersion: first.apiVersion, kind, ...item });
        setState({ items: [...all.values()], loading: false, complete, error: null });
      },
      change: (changes) => {
        for (const [id, item] of changes) item ? all.set(id, item) : all.delete(id);
        setState((s) => ({ ...s, items: [...all.values()] }));
      },
      failed: (error) => setState((s) => ({ ...s, error, loading: error ? false : s.loading })),
    });
  }, [client, path, key]);
  return state;
}

/** usePolled asks again every so often, for what can't be watched. */
export function usePolled<T>(client: Client, path: string | null, every: number): { value: T | null; error: ApiError | null } {
  const [state, setState] = useState<{ value: T | null; error: ApiError | null }>({ value: null, error: null });
  useEffect(() => {
    setState({ value: null, error: null });
    if (path === null) return;
    const stop = new AbortController();
    const ask = () => {
      if (document.hidden) return;
      client.get<T>(path, { signal: stop.signal }).then(
        (value) => setState({ value, error: null }),
        (error) => !stop.signal.aborted && setState((s) => ({ ...s, error: error as ApiError })),
      );
    };
    ask();
    const timer = setInterval(ask, every);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [client, path, every]);
  return state;
}

/** useNow is the time, again every so often. */
export function useNow(every: number): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
