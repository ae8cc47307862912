// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useEffect, useRef } from 'preact/hooks';
import type uPlot from 'uplot';

interface Series {
  label: string;
  values: (number | null)[];
  colour: 'accent' | 'second' | 'third' | 'fourth';
}

interface Props {
  title: string;
  times: number[]; // Unix seconds
  series: Series[];
  write: (n: number) => string;
  most?: number; // at the top, unless there is more
  limit?: string;
  tick: number; // draws anew when it changes
}

/** Chart draws some values over time; what it last showed stands beside its title as text. */
export function Chart({ title, times, series, write, most, limit, tick }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const data = [times, ...series.map((s) => s.values)] as uPlot.AlignedData;
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    const host = place.current!;
    let over = false;
    const look = new ResizeObserver(() => chart.current?.setSize(size(host)));
    void import('uplot').then(({ default: Plot }) => {
      if (over) return;
      const make = () => {
        chart.current?.destroy();
        chart.current = new Plot(options(host, series, write, most), latest.current, host);
      };
      make();
      look.observe(host);
      // Colours are the page's, which changes them.
      colours.addEventListener('change', make);
      const seen = new MutationObserver(make);
      seen.observe(document.documentElement, { attributeFilter: ['data-theme'] });
      ends.push(() => colours.removeEventListener('change', make), () => seen.disconnect());
    });
    const ends: (() => void)[] = [() => look.disconnect(), () => chart.current?.destroy()];
    return () => {
      over = true;
      for (const end of ends) end();
      chart.current = null;
    };
  }, []);
  useEffect(() => chart.current?.setData(latest.current), [tick, times.length]);
  return (
    <figure class="chart">
      <figcaption>
        <strong>{title}</strong>
        {series.map((s) => {
          const last = s.values.findLast((v) => v !== null);
          return <span key={s.label} class={`key ${s.colour}`}>{series.length > 1 && s.label} {last == null ? '–' : write(last)}</span>;
        })}
        {limit && <span class="faint">{limit}</span>}
      </figcaption>
      <div ref={place} class="plot" role="img" aria-label={`${title} over time`} />
    </figure>
  );
}

const colours = matchMedia('(prefers-color-scheme: dark)');
const shortest = 60; // seconds that a chart is about, at least
const size = (host: HTMLElement) => ({ width: Math.max(120, host.clientWidth), height: 140 });

function options(host: HTMLElement, series: Series[], write: (n: number) => string, most?: number): uPlot.Options {
  // Computed colours: a canvas knows no light-dark().
  const colour = (name: string): string => {
    const probe = document.createElement('i');
    probe.className = name;
    host.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const text = colour('chart-text');
  const line = colour('chart-line');
  const axis = { stroke: text, font: '11px system-ui', grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    ...size(host),
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: {
      x: { range: (_, min, max) => (max == null ? [Date.now() / 1000 - shortest, Date.now() / 1000] : [Math.min(min, max - shortest), max]) },
      y: { range: (_, __, max) => [0, Math.max((max ?? 0) * 1.1, most ? most / 8 : 1, 1e-9)] },
    },
    axes: [{ ...axis, space: 70, size: 24 }, { ...axis, size: 58, space: 34, values: (_, all) => all.map(write) }],
    series: [{}, ...series.map((s) => ({ label: s.label, stroke: colour(s.colour), width: 1.5, points: { show: false }, spanGaps: true }))],
  };
}
