// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// listing is the answer of GET /sessions with its X-Total-Count.
type listing struct {
	Sessions []info
	Total    int
}

func (l listing) ids() []string {
	ids := []string{}
	for _, s := range l.Sessions {
		ids = append(ids, s.SessionID)
	}
	return ids
}

// listSessions lists with query names and values in turn.
func listSessions(t *testing.T, ctx context.Context, api *client.Client, query ...string) listing {
	t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		v.Set(query[i], query[i+1])
	}
	reply := send(t, ctx, api, client.Call{Method: "GET", Path: "/sessions", Query: v})
	keys(t, "list", reply.Body, []string{"sessions"}, nil)
	l := listing{Sessions: decode[struct {
		Sessions []info `json:"sessions"`
	}](t, reply).Sessions}
	if l.Sessions == nil {
		t.Fatalf("sessions is no list: %s", reply.Body)
	}
	total, err := strconv.Atoi(reply.Header.Get("X-Total-Count"))
	if err != nil {
		t.Fatalf("X-Total-Count is %q", reply.Header.Get("X-Total-Count"))
	}
	l.Total = total
	return l
}

func TestList(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	tag := fmt.Sprintf("list-%d", time.Now().UnixNano())
	mine := []string{"metadata.tag", tag}

	// Newest first: each in a second of its own, as far as the API can tell.
	var want []string
	for i := range 4 {
		s := createSession(t, ctx, paid(), M{"metadata": M{"tag": tag, "parity": []string{"even", "odd"}[i%2]}})
		want = slices.Insert(want, 0, s.id)
		nextSecond(t, ctx, instant(t, "createdAt", s.CreatedAt))
	}
	other := createSession(t, ctx, free(), M{"metadata": M{"tag": tag}})

	t.Run("order and total", func(t *testing.T) {
		got := listSessions(t, ctx, paid(), mine...)
		equal(t, "ids", got.ids(), want)
		equal(t, "total", got.Total, 4)
		equal(t, "again", listSessions(t, ctx, paid(), mine...).ids(), want)
	})
	t.Run("members", func(t *testing.T) {
		for _, s := range listSessions(t, ctx, paid(), mine...).Sessions {
			equal(t, "state", s.State, "active")
			instant(t, "createdAt", s.CreatedAt)
			instant(t, "expiresAt", s.ExpiresAt)
			var metadata map[string]string
			if err := json.Unmarshal(s.Metadata, &metadata); err != nil || metadata["tag"] != tag {
				t.Errorf("metadata of %s: %s", s.SessionID, s.Metadata)
			}
		}
	})
	t.Run("pages", func(t *testing.T) {
		var got []string
		for offset := range 5 {
			page := listSessions(t, ctx, paid(), append(mine, "limit", "1", "offset", strconv.Itoa(offset))...)
			equal(t, "total", page.Total, 4)
			equal(t, "sessions on the page", len(page.Sessions), min(1, 4-offset))
			got = append(got, page.ids()...)
		}
		equal(t, "ids", got, want)
		equal(t, "a page in the middle", listSessions(t, ctx, paid(), append(mine, "limit", "2", "offset", "1")...).ids(), want[1:3])
		equal(t, "a page past the end", listSessions(t, ctx, paid(), append(mine, "offset", "100")...).ids(), []string{})
	})
	t.Run("filters", func(t *testing.T) {
		odd := listSessions(t, ctx, paid(), append(mine, "metadata.parity", "odd")...)
		equal(t, "odd", odd.ids(), []string{want[0], want[2]})
		equal(t, "total of odd", odd.Total, 2)
		equal(t, "active", listSessions(t, ctx, paid(), append(mine, "state", "active")...).Total, 4)
		equal(t, "deep-sleep", listSessions(t, ctx, paid(), append(mine, "state", "deep-sleep")...).Total, 0)
		equal(t, "no such value", listSessions(t, ctx, paid(), "metadata.tag", tag+"x").Total, 0)
		equal(t, "no such key", listSessions(t, ctx, paid(), append(mine, "metadata.absent", "x")...).Total, 0)
	})
	t.Run("own account only", func(t *testing.T) {
		equal(t, "the other's", listSessions(t, ctx, free(), mine...).ids(), []string{other.id})
		for _, id := range listSessions(t, ctx, free()).ids() {
			if slices.Contains(want, id) {
				t.Errorf("the free account sees %s of the paid one", id)
			}
		}
	})
	t.Run("without the deleted", func(t *testing.T) {
		s := &session{t: t, ctx: ctx, api: paid(), id: want[1]}
		status(t, s.drop(), 200)
		got := listSessions(t, ctx, paid(), mine...)
		equal(t, "ids", got.ids(), slices.Delete(slices.Clone(want), 1, 2))
		equal(t, "total", got.Total, 3)
	})
}
