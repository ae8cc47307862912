// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver/relay"
	"github.com/buntime/buntime/driver/sandbox"
)

// SessionConfig is what the driver knows of a session when its task starts.
type SessionConfig struct {
	ID    string
	Epoch uint64
	Alloc string
	// API and Preview are the host:port addresses to serve on.
	API, Preview string
	// MemoryLimit is in bytes, for the message of an execution that ran over it.
	MemoryLimit int64
}

// keepEnded is how many ended executions stay in memory; older ones are read
// from the journal.
const keepEnded = 32

// keepOutput bounds, in bytes, what those hold of their output: it is memory of
// the plugin's, so outside of the session's limit. The newest is always kept.
const keepOutput = 8 << 20

// Session is one awake session: its sandbox, its executions and the listeners
// it is reached through.
type Session struct {
	SessionConfig
	log     hclog.Logger
	box     *sandbox.Sandbox
	files   *files
	guest   guestHost
	runners *runners
	journal *history
	writes  *writes
	life    *life
	keeper  *keeper
	// archives has one in it for each archive that is made or unpacked, allArchives for
	// each on the node.
	archives, allArchives chan struct{}
	// terminals has one in it for each terminal.
	terminals chan struct{}
	limit     int64 // bytes of each stream in an answer
	// looking is how many executions awaitListening looks at.
	looking atomic.Int32

	ctx    context.Context // ends with the session on this node
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	mu         sync.Mutex
	executions map[string]*execution // by execution id
	// beginning has the ids of executions that are about to be there, or to fail.
	beginning map[string]chan struct{}
	ended     []string  // ids of ended ones, oldest first
	ranLast   []Process // when the processes stood still last
	open      map[*terminal]struct{}

	servers []server
	apps    *relay.Pool // connections to the apps
}

// errEnded is the cause with which everything of a session is cancelled.
var errEnded = errors.New("the session has ended on this node")

// goDo runs f as the session's own: Close waits for it.
func (s *Session) goDo(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	s.tasks.Go(f)
}

// add makes e known under its id, unless there is one already: then that one
// is returned.
func (s *Session) add(e *execution) (known *execution, added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.executions[e.ExecutionID]; ok {
		return old, false
	}
	s.executions[e.ExecutionID] = e
	return e, true
}

// find returns a live or recent execution.
func (s *Session) find(id string) (*execution, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.executions[id]
	return e, ok
}

// all returns the executions in memory.
func (s *Session) all() []*execution {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.executions))
}

// live returns the executions that have processes.
func (s *Session) live() []*execution {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*execution, 0, len(s.executions))
	for _, e := range s.executions {
		if !e.released {
			out = append(out, e)
		}
	}
	return out
}

// retire moves e among the ended ones and forgets the oldest.
func (s *Session) retire(e *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, e.ExecutionID)
	var held int64
	for _, id := range s.ended {
		if old := s.executions[id]; old != nil {
			held += old.memory()
		}
	}
	for i := 0; (len(s.ended) > keepEnded || held > keepOutput) && i < len(s.ended)-1; {
		if old := s.executions[s.ended[i]]; old != nil {
			if !old.released {
				i++ // has processes yet
				continue
			}
			held -= old.memory()
		}
		delete(s.executions, s.ended[i])
		s.ended = slices.Delete(s.ended, i, i+1)
	}
}

// forget takes e back that never started.
func (s *Session) forget(e *execution) {
	s.writes.end(e.written)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.executions, e.ExecutionID)
}

// remove ends what is in an execution's cgroup and removes it.
func (s *Session) remove(g sandbox.Unit) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(s.ctx), killTimeout, errors.New("processes outlived SIGKILL"))
	defer cancel()
	err := g.Kill(ctx)
	if err == nil {
		err = g.Remove(ctx)
	}
	if err != nil && s.ctx.Err() == nil {
		s.log.Warn("could not remove the cgroup of an execution", "error", err)
	}
}

// releaseEmpty lets go of the cgroup of an ended execution once the processes
// that it left behind are gone too.
func (s *Session) releaseEmpty(e *execution) {
	if len(s.pids(e)) > 0 {
		return
	}
	s.mu.Lock()
	released := e.released
	e.released = true
	s.mu.Unlock()
	if released {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), killTimeout)
	defer cancel()
	if err := e.group.Remove(ctx); err != nil {
		s.logOf(e).Warn("could not remove the cgroup of an execution", "error", err)
	}
}

