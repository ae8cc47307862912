// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/stack"
)

// ordinary is the job of jobs/example.nomad.hcl, as a user of Nomad alone runs
// it.
type ordinary struct {
	t     *testing.T
	ctx   context.Context
	nomad *nomad.Client
	alloc *nomad.Allocation
}

const ordinaryName = "hello" // job, task and service

func runOrdinary(t *testing.T) *ordinary {
	t.Helper()
	return runOrdinaryAs(t, func(*nomad.Job) {})
}

// runOrdinaryAs is runOrdinary with what change makes of the job.
func runOrdinaryAs(t *testing.T, change func(*nomad.Job)) *ordinary {
	t.Helper()
	j := registerOrdinary(t, change)
	j.eventually("the job runs", func() error {
		list, _, err := j.nomad.Jobs().Allocations(ordinaryName, false, nil)
		if err != nil || len(list) != 1 || list[0].ClientStatus != "running" {
			return fmt.Errorf("allocations: %+v, %w", list, err)
		}
		j.alloc, _, err = j.nomad.Allocations().Info(list[0].ID, nil)
		return err
	})
	j.eventually("its port answers", j.answers)
	return j
}

// registerOrdinary asks for the job and waits for nothing.
func registerOrdinary(t *testing.T, change func(*nomad.Job)) *ordinary {
	t.Helper()
	if system.stack == nil {
		t.Skip("the system is not ours to run other jobs on")
	}
	j := &ordinary{t: t, ctx: deadline(t, 3*time.Minute), nomad: system.stack.Nomad}
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "jobs/example.nomad.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	job, err := j.nomad.Jobs().ParseHCL(string(text), true)
	if err != nil {
		t.Fatal(err)
	}
	change(job)
	if _, _, err := j.nomad.Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, _, err := j.nomad.Jobs().Deregister(ordinaryName, true, nil); err != nil {
			t.Error(err)
		}
	})
	return j
}

func (j *ordinary) eventually(what string, try func() error) {
	j.t.Helper()
	eventually(j.t, j.ctx, what, time.Minute, func() (bool, string) {
		err := try()
		return err == nil, fmt.Sprint(err)
	})
}

// answers asks the job where Nomad's catalog of services says.
func (j *ordinary) answers() error {
	services, _, err := j.nomad.Services().Get(ordinaryName, nil)
	if err != nil {
		return err
	}
	if len(services) != 1 {
		return fmt.Errorf("%d services", len(services))
	}
	req, err := http.NewRequestWithContext(j.ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/", services[0].Address, services[0].Port), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(body), "Hello, Nomad! This is Bun ") {
		return fmt.Errorf("answer %q", body)
	}
	return nil
}

// exec is `nomad alloc exec`, with a terminal `nomad alloc exec -t`.
func (j *ordinary) exec(tty bool, stdin string, command ...string) (int, string, string) {
	j.t.Helper()
	var stdout, stderr bytes.Buffer
	sizes := make(chan nomad.TerminalSize, 1)
	sizes <- nomad.TerminalSize{Height: 33, Width: 111}
	code, err := j.nomad.Allocations().Exec(j.ctx, j.alloc, ordinaryName, tty, command, strings.NewReader(stdin), &stdout, &stderr, sizes, nil)
	if err != nil {
		j.t.Fatalf("exec %q: %v", command, err)
	}
	return code, stdout.String(), stderr.String()
}

// sandbox tells one start of the sandbox from another.
func (j *ordinary) sandbox() string {
	j.t.Helper()
	// The program answers before Nomad has taken note that it runs.
	j.eventually("Nomad lets commands in", func() error {
		_, err := j.nomad.Allocations().Exec(j.ctx, j.alloc, ordinaryName, false, []string{"true"}, strings.NewReader(""), io.Discard, io.Discard, nil, nil)
		return err
	})
	_, out, _ := j.exec(false, "", "sh", "-c", "cut -d' ' -f22 /proc/1/stat")
	return out
}

