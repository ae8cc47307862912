// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

const prefix = "test"

// stack is a Store on a real Consul, and a node's ways to claim and to note there.
func stack(t testing.TB) (*consul.Store, func(c claim.Claim) error, func(r claim.Rest) error) {
	address := testserver.Consul(t)
	store, err := consul.NewStore(consul.Config{Address: address, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	node, err := api.NewClient(&api.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, v any) error {
		value, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, _, err = node.KV().CAS(&api.KVPair{Key: key, Value: value}, nil)
		return err
	}
	return store,
		func(c claim.Claim) error { return put(claim.Key(prefix, c.Session, c.Epoch), c) },
		func(r claim.Rest) error { return put(claim.RestKey(prefix, r.Session, r.Epoch), r) }
}

func TestStore(t *testing.T) {
	store, put, note := stack(t)
	t.Run("suite", func(t *testing.T) {
		frontendtest.TestStore(t, store, func(t *testing.T, c claim.Claim) {
			if err := put(c); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, r claim.Rest) {
			if err := note(r); err != nil {
				t.Fatal(err)
			}
		})
	})
	if err := store.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNobodyThere(t *testing.T) {
	store, err := consul.NewStore(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := store.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// BenchmarkCreate is what a create asks of Consul; BenchmarkWait is how long
// after a claim its waiter knows.
func BenchmarkCreate(b *testing.B) {
	store, _, _ := stack(b)
	for b.Loop() {
		if err := store.Create(b.Context(), frontendtest.Session("bench")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	store, _, _ := stack(b)
	r := frontendtest.Session("bench")
	if err := store.Create(b.Context(), r); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := store.Get(b.Context(), r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWait(b *testing.B) {
	store, put, _ := stack(b)
	var sum time.Duration
	for b.Loop() {
		r := frontendtest.Session("bench")
		if err := store.Create(b.Context(), r); err != nil {
			b.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := store.WaitClaim(b.Context(), r.ID, 1, r.Version)
			done <- err
		}()
		time.Sleep(2 * time.Millisecond) // the wait is under way
		begin := time.Now()
		if err := put(claim.Claim{Session: r.ID, Epoch: 1}); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		sum += time.Since(begin)
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs/claim")
}
