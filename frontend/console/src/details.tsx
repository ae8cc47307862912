// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { ComponentChildren } from 'preact';
import type { Session } from './api.ts';
import { Chart } from './chart.tsx';
import { now, samples, type Row } from './store.ts';
import { bytes, cores, lasting, millis, visible } from './text.ts';

/** Details is what is known of a session, and what it has used since the page knows it. */
export function Details({ session: s, foreign: f }: { session?: Session; foreign?: Row }) {
  const id = s?.sessionId ?? f!.id;
  const limits = s?.resourceLimits ?? f!.limits;
  const list = samples.get(id) ?? [];
  const times = list.map((x) => x.at / 1000);
  const usage = s ? s.usage : { memory: f!.memory ?? 0, disk: f!.disk ?? 0 };
  return (
    <div class="details">
      <div class="charts">
        <Chart title="Memory" times={times} series={[{ label: 'memory', values: list.map((x) => x.memory), colour: 'accent' }]} write={bytes} steps="binary" most={limits.memory * 2 ** 20} limit={`of ${limits.memory} MB`} tick={now.value} />
        <Chart title="CPU" times={times} series={[{ label: 'cores', values: list.map((x) => x.cpu), colour: 'second' }]} write={cores} most={limits.cpu} limit={`of ${limits.cpu} cores`} tick={now.value} />
      </div>
      <dl>
        {f && <Fact name="Owner"><bdi>{visible(f.owner)}</bdi></Fact>}
        {f?.node && <Fact name="Node"><code>{f.node}</code></Fact>}
        <Fact name="Created">{time(s?.createdAt ?? f!.created)}</Fact>
        <Fact name="Ends">{time(s?.expiresAt ?? f!.expires)}</Fact>
        <Fact name="Last used">{time(s?.lastActive ?? f!.used)}</Fact>
        <Fact name="Disk">{bytes(usage.disk)} of {limits.disk} MB</Fact>
        <Fact name="Processes">{s?.activeProcesses ?? f?.processes ?? '–'}</Fact>
        {s && <Fact name="Files">{s.filesCount}</Fact>}
        {s && <Fact name="CPU time">{s.usage.cpuTime < 60_000 ? millis(s.usage.cpuTime) : lasting(s.usage.cpuTime)}</Fact>}
        {s?.durability && (
          <Fact name="Stored">
            {s.durability.lastCheckpoint ? time(s.durability.lastCheckpoint) + (s.durability.dirty ? ', changed since' : '') : 'never'}{s.durability.lost && ', something was lost with a node'}
            {s.durability.problem && <>: <bdi>{visible(s.durability.problem)}</bdi></>}
          </Fact>
        )}
      </dl>
      {s && (
        <>
          <h2>Metadata</h2>
          <pre class="metadata-full" dir="ltr">{visibleLines(JSON.stringify(s.metadata ?? {}, null, 2))}</pre>
        </>
      )}
    </div>
  );
}

const visibleLines = (text: string): string => text.split('\n').map(visible).join('\n');

const time = (t: string | number): string => new Date(t).toLocaleString();

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}
