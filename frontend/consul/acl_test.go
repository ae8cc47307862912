// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

// TestPolicy: with the policy of jobs/policies a front-end can do its work on a
// Consul that allows nothing by default, and clears up after itself.
func TestPolicy(t *testing.T) {
	policy, err := os.ReadFile("../../jobs/policies/consul-frontend.hcl")
	if err != nil {
		t.Fatal(err)
	}
	const root = "00000000-0000-0000-0000-000000000001"
	address := testserver.Consul(t, "-hcl", fmt.Sprintf(`acl {
		enabled        = true
		default_policy = "deny"
		tokens {
			initial_management = %q
			agent              = %q
		}
	}`, root, root))
	admin := newClient(t, &api.Config{Address: address, Token: root})
	if _, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: "front-end", Rules: string(policy)}, nil); err != nil {
		t.Fatal(err)
	}
	token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: "front-end"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := consul.Config{Address: address, Token: token.SecretID}
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("test took over a minute"))
	defer cancel()

	store, err := consul.NewStore(config)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	sess := frontendtest.Session("a")
	for _, do := range []func() error{
		func() error { return store.Ready(ctx) },
		func() error { return store.Create(ctx, sess) },
		func() error { return store.Update(ctx, sess) },
		func() error { _, err := store.All(ctx, ""); return err },
		func() error { _, err := store.Traces(ctx, ""); return err },
		func() error { _, err := store.Seal(ctx, sess.ID, 1); return err },
		func() error { return store.DropClaims(ctx, sess.ID) },
		func() error { return store.Delete(ctx, sess) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := consul.NewElection(config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	standing, withdraw := context.WithCancel(ctx)
	e.Lead(standing, func(lead context.Context) {
		select { // some beats
		case <-lead.Done():
			t.Error("it leads no more: ", context.Cause(lead))
		case <-time.After(2 * time.Second):
		}
		withdraw()
	})
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
	p := &polls{address: address, client: admin}
	p.empty(t, 0)

	// And no more than that.
	strange := newClient(t, &api.Config{Address: address, Token: token.SecretID})
	if _, err := strange.KV().Put(&api.KVPair{Key: claim.DefaultPrefix + "s/other"}, nil); err == nil {
		t.Error("it may write what is not Buntime's")
	}
}
