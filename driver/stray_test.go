// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sync/errgroup"
)

// TestStrays: what an agent has started and none has ever asked about ends some time after
// the next has come; not what is asked about, nor what that one has started itself.
func TestStrays(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		const after = 200 * time.Millisecond
		p := newPlugin(t, r, nil)
		p.driver.Hasten(after, after/10)
		stray, known := p.task(t, sleeper, nil), p.task(t, sleeper, nil)
		for _, cfg := range []*drivers.TaskConfig{stray, known} {
			p.start(t, cfg)
		}
		_, err := p.Impl().WaitTask(t.Context(), known.ID)
		must.NoError(t, err)

		time.Sleep(3 * after) // nothing to wait for: nothing may happen
		must.True(t, p.driver.Knows(stray.ID), must.Sprint("it ended with no agent there"))
		agent, leave := context.WithCancel(t.Context())
		defer leave()
		_, err = p.Impl().Fingerprint(agent)
		must.NoError(t, err)
		late := p.task(t, sleeper, nil) // of which this agent may ask yet
		p.start(t, late)
		eventually(t, "the stray is gone", func() bool { return !p.driver.Knows(stray.ID) })
		time.Sleep(3 * after)
		must.True(t, p.driver.Knows(late.ID))
		status, err := p.Impl().InspectTask(known.ID)
		must.NoError(t, err)
		must.Eq(t, drivers.TaskStateRunning, status.State)
	})
}

// TestStartAgain: an agent that is killed before it has noted a task starts it again
// under another id. There is one of it then, and it works.
func TestStartAgain(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		first := p.task(t, sleeper, nil)
		p.start(t, first)
		again := func() *drivers.TaskConfig {
			cfg := *first
			cfg.ID = cfg.AllocID + "/web/" + uuid.Short()
			p.tasks = append(p.tasks, cfg.ID)
			return &cfg
		}
		// The start before may not be over yet.
		all := []*drivers.TaskConfig{first, again(), again()}
		var group errgroup.Group
		for _, cfg := range all[1:] {
			group.Go(func() error {
				_, _, err := p.StartTask(cfg)
				return err
			})
		}
		must.NoError(t, group.Wait())
		running := 0
		for _, cfg := range all {
			if p.driver.Knows(cfg.ID) {
				status, err := p.Impl().InspectTask(cfg.ID)
				must.NoError(t, err)
				must.Eq(t, drivers.TaskStateRunning, status.State)
				running++
			}
		}
		must.Eq(t, 1, running)
		must.False(t, p.driver.Knows(first.ID))
	})
}
