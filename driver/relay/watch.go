// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"context"
	"sync"
	"time"
)

// late is when an answer is waited for with more effort. Most are there by then, and have
// cost neither a goroutine nor a timer.
const late = 20 * time.Millisecond

// watch looks, while a request is under way for long, whether its client is still there
// and whether who answers is.
type watch struct {
	conn *Conn

	mu    sync.Mutex
	timer *time.Timer // one for many requests: it is set anew only when it has fired
	set   bool
	turn  uint64
	begun time.Time     // of the request under way; zero: none is
	gone  chan struct{} // closed when the look at the client has ended; nil: nobody looks

	attend   func(context.Context) (context.Context, func())
	answered func() // ends attend's
}

// begin says that a request is under way.
func (w *watch) begin(now time.Time, turn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.turn = now, turn
	if w.set {
		return
	}
	w.set = true
	if w.timer == nil {
		w.timer = time.AfterFunc(late, w.fire)
	} else {
		w.timer.Reset(late)
	}
}

func (w *watch) fire() {
	w.mu.Lock()
	w.set = false
	if w.begun.IsZero() || w.gone != nil {
		w.mu.Unlock()
		return
	}
	if left := late - time.Since(w.begun); left > 0 {
		w.set = true
		w.timer.Reset(left)
		w.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	w.gone = ended
	turn := w.turn
	w.startAttending()
	w.mu.Unlock()
	defer close(ended)
	if w.conn.client.awaitEnd() == nil {
		w.conn.abandon(turn, context.Canceled)
	}
}

// sent says that the request has gone to who answers it.
func (w *watch) sent(attend func(context.Context) (context.Context, func())) {
	if attend == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attend = attend
	if w.gone != nil {
		w.startAttending()
	}
}

// startAttending is called with mu held.
func (w *watch) startAttending() {
	if w.attend == nil || w.answered != nil {
		return
	}
	ctx, answered := w.attend(w.conn.ctx)
	turn := w.turn
	stop := context.AfterFunc(ctx, func() { w.conn.abandon(turn, context.Cause(ctx)) })
	w.answered = func() {
		stop()
		answered()
	}
}

// settled says that an answer begins, or never will.
func (w *watch) settled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attend = nil
	if w.answered != nil {
		w.answered()
		w.answered = nil
	}
}

// end says that no request is under way. Nobody looks at the client when it returns.
func (w *watch) end() {
	w.mu.Lock()
	w.begun = time.Time{}
	looking := w.gone
	w.mu.Unlock()
	if looking == nil {
		return
	}
	_ = w.conn.tcp.SetReadDeadline(time.Unix(1, 0)) // fails on a closed connection, which nobody looks at
	<-looking
	w.conn.readBy = time.Time{}
	_ = w.conn.tcp.SetReadDeadline(time.Time{})
	w.mu.Lock()
	w.gone = nil
	w.mu.Unlock()
}

// stop is end for the last time.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
