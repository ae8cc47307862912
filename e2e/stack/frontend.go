// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"syscall"
)

// Frontend is one of the front-ends, which is ready when it says so.
type Frontend struct {
	Part
	// URL is the front-end's, without a final slash.
	URL string
	// PreviewDomain is the domain of the previews, with this front-end's port.
	PreviewDomain string

	listen string
	config string // path
}

// newFrontend makes the front-end of a number.
func (s *Stack) newFrontend(n int) (*Frontend, error) {
	port, err := s.block.port()
	if err != nil {
		return nil, err
	}
	listen := loopback(port)
	if n == 0 && s.options.Listen != "" {
		listen = s.options.Listen
	}
	_, given, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("split address %q: %w", listen, err)
	}
	scheme := s.scheme()
	if tls, given := s.options.Frontend["tls"]; given && tls == nil {
		scheme = "http://"
	}
	domain := "localhost"
	if s.Secured != nil {
		domain = securedDomain
	}
	f := &Frontend{
		listen: listen,
		Part:   Part{name: "front-end" + suffix(n), end: syscall.SIGTERM},
		URL:    scheme + listen, PreviewDomain: domain + ":" + given,
	}
	if f.config, err = s.writeFrontend(f); err != nil {
		return nil, err
	}
	f.start = func(context.Context) (*process, error) {
		// A variable, of which front-ends of before it was one take no notice.
		delay := "BUNTIME_FRONTEND_SHUTDOWN_DELAY=" + s.options.ShutdownDelay.String()
		return s.spawn(f.name, []string{delay}, s.tools.frontend, "-config", f.config)
	}
	f.ready = func(ctx context.Context) error {
		_, err := s.get(ctx, f.URL+"/readyz")
		return err
	}
	return f, nil
}

// writeFrontend writes a front-end's configuration.
func (s *Stack) writeFrontend(f *Frontend) (path string, err error) {
	config := map[string]any{
		"listen":         f.listen,
		"base_url":       f.URL,
		"preview_domain": f.PreviewDomain,
		"nomad":          map[string]any{"address": s.NomadAddr},
		"consul":         map[string]any{"address": s.ConsulAddr},
		"node_secret":    s.NodeSecret,
		"keys":           s.Keys,
		"store":          s.store(),
		"audit":          filepath.Join(s.Dir, f.name+".audit"),
		// Tests count what runs on the machine: nothing does that nobody asked for.
		"pool": map[string]any{"off": true},
	}
	if s.Secured != nil {
		s.Secured.secureFrontend(config)
	}
	maps.Copy(config, s.options.Frontend)
	return s.writeJSON(f.name+".json", config)
}
