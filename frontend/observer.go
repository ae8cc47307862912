// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Observer is told what becomes of sessions, for the operator. Its methods must not block:
// requests wait for them.
type Observer interface {
	// Created is told of each create: what it came from, how long it took, how it ended.
	Created(from string, took time.Duration, result Outcome)
	// Woke is told of each wake from deep sleep that was tried.
	Woke(took time.Duration, result Outcome)
	// MadeSlot is told of each slot that was to be made.
	MadeSlot(took time.Duration, result Outcome)
	// Ended is told why a session has ended.
	Ended(why string)
	// FellBack is told of each session that lost its node and falls back to its last
	// checkpoint.
	FellBack()
	// Reaped is told of each round of the reaper.
	Reaped(err error)
}

// What a session is created from.
const (
	FromSlot = "slot"
	FromJob  = "job"
	FromNone = "none" // it came to nothing before that was known
)

// Why sessions end.
const (
	EndDeleted    = "deleted"
	EndExpired    = "expired"
	EndNotStarted = "not_started"
	EndLost       = "lost" // with its node, and nothing to fall back on
)

// endOf is why a session ends that the reaper ends.
func endOf(why string) string {
	switch why {
	case overdueTime:
		return EndExpired
	case overdueStart:
		return EndNotStarted
	}
	return EndLost
}

// Outcome is how something ended.
type Outcome string

// The outcomes.
const (
	OutcomeOK Outcome = "ok"
	// OutcomeRefused: the caller may not have it, or has gone.
	OutcomeRefused Outcome = "refused"
	OutcomeError   Outcome = "error"
)

// outcome is that of what was done for a caller.
func outcome(ctx context.Context, err error) Outcome {
	if err == nil {
		return OutcomeOK
	}
	e, ok := errors.AsType[*Error](err)
	if ok && e.Code.Status() < http.StatusInternalServerError && e.Code != CodeRequestTimeout || errors.Is(context.Cause(ctx), context.Canceled) {
		return OutcomeRefused
	}
	return OutcomeError
}

// nobody is an Observer that does not look.
type nobody struct{}

func (nobody) Created(string, time.Duration, Outcome) {}
func (nobody) Woke(time.Duration, Outcome)            {}
func (nobody) MadeSlot(time.Duration, Outcome)        {}
func (nobody) Ended(string)                           {}
func (nobody) FellBack()                              {}
func (nobody) Reaped(error)                           {}
