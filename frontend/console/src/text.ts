// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// How things are written on the page.

// What is not seen but changes what is: controls, marks of direction and of width.
const unseen = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
// The same in output, where line ends and tabs mean what they do.
const unseenInOutput = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

const mark = (c: string): string => `⟨${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}⟩`;

/** visible is a text that a session has chosen, with what is unseen in it marked. */
export const visible = (text: string): string => text.replace(unseen, mark);

/** visibleOutput is the same for output. */
export const visibleOutput = (text: string): string => text.replace(/\r\n?/g, '\n').replace(unseenInOutput, mark);

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let u = -1;
  do {
    n /= 1024;
    u++;
  } while (n >= 999.5 && u < units.length - 1);
  return `${n < 10 ? n.toFixed(1) : Math.round(n)} ${units[u]}`;
}

/** lasting is a time span in its two largest units. */
export function lasting(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s < 600 ? ` ${s % 60} s` : ''}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** millis is a short time, given in milliseconds. */
export function millis(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

export const cores = (n: number): string => (n < 0.005 ? '0' : n < 1 ? n.toFixed(2) : n.toFixed(1));

/** fileName is a name for a file on the user's disk. */
export function fileName(path: string): string {
  const name = visible(path.split('/').pop() || '').replace(/[\\/:*?"<>|]/g, '_').replace(/^\.+/, '_').slice(0, 150);
  return name || 'file';
}

/** plural counts things. */
export const plural = (n: number, one: string, many = one + 's'): string => `${n} ${n === 1 ? one : many}`;
