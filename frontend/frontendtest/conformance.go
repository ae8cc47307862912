// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/frontend"
)

// TestStore is what every Store must pass. put and note are what nodes do: to store
// a claim if its epoch has none, and a rest.
func TestStore(t *testing.T, store frontend.Store, put func(t *testing.T, c claim.Claim), note func(t *testing.T, r claim.Rest)) {
	s := suite{store, put, note}
	for name, test := range map[string]func(*testing.T, context.Context){
		"create":        s.create,
		"update":        s.update,
		"delete":        s.delete,
		"one wins":      s.oneWins,
		"account":       s.account,
		"many":          s.many,
		"all":           s.all,
		"claims":        s.claims,
		"rests":         s.rests,
		"traces":        s.traces,
		"prune":         s.prune,
		"wait":          s.wait,
		"wait has ends": s.waitEnds,
		"many waits":    s.manyWaits,
		"receipts":      s.receipts,
		"sweep":         s.sweep,
		"canceled":      s.canceled,
		"slots":         s.slots,
		"slot taken":    s.slotTaken,
		"one takes":     s.oneTakes,
		"together":      s.takenTogether,
		"slots wait":    s.slotsWait,
		"reports":       s.reports,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("test took over a minute"))
			defer cancel()
			test(t, ctx)
		})
	}
}

type suite struct {
	store frontend.Store
	put   func(t *testing.T, c claim.Claim)
	note  func(t *testing.T, r claim.Rest)
}

// Session is a record with something in every field.
func Session(account string) *frontend.Session {
	now := time.Now().UTC().Truncate(time.Second)
	return &frontend.Session{
		ID: frontend.NewID(), Account: account, Plan: "paid", State: frontend.StateStarting, Since: now, Epoch: 1,
		Limits: frontend.DefaultLimits, Created: now, Expires: now.Add(time.Hour), LastActive: now,
		Metadata: json.RawMessage(`{"a":"<&>\u2028","n":9007199254740993}`),
	}
}

func (s *suite) mustCreate(t *testing.T, ctx context.Context, account string) *frontend.Session {
	t.Helper()
	r := Session(account)
	if err := s.store.Create(ctx, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func wants(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func (s *suite) create(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "create")
	if r.Version == 0 {
		t.Error("no version after create")
	}
	got, err := s.store.Get(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	again := *r
	wants(t, "create again", s.store.Create(ctx, &again), frontend.ErrExists)
	_, err = s.store.Get(ctx, frontend.NewID())
	wants(t, "get of nothing", err, frontend.ErrNotFound)
}

func (s *suite) update(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "update")
	stale := *r
	r.State, r.Expires = frontend.StateActive, r.Expires.Add(time.Hour)
	r.Claim = claim.Claim{Session: r.ID, Epoch: 1, Alloc: "a", Node: "n", API: "h:1", Preview: "h:2"}
	if err := s.store.Update(ctx, r); err != nil {
		t.Fatal(err)
	}
	if r.Version == stale.Version {
		t.Error("update has left the version as it was")
	}
	wants(t, "update of a stale record", s.store.Update(ctx, &stale), frontend.ErrConflict)
	got, err := s.store.Get(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	entries, err := s.store.Account(ctx, "update")
	if err != nil || len(entries) != 1 || !entries[0].Expires.Equal(r.Expires) || entries[0].New {
		t.Errorf("index after update: %+v, %v", entries, err)
	}
	gone := Session("update")
	gone.Version = r.Version
	wants(t, "update of nothing", s.store.Update(ctx, gone), frontend.ErrConflict)
}

func (s *suite) delete(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "delete")
	stale := *r
	r.State = frontend.StateActive
	if err := s.store.Update(ctx, r); err != nil {
		t.Fatal(err)
	}
	wants(t, "delete of a stale record", s.store.Delete(ctx, &stale), frontend.ErrConflict)
	if entries, err := s.store.Account(ctx, "delete"); err != nil || len(entries) != 1 {
		t.Errorf("index after a refused delete: %+v, %v", entries, err)
	}
	if err := s.store.Delete(ctx, r); err != nil {
		t.Fatal(err)
	}
	_, err := s.store.Get(ctx, r.ID)
	wants(t, "get after delete", err, frontend.ErrNotFound)
	wants(t, "delete again", s.store.Delete(ctx, r), frontend.ErrConflict)
	wants(t, "update after delete", s.store.Update(ctx, r), frontend.ErrConflict)
	if entries, err := s.store.Account(ctx, "delete"); err != nil || len(entries) != 0 {
		t.Errorf("index after delete: %+v, %v", entries, err)
	}
}

// oneWins: of many changes of one version exactly one goes through.
func (s *suite) oneWins(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "one-wins")
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			mine := *r
			mine.Epoch = uint64(100 + i)
			if i%2 == 0 {
				errs[i] = s.store.Delete(ctx, &mine)
			} else {
				errs[i] = s.store.Update(ctx, &mine)
			}
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wants(t, "loser", err, frontend.ErrConflict)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d changes of one version went through", won, len(errs))
	}
}

