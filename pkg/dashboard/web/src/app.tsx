import { Alert, AppShell, Burger, Button, Center, Group, Loader, Menu, NavLink, ScrollArea, Select, Text, UnstyledButton, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { Suspense, lazy, useCallback, useEffect, useMemo, useState } from "react";
import { Client, current, logIn, logInWithCode, type ApiError, type Session } from "./api";
import { ClusterContext, useCluster, type Cluster } from "./context";
import { discover, keyOf, menu, type Resource } from "./discovery";
import { useItems } from "./live";
import { ListPage } from "./pages/list";
import { Login } from "./pages/login";
import { Overview } from "./pages/overview";
import { Wait, Wrong } from "./parts/basics";
import { change, go, takePlace, to, toList, useRoute } from "./route";
import { names, useText, type Language } from "./text";

const ObjectPage = lazy(() => import("./pages/object"));
const MapPage = lazy(() => import("./pages/map"));
const CreatePage = lazy(() => import("./pages/create"));

interface Props {
  language: Language;
  setLanguage: (language: Language) => void;
}

/** App is the login, or the page of who is logged in. */
export function App(props: Props) {
  const t = useText();
  const [session, setSession] = useState<Session | null>();
  const [hadSession, setHadSession] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const [refused, setRefused] = useState("");

  const start = useCallback(async () => {
    setError(null);
    // kedge dashboard gives a token in the part of the address that no server sees.
    const given = /^#token=(.+)$/.exec(location.hash);
    if (given) {
      history.replaceState(null, "", "#/");
      try {
        setSession(await logIn(decodeURIComponent(given[1]!)));
        return;
      } catch {
        // it has ended: ask for another
      }
    }
    // An identity provider sends the browser back with a code, or with what went wrong.
    const answer = new URLSearchParams(location.search);
    const state = answer.get("state");
    if (state) {
      history.replaceState(null, "", location.pathname + takePlace());
      const code = answer.get("code");
      try {
        if (!code) throw new Error(answer.get("error_description") ?? answer.get("error") ?? "");
        setSession(await logInWithCode(code, state));
        return;
      } catch (e) {
        setRefused((e as Error).message);
      }
    }
    try {
      setSession(await current());
    } catch (e) {
      setError(e as ApiError);
    }
  }, []);
  useEffect(() => void start(), [start]);

  const client = useMemo(
    () =>
      session
        ? new Client(session, () => {
            setHadSession(true);
            setSession(null);
          })
        : null,
    [session],
  );

  if (error) {
    return (
      <Center h="100dvh" p="md">
        <Alert color="red" title={t.unreachable} role="alert">
          <Text size="sm" mb="sm">{error.message}</Text>
          <Button onClick={() => void start()}>{t.retry}</Button>
        </Alert>
      </Center>
    );
  }
  if (session === undefined) {
    return (
      <Center h="100dvh">
        <Loader aria-label={t.loading} />
      </Center>
    );
  }
  if (!session || !client) return <Login expired={hadSession} refused={refused} enter={setSession} {...props} />;
  return <Inside key={session.csrf} client={client} {...props} />;
}

function Inside({ client, ...props }: Props & { client: Client }) {
  const [resources, setResources] = useState<Resource[] | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const rediscover = useCallback(() => {
    setError(null);
    discover(client).then(setResources, (e) => setError(e as ApiError));
  }, [client]);
  useEffect(rediscover, [rediscover]);
  const cluster = useMemo<Cluster | null>(() => (resources ? { client, resources, rediscover } : null), [client, resources, rediscover]);
  if (error) return <Wrong error={error} retry={rediscover} />;
  if (!cluster) return <Wait />;
  return (
    <ClusterContext.Provider value={cluster}>
      <Shell {...props} />
    </ClusterContext.Provider>
  );
}

function Shell({ language, setLanguage }: Props) {
  const t = useText();
  const { client, resources } = useCluster();
  const [open, { toggle, close }] = useDisclosure();
  const route = useRoute();
  const scheme = useComputedColorScheme("light");
  const { setColorScheme } = useMantineColorScheme();
  const namespaces = useItems(client, "/api/v1/namespaces");
  const namespace = route.query.get("ns") ?? "";
  const known = namespaces.items.map((n) => n.metadata.name).sort();
  if (namespace && !known.includes(namespace)) known.push(namespace);

  useEffect(close, [route.parts.join("/"), close]);
  useEffect(() => {
    const go = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input,textarea,[contenteditable],.terminal")) return;
      if (event.key === "g" || event.key === "/") {
        const field = document.getElementById(event.key === "g" ? "go-to" : "search");
        if (field) {
          event.preventDefault();
          field.focus();
        }
      }
    };
    addEventListener("keydown", go);
    return () => removeEventListener("keydown", go);
  }, []);

  return (
    <AppShell header={{ height: 56 }} navbar={{ width: 230, breakpoint: "sm", collapsed: { mobile: !open } }} padding="md">
      <a className="skip" href="#main" onClick={(e) => { e.preventDefault(); document.querySelector("main")?.focus(); }}>
        {t.skip}
      </a>
      <AppShell.Header>
        <Group h="100%" px="md" gap="sm" wrap="nowrap">
          <Burger opened={open} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={t.openMenu} />
          <UnstyledButton component="a" href={to([])} visibleFrom="sm" w={190}>
            <Group gap={8}>
              <img src="./icon.svg" alt="" width={26} height={26} />
              <Text fw={700}>{t.title}</Text>
            </Group>
          </UnstyledButton>
          <Select
            aria-label={t.namespace}
            placeholder={t.allNamespaces}
            data={known}
            value={namespace || null}
            onChange={(value) => {
              // An object's page is of its own namespace.
              if (route.parts[0] === "object" && route.parts[1] && route.parts[2]) go(to(["list", route.parts[1], route.parts[2]], { ns: value ?? undefined }));
              else change({ ns: value ?? undefined }, false);
            }}
            searchable
            clearable
            size="sm"
            style={{ flex: "1 1 120px", maxWidth: 260 }}
          />
          <GoTo resources={resources} />
          <div style={{ flex: 1 }} />
          <Button component="a" href={to(["create"])} size="xs" visibleFrom="xs">{t.create}</Button>
          <Menu position="bottom-end" withinPortal>
            <Menu.Target>
              <Button variant="default" size="xs" px={10} aria-label={client.session.user} data-user>
                <span aria-hidden>☰</span>
              </Button>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Label style={{ overflowWrap: "anywhere", maxWidth: 320 }}>{client.session.user}</Menu.Label>
              <Menu.Item onClick={() => setColorScheme(scheme === "dark" ? "light" : "dark")}>{t.colors}</Menu.Item>
              {(Object.keys(names) as Language[])
                .filter((l) => l !== language)
                .map((l) => (
                  <Menu.Item key={l} lang={l} onClick={() => setLanguage(l)}>
                    {names[l]}
                  </Menu.Item>
                ))}
              <Menu.Divider />
              <Menu.Item onClick={() => void client.logOut()}>{t.logOut}</Menu.Item>
            </Menu.Dropdown>
          </Menu>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar>
        <ScrollArea p="xs" component="nav" aria-label={t.openMenu}>
          <Navigation />
        </ScrollArea>
      </AppShell.Navbar>
      <AppShell.Main tabIndex={-1} id="main">
        <Suspense fallback={<Wait />}>
          <Page />
        </Suspense>
      </AppShell.Main>
    </AppShell>
  );
}

