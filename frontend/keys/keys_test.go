// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/keys/keystest"
)

func TestStore(t *testing.T) { keystest.TestStore(t, new(keystest.Store)) }

// console is a command line on a store.
type console struct {
	t *testing.T
	m *keys.Manager
}

func (c console) run(line ...string) string {
	c.t.Helper()
	var out bytes.Buffer
	if err := keys.Command(c.t.Context(), c.m, line, &out); err != nil {
		c.t.Fatalf("%q: %v", line, err)
	}
	return out.String()
}

var created = regexp.MustCompile(`^id   (key_[a-z2-7]{12})\nkey  (btk_[a-z2-7]{26})\n$`)

func (c console) key(line ...string) (id, text string) {
	c.t.Helper()
	out := c.run(line...)
	parts := created.FindStringSubmatch(out)
	if parts == nil {
		c.t.Fatalf("%q printed %q", line, out)
	}
	return parts[1], parts[2]
}

// TestLife: a key is there once it is created, has another text when it is rotated,
// and is refused when it is revoked.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(keystest.Store)
		c := console{t, keys.NewManager(store)}
		file, err := keys.NewFile([]keys.Config{{Hash: keys.Hash("btk_of_the_file"), Account: "file", Plan: "free"}})
		if err != nil {
			t.Fatal(err)
		}
		ring := keys.NewRing(file, store, slog.New(slog.DiscardHandler))
		if _, ok, err := ring.Find(keys.SumOf("btk_of_the_file")); !ok || err != nil {
			t.Errorf("key of the file: %t, %v", ok, err)
		}
		if _, _, err := ring.Find(keys.SumOf("x")); !errors.Is(err, frontend.ErrUnavailable) {
			t.Errorf("before the store has answered: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go ring.Run(ctx)
		is := func(text, account string) {
			t.Helper()
			time.Sleep(time.Second + time.Millisecond) // a change is known after pauseAfter at most
			key, ok, err := ring.Find(keys.SumOf(text))
			if err != nil || ok != (account != "") || key.Account != account {
				t.Errorf("got %+v, %t, %v; want account %q", key, ok, err, account)
			}
		}
		id, first := c.key("create", "-account", "acme", "-plan", "enterprise", "-limit", "requests=5000", "-limit", "cpu=2.5", "-label", "ci")
		is(first, "acme")
		if key, _, _ := ring.Find(keys.SumOf(first)); key.Allowed.Requests != 5000 || key.Allowed.CPU != 2.5 || key.Allowed.Sessions != 100 || key.Plan != "enterprise" {
			t.Errorf("%+v", key)
		}
		if out := c.run("list"); strings.Contains(out, first) || !strings.Contains(out, "cpu=2.5 requests=5000") || !strings.Contains(out, id) {
			t.Errorf("list: %s", out)
		}
		if out := c.run("list", "-account", "other"); strings.Count(out, "\n") != 1 {
			t.Errorf("list of another account: %s", out)
		}
		c.run("change", "-plan", "free", id)
		is(first, "acme")
		if key, _, _ := ring.Find(keys.SumOf(first)); key.Allowed.Requests != 100 || !key.Allowed.Fixed {
			t.Errorf("after the change: %+v", key)
		}
		id, second := c.key("rotate", "-grace", "1h", id)
		is(first, "acme")
		is(second, "acme")
		time.Sleep(time.Hour)
		is(first, "")
		_, third := c.key("rotate", id)
		is(second, "")
		is(third, "acme")
		store.SetDown(true)
		is(third, "acme")
		store.SetDown(false)
		if out := c.run("list"); strings.Count(out, "\n") != 2 {
			t.Errorf("list: %s", out)
		}
		last := regexp.MustCompile("key_[a-z2-7]+").FindString(c.run("list"))
		c.run("revoke", last)
		is(third, "")
	})
}

func TestBadCommands(t *testing.T) {
	store := new(keystest.Store)
	m := keys.NewManager(store)
	for _, line := range []string{
		"", "destroy", "create", "create -account a/b", "create -account a -plan gold", "create -account a -limit memory", "create -account a -limit memory=x",
		"create -account a -limit memory=-1", "create -account a -limit gpu=1", "create -account a extra", "create -account a -expires -1h",
		"revoke", "revoke key_unknown", "rotate key_unknown", "change -plan paid key_unknown", "list -x",
	} {
		if err := keys.Command(t.Context(), m, strings.Fields(line), new(bytes.Buffer)); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
	if all, err := m.List(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}
