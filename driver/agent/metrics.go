// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/restorer"
)

// watched is a freezer whose work is measured.
type watched struct{ freezer }

// Freeze implements freezer.
func (w watched) Freeze(ctx context.Context) error {
	begin := time.Now()
	err := w.freezer.Freeze(ctx)
	metrics.Freezes.Since(begin, err)
	return err
}

// Thaw implements freezer.
func (w watched) Thaw() error {
	begin := time.Now()
	err := w.freezer.Thaw()
	metrics.Thaws.Since(begin, err)
	return err
}

// kindOf is what a task's start is counted as.
func kindOf(task *driver.Task) string {
	switch s := task.Session; {
	case s == nil:
		return metrics.Job
	case s.Epoch > 1:
		return metrics.Wake
	case s.Slot:
		return metrics.Slot
	}
	return metrics.Session
}

// watchRestorer has metrics of a restorer.
func watchRestorer(c *restorer.Config) {
	c.Started = func() { metrics.RestorerStarts.Inc() }
	c.Up = func(up bool) {
		value := 0.0
		if up {
			value = 1
		}
		metrics.RestorerUp.Set(value)
	}
	c.Fetched = func(f restorer.Fetched) { metrics.Fetched(f.OK, f.Failed, f.Bytes, f.Took) }
}

// causes are why a session goes to deep sleep, as metrics have it.
var causes = map[how]string{asked: "request", bySelf: "idle", forced: "stop"}

// slept counts a try to bring a session to deep sleep.
func slept(way how, begin time.Time, err error) {
	interrupted := errors.Is(err, errAwaited) || errors.Is(err, errBusy) || errors.Is(err, errAsleep) || errors.Is(err, errPluginStops)
	metrics.Slept(causes[way], begin, err, interrupted)
}

// ends is why a sandbox has ended, as metrics have it. purpose is of who has ended it.
func (i *instance) ends(e driver.Exit, purpose string) string {
	switch {
	case purpose == slotOver:
		return "slot"
	case purpose == notedOver:
		return "over"
	case purpose != "":
		return purpose
	case e.OOMKilled:
		return "oom"
	case i.task.Session != nil:
		return "died"
	case e.Signal != 0:
		return "killed"
	}
	return "exit"
}

// census tells, when it is asked, what there is on the node.
type census struct{ *Agent }

func described(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("buntime_node_"+name, help, labels, nil)
}

var (
	sandboxesDesc = described("sandboxes", "Sandboxes on the node, by what they are: active and idle sessions, slots, ordinary jobs, and sessions that are not served yet.", "state")
	unsavedDesc   = described("sessions_unsaved", "Sessions whose last snapshot could not be stored, and that keep their workspaces on the node until one can.")
	restoringDesc = described("sessions_restoring", "Sessions that are in use before all of their files have come from the object store.")
	savingDesc    = described("snapshots_running", "Snapshots that nobody waits for and that are taken now.")
	savesDesc     = described("snapshots_running_max", "How many may be at a time.")
	runnersDesc   = described("runners_ready", "Runners that wait for code.")
	spareDesc     = described("runners_spare", "Those of them beyond one in each session.")
	spareMaxDesc  = described("runners_spare_max", "How many of these there may be.")
	totalDesc     = described("memory_size_bytes", "The node's memory.")
	availableDesc = described("memory_available_bytes", "What of it is available to what is started.")
	diskDesc      = described("state_size_bytes", "The size of the file system that has the workspaces.")
	freeDesc      = described("state_available_bytes", "What of it is free.")
)

// Describe implements prometheus.Collector.
func (census) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		sandboxesDesc, unsavedDesc, restoringDesc, savingDesc, savesDesc, runnersDesc, spareDesc, spareMaxDesc,
		totalDesc, availableDesc, diskDesc, freeDesc,
	} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (a census) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	a.mu.Lock()
	all := make([]*instance, 0, len(a.instances))
	for i := range a.instances {
		all = append(all, i)
	}
	a.mu.Unlock()
	now, cancel := context.WithCancel(context.Background())
	cancel() // nothing is waited for
	states := map[string]int{"active": 0, "idle": 0, "slot": 0, "job": 0, "unserved": 0}
	unsaved, restoring, ready := 0, 0, 0
	for _, i := range all {
		state, s := i.counted()
		states[state]++
		if w := i.box.Workspace(); w != nil && w.Complete(now) != nil {
			restoring++
		}
		if s != nil {
			ready += s.runners.waitingNow()
			if s.keeper.failed() {
				unsaved++
			}
		}
	}
	for state, n := range states {
		gauge(sandboxesDesc, float64(n), state)
	}
	gauge(unsavedDesc, float64(unsaved))
	gauge(restoringDesc, float64(restoring))
	gauge(savingDesc, float64(len(a.saves)))
	gauge(savesDesc, float64(cap(a.saves)))
	gauge(runnersDesc, float64(ready))
	gauge(spareDesc, float64(a.stock.spare.Load()))
	gauge(spareMaxDesc, float64(a.stock.most))
	total, available := nodeMemory()
	gauge(totalDesc, float64(total))
	gauge(availableDesc, float64(available))
	var disk unix.Statfs_t
	if unix.Statfs(a.config.StateDir, &disk) == nil {
		gauge(diskDesc, float64(disk.Blocks)*float64(disk.Bsize))
		gauge(freeDesc, float64(disk.Bavail)*float64(disk.Bsize))
	}
}

// counted is what an instance counts as, and its session if that is served.
func (i *instance) counted() (state string, s *Session) {
	switch {
	case i.task.Session == nil:
		return "job", nil
	case i.slot.vacant():
		state = "slot"
	}
	if !i.serving.TryLock() { // it is being opened again, which may take
		return "unserved", nil
	}
	s = i.session
	i.serving.Unlock()
	switch {
	case s == nil:
		return "unserved", nil
	case state != "":
		return state, s
	case s.life.resting():
		return "idle", s
	}
	return "active", s
}

// waitingNow is how many runners wait for code.
func (r *runners) waitingNow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ready)
}

// failed says whether the last try to store a snapshot failed.
func (k *keeper) failed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem != ""
}
