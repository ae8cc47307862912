// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { json } from './transport.js';
import type { Page } from './types.js';
import type { Watch } from './watch.js';

/** Reads an answer that is a part of a list. */
export function paged<W, T>(items: (wire: W) => T[]): (response: Response, watch: Watch) => Promise<Page<T>> {
  return async (response, watch) => {
    const list = items(await json<W>(response, watch));
    return Object.assign(list, { total: Number(response.headers.get('X-Total-Count') ?? list.length) });
  };
}
