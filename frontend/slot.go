// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"time"

	"github.com/buntime/buntime/driver/claim"
)

// Shape is what of a session's limits its allocation is made with: slots of one shape
// are as good as each other.
type Shape struct {
	Memory int     `json:"memory"` // MB
	CPU    float64 `json:"cpu"`    // cores
	Disk   int     `json:"disk"`   // MB
}

// Shape is that of sessions with these limits.
func (l Limits) Shape() Shape { return Shape{Memory: l.Memory, CPU: l.CPU, Disk: l.Disk} }

// Slot is an allocation that runs, or is about to, and belongs to nobody yet. The
// session that it becomes has its id, and epoch 1 in it: nobody knows the id before.
// There is either a Slot of an id or a Session, never both.
type Slot struct {
	ID    string `json:"id"`
	Shape Shape  `json:"shape"`
	// Job is the Scheduler's JobVersion that it was started with.
	Job  string    `json:"job"`
	Made time.Time `json:"made"`
	// Ends is when it is too old to be taken. Its node ends it a little later, if
	// nobody has by then.
	Ends time.Time `json:"ends"`
	// Claim is where it answers; zero while it is not ready to be taken.
	Claim claim.Claim `json:"claim,omitzero"`

	// Version is the Store's, for compare-and-swap.
	Version uint64 `json:"-"`
	// Node is where it would be best, if that is known; where it came to stands in Claim.
	Node string `json:"-"`
}

// Ready says whether it can be taken, for all that its record tells.
func (s *Slot) Ready() bool { return s.Claim.API != "" }

// session is the slot as a session that nobody has, for a Node to be asked about it.
func (s *Slot) session() *Session {
	return &Session{ID: s.ID, Epoch: firstEpoch, Claim: s.Claim, Expires: s.Ends}
}

// MaxTakes is how many slots can be taken in one call of a Store: each is some
// operations of a transaction, which may have 64 in Consul.
const MaxTakes = 12

// Take is a slot that is to become a session, and what came of it.
type Take struct {
	Slot    *Slot
	Session *Session
	// Entries lists the sessions of the session's account, this one among them, as
	// Account does, at some moment not before it was stored. Others may have the list too.
	Entries []Entry
	// Err is ErrConflict if the slot's Version is not the stored one, also if the slot
	// is gone. With another nobody knows what was done.
	Err error
}

// SlotStore is the part of a Store that holds the slots.
type SlotStore interface {
	// AddSlot stores a new slot and sets its Version. ErrExists if there is one.
	AddSlot(ctx context.Context, s *Slot) error
	// UpdateSlot stores a slot if its Version is still the stored one, and sets the
	// new Version. ErrConflict if not, also if the slot is gone.
	UpdateSlot(ctx context.Context, s *Slot) error
	// DropSlot removes a slot if its Version is still the stored one. ErrConflict if
	// not, also if the slot is gone.
	DropSlot(ctx context.Context, s *Slot) error
	// TakeSlots turns at most MaxTakes slots into sessions. Of each it stores the new
	// record and its index entry, as Create does, and removes the slot, all of it or
	// nothing; one that cannot be had does not hinder the others. What came of each is
	// in its Take.
	TakeSlots(ctx context.Context, takes []*Take)
	// Slots lists all slots, and a number to ask again with: no change up to that
	// Version is missing. With the number of an earlier answer it waits until there
	// may be another, at most some minutes; with 0 it answers at once.
	Slots(ctx context.Context, since uint64) (slots []*Slot, next uint64, err error)

	// PutReport stores what a front-end tells, over what it told before.
	PutReport(ctx context.Context, frontend string, r Report) error
	// Reports lists what the front-ends have told, by front-end.
	Reports(ctx context.Context) (map[string]Report, error)
	// DropReport removes that of a front-end. No error if there is none.
	DropReport(ctx context.Context, frontend string) error
}
