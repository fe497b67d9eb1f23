// Text of a language in colours: CodeMirror.
import { yaml } from "@codemirror/lang-yaml";
import { MergeView } from "@codemirror/merge";
import { oneDark } from "@codemirror/theme-one-dark";
import { EditorView, basicSetup } from "codemirror";
import { useEffect, useMemo, useRef } from "react";
import { useCluster } from "../context";
import { useText } from "../text";
import { assist } from "./assist";

// One Dark's own grounds leave it a little too faint to be read by everybody.
const ground = EditorView.theme(
  { "&": { backgroundColor: "#14171a" }, ".cm-gutters": { backgroundColor: "#14171a", color: "#abb2bf" }, ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "#1a1e22" } },
  { dark: true },
);
const look = (dark: boolean) => [basicSetup, yaml(), EditorView.lineWrapping, EditorView.contentAttributes.of({ tabindex: "0" }), ...(dark ? [ground, oneDark] : [])];
const readOnlyText = EditorView.editable.of(false);

interface CodeProps {
  value: string;
  change: (value: string) => void;
  dark: boolean;
  label: string;
  readOnly?: boolean;
}

export function Code({ value, change, dark, label, readOnly }: CodeProps) {
  const { client, resources } = useCluster();
  const words = useText().editor;
  const help = useMemo(() => (readOnly ? [] : assist(client, resources, words)), [readOnly, client, resources, words]);
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(null);
  const changed = useRef(change);
  changed.current = change;
  const text = useRef(value);
  text.current = value;
  useEffect(() => {
    view.current = new EditorView({
      doc: text.current,
      parent: box.current!,
      extensions: [
        ...look(dark),
        readOnly ? readOnlyText : [],
        help,
        EditorView.contentAttributes.of({ "aria-label": label }),
        EditorView.updateListener.of((u) => u.docChanged && changed.current(u.state.doc.toString())),
      ],
    });
    return () => view.current?.destroy();
  }, [dark, label, readOnly, help]);
  useEffect(() => {
    const v = view.current;
    if (v && v.state.doc.toString() !== value) v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: value } });
  }, [value]);
  return <div className="editor" ref={box} />;
}

export function Diff({ was, willBe, dark, labels }: { was: string; willBe: string; dark: boolean; labels: [string, string] }) {
  const box = useRef<HTMLDivElement>(null);
  const [left, right] = labels;
  useEffect(() => {
    const side = (doc: string, label: string) => ({ doc, extensions: [...look(dark), readOnlyText, EditorView.contentAttributes.of({ "aria-label": label })] });
    const view = new MergeView({ a: side(was, left), b: side(willBe, right), parent: box.current!, collapseUnchanged: { margin: 3, minSize: 6 }, gutter: true });
    return () => view.destroy();
  }, [was, willBe, dark, left, right]);
  return <div className="editor" ref={box} />;
}
