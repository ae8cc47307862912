// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"fmt"
	"testing"
)

// BenchmarkExecution is what an execution costs beside the processes in it.
func BenchmarkExecution(b *testing.B) {
	g := newTestGroup(b, Limits{})
	i := 0
	for b.Loop() {
		i++
		e, err := g.NewExecution(fmt.Sprint("e", i))
		if err != nil {
			b.Fatal(err)
		}
		files, err := e.JoinFiles(1 << 28)
		if err != nil {
			b.Fatal(err)
		}
		closeAll(files)
		if _, err := e.Stats(); err != nil {
			b.Fatal(err)
		}
		if err := e.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := e.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGroup is what a sandbox costs.
func BenchmarkGroup(b *testing.B) {
	limits := Limits{Memory: 1 << 30, CPUs: 0.25, CPUShares: 100, Pids: 4096}
	i := 0
	for b.Loop() {
		i++
		g, err := New(OwnScope(fmt.Sprintf("bench-%d", i)), limits)
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
