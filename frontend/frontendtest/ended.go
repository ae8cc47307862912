// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"

	"github.com/buntime/buntime/frontend"
)

// Ended is a node that is told of ends only.
type Ended struct{ frontend.Node }

// End implements frontend.Node.
func (Ended) End(context.Context, *frontend.Session) error { return nil }
