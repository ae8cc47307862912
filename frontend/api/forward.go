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

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
	"github.com/buntime/buntime/frontend/timing"
)

// raw is the output of an operation that a node answers.
type raw struct {
	Body func(huma.Context)
}

// forward sends a request to the node that carries one of the caller's
// sessions, and makes the node's answer the caller's. The head of the answer
// has to be there after d, or the caller is told late; the body takes its time.
func (s *Server) forward(ctx context.Context, d time.Duration, late *frontend.Error, id string, r node.Request) (*raw, error) {
	return s.forwardTo(ctx, s.Sessions.Resolve, d, late, id, r)
}

// finder finds where an account's session answers.
type finder func(ctx context.Context, account, id string) (*frontend.Session, error)

// forwardTo is forward to where find says. Its frontend.ErrAsleep comes back as it is.
func (s *Server) forwardTo(ctx context.Context, find finder, d time.Duration, late *frontend.Error, id string, r node.Request) (*raw, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d, func() { cancel(late) })
	defer timer.Stop()
	res, err := s.send(ctx, find, id, r) //nolint:bodyclose // relay closes it
	if err != nil {
		if !errors.Is(err, frontend.ErrAsleep) {
			err = told(ctx, err)
		}
		cancel(nil)
		return nil, err
	}
	return &raw{func(hc huma.Context) {
		defer cancel(nil)
		_, w := humago.Unwrap(hc)
		relay(ctx, w, res)
	}}, nil
}

// How long to wait before trying a node again: it may be the instant between
// a claim and the node listening, or the seconds of a restart.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// send is forward without the way back. A node that is not there is tried
// again for NodeWait, at the place that the record names by then. A request
// that may have been done is not sent a second time, unless that is harmless.
func (s *Server) send(ctx context.Context, find finder, id string, r node.Request) (*http.Response, error) {
	begin := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		sess, err := find(ctx, caller(ctx).Account, id)
		if err != nil {
			return nil, err
		}
		stop := timing.Start(ctx, "node")
		attended, answered := s.Sessions.Attend(ctx, sess)
		res, err := s.Node.Do(attended, sess, r)
		answered()
		stop()
		if err == nil {
			return res, nil
		}
		silent := errors.Is(err, frontend.ErrSilent)
		lost := silent || errors.Is(err, node.ErrLost)
		again := errors.Is(err, node.ErrUnreachable) || errors.Is(err, node.ErrMoved) || lost && r.Method == http.MethodGet
		if !again && !lost {
			return nil, err
		}
		s.Sessions.Forget(id)
		if again {
			if merr := s.Sessions.Moved(ctx, sess); merr != nil {
				return nil, merr
			}
		}
		// Of a silent node it is known that it is no use to wait any longer.
		if !again || !silent && time.Since(begin)+pause > s.NodeWait {
			return nil, fmt.Errorf("%w; %w", noNode(lost), err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// noNode is what a client is told whose session's node does not answer.
func noNode(lost bool) error {
	if lost {
		return frontend.Unavailable("the connection to the session broke after the request was sent; it may or may not have been done")
	}
	return frontend.Unavailable("the session's node does not answer at the moment; try again")
}
