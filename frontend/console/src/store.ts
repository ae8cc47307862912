// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// What the page knows, and how it stays up to date: by questions that wake no session and
// count as use of none.
import { computed, signal } from '@preact/signals';
import { account, api, ApiError, hasKey, total, type AnySession, type Listed, type Process, type Session, type System } from './api.ts';
import { route } from './route.ts';
import { visible } from './text.ts';

/** Row is a session, of this account or another. */
export interface Row {
  id: string;
  owner: string;
  own: boolean;
  state: Listed['state'];
  created: number;
  expires: number;
  used: number; // last
  limits: Listed['resourceLimits'];
  memory?: number;
  disk?: number;
  cpu?: number; // cores, since it was asked before
  because: string[];
  next?: { to: string; at: number };
  processes?: number;
  metadata?: Listed['metadata'];
  previewUrl?: string;
  node?: string;
}

export interface Sample {
  at: number;
  memory: number;
  cpu: number;
}

export const pageSize = 50;

export const rows = signal<Row[]>([]);
export const count = signal(0);
export const loaded = signal(false);
/** whose is '' for the account's own sessions, '*' for all that are awake, or an account. */
export const whose = signal('');
export const offset = signal(0);
export const filter = signal('');
export const trouble = signal('');
export const now = signal(Date.now());

export const session = signal<Session | null>(null);
export const processes = signal<Process[]>([]);
export const system = signal<System | null>(null);

/** samples are of each session that was on the page, newest last. */
export const samples = new Map<string, Sample[]>();
const keep = 400;
const cpuTimes = new Map<string, { at: number; cpu: number }>();

/** moments are those of the system. */
export interface Moment {
  at: number;
  ready: number;
  starting: number;
  waiting: number;
  awake: number;
  /** p95 in ms of what came since the moment before; null where nothing did. */
  times: Record<string, number | null>;
}
export const moments: Moment[] = [];

export const shown = computed(() => {
  const word = filter.value.trim().toLowerCase();
  if (!word) return rows.value;
  return rows.value.filter((r) => `${r.id} ${r.owner} ${r.state} ${JSON.stringify(r.metadata ?? {})}`.toLowerCase().includes(word));
});

/** take notes what a session uses. */
function take(id: string, usage: { memory: number; cpuTime: number } | undefined, state: string, limit: number): number | undefined {
  if (!usage) return undefined;
  const at = Date.now();
  const before = cpuTimes.get(id);
  // A new life counts from nothing again.
  let cpu: number | undefined;
  if (before && usage.cpuTime >= before.cpu && at - before.at > 500) {
    cpu = Math.min((usage.cpuTime - before.cpu) / (at - before.at), limit * 1.2);
  } else if (before && at - before.at <= 500) {
    return samples.get(id)?.at(-1)?.cpu;
  }
  cpuTimes.set(id, { at, cpu: usage.cpuTime });
  const list = samples.get(id) ?? [];
  list.push({ at, memory: usage.memory, cpu: state === 'active' ? (cpu ?? 0) : 0 });
  if (list.length > keep) list.shift();
  samples.set(id, list);
  return cpu;
}

function row(s: Listed | AnySession, me: string): Row {
  const owner = 'account' in s ? s.account : me;
  return {
    id: s.sessionId, owner, own: owner === me, state: s.state, created: Date.parse(s.createdAt), expires: Date.parse(s.expiresAt),
    used: Date.parse(s.lastActive), limits: s.resourceLimits, memory: s.usage?.memory, disk: s.usage?.disk,
    cpu: take(s.sessionId, s.usage, s.state, s.resourceLimits.cpu), because: s.awakeBecause ?? [],
    next: s.nextTransition && { to: s.nextTransition.to, at: Date.parse(s.nextTransition.at) }, processes: s.activeProcesses,
    metadata: 'metadata' in s ? s.metadata : undefined, previewUrl: 'previewUrl' in s ? s.previewUrl : undefined,
    node: 'node' in s ? s.node : undefined,
  };
}

