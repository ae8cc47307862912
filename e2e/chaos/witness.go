// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
)

// witness sees what becomes of sessions: in their records, and on the nodes.
type witness struct {
	run *run
	kv  *consul.Client

	mu     sync.Mutex
	owners map[string]life      // by allocation
	twice  map[string]time.Time // since when an allocation is there that should not be
	fuse   map[string]bool      // connections that were seen
	seen   map[life]sight
}

// life is one of a session's.
type life struct {
	session string // id
	epoch   uint64
}

// sight is where and when a life's sandbox was seen last.
type sight struct {
	node int
	at   time.Time
}

// record is what there is in KV of a session.
type record struct {
	ID    string    `json:"id"`
	Epoch uint64    `json:"epoch"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Lost  bool      `json:"lost"`
}

const deepSleep = "deep-sleep"

func newWitness(r *run) *witness {
	// With a deadline of its own: the stack's client would wait for a Consul that
	// stands still.
	kv, err := consul.NewClient(&consul.Config{Address: r.ConsulAddr, HttpClient: &http.Client{Timeout: lookTimeout}})
	if err != nil {
		panic(err) // the stack has made one of the same address
	}
	return &witness{run: r, kv: kv, owners: map[string]life{}, twice: map[string]time.Time{}, fuse: map[string]bool{}, seen: map[life]sight{}}
}

const (
	// lookTimeout is how long a look at Consul may take.
	lookTimeout = 2 * time.Second
	// watchEvery is how often all records are looked at: each tells also how the life
	// before it has ended, so none of the lives that last longer is missed.
	watchEvery = 300 * time.Millisecond
)

// latest is for what is true now: what a server that has just started tells otherwise
// may be older.
func latest(ctx context.Context) *consul.QueryOptions {
	return (&consul.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// look reads a session's record now. If Consul does not answer it is what was known
// last.
func (w *witness) look(s *session) record {
	rec, err := w.read(s)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return record{}
	}
	return rec
}

var errNoRecord = errors.New("there is no record")

func (w *witness) read(s *session) (rec record, err error) {
	asked := time.Now()
	pair, _, err := w.kv.KV().Get(claim.RecordKey(claim.DefaultPrefix, s.id), latest(w.run.ctx))
	if err != nil {
		return rec, fmt.Errorf("read record of %s: %w", s.id, err)
	}
	if pair == nil {
		return rec, errNoRecord
	}
	if err := json.Unmarshal(pair.Value, &rec); err != nil {
		return rec, fmt.Errorf("decode record of %s: %w", s.id, err)
	}
	w.note(s, rec, asked)
	return rec, nil
}

// mustLook is look that waits for Consul.
func (w *witness) mustLook(s *session) error {
	const patience = 30 * time.Second // no fault is longer
	for begin := time.Now(); ; {
		_, err := w.read(s)
		if err == nil || errors.Is(err, errNoRecord) {
			return nil
		}
		if time.Since(begin) > patience || !wait(w.run.ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// note learns from a record, which was asked for at a moment, how lives have ended.
func (w *witness) note(s *session, rec record, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec.Epoch < s.epoch {
		return // read before what is known already
	}
	if rec.Epoch > s.epoch {
		if s.epoch > 0 {
			w.run.tally.count("wakes", "")
		}
		s.epoch = rec.Epoch
		s.noteLocked("life %d, %s", rec.Epoch, rec.State)
	}
	s.resolve(asked)
	over := rec.Epoch
	if rec.State != deepSleep {
		over-- // which the record still tells of
	}
	if over == 0 {
		return
	}
	how := asleep
	if rec.Lost {
		how = lost
	}
	s.kept = true // or there would be no record of another life
	was := s.ends[over]
	s.ends[over] = how
	switch {
	case was == unseen && how == lost && s.ends[over-1] != lost:
		// A life that came to nothing is told to have ended as the one before.
		s.noteLocked("life %d is lost", over)
		w.run.faults.lost(s, over)
	case was == unseen:
		s.noteLocked("life %d is over, lost: %t", over, rec.Lost)
	case was != how:
		w.run.tally.violateLocked(s, "life %d had ended %v, and now it has %v", over, was, how)
	}
}

// resolve notes, of writes that were done before a moment, that it was in no later
// life than the one that was seen then.
func (s *session) resolve(asked time.Time) {
	if !s.open {
		return
	}
	s.open = false
	for _, f := range s.files {
		for _, w := range f.writes {
			switch {
			case !w.done || w.hi != 0:
			case w.acked.Before(asked):
				w.hi = s.epoch
			default:
				s.open = true
			}
		}
	}
}

// watch looks at all records again and again.
func (w *witness) watch(ctx context.Context) {
	for wait(ctx, watchEvery) {
		asked := time.Now()
		pairs, _, err := w.kv.KV().List(claim.DefaultPrefix+"/sessions/", latest(ctx))
		if err != nil {
			continue // it is away
		}
		byID := w.run.byID()
		for _, pair := range pairs {
			var rec record
			if s := byID[path.Base(pair.Key)]; s != nil && json.Unmarshal(pair.Value, &rec) == nil {
				w.note(s, rec, asked)
			}
		}
		w.owns(ctx)
		w.rested(ctx, byID)
	}
}

// owns notes which allocations carry which lives. Claims go with their sessions, but
// what is known of an allocation stays true.
func (w *witness) owns(ctx context.Context) {
	pairs, _, err := w.kv.KV().List(claim.DefaultPrefix+"/claims/", latest(ctx))
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pair := range pairs {
		var c claim.Claim
		if json.Unmarshal(pair.Value, &c) == nil {
			w.owners[c.Alloc] = life{c.Session, c.Epoch}
		}
	}
}

// rested notes which sessions have a snapshot.
func (w *witness) rested(ctx context.Context, byID map[string]*session) {
	pairs, _, err := w.kv.KV().List(claim.DefaultPrefix+"/rests/", latest(ctx))
	if err != nil {
		return
	}
	for _, pair := range pairs {
		var rest claim.Rest
		if json.Unmarshal(pair.Value, &rest) != nil || rest.Snapshot.IsZero() {
			continue
		}
		if s := byID[rest.Session]; s != nil {
			s.mu.Lock()
			s.kept = true
			s.mu.Unlock()
		}
	}
}

// ofJob is the life that an allocation's job is named after.
func ofJob(job string) (life, bool) {
	rest, ok := strings.CutPrefix(job, "ses-")
	if !ok {
		return life{}, false
	}
	id, number, more := strings.Cut(rest, "-")
	l := life{"ses_" + id, 1}
	if more {
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return life{}, false
		}
		l.epoch = n
	}
	return l, true
}
