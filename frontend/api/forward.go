// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
	"github.com/buntime/buntime/frontend/timing"
)

// raw is the output of an operation that a node answers.
type raw struct {
	Body func(huma.Context)
}

// call is a request to the node that carries one of the caller's sessions.
type call struct {
	session   string
	execution string // that it begins, if it does
	request   node.Request
	// find finds where it answers; Sessions.Resolve if nil.
	find finder
	// The head of the answer has to be there after within, or the caller is told late.
	// The body takes its time.
	within time.Duration
	late   *frontend.Error
	// before, if not zero, is when it is too late to send it.
	before time.Time
}

// finder finds where an account's session answers.
type finder func(ctx context.Context, account, id string) (*frontend.Session, error)

// answer is a node's answer of which only the head has been read. One of its methods
// has to be called.
type answer struct {
	*http.Response
	ctx    context.Context
	cancel context.CancelCauseFunc
	leave  context.Context // done when the front-end is to end
}

// forward sends a request to the node that carries one of the caller's
// sessions, and makes the node's answer the caller's.
func (s *Server) forward(ctx context.Context, c call) (*raw, error) {
	a, err := s.call(ctx, c)
	if err != nil {
		return nil, err
	}
	return a.pass(), nil
}

// call is forward without the way back. Its errors are as the caller is to be told
// them, but for frontend.ErrAsleep, which comes back as it is.
func (s *Server) call(ctx context.Context, c call) (*answer, error) {
	about(ctx, c.session, c.execution)
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.within, func() { cancel(c.late) })
	defer timer.Stop()
	if c.find == nil {
		c.find = s.Sessions.Resolve
	}
	res, err := s.send(ctx, c) //nolint:bodyclose // who gets the answer closes it
	if err != nil {
		if !errors.Is(err, frontend.ErrAsleep) {
			err = told(ctx, err)
		}
		cancel(nil)
		return nil, err
	}
	return &answer{res, ctx, cancel, s.leaving.ctx}, nil
}

// pass makes the answer that of the caller, with more headers: names and values.
func (a *answer) pass(headers ...string) *raw {
	return &raw{func(hc huma.Context) {
		defer a.cancel(nil)
		for i := 0; i+1 < len(headers); i += 2 {
			hc.SetHeader(headers[i], headers[i+1])
		}
		_, w := humago.Unwrap(hc)
		defer context.AfterFunc(a.leave, func() { a.cancel(errLeaving) })()
		relay(a.ctx, w, a.Response)
	}}
}

// drop lets go of an answer that nobody gets.
func (a *answer) drop() {
	a.Body.Close()
	a.cancel(nil)
}

// How long to wait before trying a node again: it may be the instant between
// a claim and the node listening, or the seconds of a restart.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// send sends a request. A node that is not there is tried again for NodeWait, at the
// place that the record names by then. A request that may have been done is not sent
// a second time, unless that is harmless; its error is unsure.
func (s *Server) send(ctx context.Context, c call) (*http.Response, error) {
	begin := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		sess, err := c.find(ctx, caller(ctx).Account, c.session)
		if err != nil {
			return nil, err
		}
		if !c.before.IsZero() && s.Sessions.Now().After(c.before) {
			return nil, frontend.Unavailable("the session was not there in time; try again")
		}
		res, err := s.once(ctx, sess, c.request)
		if err == nil {
			return res, nil
		}
		silent := errors.Is(err, frontend.ErrSilent)
		lost := silent || errors.Is(err, node.ErrLost)
		again := errors.Is(err, node.ErrUnreachable) || errors.Is(err, node.ErrMoved) || lost && c.request.Method == http.MethodGet
		if !again && !lost {
			return nil, &unsure{err}
		}
		used := c.request.Stream != nil && c.request.Stream.Used()
		s.Sessions.Forget(c.session)
		if again {
			if merr := s.Sessions.Moved(ctx, sess); merr != nil {
				return nil, merr
			}
		}
		if again && used { // nothing was done, and it cannot be sent from here
			return nil, fmt.Errorf("%w; %w", frontend.Unavailable("the session moved while the request was on its way; try again"), err)
		}
		// Of a silent node it is known that it is no use to wait any longer.
		if !again || !silent && time.Since(begin)+pause > s.NodeWait {
			return nil, noNode(lost, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// once sends a request once.
func (s *Server) once(ctx context.Context, sess *frontend.Session, r node.Request) (*http.Response, error) {
	ctx, stop := timing.Span(ctx, "node", tracing.Session.String(sess.ID))
	defer stop()
	attended, answered := s.Sessions.Attend(ctx, sess)
	defer answered()
	return s.Node.Do(attended, sess, r)
}

// unsure is an error after a request was sent, so that it may have been done.
type unsure struct{ error }

func (u *unsure) Unwrap() error { return u.error }

// noNode is what a client is told whose session's node does not answer.
func noNode(lost bool, err error) error {
	if lost {
		e := frontend.Unsure("the connection to the session broke after the request was sent; it may or may not have been done")
		return &unsure{fmt.Errorf("%w; %w", e, err)}
	}
	return fmt.Errorf("%w; %w", frontend.Unavailable("the session's node does not answer at the moment; try again"), err)
}
