// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// statsTimeout bounds one reading of a sandbox's counters: a few small files.
const statsTimeout = 5 * time.Second

const (
	// restingInterval is the longest time between two looks at what a task uses.
	// Nomad's metrics forget a task after 60 s without one.
	restingInterval = 30 * time.Second
	// restingPart of a core is what a task uses at most that rests: a server without
	// requests has timers.
	restingPart = 0.002
)

// TaskStats delivers what a task uses, at once and then every interval, until
// the task ends or ctx does. A node has a thousand sessions that do nothing: while
// a task rests, so that what it uses hardly changes, each interval is twice as long
// as the one before, up to restingInterval.
func (d *Driver) TaskStats(ctx context.Context, taskID string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	h, ok := d.task(taskID)
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	if interval <= 0 {
		interval = time.Second
	}
	d.mu.Lock()
	meter := newMeter(d.compute)
	d.mu.Unlock()
	usages := make(chan *drivers.TaskResourceUsage)
	go func() {
		defer close(usages)
		pace := pace{interval: interval}
		for h.running() {
			usage, err := h.usage(ctx)
			if err != nil {
				d.logger.Debug("no stats of task", "task_id", taskID, "error", err)
			} else {
				select {
				case usages <- meter.read(usage):
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-time.After(pace.next(usage.CPUUser + usage.CPUSystem)):
			case <-h.done:
			case <-ctx.Done():
				return
			}
		}
	}()
	return usages, nil
}

// pace is how often a task is looked at.
type pace struct {
	interval time.Duration // while it does not rest
	wait     time.Duration // since the last look
	cpu      time.Duration // that it had used then
}

// next is how long to wait after a look at which the task had used cpu.
func (p *pace) next(cpu time.Duration) time.Duration {
	if float64(cpu-p.cpu) > restingPart*float64(p.wait) {
		p.wait = p.interval
	} else {
		p.wait = max(p.interval, min(2*p.wait, restingInterval))
	}
	p.cpu = cpu
	return p.wait
}

func (h *taskHandle) usage(ctx context.Context) (Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	return h.instance.Stats(ctx)
}

// meter turns counters into the rates that Nomad shows.
type meter struct {
	compute             cpustats.Compute
	user, system, total *cpustats.Tracker
}

func newMeter(compute cpustats.Compute) *meter {
	return &meter{
		compute: compute,
		user:    cpustats.New(compute),
		system:  cpustats.New(compute),
		total:   cpustats.New(compute),
	}
}

var (
	measuredCPU    = []string{"System Mode", "User Mode", "Percent", "Throttled Periods", "Throttled Time"}
	measuredTicks  = append([]string{"Total Ticks"}, measuredCPU...)
	measuredMemory = []string{"RSS", "Cache", "Swap", "Usage", "Max Usage"}
)

func (m *meter) read(u Usage) *drivers.TaskResourceUsage {
	cpu := &drivers.CpuStats{
		UserMode:         m.user.Percent(float64(u.CPUUser)),
		SystemMode:       m.system.Percent(float64(u.CPUSystem)),
		Percent:          m.total.Percent(float64(u.CPUUser + u.CPUSystem)),
		ThrottledPeriods: u.ThrottledPeriods,
		ThrottledTime:    uint64(u.Throttled),
		Measured:         measuredCPU,
	}
	if m.compute.NumCores > 0 { // the agent told
		cpu.TotalTicks = m.total.TicksConsumed(cpu.Percent)
		cpu.Measured = measuredTicks
	}
	return &drivers.TaskResourceUsage{
		Timestamp: time.Now().UnixNano(),
		ResourceUsage: &drivers.ResourceUsage{
			CpuStats: cpu,
			MemoryStats: &drivers.MemoryStats{
				RSS:      u.RSS,
				Cache:    u.Cache,
				Swap:     u.Swap,
				Usage:    u.Memory,
				MaxUsage: u.MemoryMax,
				Measured: measuredMemory,
			},
		},
	}
}
