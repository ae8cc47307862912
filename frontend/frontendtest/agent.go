// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"

	"github.com/buntime/buntime/frontend"
)

// Agent is a node that is only asked whether a session is there, and told of its end.
type Agent struct{ frontend.Node }

// Alive implements frontend.Node.
func (Agent) Alive(context.Context, *frontend.Session) error { return nil }

// End implements frontend.Node.
func (Agent) End(context.Context, *frontend.Session) error { return nil }
