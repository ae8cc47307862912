// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { Times } from './api.ts';
import { Chart } from './chart.tsx';
import { moments, now, quantile, system } from './store.ts';
import { lasting, millis, plural, visible } from './text.ts';

const names: Record<string, [string, 'accent' | 'second' | 'third' | 'fourth']> = {
  create: ['create', 'accent'], claim: ['new allocation', 'second'], wake: ['wake', 'third'], execute: ['execute', 'fourth'],
};

/** SystemView is for operators: nodes, slots, and how long things take. */
export function SystemView() {
  const s = system.value;
  if (!s) return <p class="empty" role="status">Loading…</p>;
  const times = moments.map((m) => m.at / 1000);
  const line = (pick: (m: (typeof moments)[number]) => number | null) => moments.map(pick);
  return (
    <section class="system" aria-labelledby="system-title">
      <div class="bar">
        <h1 id="system-title">System</h1>
        <span class="facts">{plural(s.nodes.length, 'node')} · {plural(s.awake, 'session')} awake · {plural(s.waiting, 'create')} waiting · as front-end <code>{s.frontend.slice(0, 6)}</code> sees it</span>
      </div>
      <div class="charts">
        <Chart title="Pool depth" times={times} tick={now.value} steps="whole" write={String} series={[
          { label: 'ready', values: line((m) => m.ready), colour: 'accent' }, { label: 'starting', values: line((m) => m.starting), colour: 'second' },
          { label: 'creates waiting', values: line((m) => m.waiting), colour: 'third' },
        ]} />
        <Chart title="Sessions awake" times={times} tick={now.value} steps="whole" write={String} series={[{ label: 'awake', values: line((m) => m.awake), colour: 'accent' }]} />
        <Chart title="95 % within" times={times} tick={now.value} write={millis} series={Object.entries(names).map(([key, [label, colour]]) => ({ label, colour, values: line((m) => m.times[key]) }))} />
      </div>
      <h2>Latencies since the front-end started</h2>
      <table class="list small">
        <thead><tr><th scope="col">What</th><th scope="col" class="number">Times</th><th scope="col" class="number">Half</th><th scope="col" class="number">95 %</th><th scope="col" class="number">99 %</th><th scope="col">Distribution</th></tr></thead>
        <tbody>
          {Object.entries(s.times).map(([key, t]) => (
            <tr key={key}>
              <th scope="row">{names[key]?.[0] ?? key}</th><td class="number">{t.count}</td>
              {[0.5, 0.95, 0.99].map((q) => <td key={q} class="number">{part(q, t)}</td>)}
              <td><Bars times={t} /></td>
            </tr>
          ))}
        </tbody>
      </table>
      <h2>Nodes</h2>
      <div class="scroll">
        <table class="list">
          <thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">Address</th><th scope="col" class="number">Sessions</th><th scope="col" class="number">Slots</th><th scope="col">Driver</th></tr></thead>
          <tbody>
            {s.nodes.map((n) => (
              <tr key={n.id}>
                <td title={n.id}>{visible(n.name)}</td>
                <td><span class={`state ${n.status === 'ready' && n.eligible && !n.draining ? 'active' : n.status === 'ready' ? 'idle' : 'down'}`}><i aria-hidden="true" />{n.draining ? 'draining' : n.status === 'ready' && !n.eligible ? 'not eligible' : n.status}</span></td>
                <td class="mono">{n.address}</td><td class="number">{n.sessions}</td><td class="number">{n.slots}</td>
                <td>{n.healthy ? 'healthy' : <span class="wrong">{visible(n.problem ?? 'unhealthy')}</span>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <h2>Slots</h2>
      <table class="list small">
        <thead><tr><th scope="col">Shape</th><th scope="col" class="number">Ready</th><th scope="col" class="number">Starting</th></tr></thead>
        <tbody>{s.pools.map((p) => <tr key={`${p.memory} ${p.cpu} ${p.disk}`}><td>{p.memory} MB, {p.cpu} cores, {p.disk} MB disk</td><td class="number">{p.ready}</td><td class="number">{p.starting}</td></tr>)}</tbody>
      </table>
      <p class="faint">As of {lasting(now.value - Date.parse(s.at))} ago.</p>
    </section>
  );
}

function part(q: number, t: Times): string {
  const ms = quantile(q, t.bounds, t.below, t.count);
  return ms === null ? '–' : millis(ms);
}

/** Bars is a histogram. */
function Bars({ times: t }: { times: Times }) {
  const each = [...t.below.map((n, i) => n - (t.below[i - 1] ?? 0)), t.count - (t.below.at(-1) ?? 0)];
  const top = Math.max(1, ...each);
  return (
    <svg class="bars" width={each.length * 9} height="22" role="img" aria-label={`Distribution over ${each.length} ranges up to ${t.bounds.at(-1)} s`}>
      {each.map((n, i) => (
        <rect key={i} x={i * 9} y={21 - Math.round((n / top) * 20)} width="7" height={Math.max(1, Math.round((n / top) * 20))}>
          <title>{`${i < t.bounds.length ? `up to ${millis(t.bounds[i] * 1000)}` : 'more'}: ${n}`}</title>
        </rect>
      ))}
    </svg>
  );
}
