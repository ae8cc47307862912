// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
)

// create compares the time from nothing to a first result: a session that is
// made and executes, and a Nomad job that is dispatched.
func (m *bench) create() {
	const rounds = 60
	var timing spans
	quarter := m.createToResult("session of 0.25 cores", 0, &timing)
	whole := m.createToResult("session of 1 core", 1, new(spans))
	raw := m.dispatchToResult("raw_exec", "raw_exec", false)
	silent := m.dispatchToResult("raw_exec, logs disabled", "raw_exec", true)

	contenders := []*contender{quarter, whole, raw, silent}
	m.race(2, 1, contenders...)
	for _, c := range contenders {
		c.took = nil
	}
	timing = spans{}

	m.race(rounds, 1, contenders...)
	m.table("Create to first result, one at a time, none in advance", raw, contenders...)
	fmt.Println("  session of 0.25 cores; Server-Timing, p50:", timing.String())
}

func (m *bench) createToResult(name string, cores float64, timing *spans) *contender {
	var s *benchSession
	return &contender{
		name:   name,
		before: m.quiet,
		run: func() (err error) {
			if s, err = m.open(cores, timing); err != nil {
				return err
			}
			return s.execute(timing)
		},
		after: func() error { return m.close(s) },
	}
}

// dispatchToResult runs the module by a dispatch of a parameterized batch job.
// The result comes through a named pipe, and counts once its line is there.
// A session's job has its logs disabled: silent does the same to the peer.
func (m *bench) dispatchToResult(name, driver string, silent bool) *contender {
	id := fmt.Sprintf("bench-%s-%t", driver, silent)
	path := filepath.Join(m.dir, id)
	m.must(unix.Mkfifo(path, 0o666))
	// Open for writing, too, so that it has no end between two dispatches.
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	m.must(err)
	m.b.Cleanup(func() { pipe.Close() })
	lines := bufio.NewReader(pipe)

	m.register(id, driver, silent, fmt.Sprintf("exec %s run %s >%s", m.bun, m.file, path))
	write := new(nomad.WriteOptions).WithContext(m.ctx)
	var dispatched string
	return &contender{
		name:   "dispatch, " + name,
		before: m.quiet,
		run: func() error {
			answer, _, err := m.stack.Nomad.Jobs().Dispatch(id, nil, nil, "", write)
			if err != nil {
				return err
			}
			dispatched = answer.DispatchedJobID
			if err := pipe.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				return err
			}
			line, err := lines.ReadBytes('\n')
			return printed(line, err)
		},
		after: func() error {
			_, _, err := m.stack.Nomad.Jobs().Deregister(dispatched, true, write)
			return err
		},
	}
}

// register registers a parameterized job of one shell command.
func (m *bench) register(id, driver string, silent bool, command string) {
	job := nomad.NewBatchJob(id, id, "global", 50)
	job.Datacenters = []string{"*"}
	job.ParameterizedJob = &nomad.ParameterizedJobConfig{}
	run := nomad.NewTask("run", driver)
	run.Config = map[string]any{"command": "/bin/sh", "args": []string{"-c", command}}
	if silent {
		run.LogConfig = &nomad.LogConfig{Disabled: new(true)}
	}
	job.AddTaskGroup(nomad.NewTaskGroup("run", 1).AddTask(run))
	_, _, err := m.stack.Nomad.Jobs().Register(job, new(nomad.WriteOptions).WithContext(m.ctx))
	m.must(err)
	m.b.Cleanup(func() {
		if _, _, err := m.stack.Nomad.Jobs().Deregister(id, true, nil); err != nil {
			m.b.Error(err)
		}
	})
}
