// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"
	"github.com/shoenig/test/must"

	"github.com/buntime/buntime/driver"
)

func TestRunToTheEnd(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.taskWithLogs(t, exiter, map[string]any{"args": []string{"first"}}, true)
		handle := p.start(t, cfg)
		must.Eq(t, drivers.TaskStateRunning, handle.State)

		for range 2 { // as after a reconnect
			result := p.result(t, cfg.ID)
			must.Eq(t, &drivers.ExitResult{ExitCode: 3}, result)
		}
		status, err := p.InspectTask(cfg.ID)
		must.NoError(t, err)
		must.Eq(t, drivers.TaskStateExited, status.State)
		must.Eq(t, 3, status.ExitResult.ExitCode)
		must.True(t, !status.CompletedAt.Before(status.StartedAt.Truncate(time.Millisecond)))

		for file, want := range map[string]string{"web.stdout.0": "out first /local green\n", "web.stderr.0": "err\n"} {
			eventually(t, file, func() bool {
				text, _ := os.ReadFile(filepath.Join(cfg.TaskDir().LogDir, file))
				return string(text) == want
			})
		}
		must.ErrorContains(t, p.SignalTask(cfg.ID, "SIGHUP"), "not running")
		_, err = p.ExecTask(cfg.ID, []string{"true"}, time.Second)
		must.ErrorContains(t, err, "not running")
		must.NoError(t, p.StopTask(cfg.ID, time.Second, ""))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
		_, err = p.InspectTask(cfg.ID)
		must.ErrorContains(t, err, drivers.ErrTaskNotFound.Error())
	})
}

func TestInlineCode(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		_, code := p.source(exiter)
		cfg := p.task(t, program{}, map[string]any{"code": code})
		p.start(t, cfg)
		must.Eq(t, 3, p.result(t, cfg.ID).ExitCode)
	})
}

func TestStopAndDestroy(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		_, _, err := p.StartTask(cfg)
		must.ErrorContains(t, err, "started already")
		must.ErrorContains(t, p.DestroyTask(cfg.ID, false), "still runs")

		must.NoError(t, p.StopTask(cfg.ID, 10*time.Second, "")) // SIGINT
		must.Eq(t, 2, p.result(t, cfg.ID).Signal)
		must.NoError(t, p.StopTask(cfg.ID, 10*time.Second, ""))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
		must.NoError(t, p.DestroyTask(cfg.ID, false))
	})
}

func TestStopWithSignalOfTheJob(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		for signal, want := range map[string]int{"SIGTERM": 15, "SIGNONSENSE": 2} {
			cfg := p.task(t, sleeper, nil)
			p.start(t, cfg)
			must.NoError(t, p.StopTask(cfg.ID, 10*time.Second, signal))
			must.Eq(t, want, p.result(t, cfg.ID).Signal)
		}
	})
}

func TestStopKillsAfterTimeout(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, stubborn, nil)
		p.start(t, cfg)
		ready(t, cfg)
		var stops sync.WaitGroup
		for range 3 { // Nomad repeats a StopTask that takes long
			stops.Go(func() {
				if err := p.StopTask(cfg.ID, 300*time.Millisecond, ""); err != nil {
					t.Error(err)
				}
			})
		}
		stops.Wait()
		must.Eq(t, 9, p.result(t, cfg.ID).Signal)
	})
}

func TestDestroyByForce(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		results, err := p.Impl().WaitTask(t.Context(), cfg.ID)
		must.NoError(t, err)
		must.NoError(t, p.DestroyTask(cfg.ID, true))
		must.Eq(t, 9, (<-results).Signal)
	})
}

func TestSignal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, stubborn, nil)
		p.start(t, cfg)
		ready(t, cfg)
		must.ErrorContains(t, p.SignalTask(cfg.ID, "SIGNONSENSE"), `unknown signal "SIGNONSENSE"`)
		must.NoError(t, p.SignalTask(cfg.ID, "SIGINT"))
		must.NoError(t, p.SignalTask(cfg.ID, "sigusr1"))
		must.Eq(t, 7, p.result(t, cfg.ID).ExitCode)
	})
}

// ready waits for the programs that make a file.
func ready(t *testing.T, cfg *drivers.TaskConfig) {
	t.Helper()
	eventually(t, "program is ready", func() bool {
		_, err := os.Stat(filepath.Join(cfg.TaskDir().LocalDir, "ready"))
		return err == nil
	})
}

func TestUnknownTask(t *testing.T) {
	p := newPlugin(t, runtimes[0], nil)
	// An error here would have Nomad retry for minutes.
	must.NoError(t, p.StopTask("nobody", time.Second, ""))
	must.NoError(t, p.DestroyTask("nobody", true))

	impl := p.Impl() // over gRPC an error has no identity
	_, err := impl.InspectTask("nobody")
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	_, err = impl.WaitTask(t.Context(), "nobody")
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	_, err = impl.TaskStats(t.Context(), "nobody", time.Second)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	_, err = impl.ExecTask("nobody", []string{"true"}, time.Second)
	must.ErrorIs(t, err, drivers.ErrTaskNotFound)
	must.ErrorIs(t, impl.SignalTask("nobody", "SIGHUP"), drivers.ErrTaskNotFound)
	must.ErrorIs(t, impl.(*driver.Driver).ExecTaskStreamingRaw(t.Context(), "nobody", []string{"true"}, false, nil), drivers.ErrTaskNotFound)
}

func TestWaitHonoursContext(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		results, err := p.Impl().WaitTask(ctx, cfg.ID)
		must.NoError(t, err)
		cancel()
		_, ok := <-results
		must.False(t, ok)
	})
}

