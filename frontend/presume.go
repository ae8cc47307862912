// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"

	"github.com/buntime/buntime/frontend/timing"
)

// Presumed is a session that is presumed to be where it was.
type Presumed struct {
	*Session
	service *Service
	// confirmed is nil where there is no doubt, and else has the record, or why there
	// is none.
	confirmed chan confirmation
	found     bool
}

type confirmation struct {
	session *Session
	err     error
}

// Presume is Resolve for a request that takes longer than the store to tell where the
// session answers. Of one that this front-end has used lately it asks the store
// meanwhile: Confirm has to be called before anything is said of what came of the
// request. A node that does not carry the session refuses it by itself, and what was
// done in one that is deleted at the same time goes with it.
func (s *Service) Presume(ctx context.Context, account, id string) (*Presumed, error) {
	now := s.Now()
	if s.cache.get(id, now) == nil {
		if old := s.cache.within(id, now, presumeFor); old != nil && old.Account == account && old.Placed() && !old.Expired(now) {
			confirmed := make(chan confirmation, 1)
			s.background.Go(func() {
				sess, err := s.readUntimed(context.WithoutCancel(ctx), id)
				c := confirmation{sess, err}
				if c.refutes(old) != nil {
					s.Forget(id)
				}
				confirmed <- c
			})
			return &Presumed{Session: old, service: s, confirmed: confirmed}, nil
		}
	}
	sess, err := s.Resolve(ctx, account, id)
	if err != nil {
		return nil, err
	}
	return &Presumed{Session: sess, service: s}, nil
}

// ErrPresumed says that a session was not where it was presumed to be.
var ErrPresumed = errors.New("the session has moved meanwhile")

// refutes says why the presumption that a session is where it was is wrong, if it is:
// there is none any more, or it is in another life. In the same one it can only be in
// one place, also where that has not been noted yet, or it has come to rest since.
// Where the store cannot be reached, nobody can have deleted it either.
func (c confirmation) refutes(presumed *Session) error {
	if c.err == nil && c.session.Epoch != presumed.Epoch {
		return ErrPresumed
	}
	if e, ok := errors.AsType[*Error](c.err); ok && e.Code == CodeSessionNotFound {
		return c.err
	}
	return nil
}

// Find is Resolve that believes the presumption the first time. Who asks again has seen
// that it was wrong.
func (p *Presumed) Find(ctx context.Context, account, id string) (*Session, error) {
	if !p.found {
		p.found = true
		return p.Session, nil
	}
	p.confirmed = nil
	return p.service.Resolve(ctx, account, id)
}

// Confirm says whether what Find told last was so. It is to be called once.
func (p *Presumed) Confirm(ctx context.Context) error {
	if p.confirmed == nil {
		return nil
	}
	defer timing.Start(ctx, "kv")()
	select {
	case c := <-p.confirmed:
		return c.refutes(p.Session)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
