// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import "context"

// Election makes one of all front-ends the leader, for what one of them has to do
// for all: Service.Run.
type Election interface {
	// Lead waits until this front-end leads and runs do, whose context ends with the
	// leadership, and so on until ctx ends; then another leads at once. No more than
	// one leads at a time, but for a moment: a process that was stopped does not know
	// when it goes on that another has its place. What do does must bear that.
	// Should do return before its context ends, another may lead.
	Lead(ctx context.Context, do func(ctx context.Context))
}
