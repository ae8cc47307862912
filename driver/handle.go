// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sync/singleflight"
)

// errNotRunning is the answer to what needs a running task.
var errNotRunning = errors.New("task is not running")

// taskHandle is a task that this process knows: started by it, or recovered.
type taskHandle struct {
	id, name  string
	place     string    // allocation and task
	wanted    time.Time // when StartTask came; zero if the task was recovered
	session   *Session  // nil for an ordinary job
	startedAt time.Time
	asked     atomic.Bool // by Nomad, about it
	// instance is nil only for a task that could not be recovered; done is
	// closed then from the start.
	instance Instance
	// stopping joins repeated StopTask calls to the one that is under way.
	stopping singleflight.Group

	// done is closed once result and completedAt are set for good.
	done        chan struct{}
	once        sync.Once
	result      *drivers.ExitResult
	completedAt time.Time
}

func newTaskHandle(cfg *drivers.TaskConfig, session *Session, startedAt time.Time, instance Instance) *taskHandle {
	return &taskHandle{
		id:        cfg.ID,
		name:      cfg.Name,
		place:     placeOf(cfg),
		session:   session,
		startedAt: startedAt,
		instance:  instance,
		done:      make(chan struct{}),
	}
}

// run follows the sandbox until it ends or ctx, the plugin's, does.
func (h *taskHandle) run(ctx context.Context) {
	exit, err := h.instance.Wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		exit = Exit{Code: -1, Err: err}
	}
	h.end(exit)
}

// end records how the task ended; the first call counts.
func (h *taskHandle) end(exit Exit) {
	h.once.Do(func() {
		h.result = &drivers.ExitResult{
			ExitCode:  exit.Code,
			Signal:    exit.Signal,
			OOMKilled: exit.OOMKilled,
			Err:       exit.Err,
		}
		h.completedAt = exit.At
		if exit.At.IsZero() {
			h.completedAt = time.Now()
		}
		close(h.done)
	})
}

func (h *taskHandle) running() bool {
	select {
	case <-h.done:
		return false
	default:
		return true
	}
}

// status is the answer to InspectTask.
func (h *taskHandle) status() *drivers.TaskStatus {
	status := &drivers.TaskStatus{
		ID:               h.id,
		Name:             h.name,
		State:            drivers.TaskStateRunning,
		StartedAt:        h.startedAt,
		ExitResult:       &drivers.ExitResult{},
		DriverAttributes: map[string]string{},
	}
	if h.session != nil {
		status.DriverAttributes["session"] = h.session.ID
		status.DriverAttributes["epoch"] = strconv.FormatUint(h.session.Epoch, 10)
	}
	if !h.running() {
		status.State = drivers.TaskStateExited
		status.ExitResult = h.result.Copy()
		status.CompletedAt = h.completedAt
	}
	return status
}
