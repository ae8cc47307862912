// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/claim"
)

// State is where a session is in its life.
type State string

// The states of a session. Starting is shown to clients as active.
const (
	StateStarting  State = "starting" // a job is registered, or about to be; no claim is known
	StateActive    State = "active"
	StateIdle      State = "idle"
	StateDeepSleep State = "deep-sleep"
)

// Public is the state as clients see it.
func (s State) Public() State {
	if s == StateStarting {
		return StateActive
	}
	return s
}

// Limits are what a session may use.
type Limits struct {
	Memory  int     `json:"memory" doc:"Memory in MB."`
	CPU     float64 `json:"cpu" doc:"CPU in cores."`
	Timeout int     `json:"timeout" doc:"Time in seconds after which an execution that names none is killed."`
	Disk    int     `json:"disk" doc:"Size of the workspace in MB."`
}

// DefaultLimits are those of a session whose maker asked for nothing, on every plan.
var DefaultLimits = Limits{Memory: 1024, CPU: 0.25, Timeout: 30, Disk: 1024}

// Session is a session's record: all that is known about it while it lives,
// asleep or awake. A record that was read is never changed in place; its copy
// is, and goes back by compare-and-swap.
type Session struct {
	ID      string `json:"id"`
	Account string `json:"account"`
	Plan    string `json:"plan"`
	State   State  `json:"state"`
	// Since is when State was entered.
	Since time.Time `json:"since"`
	// Epoch counts the awake lives, from 1.
	Epoch uint64 `json:"epoch"`
	// Claim is the allocation that carries the session, and where it answers.
	// It counts only if it is of this Epoch.
	Claim      claim.Claim     `json:"claim,omitzero"`
	Limits     Limits          `json:"limits"`
	Created    time.Time       `json:"created"`
	Expires    time.Time       `json:"expires"`
	LastActive time.Time       `json:"lastActive"`
	Metadata   json.RawMessage `json:"metadata"`
	// Receipt is the name of the receipt of the request that created the session, if
	// it had one.
	Receipt string `json:"receipt,omitempty"`

	// Files, Checkpoint and Lost are of the last time that the session came to deep
	// sleep: how many files its workspace had, the moment that it is of, and whether
	// what came after that moment was lost with a node.
	Files      int       `json:"files,omitempty"`
	Checkpoint time.Time `json:"checkpoint,omitzero"`
	Lost       bool      `json:"lost,omitempty"`

	// Failures counts the lives in a row, up to the last, of which nothing came: no
	// node took the session, or none could restore it.
	Failures int `json:"failures,omitempty"`

	// Version is the Store's, for compare-and-swap: 0 is a record not stored yet.
	Version uint64 `json:"-"`
	// Avoid are nodes that could not start it, of which others are to be preferred.
	Avoid []string `json:"-"`
	// Told is what its node has told of it; only lists ask, and nil is no answer.
	Told *Info `json:"-"`
}

// Placed says whether it is known where the session answers.
func (s *Session) Placed() bool { return s.Claim.API != "" && s.Claim.Epoch == s.Epoch }

// durability is what its node tells of a session's durability, nil if it does not,
// with what only the record knows: how the lives before ended. What was lost stays
// lost for as long as a life lasts that began without it.
func (s *Session) durability(told *Durability) *Durability {
	if told == nil && s.State != StateDeepSleep && !s.Lost && s.Checkpoint.IsZero() {
		return nil // its first life
	}
	d := Durability{Dirty: s.State != StateDeepSleep} // as long as nobody knows, nothing is safe
	if told != nil {
		d = *told
	}
	d.Lost = d.Lost || s.Lost
	if d.LastCheckpoint == "" && !s.Checkpoint.IsZero() {
		d.LastCheckpoint = s.Checkpoint.UTC().Format(time.RFC3339)
	}
	return &d
}

// Expired says whether the session's time is over.
func (s *Session) Expired(now time.Time) bool { return !now.Before(s.Expires) }

// Entry is the session's entry in its account's index, for a Store to keep.
func (s *Session) Entry() Entry {
	return Entry{ID: s.ID, Created: s.Created, Expires: s.Expires, New: s.State == StateStarting && s.Epoch == firstEpoch}
}

