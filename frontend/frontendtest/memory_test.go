// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest_test

import (
	"testing"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

func TestMemory(t *testing.T) {
	store := frontendtest.NewStore()
	frontendtest.TestStore(t, store, func(_ *testing.T, c claim.Claim) { store.PutClaim(c) },
		func(_ *testing.T, r claim.Rest) { store.PutRest(r) })
}

func TestMemoryElection(t *testing.T) {
	election := new(frontendtest.Election)
	frontendtest.TestElection(t, func(*testing.T) frontend.Election { return election }, func(*testing.T) { election.Depose() })
}
