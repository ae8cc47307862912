// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// execute compares an execution through the API with starting Bun by hand.
func (m *bench) execute() {
	m.executeWithPauses()
	m.executeTen()
	m.executeInARow()
}

// executeWithPauses gives everybody a quiet machine: a session makes a new
// runner when one is used, and its neighbours in the table are not to pay.
func (m *bench) executeWithPauses() {
	const rounds = 200
	const pause = 50 * time.Millisecond
	s := m.session(0)
	m.must(s.write("module.ts", module))
	alloc, err := s.allocation()
	m.must(err)

	var timing spans
	quiet := func() error { return m.pause(pause) }
	api := &contender{name: "POST /execute", before: quiet, run: func() error { return s.execute(&timing) }}
	bare := m.bareBun(quiet)
	cli := &contender{name: "nomad alloc exec, command", before: quiet, run: func() error {
		cmd := exec.CommandContext(m.ctx, m.agent, "alloc", "exec", "-address="+m.stack.NomadAddr, "-i=false", "-t=false",
			"-task="+task, alloc.ID, "bun", "run", "/workspace/module.ts")
		return printed(cmd.CombinedOutput())
	}}
	socket := &contender{name: "nomad alloc exec, API", before: quiet, run: func() error { return m.allocExec(alloc) }}
	m.race(3, 1, api, bare, cli, socket) // connections, page cache
	for _, c := range []*contender{api, bare, cli, socket} {
		c.took = nil
	}
	timing = spans{}

	m.race(rounds, 1, api, bare, cli, socket)
	m.table(fmt.Sprintf("Execute, %v of quiet before each", pause), bare, api, bare, cli, socket)
	note("session of 0.25 cores; Server-Timing, p50: " + timing.String())
}

// executeTen is a sequence such as agents make, by the position in it: after the first
// of all, the session has a runner for each. The pause is for used ones to be replaced.
func (m *bench) executeTen() {
	const rounds, batch = 40, 10
	const pause = 300 * time.Millisecond
	s := m.session(0)
	pauses := func() func() error {
		n := -1
		return func() error {
			if n++; n%batch > 0 {
				return nil
			}
			return m.pause(pause)
		}
	}
	var timing spans
	api := &contender{name: "POST /execute", before: pauses(), run: func() error { return s.execute(&timing) }}
	bare := m.bareBun(pauses())
	m.race(1, batch, api, bare) // from which the session learns how many follow each other
	api.took, bare.took, timing = nil, nil, spans{}
	m.race(rounds, batch, api, bare)
	rows := make([]*contender, batch, batch+1)
	for i := range rows {
		rows[i] = &contender{name: fmt.Sprintf("POST /execute, the %d.", i+1)}
		for k := i; k < len(api.took); k += batch {
			rows[i].took = append(rows[i].took, api.took[k])
		}
	}
	m.table(fmt.Sprintf("Execute, %d in a row, %v of quiet before them", batch, pause), bare, append(rows, bare)...)
	fmt.Println("  session of 0.25 cores; Server-Timing, p50:", timing.String())
}

// executeInARow asks for more than a session has runners ready.
func (m *bench) executeInARow() {
	const rounds, batch = 20, 20
	s := m.session(1)
	var timing spans
	api := &contender{name: "POST /execute", run: func() error { return s.execute(&timing) }}
	bare := m.bareBun(nil)
	m.must(s.execute(new(spans)))
	m.race(rounds, batch, api, bare)
	m.table(fmt.Sprintf("Execute, %d in a row without a pause", batch), bare, api, bare)
	note("session of 1 core; Server-Timing, p50: " + timing.String())
}

// task is the name of the task in a session's job.
const task = "session"

// bareBun is Bun on the host, without limits, until it has ended.
func (m *bench) bareBun(before func() error) *contender {
	return &contender{name: "bun run", before: before, run: func() error {
		return printed(exec.CommandContext(m.ctx, m.bun, "run", m.file).CombinedOutput())
	}}
}

// printed checks what a command has printed.
func printed(text []byte, err error) error {
	if err != nil || string(text) != output {
		return fmt.Errorf("printed %q, error %w", text, err)
	}
	return nil
}

// allocExec is what `nomad alloc exec` does, without the start of a process.
func (m *bench) allocExec(alloc *nomad.Allocation) error {
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code, err := m.stack.Nomad.Allocations().Exec(ctx, alloc, task, false, []string{"bun", "run", "/workspace/module.ts"},
		bytes.NewReader(nil), &stdout, &stderr, nil, nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, stderr.Bytes())
	}
	if err != nil {
		return err
	}
	return printed(stdout.Bytes(), nil)
}