async function askSessions(): Promise<void> {
  const me = account.value!.account;
  const page = { limit: pageSize, offset: offset.value };
  const asked = whose.value;
  const answer = asked === ''
    ? await total<{ sessions: (Listed | AnySession)[] }>('/sessions', { query: page })
    : await total<{ sessions: (Listed | AnySession)[] }>('/operator/sessions', { query: { ...page, account: asked === '*' ? undefined : asked } });
  if (whose.value !== asked) return;
  rows.value = answer.body.sessions.map((s) => row(s, me));
  count.value = answer.total;
  loaded.value = true;
}

async function askSession(id: string): Promise<void> {
  try {
    const s = await api<Session>(`/sessions/${encodeURIComponent(id)}`);
    if (route.value.session !== id) return;
    take(id, s.usage, s.state, s.resourceLimits.cpu);
    session.value = s;
    if (route.value.tab === 'processes') {
      const list = await api<{ processes: Process[] }>('/processes', { query: { sessionId: id, wake: false } });
      if (route.value.session === id) processes.value = list.processes;
    }
  } catch (e) {
    if (e instanceof ApiError && e.status === 404 && route.value.session === id) session.value = null;
    throw e;
  }
}

/** below is where a histogram's part lies, between its bounds. */
export function quantile(q: number, bounds: number[], below: number[], n: number): number | null {
  if (n <= 0) return null;
  const want = q * n;
  let last = 0;
  let low = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (below[i] >= want) return (low + (bounds[i] - low) * ((want - last) / Math.max(below[i] - last, 1))) * 1000;
    last = below[i];
    low = bounds[i];
  }
  return bounds[bounds.length - 1] * 1000;
}

async function askSystem(): Promise<void> {
  const s = await api<System>('/operator/system');
  const before = system.value;
  const times: Moment['times'] = {};
  for (const [name, t] of Object.entries(s.times)) {
    const old = before?.frontend === s.frontend ? before.times[name as keyof System['times']] : null;
    const since = old ? t.below.map((n, i) => n - old.below[i]) : null;
    times[name] = since ? quantile(0.95, t.bounds, since, t.count - old!.count) : null;
  }
  const sum = (pick: (p: System['pools'][number]) => number) => s.pools.reduce((n, p) => n + pick(p), 0);
  moments.push({ at: Date.now(), ready: sum((p) => p.ready), starting: sum((p) => p.starting), waiting: s.waiting, awake: s.awake, times });
  if (moments.length > keep) moments.shift();
  system.value = s;
}

let timer = 0;
let asking = false;
let again = false;

/** pace leaves most of what the key may ask a minute to the user's programs. */
const pace = (): number => Math.max(2500, 60_000 / Math.max(1, (account.value?.limits.requests ?? 1000) / 4));

/** refresh asks at once, and then again from time to time. */
export async function refresh(): Promise<void> {
  if (!account.value) return;
  if (asking) {
    again = true;
    return;
  }
  clearTimeout(timer);
  asking = true;
  let pause = pace();
  try {
    const { session: id, view } = route.value;
    if (view === 'system' && account.value.operator) await askSystem();
    else if (id && rows.value.some((r) => r.id === id && !r.own)) await askSessions();
    else if (id) await askSession(id);
    else await askSessions();
    trouble.value = '';
  } catch (e) {
    const gone = e instanceof ApiError && e.status === 404;
    trouble.value = gone ? '' : visible(e instanceof Error ? e.message : String(e));
    pause = Math.max(2 * pause, e instanceof ApiError ? e.retryAfter * 1000 : 0);
  } finally {
    asking = false;
  }
  if (again) {
    again = false;
    return refresh();
  }
  timer = window.setTimeout(() => (document.hidden ? wait() : refresh()), pause);
}

/** wait asks nothing while nobody looks. */
function wait(): void {
  document.addEventListener('visibilitychange', () => refresh(), { once: true });
}

export function forget(): void {
  clearTimeout(timer);
  rows.value = [];
  session.value = null;
  system.value = null;
  processes.value = [];
  loaded.value = false;
  whose.value = '';
  offset.value = 0;
  samples.clear();
  cpuTimes.clear();
  moments.length = 0;
}

setInterval(() => {
  if (hasKey() && !document.hidden) now.value = Date.now();
}, 1000);