func TestStats(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		must.NoError(t, p.Impl().SetConfig(&base.Config{
			PluginConfig: p.encodedConfig(t),
			AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{
				Topology: &numalib.Topology{Cores: []numalib.Core{{BaseSpeed: 2000}, {ID: 1, BaseSpeed: 2000}}},
			}},
		}))
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		stats, err := p.TaskStats(t.Context(), cfg.ID, 20*time.Millisecond)
		must.NoError(t, err)
		for range 3 {
			usage := <-stats
			must.NotNil(t, usage)
			must.Positive(t, usage.ResourceUsage.MemoryStats.Usage)
			must.SliceContains(t, usage.ResourceUsage.MemoryStats.Measured, "Max Usage")
			must.SliceContains(t, usage.ResourceUsage.CpuStats.Measured, "Total Ticks")
		}
		must.NoError(t, p.StopTask(cfg.ID, time.Second, ""))
		for range stats {
		}
	})
}

func TestConfigChangeNeedsRestart(t *testing.T) {
	r := runtimes[0]
	p := newPlugin(t, r, nil)
	cfg := p.task(t, sleeper, nil)
	p.start(t, cfg)
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: p.encodedConfig(t)}))
	must.ErrorContains(t, p.SetConfig(new(base.Config)), "restart the plugin")
}

func TestEvents(t *testing.T) {
	p := newPlugin(t, runtimes[0], nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := p.TaskEvents(ctx)
	must.NoError(t, err)
	// The subscription is made in the plugin some time after the call returns.
	cfg := p.task(t, sleeper, nil)
	for {
		p.start(t, cfg)
		select {
		case event := <-events:
			must.Eq(t, cfg.AllocID, event.AllocID)
			must.Eq(t, "web", event.TaskName)
			must.StrHasPrefix(t, "Sandbox ready in ", event.Message)
			return
		case <-time.After(100 * time.Millisecond):
			must.NoError(t, p.DestroyTask(cfg.ID, true))
		}
	}
}

func TestStartErrors(t *testing.T) {
	p := newPlugin(t, runtimes[0], nil)
	missing := p.task(t, sleeper, map[string]any{"script": "local/none.sh"})
	_, _, err := p.StartTask(missing)
	must.ErrorContains(t, err, "script /local/none.sh is not there")
	must.False(t, structs.IsRecoverable(err))

	none := p.task(t, program{}, nil)
	_, _, err = p.StartTask(none)
	must.ErrorContains(t, err, "one of script, code or a session block is needed")

	session := p.task(t, program{}, map[string]any{"session": map[string]any{
		"id": "ses_abcdefghij0123456789", "epoch": 1, "expires_at": "2100-01-01T00:00:00Z",
	}})
	session.Resources.Ports = sessionPorts()
	_, _, err = p.StartTask(session)
	must.ErrorContains(t, err, "no node_secret")

	for _, recoverable := range []bool{false, true} {
		broken := runtimes[0]
		broken.open = openBroken(structs.NewRecoverableError(errors.New("no room"), recoverable))
		p := newPlugin(t, broken, nil)
		_, _, err = p.StartTask(p.task(t, sleeper, nil))
		must.ErrorContains(t, err, "start sandbox: no room")
		must.Eq(t, recoverable, structs.IsRecoverable(err))
	}
}

func sessionPorts() *structs.AllocatedPorts {
	return &structs.AllocatedPorts{
		{Label: "api", Value: 20001, HostIP: "127.0.0.1"},
		{Label: "preview", Value: 20002, HostIP: "127.0.0.1"},
	}
}

// TestNoSecretsInTask is about what the plugin knows and a task must not.
func TestNoSecretsInTask(t *testing.T) {
	t.Setenv("BUNTIME_NODE_SECRET", "do not tell anybody")
	t.Setenv("CONSUL_HTTP_TOKEN", "do not tell anybody either")
	r := runtimes[0]
	seen := record(&r)
	p := newPlugin(t, r, map[string]any{"consul": map[string]any{"token": "do not tell at all"}})
	handle := p.start(t, p.task(t, sleeper, nil))
	must.Len(t, 1, seen.tasks)
	for key, value := range seen.tasks[0].Env {
		must.False(t, strings.Contains(value, "do not tell"), must.Sprint(key))
	}
	must.MapContainsKey(t, seen.tasks[0].Env, "NOMAD_TASK_DIR")
	must.False(t, strings.Contains(string(handle.DriverState), "do not tell"))
}

// TestConformance is Nomad's own: output, input, exit codes and terminals of
// `nomad alloc exec`, and isolation of files.
func TestConformance(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		// The suite calls the driver itself, so give it one behind gRPC.
		outer := testutils.NewDriverHarness(t, p.DriverPlugin)
		defer disconnect(outer)
		if !r.cgroupNamespace {
			testutils.ExecTaskStreamingConformanceTests(t, outer, cfg.ID)
			return
		}
		// TestExecFSIsolation wants to see the cgroup's path on the host, which
		// a sandbox must not.
		testutils.TestExecTaskStreamingBasicResponses(t, outer, cfg.ID)
		code, stdout, _ := testutils.ExecTask(t, outer, cfg.ID, "mktemp; cat /proc/self/cgroup", false, "")
		must.Zero(t, code)
		file, cgroups, _ := strings.Cut(stdout, "\n")
		must.FileNotExists(t, file)
		must.StrNotContains(t, cgroups, cfg.AllocID)
		code, _, _ = testutils.ExecTask(t, outer, cfg.ID, "cat "+file, false, "")
		must.Zero(t, code)
	})
}
