// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import "sync"

// restingRunners is how many runners an idle session keeps. With one, the execution
// that wakes it finds it as quick as it was; each more would be 2.5 MB of the node's
// memory, for as long as nobody comes.
const restingRunners = 1

// rest ends the runners that an idle session does not keep. They have to go while they
// can: what stands still does not.
func (r *runners) rest() {
	r.mu.Lock()
	surplus := r.ready[min(restingRunners, len(r.ready)):]
	r.ready = r.ready[: len(r.ready)-len(surplus) : len(r.ready)-len(surplus)]
	for _, run := range surplus {
		r.unspare(run)
	}
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, run := range surplus {
		all.Go(func() { r.discard(run) })
	}
	all.Wait()
}
