// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
)

// TestRestsRealConsul holds the fence of an epoch against a real Consul.
func TestRestsRealConsul(t *testing.T) {
	address := startConsul(t)
	claims, err := driver.NewConsulClaims(driver.ConsulConfig{Address: address, Prefix: "test"})
	must.NoError(t, err)
	client, err := api.NewClient(&api.Config{Address: address})
	must.NoError(t, err)
	rests, ctx := claims.Rests(testSession), t.Context()
	rest := func(try int, digest string) claim.Rest {
		return claim.Rest{Session: testSession, Epoch: 2, Alloc: "a", Try: try, Snapshot: snapshot.Pointer{Epoch: 2, Digest: digest}}
	}

	_, found, err := rests.Last(ctx, 3)
	must.NoError(t, err)
	must.False(t, found)
	first, err := rests.Note(ctx, rest(1, "d1"), 0)
	must.NoError(t, err)
	second, err := rests.Note(ctx, rest(2, "d2"), first)
	must.NoError(t, err)
	// An answer was lost: this node believes in the version before.
	third, err := rests.Note(ctx, rest(3, "d3"), first)
	must.NoError(t, err)
	must.Greater(t, second, third)
	last, found, err := rests.Last(ctx, 3)
	must.NoError(t, err)
	must.True(t, found)
	must.Eq(t, "d3", last.Snapshot.Digest)
	_, found, err = rests.Last(ctx, 2)
	must.NoError(t, err)
	must.False(t, found)

	// Another allocation's note is a fence, and so is a seal.
	other := rest(4, "d4")
	other.Alloc = "b"
	_, err = rests.Note(ctx, other, third)
	must.NoError(t, err) // over the version that is there: whoever may
	_, err = rests.Note(ctx, rest(5, "d5"), third)
	must.ErrorIs(t, err, driver.ErrFenced)
	stored, version, err := rests.Load(ctx, 2)
	must.NoError(t, err)
	stored.Sealed = true
	value, err := json.Marshal(stored)
	must.NoError(t, err)
	ok, _, err := client.KV().CAS(&api.KVPair{Key: claim.RestKey("test", testSession, 2), Value: value, ModifyIndex: version}, nil)
	must.NoError(t, err)
	must.True(t, ok)
	_, err = rests.Note(ctx, other, version)
	must.ErrorIs(t, err, driver.ErrFenced)

	key, err := rests.Key(ctx)
	must.NoError(t, err)
	again, err := rests.Key(ctx)
	must.NoError(t, err)
	must.Eq(t, key, again)

	_, wanted, err := rests.Wanted(ctx, 2)
	must.NoError(t, err)
	must.False(t, wanted)
	_, err = client.KV().Put(&api.KVPair{Key: claim.RecordKey("test", testSession), Value: []byte(`{"epoch":2,"expires":"2026-01-02T03:04:05Z"}`)}, nil)
	must.NoError(t, err)
	for epoch, want := range map[uint64]bool{1: false, 2: true} {
		expires, wanted, err := rests.Wanted(ctx, epoch)
		must.NoError(t, err)
		must.Eq(t, want, wanted)
		must.Eq(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), expires)
	}
	_, err = client.KV().Put(&api.KVPair{Key: claim.SlotKey("test", testSession), Value: []byte("{}")}, nil)
	must.NoError(t, err)
	for range 2 { // also when there is none
		must.NoError(t, rests.Vacate(ctx))
	}
	pair, _, err := client.KV().Get(claim.SlotKey("test", testSession), nil)
	must.NoError(t, err)
	must.Nil(t, pair)
}
