// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/relay"
)

// newAppPool keeps connections to the session's apps for the relay.
func (s *Session) newAppPool() *relay.Pool {
	return &relay.Pool{
		Each: 64, All: previewConnections, For: 90 * time.Second,
		Dial: func(ctx context.Context, p relay.Place) (net.Conn, []byte, error) {
			conn, err := s.box.DialPort(ctx, int(p.Number))
			return conn, nil, err
		},
	}
}

// relayPolicy is what becomes of a plain request that comes to the preview port, once
// the session is somebody's. The handler that preview makes has the others.
func (i *instance) relayPolicy(s *Session, tokens tokens, access driver.Access) relay.Policy {
	label, touch := hostLabel(s.ID), s.life.touch
	return func(c *relay.Conn, r *relay.Request, t *relay.Trip) bool {
		host := door.ParseHost(r.Host)
		frontEnd := r.Is(relay.Token, tokens.have)
		switch {
		case i.slot.vacant(), s.apps.Unfit(),
			r.Host == door.NodeHost, host.Session != "" && host.Session != label, host.Port == 0,
			access == driver.AccessFrontEnd && !frontEnd:
			return false
		}
		leave, err := s.life.use("preview")
		if err != nil {
			return false
		}
		t.Pool, t.Place = s.apps, relay.Place{Number: uint64(host.Port)}
		t.Keep = relay.Plain | relay.Said | relay.ForwardedHost | relay.ForwardedProto
		if frontEnd {
			t.Keep |= relay.ForwardedFor
		} else {
			t.Lines = forwardedLines(t.Lines, c.IP(), r)
		}
		t.Touch, t.Answered = touch, leave
		t.Ended = func(status int) {
			leave()
			if status >= 0 { // else preview's handler has it
				metrics.Previewed(status)
			}
		}
		return true
	}
}

// forwardedLines is forwarded for the relay, of a request that is no front-end's.
func forwardedLines(to []byte, client string, r *relay.Request) []byte {
	to = append(to, "X-Forwarded-For: "...)
	if before := strings.Join(r.Values(relay.ForwardedFor), ", "); before != "" {
		to = append(append(to, before...), ", "...)
	}
	to = append(append(to, client...), "\r\n"...)
	if !r.Has(relay.ForwardedHost) {
		to = append(append(append(to, "X-Forwarded-Host: "...), r.Host...), "\r\n"...)
	}
	if !r.Has(relay.ForwardedProto) {
		to = append(to, "X-Forwarded-Proto: http\r\n"...)
	}
	return to
}
