// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/buntime/buntime/frontend/consul"
)

// TestReadsAreOfTheLatest: a session that seems to have no record is ended, so nothing
// may be read from a server that has not caught up yet.
func TestReadsAreOfTheLatest(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if !r.URL.Query().Has("consistent") {
			t.Errorf("%s %s may be answered with what is old", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	store, err := consul.NewStore(consul.Config{Address: server.URL, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	reads := map[string]func(context.Context) error{
		"Get":     func(ctx context.Context) error { _, err := store.Get(ctx, "ses_a"); return err },
		"GetMany": func(ctx context.Context) error { _, err := store.GetMany(ctx, []string{"ses_a"}); return err },
		"All":     func(ctx context.Context) error { _, err := store.All(ctx, ""); return err },
		"Account": func(ctx context.Context) error { _, err := store.Account(ctx, "a"); return err },
		"Claim":   func(ctx context.Context) error { _, err := store.Claim(ctx, "ses_a", 1); return err },
		"Rest":    func(ctx context.Context) error { _, err := store.Rest(ctx, "ses_a", 1); return err },
		"Kept":    func(ctx context.Context) error { _, err := store.Kept(ctx, "ses_a"); return err },
		"Traces":  func(ctx context.Context) error { _, err := store.Traces(ctx, ""); return err },
		"Ready":   store.Ready,
	}
	for name, read := range reads {
		if err := read(t.Context()); err == nil {
			t.Errorf("%s: no error from a server that has none but errors", name)
		}
	}
	if asked < len(reads) {
		t.Errorf("%d requests for %d reads", asked, len(reads))
	}
}
