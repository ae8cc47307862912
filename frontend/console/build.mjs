// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// build.mjs bundles the page into the folder that it is given: a small start, and the
// editor, the terminal and the charts apart, for when they are wanted.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { build } from 'esbuild';

const out = process.argv[2];
const result = await build({
  entryPoints: { app: 'src/main.tsx', style: 'src/style.css' },
  outdir: out,
  bundle: true,
  minify: true,
  splitting: true,
  format: 'esm',
  target: ['es2022', 'chrome123', 'firefox120', 'safari17.5'],
  entryNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none', // all licences are in licences.txt
  metafile: true,
});

const icon = readFileSync('src/icon.svg');
const iconName = `icon-${createHash('sha256').update(icon).digest('hex').slice(0, 8)}.svg`;
writeFileSync(join(out, iconName), icon);

const outputs = Object.entries(result.metafile.outputs);
const made = (entry) => basename(outputs.find(([, o]) => o.entryPoint === entry)[0]);
// What the first of them imports is fetched beside it, not after it.
const preload = outputs.find(([, o]) => o.entryPoint === 'src/main.tsx')[1].imports.filter((i) => i.kind === 'import-statement')
  .map((i) => `<link rel="modulepreload" href="console/${basename(i.path)}">\n`).join('');
const page = readFileSync('src/index.html', 'utf8')
  .replace('<script', `${preload}<script`).replace('app.js', made('src/main.tsx')).replace('style.css', made('src/style.css')).replace('icon.svg', iconName);
writeFileSync(join(out, 'index.html'), page);

// What of others is in there: their packages' names, versions and licences.
const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const at = input.lastIndexOf('node_modules/');
  if (at >= 0) packages.add(input.slice(0, at + 13) + input.slice(at + 13).split('/').slice(0, input[at + 13] === '@' ? 2 : 1).join('/'));
}
let licences = 'The console is made with these packages.\n';
for (const folder of [...packages].sort()) {
  const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).sort().find((name) => /^licen[cs]e/i.test(name));
  // Of what brings none the text is ours; that there is one for each is a condition of all of them.
  const text = readFileSync(file ? join(folder, file) : join('licences', `${about.name}.txt`), 'utf8').trim();
  licences += `\n${'='.repeat(72)}\n${about.name} ${about.version} (${about.license})\n\n${text}\n`;
}
writeFileSync(join(out, 'licences.txt'), licences);
