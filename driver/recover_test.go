// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestRecoverLive(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newProcess(t, r)
		cfg := p.task(t, sleeper, nil)
		handle := kept(t, p.start(t, cfg))
		_, err := p.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "echo here > /tmp/mark"}, 5*time.Second)
		must.NoError(t, err)
		started, err := p.InspectTask(cfg.ID)
		must.NoError(t, err)

		p.restart(t)
		must.NoError(t, p.RecoverTask(handle))
		must.NoError(t, p.RecoverTask(handle)) // an agent restart without the plugin's
		status, err := p.InspectTask(cfg.ID)
		must.NoError(t, err)
		must.Eq(t, drivers.TaskStateRunning, status.State)
		must.Eq(t, started.StartedAt, status.StartedAt)
		result, err := p.ExecTask(cfg.ID, []string{"/bin/cat", "/tmp/mark"}, 5*time.Second)
		must.NoError(t, err)
		must.Eq(t, "here\n", string(result.Stdout)) // the same sandbox

		must.NoError(t, p.StopTask(cfg.ID, 10*time.Second, "SIGTERM"))
		must.Eq(t, 15, p.result(t, cfg.ID).Signal)
		must.NoError(t, p.DestroyTask(cfg.ID, false))
	})
}

func TestRecoverDead(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newProcess(t, r)
		cfg := p.task(t, exiter, nil)
		handle := kept(t, p.start(t, cfg))
		must.Eq(t, 3, p.result(t, cfg.ID).ExitCode)

		p.restart(t)
		must.NoError(t, p.RecoverTask(handle))
		must.Eq(t, &drivers.ExitResult{ExitCode: 3}, p.result(t, cfg.ID))
		must.NoError(t, p.StopTask(cfg.ID, time.Second, ""))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
	})
}

// TestRecoverDiedMeanwhile has the task end while there is no plugin.
func TestRecoverDiedMeanwhile(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newProcess(t, r)
		cfg := p.task(t, waiter, nil)
		handle := kept(t, p.start(t, cfg))
		ready(t, cfg)
		pids := processesOf(cfg)
		must.SliceNotEmpty(t, pids)
		p.restart(t)
		must.NoError(t, os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "end"), nil, 0o644))
		eventually(t, "sandbox has ended", func() bool {
			return !slices.ContainsFunc(pids, func(pid int) bool { return unix.Kill(pid, 0) == nil })
		})
		must.NoError(t, p.RecoverTask(handle))
		must.Eq(t, &drivers.ExitResult{ExitCode: 6}, p.result(t, cfg.ID))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
	})
}

// TestRecoverSameTask checks that a Runtime is told the same at recovery as at
// start, of which Nomad has not kept all.
func TestRecoverSameTask(t *testing.T) {
	_, url := newKV(t)
	for name, config := range map[string]map[string]any{
		"script":  {"script": "local/main.sh", "args": []string{"a", "b"}, "cpu_cores": 0.5, "pids_max": 99, "disk": 77, "files_max": 555},
		"code":    {"code": "exec sleep 1000"},
		"session": {"session": map[string]any{"id": testSession, "epoch": 1, "expires_at": "2100-01-01T00:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := runtimes[0]
			seen := record(&r)
			settings := map[string]any{"node_secret": "0123456789abcdef", "consul": map[string]any{"address": url, "prefix": name}}
			p := newPlugin(t, r, settings)
			cfg := p.task(t, program{}, config)
			cfg.Resources.Ports = sessionPorts()
			if name == "script" {
				must.NoError(t, os.WriteFile(filepath.Join(cfg.TaskDir().LocalDir, "main.sh"), []byte(sleeper.sh), 0o644))
			}
			handle := kept(t, p.start(t, cfg))
			again := p.anew(t)
			must.NoError(t, again.RecoverTask(handle))
			must.Len(t, 2, seen.tasks)
			must.Eq(t, seen.tasks[0], seen.tasks[1])
			status, err := again.Impl().InspectTask(cfg.ID)
			must.NoError(t, err)
			must.Eq(t, name == "session", status.DriverAttributes["session"] == testSession)
		})
	}
}

func TestRecoverKilledWithItsWarden(t *testing.T) {
	p := newPlugin(t, runtimes[0], nil)
	cfg := p.task(t, sleeper, nil)
	handle := p.start(t, cfg)
	var state struct{ Sandbox []byte }
	must.NoError(t, handle.GetDriverState(&state))
	var fake fakeState
	must.NoError(t, json.Unmarshal(state.Sandbox, &fake))
	must.NoError(t, unix.Kill(fake.Warden, unix.SIGKILL))
	must.ErrorContains(t, p.result(t, cfg.ID).Err, "without a word")

	again := p.anew(t)
	must.NoError(t, again.RecoverTask(kept(t, handle)))
	must.ErrorContains(t, again.result(t, cfg.ID).Err, "without a word")
}

// TestRecoverLost has no case in which RecoverTask fails: Nomad would start
// the task again at once.
func TestRecoverLost(t *testing.T) {
	p := newPlugin(t, runtimes[0], nil)
	cfg := p.task(t, sleeper, nil)
	handle := p.start(t, cfg)
	must.NoError(t, p.DestroyTask(cfg.ID, true))

	later := handle.Copy()
	later.Version++
	garbled := handle.Copy()
	garbled.DriverState = []byte("?")
	broken := runtimes[0]
	broken.open = openBroken(errors.New("host is on fire"))
	for want, c := range map[string]struct {
		runtime runtimeUnderTest
		handle  *drivers.TaskHandle
	}{
		"version 2, this plugin knows 1":   {runtimes[0], later},
		"decode task state":                {runtimes[0], garbled},
		"recover sandbox: host is on fire": {broken, handle},
	} {
		p := newPlugin(t, c.runtime, nil)
		must.NoError(t, p.RecoverTask(c.handle))
		result := p.result(t, cfg.ID)
		must.ErrorContains(t, result.Err, "task is lost: ")
		must.ErrorContains(t, result.Err, want)
		must.False(t, result.Successful())
		status, err := p.InspectTask(cfg.ID)
		must.NoError(t, err)
		must.Eq(t, drivers.TaskStateExited, status.State)
		_, err = p.TaskStats(t.Context(), cfg.ID, time.Second)
		must.NoError(t, err)
		must.ErrorContains(t, p.SignalTask(cfg.ID, "SIGHUP"), "not running")
		must.NoError(t, p.StopTask(cfg.ID, time.Second, ""))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
	}
}