/** GoTo jumps to a kind by its name or short name. */
function GoTo({ resources }: { resources: Resource[] }) {
  const t = useText();
  const data = useMemo(
    () => resources.map((r) => ({ value: keyOf(r), label: `${r.kind}${r.shortNames.length ? ` (${r.shortNames.join(", ")})` : ""}${r.group.includes(".") ? ` — ${r.group}` : ""}` })),
    [resources],
  );
  return (
    <Select
      id="go-to"
      aria-label={t.goTo}
      placeholder={t.goTo}
      data={data}
      value={null}
      onChange={(key) => {
        const r = resources.find((r) => keyOf(r) === key);
        if (r) go(toList(r));
      }}
      searchable
      limit={50}
      size="sm"
      visibleFrom="md"
      w={230}
    />
  );
}

function Navigation() {
  const t = useText();
  const { resources } = useCluster();
  const { parts } = useRoute();
  const chosen = parts[0] === "list" || parts[0] === "object" ? `${parts[1] === "core" ? "" : parts[1]}/${parts[2]}` : "";
  const byKey = useMemo(() => new Map(resources.map((r) => [keyOf(r), r])), [resources]);
  const shown = new Set(menu.flatMap((m) => m.kinds));
  const others = resources.filter((r) => !shown.has(keyOf(r))).sort((a, b) => a.kind.localeCompare(b.kind));
  const link = (r: Resource) => (
    <NavLink key={keyOf(r)} href={toList(r)} label={r.kind} title={r.group || undefined} active={chosen === keyOf(r)} aria-current={chosen === keyOf(r) ? "page" : undefined} py={4} styles={{ label: { overflow: "hidden", textOverflow: "ellipsis" } }} />
  );
  return (
    <>
      <NavLink href={to([])} label={t.overview} active={parts.length === 0} py={6} />
      <NavLink href={to(["map"])} label={t.map} active={parts[0] === "map"} py={6} />
      {menu.map((m) => {
        const here = m.kinds.map((k) => byKey.get(k)).filter((r) => r !== undefined);
        return (
          <NavLink key={m.title} label={t.menu[m.title]} component="button" defaultOpened={m.title === "workloads" || m.kinds.includes(chosen)} fw={600} py={6} childrenOffset={12}>
            {here.map(link)}
          </NavLink>
        );
      })}
      <NavLink label={t.menu.more} component="button" defaultOpened={others.some((r) => keyOf(r) === chosen)} fw={600} py={6} childrenOffset={12}>
        {others.map(link)}
      </NavLink>
    </>
  );
}

function Page() {
  const { parts, query } = useRoute();
  const t = useText();
  const { resources } = useCluster();
  const resource = resources.find((r) => r.group === (parts[1] === "core" ? "" : parts[1]) && r.plural === parts[2]);
  useEffect(() => {
    document.title = [parts[4] ?? resource?.kind ?? (parts[0] === "map" ? t.map : parts[0] === "create" ? t.create : t.overview), t.title].join(" · ");
  }, [parts, resource, t]);
  switch (parts[0]) {
    case undefined:
      return <Overview />;
    case "map":
      return <MapPage namespace={query.get("ns") ?? ""} />;
    case "create":
      return <CreatePage namespace={query.get("ns") ?? "default"} />;
    case "list":
      if (resource) return <ListPage key={keyOf(resource)} resource={resource} namespace={query.get("ns") ?? ""} />;
      break;
    case "object":
      if (resource && parts[4]) {
        const namespace = parts[3] === "-" ? undefined : parts[3];
        return <ObjectPage key={parts.join("/")} resource={resource} namespace={namespace} name={parts[4]} />;
      }
  }
  return <Alert color="gray">{t.notFound}</Alert>;
}