// TestOrdinaryJob is the example job under the commands of Nomad.
func TestOrdinaryJob(t *testing.T) {
	j := runOrdinary(t)
	t.Run("exec", func(t *testing.T) {
		code, out, errs := j.exec(false, "in", "sh", "-c", "cat; echo; id -u; echo err >&2; exit 3")
		if code != 3 || out != "in\n1000\n" || errs != "err\n" {
			t.Errorf("got %d, %q, %q", code, out, errs)
		}
	})
	t.Run("exec with a terminal", func(t *testing.T) {
		code, out, _ := j.exec(true, "", "sh", "-c", "tty; exit 4")
		if code != 4 || !strings.HasPrefix(out, "/dev/pts/") {
			t.Errorf("got %d, %q", code, out)
		}
	})
	t.Run("logs", func(t *testing.T) { j.eventually("the log has what it printed", j.logged) })
	t.Run("stats", func(t *testing.T) {
		j.eventually("there are figures", func() error { // Nomad asks every second
			stats, err := j.nomad.Allocations().Stats(j.alloc, nil)
			if err != nil {
				return err
			}
			task := stats.Tasks[ordinaryName]
			if task == nil || task.ResourceUsage == nil {
				return fmt.Errorf("no figures of the task: %+v", stats)
			}
			if m := task.ResourceUsage.MemoryStats; m == nil || m.Usage == 0 || m.RSS == 0 {
				return fmt.Errorf("memory: %+v", m)
			}
			return nil
		})
	})
	t.Run("agent killed", func(t *testing.T) {
		before := j.sandbox()
		if err := system.stack.Clients[0].Agent.Kill(j.ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := system.stack.Clients[0].Agent.Restart(j.ctx); err != nil {
			t.Fatal(err)
		}
		j.eventually("it answers again", j.answers)
		if after := j.sandbox(); after != before {
			t.Errorf("sandbox of %q is one of %q now", before, after)
		}
		j.eventually("the log goes on", j.logged)
	})
	t.Run("restart", func(t *testing.T) {
		before := j.sandbox()
		if err := j.nomad.Allocations().Restart(j.alloc, ordinaryName, nil); err != nil {
			t.Fatal(err)
		}
		j.eventually("it answers again", j.answers)
		if after := j.sandbox(); after == before {
			t.Error("the sandbox is the same after a restart")
		}
	})
	t.Run("signal", func(t *testing.T) {
		if err := j.nomad.Allocations().Signal(j.alloc, nil, ordinaryName, "SIGTERM"); err != nil {
			t.Fatal(err)
		}
		j.eventually("Nomad saw it end", func() error {
			info, _, err := j.nomad.Allocations().Info(j.alloc.ID, nil)
			if err != nil {
				return err
			}
			for _, e := range info.TaskStates[ordinaryName].Events {
				if e.Type == nomad.TaskTerminated && (e.Signal == int(syscall.SIGTERM) || e.ExitCode == 128+int(syscall.SIGTERM)) {
					return nil
				}
			}
			return fmt.Errorf("events: %+v", info.TaskStates[ordinaryName].Events)
		})
	})
}

// logged reads what `nomad alloc logs` shows.
func (j *ordinary) logged() error {
	ctx, cancel := context.WithTimeout(j.ctx, 10*time.Second)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	frames, errs := j.nomad.AllocFS().Logs(j.alloc, false, ordinaryName, "stdout", "start", 0, stop, (&nomad.QueryOptions{}).WithContext(ctx))
	var text []byte
	for {
		select {
		case f, ok := <-frames:
			if !ok || f == nil {
				return fmt.Errorf("log is %q", text)
			}
			text = append(text, f.Data...)
			if bytes.Contains(text, []byte("listening on")) && bytes.Contains(text, []byte("GET /")) {
				return nil
			}
		case err := <-errs:
			return err
		case <-ctx.Done():
			return fmt.Errorf("log is %q: %w", text, ctx.Err())
		}
	}
}
