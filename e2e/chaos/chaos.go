// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package chaos uses many sessions of a system at random while the system's parts
// die, hang and misbehave one after the other, and then looks whether what the
// system has promised is true: no write that was acknowledged is lost without a
// word, no session lives twice, nothing of a deleted one is left, and no request is
// answered in a way that the API does not have.
//
// What is done follows from a seed. When it is done depends on the machine, so that
// a seed is the same storm, but no exact repetition.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// Options of a run.
type Options struct {
	Seed uint64
	// Time is how long sessions are used and faults come. What is before and after
	// that takes a minute or two.
	Time time.Duration
	// Sessions and Workers are how many sessions there are at a time, and how many
	// use them.
	Sessions, Workers int
	// Faults, if not empty, are the only kinds of faults that come.
	Faults []string
	// Log, if not empty, is a file for the whole of all parts' logs.
	Log string
	// Progress is told what goes on. Default: nobody.
	Progress func(format string, args ...any)
}

// What the system is set to, so that much happens in little time.
const (
	idleAfter       = time.Second
	sleepAfter      = 4 * time.Second
	checkpointEvery = time.Second
	heartbeat       = 2 * time.Second
	// answersWithin is how long after a fault is over every session has to answer, or be
	// gone, as one is a minute after it was made on a node that was dead by then.
	answersWithin = 75 * time.Second
	// cleanWithin is what nothing without an owner outlives, and a look at it: a minute,
	// and three for a task that no agent has noted.
	cleanWithin = 4 * time.Minute
)

// run is one run.
type run struct {
	Options
	*stack.Stack
	ctx   context.Context
	begin time.Time
	apis  []*client.Client // by front-end

	witness *witness
	faults  *injector
	tally   *tally
	known   *contents

	mu     sync.Mutex
	alive  []*session
	graves []*session // deleted, or gone with their node
	made   int
}

// Run starts a system, does all that and ends it. The error is for what keeps it from
// a verdict; violations are in the report.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	r := &run{Options: o, ctx: ctx, begin: time.Now(), known: newContents()}
	r.tally = newTally(r)
	if r.Stack, err = stack.Start(ctx, stack.Options{
		Clients: 2, Frontends: 2, Swift: true, Heartbeat: heartbeat,
		IdleAfter: idleAfter, SleepAfter: sleepAfter, CheckpointEvery: checkpointEvery,
		Keys:     []stack.Key{{Key: stack.NewKey(), Account: "chaos", Plan: "enterprise", Limits: map[string]any{"requests": 1_000_000, "sessions": 1000}}},
		Frontend: map[string]any{"reap_interval": "1s", "shutdown_timeout": "2s"},
	}); err != nil {
		return nil, err
	}
	for _, f := range r.Frontends {
		r.apis = append(r.apis, client.New(f.URL, r.Keys[0].Key))
	}
	r.witness, r.faults = newWitness(r), newInjector(r)
	err = r.phases()
	logs := r.logs()
	if o.Log != "" {
		err = errors.Join(err, r.keepLogs())
	}
	if serr := r.end(); serr != nil {
		r.tally.violate(nil, "the system's end: %v", serr)
	}
	report := r.tally.report()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s%s", err, report, logs)
	}
	if len(report.Violations) > 0 {
		report.Logs = logs
	}
	return report, nil
}

// end stops the system, also when the run has no time left.
func (r *run) end() error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(r.ctx), 3*time.Minute, errors.New("the system is still there after 3 minutes"))
	defer cancel()
	return r.Stop(ctx)
}

// keepLogs copies the parts' logs, which go with the system.
func (r *run) keepLogs() error {
	file, err := os.Create(r.Log)
	if err != nil {
		return err
	}
	return errors.Join(r.CopyLogs(file), file.Close())
}

// phases are what a run consists of.
func (r *run) phases() error {
	before, err := r.resources()
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(r.ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.witness.watch(watching) })
	watch.Go(func() { r.witness.sample(watching) })
	defer watch.Wait()
	defer stop()

	if err := r.storm(); err != nil {
		return err
	}
	r.Progress("%s all parts are up; looking at every session", r.elapsed())
	r.survivors()
	r.Progress("%s deleting all", r.elapsed())
	r.deleteAll()
	r.nothingLeft()
	return r.notGrown(before)
}

// storm uses sessions and breaks parts, until the time is over and all parts are up.
func (r *run) storm() error {
	working, stop := context.WithTimeout(r.ctx, r.Time)
	defer stop()
	var work sync.WaitGroup
	for n := range r.Workers {
		w := &worker{run: r, rand: r.dice(uint64(n) + 1), number: n}
		work.Go(func() { w.work(working) })
	}
	err := r.faults.inject(working)
	if err != nil {
		stop()
	}
	work.Wait()
	return err
}

// dice are random numbers that follow from the seed.
func (r *run) dice(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(r.Seed, stream)) }

func (r *run) elapsed() string { return fmt.Sprintf("%6.1fs", time.Since(r.begin).Seconds()) }

// wait waits. false: the context ended first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
