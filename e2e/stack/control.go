// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// parts are all programs that the stack has started or would start, in the order
// of their end: front-ends first, so that they make no new sessions.
func (s *Stack) parts() []*Part {
	var parts []*Part
	for _, f := range s.Frontends {
		parts = append(parts, &f.Part)
	}
	for _, c := range s.Clients {
		parts = append(parts, &c.Agent)
	}
	return append(parts, &s.NomadServer, &s.ConsulServer)
}

// Pids of the parts that run: "consul", "nomad-server", "nomad-client",
// "front-end" and "plugin", and with "-1" and so on after their names those of
// further clients and front-ends.
func (s *Stack) Pids() (map[string]int, error) {
	pids := map[string]int{}
	for _, p := range s.parts() {
		if p.Alive() {
			pids[p.name] = p.process.pid()
		}
	}
	for _, c := range s.Clients {
		plugin, err := c.plugin()
		if err != nil {
			return nil, err
		}
		if plugin != 0 {
			pids["plugin"+suffix(c.number)] = plugin
		}
	}
	return pids, nil
}

// Stop ends all jobs and waits until they are gone, then ends the servers and
// removes the directory. It removes what was left over all the same, but says
// in the error what that was.
func (s *Stack) Stop(ctx context.Context) error {
	var errs []error
	for _, c := range s.Clients {
		errs = append(errs, c.Resume())
	}
	for _, p := range []*Part{&s.NomadServer, &s.ConsulServer} {
		errs = append(errs, p.Resume())
	}
	ends := s.parts()
	for _, f := range s.Frontends {
		errs = append(errs, f.stop(ctx))
	}
	if s.NomadServer.Alive() {
		errs = append(errs, s.purge(ctx))
	}
	for _, p := range ends[len(s.Frontends):] {
		errs = append(errs, p.stop(ctx))
	}
	errs = append(errs, s.stopSwift())

	found := s.debris()
	items, err := found.find()
	// A process of the plugin whose agent ended while it started it ends when it sees that.
	for deadline := time.Now().Add(leavePatience); err == nil && len(items) > 0 && time.Now().Before(deadline); {
		time.Sleep(leavePause)
		items, err = found.find()
	}
	errs = append(errs, err)
	if left := texts(items); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left over:\n\t%s", strings.Join(left, "\n\t")))
	}
	if err := found.remove(ctx); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, s.block.forget())
	}
	s.block.release()
	return errors.Join(errs...)
}

const (
	leavePatience = 12 * time.Second // what the plugin gives itself, and a look
	leavePause    = 50 * time.Millisecond
)

// Wait returns when ctx is done, or with an error as soon as a part ends that
// nobody has stopped.
func (s *Stack) Wait(ctx context.Context) error {
	dead := make(chan *process)
	over, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, p := range s.parts() {
		go func() {
			select {
			case <-p.process.exited:
			case <-over.Done():
				return
			}
			select {
			case dead <- p.process:
			case <-over.Done():
			}
		}()
	}
	select {
	case p := <-dead:
		return fmt.Errorf("%w; end of its log:\n%s", p.err, p.tail())
	case <-ctx.Done():
		return nil
	}
}

// Use has the parts that start from now on run the programs of another build: what
// Options.Out is at first.
func (s *Stack) Use(ctx context.Context, out string) error {
	tools, err := findTools(ctx, out)
	if err != nil {
		return err
	}
	s.tools = tools
	for _, c := range s.Clients {
		if _, err := c.write(tools.runsc); err != nil {
			return err
		}
	}
	return nil
}
