// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"maps"
	"net"
)

// startFrontend starts the front-end and waits until it says that it is ready.
func (s *Stack) startFrontend(ctx context.Context) error {
	listen := s.options.Listen
	if listen == "" {
		listen = loopback(s.ports.frontend)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("split address %q: %w", listen, err)
	}
	s.URL = "http://" + listen
	s.PreviewDomain = "localhost:" + port
	config := map[string]any{
		"listen":         listen,
		"base_url":       s.URL,
		"preview_domain": s.PreviewDomain,
		"nomad":          map[string]any{"address": s.NomadAddr},
		"consul":         map[string]any{"address": s.ConsulAddr},
		"node_secret":    s.NodeSecret,
		"keys":           s.Keys,
		"store":          map[string]any{"dir": s.storeDir()},
	}
	maps.Copy(config, s.options.Frontend)
	if _, err := s.writeJSON(frontendConfig, config); err != nil {
		return err
	}
	return s.runFrontend(ctx)
}

// frontendConfig is the name of the front-end's configuration file.
const frontendConfig = "front-end.json"

func (s *Stack) runFrontend(ctx context.Context) error {
	var err error
	if s.frontend, err = s.spawn("front-end", s.tools.frontend, "-config", frontendConfig); err != nil {
		return err
	}
	return s.frontend.until(ctx, func(ctx context.Context) error {
		_, err := get(ctx, s.URL+"/readyz")
		return err
	})
}