// placed is a copy of the record with a claim.
func (s *Session) placed(c claim.Claim, now time.Time) *Session {
	n := *s
	n.Claim, n.State, n.Since = c, StateActive, now
	return &n
}

// anew is a session like this one, which could not be on a node, under another id.
func (s *Session) anew(now time.Time, node string) *Session {
	n := *s
	n.ID, n.Version, n.Since = NewID(), 0, now
	n.Avoid = append(slices.Clone(s.Avoid), node)
	return &n
}

// firstEpoch is the epoch of a session's first awake life.
const firstEpoch = 1

// Info is what the node agent knows about a session that is awake.
type Info struct {
	State           State     `json:"state"`
	LastActive      time.Time `json:"lastActive"`
	FilesCount      int       `json:"filesCount"`
	ActiveProcesses int       `json:"activeProcesses"`
	Usage           Usage     `json:"usage"`
	AwakeBecause    []string  `json:"awakeBecause"`
	// NextTransition is nil where the node has not told.
	NextTransition *Transition `json:"nextTransition"`
	Durability     *Durability `json:"durability"`
}

// Durability says what of a session would survive its node.
type Durability struct {
	LastCheckpoint string `json:"lastCheckpoint,omitempty" format:"date-time" doc:"The moment of the last snapshot; left out where there is none."`
	Dirty          bool   `json:"dirty" doc:"Whether the workspace has changed since."`
	Lost           bool   `json:"lost,omitempty" doc:"Whether what came after the last checkpoint was lost with a node."`
	Problem        string `json:"problem,omitempty" doc:"Why the last try to store a snapshot failed."`
}

// Transition is a change of state that comes by itself, if nothing happens before.
type Transition struct {
	To string    `json:"to" enum:"idle,deep-sleep,expired"`
	At time.Time `json:"at"`
}

// Usage is what a session uses now, and has used of CPU.
type Usage struct {
	Memory  int64   `json:"memory" doc:"Memory in bytes."`
	Disk    int64   `json:"disk" doc:"Disk in bytes."`
	CPUTime float64 `json:"cpuTime" doc:"CPU time in milliseconds."`
}

// Entry is a session in its account's index: enough to count and sort.
type Entry struct {
	ID      string    `json:"-"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// New says that the session has never been known to run. Should its maker
	// have died, it may be that nobody was ever told of it.
	New bool `json:"new,omitzero"`
	// Order is the Store's order of creation. Those that were stored at once have the
	// same.
	Order uint64 `json:"-"`
}

// compare is by the order of creation, in which everybody sees the entries.
func (e Entry) compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.Order, o.Order), cmp.Compare(e.ID, o.ID))
}

const (
	idPrefix    = "ses_"
	labelPrefix = "ses-"
	idLength    = 20 // characters after the prefix: 103 bits
	idLongest   = 64 // of what can be a known id at all: a host label has 63
)

// ValidID says whether a text has the form of a session id. Any other text
// names no session and must not become a part of a key.
func ValidID(id string) bool {
	rest, ok := strings.CutPrefix(id, idPrefix)
	return ok && rest != "" && len(id) <= idLongest && strings.Trim(rest, idAlphabet) == ""
}

// Label is the session id as a host label, which takes no underscore.
func Label(id string) string { return labelPrefix + strings.TrimPrefix(id, idPrefix) }

// JobID is the id of the job of a session's epoch. No two lives share one, so that
// a late stop of one cannot hit the next: Nomad has no compare-and-swap for that.
func JobID(id string, epoch uint64) string {
	if epoch <= firstEpoch {
		return Label(id)
	}
	return Label(id) + "-" + strconv.FormatUint(epoch, 10)
}

// FromLabel is the session id that a host label stands for; the form
// with an underscore is taken too. It is "" if the label is no session's.
func FromLabel(label string) string {
	rest, ok := strings.CutPrefix(label, labelPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(label, idPrefix)
	}
	if id := idPrefix + rest; ok && ValidID(id) {
		return id
	}
	return ""
}
