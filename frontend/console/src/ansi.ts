// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Output on the page is text in spans. Of its escape sequences those for colours count;
// what is left of others is shown.
import { createAnsiSequenceParser, createColorPalette, type Color } from 'ansi-sequence-parser';
import { bytes, visibleOutput } from './text.ts';

const most = 300_000; // characters that a pane keeps, and that wait to be drawn
const mostPieces = 4000; // of different colours
const palette = createColorPalette();

type Kind = 'stdout' | 'stderr' | 'note';

/** Output is a pane that output goes to as it comes. */
export class Output {
  private waiting: { kind: Kind; text: string }[] = [];
  private waits = 0; // characters of it
  private skipped = 0; // characters that came faster than they can be drawn
  private pause = 16; // ms before what comes is drawn
  private held: Record<Kind, string> = { stdout: '', stderr: '', note: '' };
  private parsers = { stdout: createAnsiSequenceParser(), stderr: createAnsiSequenceParser() };
  private size = 0;
  private due = 0;

  constructor(private readonly pane: HTMLElement) {}

  print(kind: 'stdout' | 'stderr', text: string): void {
    text = this.held[kind] + text;
    // A sequence that is cut off here goes on in the next piece.
    const cut = /\x1b(\[[0-9;:]{0,40})?$|\r$/.exec(text);
    this.held[kind] = cut ? cut[0] : '';
    this.add(kind, cut ? text.slice(0, cut.index) : text);
  }

  /** note is a line of the page's own. */
  note(text: string): void {
    for (const kind of ['stdout', 'stderr'] as const) {
      const rest = this.held[kind];
      this.held[kind] = '';
      if (rest) this.add(kind, rest);
      this.parsers[kind] = createAnsiSequenceParser();
    }
    this.add('note', text);
  }

  clear(): void {
    this.waiting = [];
    this.waits = this.skipped = 0;
    this.pane.replaceChildren();
    this.size = 0;
  }

  private add(kind: Kind, text: string): void {
    if (!text) return;
    this.waiting.push({ kind, text });
    this.waits += text.length;
    while (this.waits > most && this.waiting.length > 1) {
      const { text } = this.waiting.shift()!;
      this.waits -= text.length;
      this.skipped += text.length;
    }
    this.due ||= window.setTimeout(() => this.draw(), this.pause);
  }

  private draw(): void {
    this.due = 0;
    const begin = performance.now();
    const below = this.pane.scrollHeight - this.pane.scrollTop - this.pane.clientHeight < 40;
    if (this.skipped) this.put('note', `… ${bytes(this.skipped)} of output are left out here`);
    for (const { kind, text } of this.waiting) this.put(kind, text);
    this.waiting = [];
    this.waits = this.skipped = 0;
    while (this.pane.childNodes.length > 1 && (this.size > most || this.pane.childNodes.length > mostPieces)) {
      this.size -= this.pane.firstChild!.textContent!.length;
      this.pane.firstChild!.remove();
    }
    if (below) this.pane.scrollTop = this.pane.scrollHeight;
    // Most of the time is everything else's.
    this.pause = Math.min(1000, Math.max(16, 4 * (performance.now() - begin)));
  }

  private put(kind: Kind, text: string): void {
    if (kind === 'note') {
      const line = document.createElement('div');
      line.className = 'note';
      line.textContent = text;
      this.pane.append(line);
      this.size += text.length;
      return;
    }
    for (const token of this.parsers[kind].parse(text)) {
      const span = document.createElement('span');
      const shown = visibleOutput(token.value);
      span.textContent = shown;
      span.classList.add(kind, ...[...token.decorations].map((d) => `ansi-${d}`));
      colour(span, 'fg', 'color', token.foreground);
      colour(span, 'bg', 'backgroundColor', token.background);
      this.pane.append(span);
      this.size += shown.length;
    }
  }
}

function colour(span: HTMLElement, prefix: string, property: 'color' | 'backgroundColor', c: Color | null): void {
  if (!c) return;
  if (c.type === 'named') span.classList.add(`${prefix}-${c.name}`);
  else span.style[property] = palette.value(c);
}
