// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// handleVersion is the version of taskState in the handles that Nomad keeps
// for us. A state that a later version of the plugin wrote is not guessed at.
const handleVersion = 1

// taskState is what Nomad keeps of a task for us. It cannot be changed after
// StartTask, so it holds only what stays true for the task's life; what changes
// is read from the kernel.
type taskState struct {
	StartedAt time.Time
	// Config has no Code. It is here because an agent that starts again gives
	// us the handle's TaskConfig without the task's `config` block.
	Config  taskConfig
	Sandbox []byte // Instance.State
}

func decodeState(handle *drivers.TaskHandle) (*taskState, error) {
	if handle.Version != handleVersion {
		return nil, fmt.Errorf("decode task state: version %d, this plugin knows %d", handle.Version, handleVersion)
	}
	var state taskState
	if err := handle.GetDriverState(&state); err != nil {
		return nil, fmt.Errorf("decode task state: %w", err)
	}
	return &state, nil
}

// taskStore is the tasks of this process by their ids.
type taskStore struct {
	mu    sync.RWMutex
	tasks map[string]*taskHandle
}

func (s *taskStore) get(id string) (*taskHandle, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h, ok := s.tasks[id]
	return h, ok
}

func (s *taskStore) set(h *taskHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks == nil {
		s.tasks = make(map[string]*taskHandle)
	}
	s.tasks[h.id] = h
}

func (s *taskStore) delete(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

// all returns the tasks in no order.
func (s *taskStore) all() []*taskHandle {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.tasks))
}

// any says whether there are tasks.
func (s *taskStore) any() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.tasks) > 0
}
