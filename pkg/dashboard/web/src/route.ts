// Where the page is: the part of its address after the #, which no server sees.
import { useSyncExternalStore } from "react";

export interface Route {
  parts: string[];
  query: URLSearchParams;
}

const subscribe = (changed: () => void) => {
  addEventListener("hashchange", changed);
  return () => removeEventListener("hashchange", changed);
};

function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function useRoute(): Route {
  return parse(useSyncExternalStore(subscribe, () => location.hash));
}

/** to makes an address within the page; the chosen namespace stays. */
export function to(parts: string[], query: Record<string, string | undefined> = {}): string {
  const q = new URLSearchParams();
  const ns = "ns" in query ? query.ns : parse(location.hash).query.get("ns");
  for (const [key, value] of Object.entries({ ...query, ns: ns ?? undefined })) if (value) q.set(key, value);
  const text = q.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export function go(address: string, replace = false): void {
  if (replace) {
    history.replaceState(null, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = address;
}

/** change sets parameters of the present address. */
export function change(query: Record<string, string | undefined>, replace = true): void {
  const now = parse(location.hash);
  go(to(now.parts, { ...Object.fromEntries(now.query), ...query }), replace);
}

/** toObject is the address of an object's page. */
export function toObject(r: { group: string; plural: string }, namespace: string | undefined, name: string, tab?: string): string {
  return to(["object", r.group || "core", r.plural, namespace || "-", name], { tab });
}

export function toList(r: { group: string; plural: string }, query: Record<string, string | undefined> = {}): string {
  return to(["list", r.group || "core", r.plural], query);
}

const placeKey = "kedge-place";

/** keepPlace remembers where the page is while an identity provider's is shown. */
export function keepPlace(): void {
  sessionStorage.setItem(placeKey, location.hash);
}

/** takePlace is what keepPlace has kept. */
export function takePlace(): string {
  const place = sessionStorage.getItem(placeKey) ?? "";
  sessionStorage.removeItem(placeKey);
  return place;
}
