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
  steps?: 'binary' | 'whole'; // of the axis; decimal ones otherwise
  tick: number; // draws anew when it changes
}

/** Chart draws some values over time; what it last showed stands beside its title as text. */
export function Chart({ title, times, series, write, most, limit, steps, tick }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  // Of some seconds a chart would make years, or a line as wide as it is.
  const early = times.length > 0 && times[times.length - 1] - times[0] < shortest ? [times[times.length - 1] - shortest] : [];
  const data = [[...early, ...times], ...series.map((s) => [...early.map(() => null), ...s.values])] as uPlot.AlignedData;
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
        chart.current = new Plot(options(host, series, write, most, steps), latest.current, host);
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

const increments = {
  binary: Array.from({ length: 44 }, (_, i) => 2 ** i),
  whole: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000],
};

const colours = matchMedia('(prefers-color-scheme: dark)');
const shortest = 60; // seconds that a chart is about, at least
const size = (host: HTMLElement) => ({ width: Math.max(120, host.clientWidth), height: 140 });

function options(host: HTMLElement, series: Series[], write: (n: number) => string, most?: number, steps?: Props['steps']): uPlot.Options {
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
    scales: { y: { range: (_, __, max) => [0, Math.max((max ?? 0) * 1.1, most ? most / 8 : 1, 1e-9)] } },
    axes: [
      { ...axis, space: 80, size: 24, values: (_, all) => all.map((s) => new Date(s * 1000).toLocaleTimeString([], { hour12: false })) },
      { ...axis, size: 58, space: 34, ...(steps ? { incrs: increments[steps] } : {}), values: (_, all) => all.map(write) },
    ],
    series: [{}, ...series.map((s) => ({ label: s.label, stroke: colour(s.colour), width: 1.5, points: { size: 4 }, spanGaps: true }))],
  };
}
