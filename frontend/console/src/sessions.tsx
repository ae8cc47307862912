// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { busy, creating, drop, sleep, wake } from './actions.ts';
import { account } from './api.ts';
import { sessionHash } from './route.ts';
import { count, filter, loaded, now, offset, pageSize, refresh, rows, samples, shown, whose, type Row } from './store.ts';
import { bytes, cores, lasting, plural, visible } from './text.ts';

/** SessionList is the list of sessions. */
export function SessionList() {
  const operator = account.value!.operator;
  const all = shown.value;
  return (
    <section aria-labelledby="list-title">
      <div class="bar">
        <h1 id="list-title">Sessions <span class="faint">{loaded.value ? count.value : ''}</span></h1>
        {operator && <Whose />}
        <span class="fill" />
        <input id="filter" type="search" placeholder="Filter  /" aria-label="Filter sessions" value={filter.value} onInput={(e) => (filter.value = e.currentTarget.value)}
          onKeyDown={(e) => e.key === 'Escape' && (e.currentTarget.blur(), e.stopPropagation())} />
        <button class="primary" onClick={() => (creating.value = true)} title="c">New session</button>
      </div>
      {all.length > 0 && (
        <div class="scroll">
          <table class="list">
            <thead>
              <tr>
                <th scope="col">State</th><th scope="col">Session</th>{whose.value !== '' && <th scope="col">Owner</th>}<th scope="col">Age</th>
                <th scope="col">Memory</th><th scope="col">CPU</th><th scope="col">Awake because</th><th scope="col">Next</th><th scope="col"><span class="sr">Actions</span></th>
              </tr>
            </thead>
            <tbody>{all.map((r) => <Line key={r.id} row={r} />)}</tbody>
          </table>
        </div>
      )}
      {loaded.value && all.length === 0 && (
        <p class="empty">{rows.value.length ? 'No session matches.' : whose.value === '*' ? 'No session is awake.' : 'There is no session. Press c to make one.'}</p>
      )}
      {!loaded.value && <p class="empty" role="status">Loading…</p>}
      {count.value > pageSize && <Pages />}
    </section>
  );
}

function Whose() {
  const choose = (value: string) => {
    whose.value = value;
    offset.value = 0;
    rows.value = [];
    loaded.value = false;
    void refresh();
  };
  const other = whose.value !== '' && whose.value !== '*';
  return (
    <span class="whose">
      <label><span class="sr">Whose sessions</span>
        <select id="whose" value={other ? 'other' : whose.value} onChange={(e) => choose(e.currentTarget.value === 'other' ? account.value!.account : e.currentTarget.value)}>
          <option value="">of this account</option>
          <option value="*">awake, of all accounts</option>
          <option value="other">of the account…</option>
        </select>
      </label>
      {other && <input aria-label="Account" value={whose.value} onChange={(e) => choose(e.currentTarget.value.trim() || '*')} spellcheck={false} />}
    </span>
  );
}

function Pages() {
  const to = (n: number) => {
    offset.value = n;
    void refresh();
  };
  const at = offset.value;
  return (
    <div class="pages">
      <button disabled={at === 0} onClick={() => to(Math.max(0, at - pageSize))}>Newer</button>
      <span>{at + 1} to {Math.min(at + pageSize, count.value)} of {count.value}</span>
      <button disabled={at + pageSize >= count.value} onClick={() => to(at + pageSize)}>Older</button>
    </div>
  );
}

function Line({ row }: { row: Row }) {
  const doing = busy.value[row.id];
  const asleep = row.state === 'deep-sleep';
  const history = samples.get(row.id) ?? [];
  return (
    <tr aria-busy={doing !== undefined}>
      <td><State state={row.state} doing={doing} /></td>
      <td class="id">
        <a href={sessionHash(row.id, row.own ? 'run' : 'details')} data-session={row.id} data-mine={row.own || undefined}>{row.id}</a>
        <Metadata of={row} />
      </td>
      {whose.value !== '' && <td><bdi>{visible(row.owner)}</bdi></td>}
      <td title={`created ${new Date(row.created).toLocaleString()}`}>{lasting(now.value - row.created)}</td>
      <td class="spark">{row.memory === undefined ? <span class="faint">–</span> : <><Spark values={history.map((s) => s.memory)} most={row.limits.memory * 2 ** 20} label="Memory over time" /> {bytes(row.memory)}</>}</td>
      <td class="spark">{row.cpu === undefined ? <span class="faint">–</span> : <><Spark values={history.map((s) => s.cpu)} most={row.limits.cpu} label="CPU over time" /> {cores(row.cpu)}</>}</td>
      <td><Because row={row} /></td>
      <td><Next row={row} /></td>
      <td class="acts">
        {row.own && (
          <>
            {asleep || row.state === 'idle'
              ? <button class="quiet" disabled={doing !== undefined} onClick={() => wake(row.id)} aria-label={`Wake ${row.id}`}>Wake</button>
              : <button class="quiet" disabled={doing !== undefined} onClick={() => sleep(row.id)} aria-label={`Put ${row.id} to sleep`}>Sleep</button>}
            <button class="quiet" disabled={doing !== undefined} onClick={() => drop(row.id)} aria-label={`Delete ${row.id}`}>Delete</button>
          </>
        )}
      </td>
    </tr>
  );
}

function Metadata({ of }: { of: Row }) {
  const entries = Object.entries(of.metadata ?? {}).slice(0, 4);
  if (!entries.length) return null;
  const text = entries.map(([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`).join(', ');
  return <bdi class="metadata" dir="ltr">{visible(text.slice(0, 300))}</bdi>;
}

const words: Record<Row['state'], string> = { active: 'active', idle: 'idle', 'deep-sleep': 'asleep' };

export function State({ state, doing }: { state: Row['state']; doing?: string }) {
  return <span class={`state ${state}`}><i aria-hidden="true" />{doing ? `${doing}…` : words[state]}</span>;
}

export function Because({ row }: { row: Pick<Row, 'state' | 'because' | 'used' | 'processes'> }) {
  if (row.state === 'deep-sleep') return <span class="faint">–</span>;
  if (row.because.length) return <>{row.because.join(', ')}</>;
  if (row.state === 'idle') return <span class="faint">stands still</span>;
  return <>used {lasting(now.value - row.used)} ago</>;
}

const nexts: Record<string, string> = { idle: 'idle', 'deep-sleep': 'sleeps', expired: 'ends' };

export function Next({ row }: { row: Pick<Row, 'next' | 'expires' | 'because' | 'state'> }) {
  const next = row.next ?? { to: 'expired', at: row.expires };
  return <span title={new Date(next.at).toLocaleString()}>{nexts[next.to] ?? next.to} in {lasting(next.at - now.value)}</span>;
}

/** Spark is a line of the last values. */
export function Spark({ values, most, label }: { values: number[]; most: number; label: string }) {
  const [w, h, n] = [72, 18, 60];
  const last = values.slice(-n);
  const top = Math.max(most / 8, ...last) * 1.05;
  const line = last.map((v, i) => `${i ? 'L' : 'M'}${(w - (last.length - 1 - i) * (w / (n - 1))).toFixed(1)} ${(h - 1 - (v / top) * (h - 2)).toFixed(1)}`).join('');
  return (
    <svg class="sparkline" width={w} height={h} viewBox={`0 0 ${w} ${h}`} role="img" aria-label={`${label}, ${plural(last.length, 'sample')}`}>
      <path d={line.length && last.length === 1 ? `${line}h0.01` : line} />
    </svg>
  );
}