func (s *suite) account(t *testing.T, ctx context.Context) {
	var want []string
	for range 3 {
		want = append(want, s.mustCreate(t, ctx, "account").ID)
	}
	s.mustCreate(t, ctx, "account2")
	entries, err := s.store.Account(ctx, "account")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(entries, func(a, b frontend.Entry) int { return int(a.Order) - int(b.Order) })
	var got []string
	for _, e := range entries {
		got = append(got, e.ID)
		if e.Created.IsZero() || !e.Expires.After(e.Created) || !e.New {
			t.Errorf("entry %+v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("in order of creation: got %q, want %q", got, want)
	}
}

func (s *suite) many(t *testing.T, ctx context.Context) {
	const n = 130 // more than two transactions of Consul's
	ids := make([]string, n)
	for i := range ids {
		ids[i] = s.mustCreate(t, ctx, "many").ID
	}
	ask := slices.Insert(slices.Clone(ids), 70, frontend.NewID())
	got, err := s.store.GetMany(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if r.ID != ids[i] || r.Version == 0 {
			t.Fatalf("record %d is %s at %d, want %s", i, r.ID, r.Version, ids[i])
		}
	}
	if len(got) != n {
		t.Errorf("got %d records, want %d", len(got), n)
	}
	if got, err := s.store.GetMany(ctx, nil); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
}

func (s *suite) all(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "all")
	for _, beginning := range []string{"", "ses_", r.ID[:5], r.ID[:6]} {
		got, err := s.store.All(ctx, beginning)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(got, func(g *frontend.Session) bool { return g.ID == r.ID })
		if i < 0 || got[i].Version != r.Version {
			t.Errorf("%s is not among the %d records from %q", r.ID, len(got), beginning)
		}
		if slices.ContainsFunc(got, func(g *frontend.Session) bool { return !strings.HasPrefix(g.ID, beginning) }) {
			t.Errorf("among the records from %q are others", beginning)
		}
	}
}

func (s *suite) claims(t *testing.T, ctx context.Context) {
	want := claim.Claim{Session: frontend.NewID(), Epoch: 7, Alloc: "alloc", Node: "node", API: "10.0.0.1:1", Preview: "10.0.0.1:2"}
	_, err := s.store.Claim(ctx, want.Session, 7)
	wants(t, "no claim", err, frontend.ErrNotFound)
	s.put(t, want)
	s.put(t, claim.Claim{Session: want.Session, Epoch: 8})
	got, err := s.store.Claim(ctx, want.Session, 7)
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	listed := func() int {
		ids, err := s.store.Traces(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, id := range ids {
			if id == want.Session {
				n++
			}
		}
		return n
	}
	if n := listed(); n != 1 {
		t.Errorf("session of two claims is listed %d times", n)
	}
	for range 2 { // also when there are none any more
		if err := s.store.DropClaims(ctx, want.Session); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.store.Claim(ctx, want.Session, 7)
	wants(t, "claim after drop", err, frontend.ErrNotFound)
	if n := listed(); n != 0 {
		t.Errorf("dropped claims are listed %d times", n)
	}
}

// rests: what a node has noted stands, also sealed, and goes with the claims.
func (s *suite) rests(t *testing.T, ctx context.Context) {
	id := frontend.NewID()
	_, err := s.store.Rest(ctx, id, 1)
	wants(t, "no rest", err, frontend.ErrNotFound)
	kept := func(want bool) {
		t.Helper()
		if got, err := s.store.Kept(ctx, id); err != nil || got != want {
			t.Errorf("kept %t, %v, want %t", got, err, want)
		}
	}
	kept(false)
	noted := claim.Rest{
		Session: id, Epoch: 1, Alloc: "alloc", Files: 3,
		Snapshot: snapshot.Pointer{Epoch: 1, Serial: 2, Attempt: "a", Digest: "d", Taken: time.Now().UTC().Truncate(time.Second)},
	}
	s.note(t, noted)
	if got, err := s.store.Rest(ctx, id, 1); err != nil || !reflect.DeepEqual(got, noted) {
		t.Errorf("%+v, %v", got, err)
	}
	kept(true)
	sealed, err := s.store.Seal(ctx, id, 1)
	noted.Sealed = true
	if err != nil || !reflect.DeepEqual(sealed, noted) {
		t.Errorf("sealed %+v, %v", sealed, err)
	}
	if got, err := s.store.Rest(ctx, id, 1); err != nil || !got.Sealed {
		t.Errorf("%+v, %v", got, err)
	}
	// Of an epoch in which nothing was noted too: a late node has to meet it.
	if got, err := s.store.Seal(ctx, id, 2); err != nil || !got.Sealed || !got.Snapshot.IsZero() {
		t.Errorf("sealed %+v, %v", got, err)
	}
	asleep := claim.Rest{Session: id, Epoch: 3, Snapshot: noted.Snapshot, Asleep: true}
	s.note(t, asleep)
	// Also that of a session that sleeps, which stays asleep: nothing comes after it.
	asleep.Sealed = true
	if got, err := s.store.Seal(ctx, id, 3); err != nil || !reflect.DeepEqual(got, asleep) {
		t.Errorf("sealed %+v, %v, want %+v", got, err, asleep)
	}
	if err := s.store.DropClaims(ctx, id); err != nil {
		t.Error(err)
	}
	kept(false)
	_, err = s.store.Rest(ctx, id, 1)
	wants(t, "rest after drop", err, frontend.ErrNotFound)
}

// traces: a note that came after the claims were dropped is found.
func (s *suite) traces(t *testing.T, ctx context.Context) {
	id := frontend.NewID()
	listed := func() bool {
		t.Helper()
		ids, err := s.store.Traces(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		is := slices.Contains(ids, id)
		some, err := s.store.Traces(ctx, id[:6])
		if err != nil || slices.Contains(some, id) != is || slices.ContainsFunc(some, func(other string) bool { return other[:6] != id[:6] }) {
			t.Errorf("%s is listed: %t; from %q: %q, %v", id, is, id[:6], some, err)
		}
		return is
	}
	s.note(t, claim.Rest{Session: id, Epoch: 1})
	if !listed() {
		t.Error("a session with nothing but a note is not listed")
	}
	if err := s.store.DropClaims(ctx, id); err != nil {
		t.Fatal(err)
	}
	if listed() {
		t.Error("a session with nothing is listed")
	}
}

// prune: what no life needs any more goes, the last snapshot stays.
func (s *suite) prune(t *testing.T, ctx context.Context) {
	id := frontend.NewID()
	for epoch := uint64(1); epoch <= 12; epoch++ {
		s.put(t, claim.Claim{Session: id, Epoch: epoch})
		r := claim.Rest{Session: id, Epoch: epoch}
		if epoch == 2 || epoch == 8 || epoch == 12 { // nothing came of the others
			r.Snapshot = snapshot.Pointer{Epoch: epoch, Digest: "d"}
		}
		s.note(t, r)
	}
	for range 2 { // also when there is nothing to do
		if err := s.store.Prune(ctx, id, 11); err != nil {
			t.Fatal(err)
		}
	}
	for epoch := uint64(1); epoch <= 12; epoch++ {
		if _, err := s.store.Claim(ctx, id, epoch); errors.Is(err, frontend.ErrNotFound) != (epoch < 11) {
			t.Errorf("claim of epoch %d: %v", epoch, err)
		}
		if _, err := s.store.Rest(ctx, id, epoch); errors.Is(err, frontend.ErrNotFound) != (epoch < 8) {
			t.Errorf("rest of epoch %d: %v", epoch, err)
		}
	}
}

// wait: the claim comes before the wait, or during it, with and without a hint.
func (s *suite) wait(t *testing.T, ctx context.Context) {
	for _, before := range []bool{true, false} {
		for _, hint := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %t hint %t", before, hint), func(t *testing.T) {
				r := s.mustCreate(t, ctx, "wait")
				want := claim.Claim{Session: r.ID, Epoch: 1, Alloc: "alloc"}
				since := uint64(0)
				if hint {
					since = r.Version
				}
				if before {
					s.put(t, want)
				}
				got := make(chan error, 1)
				go func() {
					c, err := s.store.WaitClaim(ctx, r.ID, 1, since)
					if err == nil && c != want {
						err = fmt.Errorf("got %+v", c)
					}
					got <- err
				}()
				if !before {
					s.put(t, claim.Claim{Session: r.ID, Epoch: 2}) // another's
					s.mustCreate(t, ctx, "wait")
					s.put(t, want)
				}
				if err := <-got; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func (s *suite) waitEnds(t *testing.T, ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := s.store.WaitClaim(ctx, frontend.NewID(), 1, 0); err == nil {
		t.Error("a claim out of nowhere")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the wait went on for %v after its end", took)
	}
}

// manyWaits: a burst of creates.
func (s *suite) manyWaits(t *testing.T, ctx context.Context) {
	var wg sync.WaitGroup
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = frontend.NewID()
		wg.Go(func() {
			if c, err := s.store.WaitClaim(ctx, ids[i], 1, 0); err != nil || c.Session != ids[i] {
				t.Errorf("wait %d: %+v, %v", i, c, err)
			}
		})
	}
	for _, id := range ids {
		s.put(t, claim.Claim{Session: id, Epoch: 1})
	}
	wg.Wait()
}

func (s *suite) canceled(t *testing.T, ctx context.Context) {
	r := s.mustCreate(t, ctx, "canceled")
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.store.Get(ctx, r.ID)
	wants(t, "get", err, frontend.ErrUnavailable)
	wants(t, "update", s.store.Update(ctx, r), frontend.ErrUnavailable)
}
