// What the page asks of its server, which passes it on to the API server.

/** Any object of the API. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Any = any;

export interface Meta {
  name: string;
  namespace?: string;
  uid: string;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  resourceVersion?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: { apiVersion: string; kind: string; name: string; uid: string; controller?: boolean }[];
  [field: string]: Any;
}

export interface Item {
  apiVersion?: string;
  kind?: string;
  metadata: Meta;
  [field: string]: Any;
}

export interface Session {
  user: string;
  groups?: string[];
  expires?: string;
  /** When the certificates of the cluster end that everybody can see. */
  certificates?: { apiServer?: string; authority?: string };
  csrf: string;
}

/** A refusal of the API or its server, with HTTP's code; 0: nothing was heard. */
export class ApiError extends Error {
  constructor(
    readonly code: number,
    message: string,
    readonly reason = "",
  ) {
    super(message);
  }
}

const here = new URL("./", document.baseURI);

/** address makes a URL of a path below the page's own. */
export function address(path: string, query: Record<string, string | number | boolean | undefined> = {}): URL {
  const url = new URL(path.replace(/^\//, ""), here);
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(key, String(value));
  }
  return url;
}

async function failure(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  try {
    const status = JSON.parse(text) as { message?: string; reason?: string };
    if (status.message) return new ApiError(response.status, status.message, status.reason);
  } catch {
    // not the API's form of an error
  }
  return new ApiError(response.status, text.slice(0, 300) || `${response.status} ${response.statusText}`);
}

async function request(url: URL, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "same-origin", redirect: "error", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "the server does not answer");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function send<T>(path: string, body: unknown): Promise<T> {
  const response = await request(address(path), { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return (await response.json()) as T;
}

const secure = location.protocol === "https:";

/** logIn begins a session with a token. */
export const logIn = (token: string) => send<Session>("session", { token, secure });

/** logInWithCode begins one with what an identity provider has sent the browser back with. */
export const logInWithCode = (code: string, state: string) => send<Session>("session", { code, state, secure });

/** provider is the identity provider that the cluster knows, or nothing. */
export async function provider(): Promise<string> {
  const response = await request(address("oidc"), {});
  return ((await response.json()) as { issuer: string }).issuer;
}

/** toProvider has the identity provider send the browser back here; it returns where to go. */
export const toProvider = async () => (await send<{ url: string }>("oidc", { redirect: here.href, secure })).url;

/** current tells who is logged in, or null. */
export async function current(): Promise<Session | null> {
  try {
    const response = await request(address("session"), {});
    return (await response.json()) as Session;
  } catch (error) {
    if (error instanceof ApiError && error.code === 401) return null;
    throw error;
  }
}

export interface Options {
  query?: Record<string, string | number | boolean | undefined>;
  accept?: string;
  type?: string;
  signal?: AbortSignal;
}

/** Client makes requests for one session. */
export class Client {
  readonly memory = new Map<string, Promise<unknown>>();

  constructor(
    readonly session: Session,
    private readonly expired: () => void,
  ) {}

  async send(method: string, path: string, body?: unknown, options: Options = {}): Promise<Response> {
    const headers: Record<string, string> = { Accept: options.accept ?? "application/json" };
    const url = address(path, options.query);
    if (method !== "GET") {
      headers["X-Kedge-Csrf"] = this.session.csrf;
      // A proxy to a Service refuses a query with dryRun.
      if (url.search) headers["X-Kedge-Query"] = url.search.slice(1);
      url.search = "";
    }
    if (body !== undefined) headers["Content-Type"] = options.type ?? "application/json";
    try {
      return await request(url, {
        method,
        headers,
        body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
        signal: options.signal,
      });
    } catch (error) {
      if (error instanceof ApiError && error.code === 401) this.expired();
      throw error;
    }
  }

  async get<T = Item>(path: string, options: Options = {}): Promise<T> {
    return (await (await this.send("GET", path, undefined, options)).json()) as T;
  }

  async post<T = Item>(path: string, body: unknown, options: Options = {}): Promise<T> {
    return (await (await this.send("POST", path, body, options)).json()) as T;
  }

  async put<T = Item>(path: string, body: unknown, options: Options = {}): Promise<T> {
    return (await (await this.send("PUT", path, body, options)).json()) as T;
  }

  /** merge changes some fields of an object. */
  async merge(path: string, body: unknown, options: Options = {}): Promise<Item> {
    return (await (await this.send("PATCH", path, body, { type: "application/merge-patch+json", ...options })).json()) as Item;
  }

  async remove(path: string, body?: unknown): Promise<void> {
    await this.send("DELETE", path, body ?? { apiVersion: "v1", kind: "DeleteOptions", propagationPolicy: "Background" });
  }

  /** remember asks only once in a session. */
  remember<T>(key: string, ask: () => Promise<T>): Promise<T> {
    let known = this.memory.get(key) as Promise<T> | undefined;
    if (!known) {
      known = ask();
      this.memory.set(key, known);
      known.catch(() => this.memory.delete(key));
    }
    return known;
  }

  /** socket opens a websocket; the server wants to see that it is ours. The query goes among the protocols: not all proxies pass on one of a websocket. */
  socket(path: string, query: Options["query"], protocols: string[] = []): WebSocket {
    const url = address(path, query);
    const text = btoa(url.search.slice(1)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    url.search = "";
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return new WebSocket(url, ["kedge-dashboard", `kedge-csrf.${this.session.csrf}`, ...(text ? [`kedge-query.${text}`] : []), ...protocols]);
  }

  /** check asks whether the session is still good. */
  async check(): Promise<void> {
    await this.send("GET", "session").catch(() => undefined);
  }

  async logOut(): Promise<void> {
    await this.send("DELETE", "session").catch(() => undefined);
    this.expired();
  }
}
