import "@xterm/xterm/css/xterm.css";
import { Alert, Button, Group, Select, Tooltip } from "@mantine/core";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import { useEffect, useMemo, useRef, useState } from "react";
import type { Any, Item } from "../api";
import { useCan } from "../can";
import { useCluster } from "../context";
import { useText } from "../text";

// The channels of the API's protocol for commands in containers.
const input = 0;
const output = 1;
const errors = 2;
const status = 3;
const resize = 4;

// The best shell that the image has.
const command = ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];

/** Shell is a terminal in a container. */
export default function Shell({ pod }: { pod: Item }) {
  const t = useText();
  const { client } = useCluster();
  const containers: Any[] = useMemo(() => [...(pod.spec?.containers ?? []), ...(pod.spec?.ephemeralContainers ?? [])], [pod.metadata.uid]);
  const [container, setContainer] = useState<string>(containers[0]?.name ?? "");
  const [mode, setMode] = useState<"exec" | "attach">("exec");
  const [run, setRun] = useState(1);
  const [error, setError] = useState("");
  const { name, namespace, uid } = pod.metadata;
  const deed = { group: "", resource: "pods", subresource: mode, namespace, name };
  const mayCreate = useCan(client, { verb: "create", ...deed });
  const mayGet = useCan(client, { verb: "get", ...deed });
  const may = mayCreate === null || mayGet === null ? null : mayCreate || mayGet;
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (may !== true || !box.current) return;
    setError("");
    const terminal = new Terminal({ fontSize: 13, scrollback: 5000, theme: { background: "#111418" }, screenReaderMode: false });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(box.current);
    fit.fit();
    const tty = mode === "exec" || Boolean(containers.find((c) => c.name === container)?.tty);
    const query = new URLSearchParams({ container, stdin: "true", stdout: "true", tty: String(tty) });
    if (!tty) query.set("stderr", "true");
    if (mode === "exec") for (const word of command) query.append("command", word);
    const socket = client.socket(`/stream/${mode}/${namespace}/${name}?${query.toString()}`, {}, ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    socket.binaryType = "arraybuffer";
    const encoder = new TextEncoder();
    const send = (channel: number, text: string) => {
      if (socket.readyState !== WebSocket.OPEN) return;
      const data = encoder.encode(text);
      const frame = new Uint8Array(data.length + 1);
      frame[0] = channel;
      frame.set(data, 1);
      socket.send(frame);
    };
    const size = () => tty && send(resize, JSON.stringify({ Width: terminal.cols, Height: terminal.rows }));
    let ended = false;
    socket.onopen = () => {
      size();
      terminal.focus();
    };
    socket.onmessage = (message: MessageEvent<ArrayBuffer>) => {
      const data = new Uint8Array(message.data);
      const rest = data.subarray(1);
      if (data[0] === output || data[0] === errors) terminal.write(rest);
      if (data[0] === status) {
        ended = true;
        try {
          const said: Any = JSON.parse(new TextDecoder().decode(rest));
          if (said.status === "Failure") {
            const message = String(said.message ?? "");
            if (/no such file|not found|executable file/.test(message) && mode === "exec") setError(t.shell.none);
            else if (said.reason !== "NonZeroExitCode") setError(message);
          }
        } catch {
          // no more is known
        }
      }
    };
    socket.onclose = () => {
      if (ended) terminal.write(`\r\n${t.shell.ended}\r\n`);
      else setError((e) => e || t.shell.failed);
    };
    const typed = terminal.onData((text) => send(input, text));
    const sized = terminal.onResize(() => size());
    const observer = new ResizeObserver(() => fit.fit());
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      typed.dispose();
      sized.dispose();
      socket.onclose = null;
      socket.close();
      terminal.dispose();
    };
  }, [client, may, container, containers, mode, run, name, namespace, uid, t]);

  return (
    <>
      <Group mb="sm" align="end">
        {containers.length > 1 && <Select size="xs" label={t.logs.container} allowDeselect={false} value={container} onChange={(v) => setContainer(v ?? "")} data={containers.map((c) => c.name)} />}
        <Button size="xs" variant={mode === "exec" ? "filled" : "default"} onClick={() => { setMode("exec"); setRun(run + 1); }}>{t.object.shell}</Button>
        <Tooltip label="stdin, stdout">
          <Button size="xs" variant={mode === "attach" ? "filled" : "default"} onClick={() => { setMode("attach"); setRun(run + 1); }}>{t.shell.attach}</Button>
        </Tooltip>
      </Group>
      {may === false && <Alert color="yellow">{t.action.forbidden("create", `pods/${mode}`)}</Alert>}
      {error && <Alert color="red" mb="sm" role="alert">{error}</Alert>}
      {may && <div className="terminal" ref={box} role="group" aria-label={t.shell.label} />}
    </>
  );
}