// tidyEvery is how often the executions are looked at whose first process is
// gone but not all of their processes.
const tidyEvery = 5 * time.Second

// tidy lets go of what such executions held.
func (s *Session) tidy() {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	trimmed := time.Now()
	var looked time.Time
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		rested := s.life.restedSince()
		if !rested.IsZero() && rested.Equal(looked) {
			continue // there is nothing new
		}
		looked = rested
		for _, e := range s.live() {
			if !e.running() {
				s.releaseEmpty(e)
			}
		}
		if time.Since(trimmed) >= trimEvery && s.trim() {
			trimmed = time.Now()
		}
	}
}

const (
	// trimFrom is how many bytes of the node's disk a workspace may hold beside
	// what its files take before it gives them back, trimEvery how often it may
	// have to: what was just freed is often used again.
	trimFrom  = 64 << 20
	trimEvery = 30 * time.Second
)

// trim gives what was deleted in the workspace back to the node's disk, if that
// is worth it.
func (s *Session) trim() bool {
	w := s.box.Workspace()
	u, err := w.Usage()
	if err != nil || u.Allocated < u.Used+trimFrom {
		return false
	}
	if _, err := w.Trim(); err != nil {
		s.log.Warn("could not give freed space back to the node's disk", "error", err)
	}
	return true
}

// leaveTimeout is what answers that are on their way have when the session has left
// the node.
const leaveTimeout = 500 * time.Millisecond

// close ends what serves the session in this process. Executions stay.
func (s *Session) close(cause error) {
	s.life.close()
	s.runners.close()
	if s.life.gone() {
		// Who came in the meantime is told where to look.
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		var all sync.WaitGroup
		for _, srv := range s.servers {
			all.Go(func() { _ = srv.http.Shutdown(ctx) }) // what outlasts it is cut off below
		}
		all.Wait()
		cancel()
	}
	s.mu.Lock()
	s.cancel(cause)
	s.mu.Unlock()
	for _, srv := range s.servers {
		srv.http.Close()
		<-srv.done
	}
	s.apps.Close()
	s.writes.close()
	s.tasks.Wait()
	s.files.root.Close()
}

// Info is what a node tells of a session.
type Info struct {
	Session         string   `json:"session"`
	Epoch           uint64   `json:"epoch"`
	Alloc           string   `json:"alloc"`
	State           string   `json:"state"`
	LastActive      string   `json:"lastActive"`
	ExpiresAt       string   `json:"expiresAt,omitempty"`
	FilesCount      int      `json:"filesCount"`
	ActiveProcesses int      `json:"activeProcesses"`
	Usage           Usage    `json:"usage"`
	AwakeBecause    []string `json:"awakeBecause"`
	// NextTransition is nil where none will come by itself.
	NextTransition *Transition `json:"nextTransition,omitempty"`
	Durability     Durability  `json:"durability"`
}

// Usage is what a session holds now: bytes of memory and disk, and the
// milliseconds of CPU time of its awake life.
type Usage struct {
	Memory  int64 `json:"memory"`
	Disk    int64 `json:"disk"`
	CPUTime int64 `json:"cpuTime"`
}

// Info looks at the session without counting as activity.
func (s *Session) Info(ctx context.Context) (Info, error) {
	n, err := s.files.count(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("count files: %w", err)
	}
	state, last, reasons, next := s.life.look()
	info := Info{
		Session: s.ID, Epoch: s.Epoch, Alloc: s.Alloc, State: state, LastActive: timestamp(last),
		FilesCount: n, ActiveProcesses: s.countProcesses(), AwakeBecause: reasons, NextTransition: next,
		Durability: s.keeper.durability(),
	}
	if expires := s.life.end(); !expires.IsZero() {
		info.ExpiresAt = timestamp(expires)
	}
	if st, err := s.box.Group().Stats(); err == nil {
		info.Usage.Memory = int64(st.MemoryUsage)
		info.Usage.CPUTime = milliseconds(st.CPU)
	}
	if u, err := s.box.Workspace().Usage(); err == nil {
		info.Usage.Disk = int64(u.Used)
	}
	return info, nil
}
