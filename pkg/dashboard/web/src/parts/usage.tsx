import "uplot/dist/uPlot.min.css";
import { Alert, Stack, Text, useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import type { Any } from "../api";
import { useCluster } from "../context";
import { bytes, cores, quantity } from "../format";
import { usePolled } from "../live";
import { useText } from "../text";
import { Wait } from "./basics";

interface Point {
  at: number; // s since 1970
  cpu: number; // cores
  memory: number; // bytes
}

/** Usage draws what a pod or a node uses while it is looked at. */
export default function Usage({ path }: { path: string }) {
  const t = useText();
  const { client } = useCluster();
  const { value, error } = usePolled<Any>(client, path, 15_000);
  const [points, setPoints] = useState<Point[]>([]);
  useEffect(() => {
    if (!value) return;
    const all: Any[] = value.containers?.map((c: Any) => c.usage) ?? [value.usage];
    const sum = (name: string) => all.reduce((n, u) => n + quantity(u?.[name]), 0);
    const point = { at: Date.parse(value.timestamp) / 1000, cpu: sum("cpu"), memory: sum("memory") };
    setPoints((old) => (old.at(-1)?.at === point.at ? old : [...old, point].slice(-1000)));
  }, [value]);
  if (error && !points.length) return <Alert color="yellow" title={t.usage.none}>{error.message}</Alert>;
  const last = points.at(-1);
  if (!last) return <Wait />;
  return (
    <Stack>
      <Text size="sm">CPU {cores(last.cpu)}, {t.home.memory} {bytes(last.memory)}. <Text span c="dimmed">{t.usage.wait}</Text></Text>
      <Chart title={t.usage.cpu} color="#1c7ed6" x={points.map((p) => p.at)} y={points.map((p) => p.cpu)} />
      <Chart title={t.usage.memory} color="#2b8a3e" x={points.map((p) => p.at)} y={points.map((p) => p.memory / 2 ** 20)} />
    </Stack>
  );
}

function Chart({ title, color, x, y }: { title: string; color: string; x: number[]; y: number[] }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const scheme = useComputedColorScheme("light");
  useEffect(() => {
    if (!box.current) return;
    const style = getComputedStyle(box.current);
    const axis = { stroke: style.color, grid: { stroke: scheme === "dark" ? "#3b3f45" : "#e4e7ea", width: 1 } };
    const width = box.current.clientWidth;
    plot.current = new uPlot(
      {
        width,
        height: 200,
        scales: { x: { range: (_, min, max) => [Math.min(min, max - 300), max] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.2 : 1] } },
        series: [{}, { label: title, stroke: color, width: 2, fill: `${color}22`, points: { show: true, size: 5 } }],
        axes: [axis, { ...axis, size: 64 }],
      },
      [[], []],
      box.current,
    );
    const observer = new ResizeObserver(() => box.current && plot.current?.setSize({ width: box.current.clientWidth, height: 200 }));
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
    };
  }, [title, color, scheme]);
  useEffect(() => plot.current?.setData([x, y]), [x, y, scheme]);
  return <div ref={box} role="img" aria-label={`${title}: ${y.at(-1)?.toFixed(3) ?? ""}`} />;
}
