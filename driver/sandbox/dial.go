// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// dialTimeout bounds a connection to an app in the sandbox. It is local: only
// a full backlog makes it wait at all.
const dialTimeout = 5 * time.Second

// DialPort connects to a TCP port in the sandbox, on whichever of its addresses
// the app is bound to: 127.0.0.1, ::1, or that of its interface.
func (s *Sandbox) DialPort(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout,
		fmt.Errorf("the app on port %d accepted no connection for %s", port, dialTimeout))
	defer cancel()
	return s.class.dial(ctx, s, port)
}

// dialNamespace is DialPort by the sandbox's network namespace.
func (s *Sandbox) dialNamespace(ctx context.Context, port int) (net.Conn, error) {
	hosts := []string{"127.0.0.1", "::1"}
	if a := s.network.Address(); a != (netip.Addr{}) {
		hosts = append(hosts, a.String())
	}
	var err error
	for _, host := range hosts {
		var conn net.Conn
		conn, err = s.network.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, err
}
