// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { javascript } from '@codemirror/lang-javascript';
import { bracketMatching, indentOnInput, syntaxHighlighting } from '@codemirror/language';
import { Compartment, EditorState } from '@codemirror/state';
import { drawSelection, EditorView, highlightActiveLine, highlightSpecialChars, keymap, lineNumbers } from '@codemirror/view';
import { classHighlighter } from '@lezer/highlight';

export interface Editor {
  text(): string;
  set(text: string): void;
  /** code says whether it is TypeScript, or a shell's. */
  code(is: boolean): void;
  destroy(): void;
}

/** openEditor makes an editor; Tab leaves it, as everything on the page. */
export function openEditor(parent: HTMLElement, text: string, run: () => void): Editor {
  const language = new Compartment();
  const typescript = javascript({ typescript: true });
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(), history(), drawSelection(), highlightSpecialChars(), highlightActiveLine(), bracketMatching(), indentOnInput(),
        language.of(typescript), syntaxHighlighting(classHighlighter),
        EditorView.contentAttributes.of({ 'aria-label': 'Code to run' }),
        keymap.of([
          { key: 'Mod-Enter', run: () => (run(), true) },
          { key: 'Escape', run: (v) => (v.contentDOM.blur(), document.getElementById('run')?.focus(), true) },
          ...defaultKeymap, ...historyKeymap,
        ]),
      ],
    }),
  });
  return {
    text: () => view.state.doc.toString(),
    set: (to) => view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: to } }),
    code: (is) => view.dispatch({ effects: language.reconfigure(is ? typescript : []) }),
    destroy: () => view.destroy(),
  };
}
