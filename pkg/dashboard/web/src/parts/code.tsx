// Text of a language in colours: CodeMirror.
import { yaml } from "@codemirror/lang-yaml";
import { MergeView } from "@codemirror/merge";
import { oneDark } from "@codemirror/theme-one-dark";
import { EditorView, basicSetup } from "codemirror";
import { useEffect, useRef } from "react";

const look = (dark: boolean) => [basicSetup, yaml(), EditorView.lineWrapping, EditorView.contentAttributes.of({ tabindex: "0" }), ...(dark ? [oneDark] : [])];
const readOnlyText = EditorView.editable.of(false);

interface CodeProps {
  value: string;
  change: (value: string) => void;
  dark: boolean;
  label: string;
  readOnly?: boolean;
}

export function Code({ value, change, dark, label, readOnly }: CodeProps) {
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
        EditorView.contentAttributes.of({ "aria-label": label }),
        EditorView.updateListener.of((u) => u.docChanged && changed.current(u.state.doc.toString())),
      ],
    });
    return () => view.current?.destroy();
  }, [dark, label, readOnly]);
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
