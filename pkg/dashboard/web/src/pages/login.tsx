import { Alert, Anchor, Button, Center, Divider, FileButton, Group, Paper, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { useEffect, useState, type FormEvent } from "react";
import { logIn, provider, toProvider, type ApiError, type Session } from "../api";
import { Command } from "../parts/basics";
import { keepPlace } from "../route";
import { names, useText, type Language } from "../text";

interface Props {
  expired: boolean;
  /** Why the identity provider's login was not accepted. */
  refused: string;
  enter: (session: Session) => void;
  language: Language;
  setLanguage: (language: Language) => void;
}

export function Login({ expired, refused, enter, language, setLanguage }: Props) {
  const t = useText();
  const [token, setToken] = useState("");
  const [error, setError] = useState(refused);
  const [issuer, setIssuer] = useState("");
  const [busy, setBusy] = useState(false);

  useEffect(() => void provider().then(setIssuer, () => undefined), []);

  const leave = async () => {
    setBusy(true);
    setError("");
    try {
      const url = await toProvider();
      keepPlace();
      location.assign(url);
    } catch (e) {
      setError((e as ApiError).message);
      setBusy(false);
    }
  };
  const submit = async (event?: FormEvent, given = token) => {
    event?.preventDefault();
    setBusy(true);
    setError("");
    try {
      enter(await logIn(given.trim()));
    } catch (e) {
      setError((e as ApiError).message);
      setBusy(false);
    }
  };
  const read = async (file: File | null) => {
    if (!file) return;
    try {
      const { tokenOf } = await import("../yaml");
      const found = tokenOf(await file.text());
      if (!found) return setError(t.login.noToken);
      setToken(found);
      await submit(undefined, found);
    } catch (e) {
      setError((e as Error).message);
    }
  };

  return (
    <Center component="main" mih="100dvh" p="md">
      <Paper withBorder shadow="sm" p="xl" w={460} maw="100%">
        <form onSubmit={(e) => void submit(e)}>
          <Stack>
            <Group gap="sm">
              <img src="./icon.svg" alt="" width={36} height={36} />
              <Title order={1} size="h3">{t.login.title}</Title>
            </Group>
            {expired && <Alert color="yellow">{t.login.expired}</Alert>}
            {issuer && (
              <>
                <Button loading={busy} onClick={() => void leave()}>{t.login.with(new URL(issuer).hostname)}</Button>
                <Divider label={t.login.or} />
              </>
            )}
            <PasswordInput label={t.login.token} description={t.login.tokenHelp} value={token} onChange={(e) => setToken(e.currentTarget.value)} autoFocus={!issuer} required withAsterisk={false} name="token" autoComplete="off" visibilityToggleButtonProps={{ "aria-label": t.object.show, "aria-hidden": false }} />
            {error && <Alert color="red" role="alert">{error}</Alert>}
            <Button type="submit" variant={issuer ? "default" : "filled"} loading={busy} disabled={!token}>{t.login.enter}</Button>
            <Group gap="xs">
              <Text size="sm">{t.login.file}:</Text>
              <FileButton onChange={(f) => void read(f)}>{(props) => <Button variant="default" size="compact-sm" {...props}>{t.login.fileChoose}</Button>}</FileButton>
            </Group>
            <div>
              <Text size="sm" c="dimmed" mb={4}>{t.login.how}</Text>
              <Command>sudo kedge dashboard token</Command>
              <Text size="sm" c="dimmed" my={4}>{t.login.howElse}</Text>
              <Command>kubectl create token NAME --namespace NAMESPACE</Command>
            </div>
            <Group justify="end">
              {(Object.keys(names) as Language[]).filter((l) => l !== language).map((l) => (
                <Anchor key={l} component="button" type="button" size="sm" lang={l} onClick={() => setLanguage(l)}>{names[l]}</Anchor>
              ))}
            </Group>
          </Stack>
        </form>
      </Paper>
    </Center>
  );
}
