import { Alert, Button, Group, Text, useComputedColorScheme } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useEffect, useState } from "react";
import { ApiError, type Item } from "../api";
import { useCan } from "../can";
import { useCluster } from "../context";
import { pathOf, type Resource } from "../discovery";
import { useText } from "../text";
import { parse, toYAML } from "../yaml";
import { Code, Diff } from "./code";

/**
 * Editor changes an object as YAML. The API server checks the change first, in a dry
 * run that refuses unknown fields; what would change is shown; then it is applied
 * unless somebody else was faster.
 */
export default function Editor({ resource, item }: { resource: Resource; item: Item }) {
  const t = useText();
  const { client } = useCluster();
  const { name, namespace, resourceVersion } = item.metadata;
  const may = useCan(client, { verb: "update", group: resource.group, resource: resource.plural, namespace, name });
  const dark = useComputedColorScheme("light") === "dark";
  const [base, setBase] = useState(item);
  const [text, setText] = useState(() => toYAML(item));
  const [review, setReview] = useState<{ was: string; willBe: string } | null>(null);
  const [error, setError] = useState("");
  const [conflict, setConflict] = useState(false);
  const [busy, setBusy] = useState(false);
  const path = pathOf(resource, namespace, name);
  const touched = text !== toYAML(base);

  // Nobody types over what changes underneath: an untouched text follows the cluster.
  useEffect(() => {
    if (!touched && !review && item !== base) {
      setBase(item);
      setText(toYAML(item));
    }
  }, [item, base, touched, review]);

  const put = (dryRun: boolean) => {
    const [object, ...others] = parse(text);
    if (!object || others.length) throw new Error(t.createPage.nothing);
    return client.put(path, object, { query: { dryRun: dryRun ? "All" : undefined, fieldValidation: "Strict", fieldManager: "kedge-dashboard" } });
  };
  const attempt = async (work: () => Promise<void>) => {
    setBusy(true);
    setError("");
    try {
      await work();
    } catch (e) {
      setConflict(e instanceof ApiError && e.code === 409);
      setError((e as Error).message);
      setReview(null);
    }
    setBusy(false);
  };
  const check = () =>
    attempt(async () => {
      const result = await put(true);
      setConflict(false);
      // A dry run says which version it would be: that is no change.
      const willBe = { ...result, metadata: { ...result.metadata, resourceVersion: base.metadata.resourceVersion, generation: base.metadata.generation } };
      setReview({ was: toYAML(base), willBe: toYAML(willBe) });
    });
  const apply = () =>
    attempt(async () => {
      const result = await put(false);
      setBase(result);
      setText(toYAML(result));
      setReview(null);
      setConflict(false);
      notifications.show({ message: t.editor.applied, color: "green" });
    });
  const reset = () => {
    setBase(item);
    setText(toYAML(item));
    setError("");
    setConflict(false);
    setReview(null);
  };
  /** rebase keeps the text but for the version that it was made from. */
  const rebase = () => {
    setText(text.replace(/^( {2}resourceVersion: ).*$/m, `$1'${resourceVersion}'`));
    setBase(item);
    setConflict(false);
    setError("");
  };

  return (
    <>
      <Group mb="sm">
        {review ? (
          <>
            <Button size="xs" loading={busy} onClick={() => void apply()} disabled={review.was === review.willBe}>{t.editor.apply}</Button>
            <Button size="xs" variant="default" onClick={() => setReview(null)}>{t.editor.keepOn}</Button>
            <Text size="sm">{review.was === review.willBe ? t.editor.same : t.editor.checked}</Text>
          </>
        ) : (
          <>
            <Button size="xs" loading={busy} onClick={() => void check()} disabled={!touched || may !== true} title={may === false ? t.action.forbidden("update", resource.plural) : undefined}>{t.editor.review}</Button>
            <Button size="xs" variant="default" onClick={reset} disabled={!touched}>{t.editor.reset}</Button>
            {touched && base.metadata.resourceVersion !== resourceVersion && !conflict && <Text size="sm" c="dimmed">{t.editor.changed}</Text>}
          </>
        )}
      </Group>
      {may === false && <Alert color="yellow" mb="sm">{t.action.forbidden("update", resource.plural)}</Alert>}
      {error && (
        <Alert color="red" mb="sm" role="alert" style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
          {conflict && <Text size="sm" mb="xs">{t.editor.conflict}</Text>}
          {error}
          {conflict && <Group mt="xs"><Button size="xs" variant="default" onClick={rebase}>{t.editor.rebase}</Button></Group>}
        </Alert>
      )}
      {conflict ? <Diff was={toYAML(item)} willBe={text} dark={dark} labels={[t.editor.was, t.editor.willBe]} /> : review ? <Diff was={review.was} willBe={review.willBe} dark={dark} labels={[t.editor.was, t.editor.willBe]} /> : <Code value={text} change={setText} dark={dark} label={t.editor.label} readOnly={may === false} />}
      {may !== false && !conflict && !review && <Text size="xs" c="dimmed" mt="xs">{t.editor.help}</Text>}
    </>
  );
}
