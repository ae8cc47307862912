// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"iter"

	"github.com/buntime/buntime/driver/claim"
)

// Store holds the session records and shows the nodes' claims. Every method
// may be called from any goroutine, ends with its context, and returns an
// error that is ErrUnavailable when the store does not answer.
type Store interface {
	// Create stores a new record and its index entry, both or none, and sets
	// its Version. ErrExists if the id is taken.
	Create(ctx context.Context, s *Session) error
	// Get reads a record. ErrNotFound if there is none.
	Get(ctx context.Context, id string) (*Session, error)
	// Update stores a record if its Version is still the stored one, and sets
	// the new Version, which is the old one where nothing else is new.
	// ErrConflict if not, also if the record is gone.
	Update(ctx context.Context, s *Session) error
	// Delete removes a record and its index entry if its Version is still the
	// stored one. ErrConflict if not, also if the record is gone.
	Delete(ctx context.Context, s *Session) error
	// Account lists an account's sessions, in no order.
	Account(ctx context.Context, account string) ([]Entry, error)
	// GetMany reads the records of ids in their order, leaving out the missing.
	GetMany(ctx context.Context, ids []string) ([]*Session, error)
	// All reads every record whose id begins like that.
	All(ctx context.Context, beginning string) ([]*Session, error)

	// Claim reads the claim for an epoch of a session. ErrNotFound if there is none.
	Claim(ctx context.Context, id string, epoch uint64) (claim.Claim, error)
	// WaitClaim returns the claim for an epoch of a session, as soon as there
	// is one. since, if not 0, is a Version of the record before which there
	// was surely none: it saves looking first.
	WaitClaim(ctx context.Context, id string, epoch, since uint64) (claim.Claim, error)
	// Traces lists, each once, the ids that begin like that of the sessions of which
	// nodes have written anything: claims, notes of snapshots, the key to them.
	Traces(ctx context.Context, beginning string) ([]string, error)
	// Prune removes what the epochs of a session before one have left of claims and
	// of notes, but for the note of the last snapshot among these and what came
	// after it: that snapshot may be all there is.
	Prune(ctx context.Context, id string, before uint64) error
	// DropClaims removes all claims of a session, what its nodes have noted of its
	// snapshots, and the key to them. No error if there are none.
	DropClaims(ctx context.Context, id string) error

	// Rest reads what the node of an epoch has noted of the session's workspace.
	// ErrNotFound if it has noted nothing.
	Rest(ctx context.Context, id string, epoch uint64) (claim.Rest, error)
	// Seal ends an epoch for good and returns what counts of it: what the node had
	// noted before, which may be that the session sleeps. Nothing can be noted after.
	Seal(ctx context.Context, id string, epoch uint64) (claim.Rest, error)
	// Kept says whether there is a snapshot of a session from any epoch.
	Kept(ctx context.Context, id string) (bool, error)

	SlotStore
	Receipts

	// Ready says whether the store answers and takes writes.
	Ready(ctx context.Context) error
}

// Scheduler runs one job for each awake life of a session. The rules for Store hold
// here too.
type Scheduler interface {
	// Start registers the job of the session's epoch. ErrExists if there is one.
	Start(ctx context.Context, s *Session) error
	// StartSlot registers the job of a slot. ErrExists if there is one.
	StartSlot(ctx context.Context, s *Slot) error
	// JobVersion names all that jobs are made from but the sessions' own values:
	// another one makes other jobs.
	JobVersion() string
	// Stop removes the job of a session's epoch and everything it runs. No error if
	// there is none.
	Stop(ctx context.Context, id string, epoch uint64) error
	// StopAll removes the jobs of all epochs of a session.
	StopAll(ctx context.Context, id string) error
	// Jobs lists the jobs of all sessions.
	Jobs(ctx context.Context) ([]Job, error)
	// Lost says whether nothing more will come of what the job of a session's epoch
	// runs, as far as the scheduler knows: it has ended, or its node is away. A task
	// that was told to stop and is still saving is not lost. ErrNotFound if the
	// scheduler knows nothing of such a job: it never was, or it was purged, and what
	// it ran may be at it still.
	Lost(ctx context.Context, id string, epoch uint64) (bool, error)
	// Draining lists the nodes that are to be emptied, and a number to ask again with.
	// With that of an earlier answer it waits until there may be another, at most some
	// minutes; with 0 it answers at once.
	Draining(ctx context.Context, since uint64) (nodes []string, next uint64, err error)
	// Nodes lists the nodes that there are for sessions, and a number to ask again
	// with, as Draining does.
	Nodes(ctx context.Context, since uint64) (nodes []NodeState, next uint64, err error)
	// Places lists the jobs of sessions and slots that run, and where.
	Places(ctx context.Context) ([]Place, error)
	// Full says whether the scheduler has found no room for the job of a session's
	// epoch.
	Full(ctx context.Context, id string, epoch uint64) (bool, error)
	// On lists the jobs that run on a node.
	On(ctx context.Context, node string) ([]Job, error)
	// Explain says in words why the job of a session's epoch has not started, for
	// the log.
	Explain(ctx context.Context, id string, epoch uint64) string
	// Ready says whether the scheduler answers.
	Ready(ctx context.Context) error
}

// Objects is where snapshots of sessions are.
type Objects interface {
	// Remove removes all that there is of a session.
	Remove(ctx context.Context, id string) error
	// Sessions yields the ids that begin like that of the sessions that it has
	// something of.
	Sessions(ctx context.Context, beginning string) iter.Seq2[string, error]
}

// Job is the job of a session's epoch.
type Job struct {
	Session string // the session's id
	Epoch   uint64
	Dead    bool // its task is over, or was told to end
}

// NodeState is what the scheduler knows of a node.
type NodeState struct {
	ID, Name, Address string
	// Status is the scheduler's word, and Problem the driver's if it is not Healthy.
	Status, Problem             string
	Draining, Eligible, Healthy bool
	// Up: what runs there can be reached, and may stay.
	Up bool
	// Takes: more may be placed there.
	Takes bool
}

// Node asks the node agent that carries a session.
type Node interface {
	// Info asks about a session. It is no activity and wakes nothing.
	Info(ctx context.Context, s *Session) (Info, error)
	// Alive asks whether the node carries a session at all. It is no activity and wakes
	// nothing.
	Alive(ctx context.Context, s *Session) error
	// Sleep brings a session to the state idle or deep-sleep. While somebody uses it
	// that is an Error of CodeSessionBusy, unless force.
	Sleep(ctx context.Context, s *Session, state State, force bool) error
	// Prepared returns once a slot's node can do at once what is asked of a session.
	Prepared(ctx context.Context, s *Session) error
	// Begin tells the node of a slot that it is a session from now on. An error says
	// that it may not be one there.
	Begin(ctx context.Context, s *Session) error
	// Extend has the node look in a session's record when it ends, and returns once
	// all that is stored of the session lasts as long.
	Extend(ctx context.Context, s *Session) error
	// End has the node of a session that has no record any more let nobody in, and end
	// what runs.
	End(ctx context.Context, s *Session) error
}
