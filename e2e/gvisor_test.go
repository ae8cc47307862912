// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// inGVisor asks for gVisor, as docs/operation.md says to.
func inGVisor(constrained bool) func(*nomad.Job) {
	return func(job *nomad.Job) {
		task := job.TaskGroups[0].Tasks[0]
		task.Config["isolation"] = "gvisor"
		if constrained {
			task.Constraints = append(task.Constraints, nomad.NewConstraint("${attr.driver.bun.isolation.gvisor}", "is_set", ""))
		}
	}
}

// TestGVisorJob is the example job under gVisor.
func TestGVisorJob(t *testing.T) {
	j := runOrdinaryAs(t, inGVisor(true))
	if code, out, errs := j.exec(false, "in", "sh", "-c", "cat; echo; cat /proc/version; ls -d /local /secrets /alloc; exit 3"); code != 3 ||
		!strings.HasPrefix(out, "in\n") || !strings.Contains(out, "gvisor") || !strings.Contains(out, "/local\n") {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	if code, out, _ := j.exec(true, "", "sh", "-c", "tty; exit 4"); code != 4 || !strings.HasPrefix(out, "/dev/pts/") {
		t.Errorf("with a terminal: %d, %q", code, out)
	}
	j.eventually("the log has what it printed", j.logged)

	if code, _, errs := j.exec(false, "", "sh", "-c", "echo first >/tmp/life"); code != 0 {
		t.Errorf("write: %d, %q", code, errs)
	}
	if err := system.stack.Clients[0].Agent.Kill(j.ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := system.stack.Clients[0].Agent.Restart(j.ctx); err != nil {
		t.Fatal(err)
	}
	j.eventually("it answers again", j.answers)
	if _, out, errs := j.exec(false, "", "cat", "/tmp/life"); out != "first\n" {
		t.Errorf("after a restart of Nomad: %q, %q", out, errs)
	}

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
}

// TestGVisorMissing asks for gVisor where there is none.
func TestGVisorMissing(t *testing.T) {
	if system.stack == nil {
		t.Skip("the system is not ours to restart")
	}
	ctx := deadline(t, 3*time.Minute)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := system.stack.Clients[0].HideGVisor(ctx, false); err != nil {
			t.Fatal(err)
		}
	})
	if err := system.stack.Clients[0].HideGVisor(ctx, true); err != nil {
		t.Fatal(err)
	}
	t.Run("health", func(t *testing.T) {
		nodes, _, err := system.stack.Nomad.Nodes().List(nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := nodes[0].Drivers["bun"]; !d.Healthy || !strings.Contains(d.HealthDescription, `isolation "gvisor" is not available: runsc `) {
			t.Errorf("driver: %+v", d)
		}
	})
	t.Run("with a constraint it is not placed", func(t *testing.T) {
		j := registerOrdinary(t, inGVisor(true))
		j.eventually("the placement fails", func() error {
			evals, _, err := j.nomad.Jobs().Evaluations(ordinaryName, nil)
			if err != nil {
				return err
			}
			for _, e := range evals {
				for _, m := range e.FailedTGAllocs {
					for why, nodes := range m.ConstraintFiltered {
						if strings.Contains(why, "driver.bun.isolation.gvisor") && nodes == 1 {
							return nil
						}
					}
				}
			}
			return fmt.Errorf("evaluations: %+v", evals)
		})
	})
	t.Run("without one it fails for good", func(t *testing.T) {
		j := registerOrdinary(t, func(job *nomad.Job) {
			inGVisor(false)(job)
			job.TaskGroups[0].ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
		})
		j.eventually("the task has failed", func() error {
			list, _, err := j.nomad.Jobs().Allocations(ordinaryName, false, nil)
			if err != nil {
				return err
			}
			for _, a := range list {
				state := a.TaskStates[ordinaryName]
				if state == nil || !state.Failed {
					continue
				}
				if state.Restarts != 0 {
					return fmt.Errorf("it was restarted %d times", state.Restarts)
				}
				for _, e := range state.Events {
					if strings.Contains(e.DisplayMessage, `isolation "gvisor": runsc `) {
						return nil
					}
				}
			}
			return fmt.Errorf("allocations: %+v", list)
		})
	})
}
