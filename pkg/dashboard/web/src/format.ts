// Quantities and times as people read them.

const scale: Record<string, number> = {
  n: 1e-9, u: 1e-6, m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18,
  Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
};

/** quantity reads one of the API's, such as 250m or 64Mi. */
export function quantity(text: unknown): number {
  const match = /^([+-]?[\d.]+(?:e[+-]?\d+)?)([numkKMGTPE]i?)?$/.exec(String(text ?? ""));
  return match ? Number(match[1]) * (scale[match[2] ?? ""] ?? 1) : 0;
}

export function bytes(n: number): string {
  for (const unit of ["Ti", "Gi", "Mi", "Ki"]) {
    const size = scale[unit]!;
    if (n >= size) return `${(n / size).toFixed(n / size < 10 ? 1 : 0)} ${unit}B`;
  }
  return `${Math.round(n)} B`;
}

export function cores(n: number): string {
  return n < 1 ? `${Math.round(n * 1000)}m` : n.toFixed(n < 10 ? 1 : 0);
}

/** age is a time's distance, as kubectl has it. */
export function age(time: string | undefined, now: number): string {
  if (!time) return "";
  const s = Math.max(0, Math.floor((now - Date.parse(time)) / 1000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 ? `${h}h${m % 60}m` : `${h}h`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 ? `${d}d${h % 24}h` : `${d}d`;
  if (d < 730) return `${d}d`;
  return `${Math.floor(d / 365)}y${d % 365}d`;
}

export type Health = "good" | "busy" | "bad" | "over" | "unknown";

export const colorOf: Record<Health, string> = { good: "green", busy: "yellow", bad: "red", over: "gray", unknown: "gray" };

/** healthOf judges a word of a status column. */
export function healthOf(word: string): Health {
  if (/^(Running|Ready|Active|Bound|Available|True|Healthy|Deployed|Complete|Completed|Succeeded)$/i.test(word)) {
    return /^(Complete|Completed|Succeeded)$/i.test(word) ? "over" : "good";
  }
  if (/^(Pending|ContainerCreating|PodInitializing|Terminating|Init:\d+\/\d+|Released|Suspended|Progressing|SchedulingGated)$/i.test(word) || /SchedulingDisabled/.test(word)) return "busy";
  if (/(^Err|:Err|Error|Warning|Fail|CrashLoop|BackOff|Evicted|OOM|NotReady|Lost|Invalid|Unhealthy|Unknown)/i.test(word)) return "bad";
  return "unknown";
}
