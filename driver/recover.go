// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// RecoverTask finds a task again after a restart of the agent or the plugin.
// An error would make Nomad start the task anew in place, past its restart
// policy. So whatever is wrong, the task is recovered, and if it cannot be
// found it is one that has ended: WaitTask says how.
func (d *Driver) RecoverTask(handle *drivers.TaskHandle) error {
	if handle == nil || handle.Config == nil {
		return errors.New("recover task: no handle")
	}
	d.agents.recovering()
	cfg := handle.Config
	if _, ok := d.task(cfg.ID); ok {
		return nil
	}
	h, err := d.find(handle)
	if err != nil {
		d.logger.Error("task is lost", "task_id", cfg.ID, "error", err)
		d.emit(cfg, "Sandbox is lost: "+err.Error())
		h = newTaskHandle(cfg, nil, time.Time{}, nil)
		h.end(Exit{Code: -1, Err: fmt.Errorf("task is lost: %w", err)})
		h.asked.Store(true)
		d.tasks.set(h)
		return nil
	}
	h.asked.Store(true)
	d.follow(h)
	return nil
}

// find asks the Runtime for the sandbox of a task.
func (d *Driver) find(handle *drivers.TaskHandle) (*taskHandle, error) {
	state, err := decodeState(handle)
	if err != nil {
		return nil, err
	}
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	runtime, err := d.runtimeOf()
	if err != nil {
		return nil, err
	}
	task := newTask(handle.Config, &state.Config, config)
	if task.Session != nil {
		claims, err := d.claimsOf()
		if err != nil {
			return nil, err
		}
		task.Rests = claims.Rests(task.Session.ID)
	}
	ctx, cancel := context.WithTimeoutCause(d.ctx, recoverTimeout,
		fmt.Errorf("sandbox not found within %s", recoverTimeout))
	defer cancel()
	instance, err := runtime.Recover(ctx, task, state.Sandbox)
	if err != nil {
		return nil, fmt.Errorf("recover sandbox: %w", err)
	}
	return newTaskHandle(handle.Config, task.Session, state.StartedAt, instance), nil
}
