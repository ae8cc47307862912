// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/client"
)

// spans are the parts of answers by their name in Server-Timing, in ms.
type spans struct {
	order []string
	took  map[string][]float64
}

// note adds the header of an answer, under a prefix.
func (s *spans) note(prefix string, header http.Header) {
	for _, list := range header.Values("Server-Timing") {
		for span := range strings.SplitSeq(list, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(span), ";dur=")
			took, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue // a span without a duration
			}
			name = prefix + name
			if s.took == nil {
				s.took = map[string][]float64{}
			}
			if s.took[name] == nil {
				s.order = append(s.order, name)
			}
			s.took[name] = append(s.took[name], took)
		}
	}
}

// add adds those of another.
func (s *spans) add(o *spans) {
	for _, name := range o.order {
		if s.took == nil {
			s.took = map[string][]float64{}
		}
		if s.took[name] == nil {
			s.order = append(s.order, name)
		}
		s.took[name] = append(s.took[name], o.took[name]...)
	}
}

func (s *spans) String() string {
	var list []string
	for _, name := range s.order {
		slices.Sort(s.took[name])
		list = append(list, fmt.Sprintf("%s %.2f", name, percentile(s.took[name], 50)))
	}
	return strings.Join(list, ", ")
}

// benchSession is a session that a benchmark measures.
type benchSession struct {
	m  *bench
	id string
}

// call wants an answer with status 200, decoded into v if that is not nil.
func (m *bench) call(call client.Call, v any) (http.Header, error) {
	reply, err := m.api.Do(m.ctx, call)
	if err != nil {
		return nil, err
	}
	if reply.Status != http.StatusOK {
		return nil, fmt.Errorf("%s %s: status %d: %s", call.Method, call.Path, reply.Status, reply.Body)
	}
	if v == nil {
		return reply.Header, nil
	}
	if err := json.Unmarshal(reply.Body, v); err != nil {
		return nil, fmt.Errorf("decode answer of %s: %w", call.Path, err)
	}
	return reply.Header, nil
}

// open creates a session; cores 0 is the default of the plan.
func (m *bench) open(cores float64, timing *spans) (*benchSession, error) {
	call := client.Call{Method: "POST", Path: "/sessions/create", JSON: M{}}
	if cores != 0 {
		call.JSON = M{"resourceLimits": M{"cpu": cores}}
	}
	var c created
	header, err := m.call(call, &c)
	if err != nil {
		return nil, err
	}
	timing.note("create:", header)
	return &benchSession{m: m, id: c.SessionID}, nil
}

// session is open for the time of the benchmark.
func (m *bench) session(cores float64) *benchSession {
	s, err := m.open(cores, new(spans))
	m.must(err)
	m.b.Cleanup(func() {
		// The benchmark's own context is over.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		after := *m
		after.ctx = ctx
		if err := after.close(s); err != nil {
			m.b.Error(err)
		}
	})
	return s
}

func (m *bench) close(s *benchSession) error {
	_, err := m.call(client.Call{Method: "DELETE", Path: "/sessions/" + s.id}, nil)
	return err
}

// execute runs the module and checks what comes back.
func (s *benchSession) execute(timing *spans) error {
	r, err := s.run(module, timing)
	if err == nil && (r.Stdout != output || r.ExitCode != 0) {
		err = fmt.Errorf("execution ended with %d: stdout %q, stderr %q", r.ExitCode, r.Stdout, r.Stderr)
	}
	return err
}

func (s *benchSession) run(code string, timing *spans) (execution, error) {
	var r execution
	header, err := s.m.call(client.Call{Method: "POST", Path: "/execute", JSON: M{"sessionId": s.id, "code": code}}, &r)
	timing.note("execute:", header)
	return r, err
}

func (s *benchSession) write(path, content string) error {
	_, err := s.m.call(client.Call{Method: "POST", Path: "/files/write", JSON: M{"sessionId": s.id, "path": path, "content": content}}, nil)
	return err
}

func (s *benchSession) label() string { return strings.Replace(s.id, "_", "-", 1) }

// allocation that the session lives in.
func (s *benchSession) allocation() (*nomad.Allocation, error) {
	q := new(nomad.QueryOptions).WithContext(s.m.ctx)
	list, _, err := s.m.stack.Nomad.Jobs().Allocations(s.label(), true, q)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("session %s has %d allocations", s.id, len(list))
	}
	alloc, _, err := s.m.stack.Nomad.Allocations().Info(list[0].ID, q)
	return alloc, err
}

// pause is quiet time before a measurement.
func (m *bench) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// quiet waits until nothing runs or is being removed of earlier sessions and
// jobs, so that the next measurement does not pay for it.
func (m *bench) quiet() error {
	ctx, cancel := context.WithTimeoutCause(m.ctx, 30*time.Second, errors.New("earlier sessions and jobs are not gone"))
	defer cancel()
	for {
		left, err := m.stack.Leftovers(ctx)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), strings.Join(left, "; "))
		}
	}
}

// runCommand runs a shell's command that has to end well.
func (s *benchSession) runCommand(command string) (execution, error) {
	var r execution
	_, err := s.m.call(client.Call{Method: "POST", Path: "/execute", JSON: M{"sessionId": s.id, "command": command, "timeout": 120}}, &r)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("command %q ended with %d (%s): %s", command, r.ExitCode, r.Reason, r.Stderr)
	}
	return r, err
}
