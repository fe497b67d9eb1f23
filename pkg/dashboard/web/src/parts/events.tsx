import { Alert } from "@mantine/core";
import type { Item } from "../api";
import { useCluster } from "../context";
import { age } from "../format";
import { useItems, useNow } from "../live";
import { useText } from "../text";
import { Reference, State, Wait, Wrong } from "./basics";

/** Events shows what has happened to an object. */
export function Events({ item, kind }: { item: Item; kind: string }) {
  const { client } = useCluster();
  const { name, namespace, uid } = item.metadata;
  const path = namespace ? `/api/v1/namespaces/${namespace}/events` : "/api/v1/events";
  // The UID in events of nodes is their name.
  const selector = kind === "Node" ? `involvedObject.kind=Node,involvedObject.name=${name}` : `involvedObject.uid=${uid}`;
  const live = useItems(client, path, { fieldSelector: selector });
  const t = useText();
  if (live.error && !live.items.length) return <Wrong error={live.error} />;
  if (live.loading) return <Wait />;
  if (!live.items.length) return <Alert color="gray">{t.object.noEvents}</Alert>;
  return <EventTable events={live.items} />;
}

export const whenOf = (event: Item): string => event.series?.lastObservedTime ?? event.lastTimestamp ?? event.eventTime ?? event.metadata.creationTimestamp ?? "";

export function EventTable({ events, objects }: { events: Item[]; objects?: boolean }) {
  const t = useText();
  const now = useNow(10_000);
  const sorted = [...events].sort((a, b) => whenOf(b).localeCompare(whenOf(a)));
  return (
    <div className="scroll" tabIndex={0}>
      <table className="plain">
        <thead>
          <tr>
            <th>{t.fields.when}</th>
            {!objects && <th>{t.fields.type}</th>}
            <th>{t.fields.reason}</th>
            {objects && <th>{t.fields.name}</th>}
            <th>{t.fields.message}</th>
          </tr>
        </thead>
        <tbody>
          {sorted.map((e) => {
            const count = e.series?.count ?? e.count ?? 1;
            const o = e.involvedObject ?? {};
            return (
              <tr key={e.metadata.uid}>
                <td style={{ whiteSpace: "nowrap" }} title={whenOf(e)}>{age(whenOf(e), now)}{count > 1 && ` ×${count}`}</td>
                {!objects && <td><State word={e.type === "Warning" ? "Warning" : "Normal"} /></td>}
                <td>{e.reason}</td>
                {objects && <td><Reference apiVersion={o.apiVersion ?? "v1"} kind={o.kind ?? ""} name={o.name ?? ""} namespace={o.namespace} /></td>}
                <td>{e.message}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
