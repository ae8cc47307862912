// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/keys/keystest"
	"github.com/buntime/buntime/frontend/testserver"
)

const prefix = "test"

// stack is a Store on a real Consul, and what a node does there.
func stack(t testing.TB) (*consul.Store, nodeKV) {
	address := testserver.Consul(t)
	store, err := consul.NewStore(consul.Config{Address: address, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	client, err := api.NewClient(&api.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	return store, nodeKV{client.KV()}
}

type nodeKV struct{ kv *api.KV }

func (n nodeKV) create(key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, _, err = n.kv.CAS(&api.KVPair{Key: key, Value: value}, nil)
	return err
}

func (n nodeKV) claim(c claim.Claim) error {
	return n.create(claim.Key(prefix, c.Session, c.Epoch), c)
}

func (n nodeKV) note(r claim.Rest) error {
	return n.create(claim.RestKey(prefix, r.Session, r.Epoch), r)
}

func TestStore(t *testing.T) {
	store, node := stack(t)
	t.Run("suite", func(t *testing.T) {
		frontendtest.TestStore(t, store, func(t *testing.T, c claim.Claim) {
			if err := node.claim(c); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, r claim.Rest) {
			if err := node.note(r); err != nil {
				t.Fatal(err)
			}
		})
	})
	if err := store.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	t.Run("a key is left", func(t *testing.T) {
		id := frontend.NewID()
		if err := node.create(claim.DataKey(prefix, id), "key"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			ids, err := store.Traces(t.Context(), "")
			if err != nil || slices.Contains(ids, id) != want {
				t.Errorf("%s listed among %q: want %t, %v", id, ids, want, err)
			}
			if err := store.DropClaims(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestKeys(t *testing.T) {
	store, _ := stack(t)
	keystest.TestStore(t, store)
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
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// BenchmarkCreate is what a create asks of Consul; BenchmarkWait is how long
// after a claim its waiter knows.
func BenchmarkCreate(b *testing.B) {
	store, _ := stack(b)
	for b.Loop() {
		if err := store.Create(b.Context(), frontendtest.Session("bench")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	store, _ := stack(b)
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
	store, node := stack(b)
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
		if err := node.claim(claim.Claim{Session: r.ID, Epoch: 1}); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		sum += time.Since(begin)
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs/claim")
}
