// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/e2e/swift"
)

// Store is a Swift of the stack's own, which a test can end, stop and start again,
// and the proxy that front-ends and plugins reach it through, which spoils what
// passes where a test says so.
type Store struct {
	*swift.Server
	Proxy *swift.Proxy
}

// startSwift starts the store, if it is to be a Swift.
func (s *Stack) startSwift(ctx context.Context) error {
	server, err := swift.Start(ctx, filepath.Join(s.Dir, "swift"))
	if err != nil {
		return err
	}
	s.Swift = &Store{Server: server}
	if s.Swift.Proxy, err = swift.NewProxy(server); err != nil {
		return fmt.Errorf("start proxy of Swift: %w", err)
	}
	return nil
}

func (s *Stack) stopSwift() error {
	if s.Swift == nil {
		return nil
	}
	if s.Swift.Proxy != nil {
		if err := s.Swift.Proxy.Close(); err != nil {
			return fmt.Errorf("close proxy of Swift: %w", err)
		}
	}
	return s.Swift.Stop()
}

// store is where snapshots of sessions go, as front-ends and plugins have to know it.
func (s *Stack) store() backend.Config {
	if s.Swift == nil {
		return backend.Config{Dir: filepath.Join(s.Dir, "store")}
	}
	return backend.Config{Swift: &backend.Swift{
		AuthURL: s.Swift.Proxy.AuthURL(), User: s.Swift.User(), Key: s.Swift.Key(), Container: "sessions",
	}}
}
