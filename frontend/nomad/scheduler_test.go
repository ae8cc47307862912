// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/nomad"
	"github.com/buntime/buntime/frontend/testserver"
	"github.com/buntime/buntime/jobs"
)

const domain = "preview.example.com"

func scheduler(t testing.TB, address string) (*nomad.Scheduler, *api.Client) {
	s, err := nomad.NewScheduler(nomad.Config{Address: address}, jobs.Session, domain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	client, err := api.NewClient(&api.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return s, client
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("test took over a minute"))
	t.Cleanup(cancel)
	return ctx
}

func TestScheduler(t *testing.T) {
	s, client := scheduler(t, testserver.Nomad(t, true))
	ctx := deadline(t)
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	sess := frontendtest.Session("a")
	sess.Limits = frontend.Limits{Memory: 2048, CPU: 0.5, Timeout: 60, Disk: 4096}
	sess.Epoch = 3
	sess.Avoid = []string{"00000000-0000-0000-0000-000000000000"}
	if err := s.Start(ctx, sess); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx, sess); !errors.Is(err, frontend.ErrExists) {
		t.Errorf("start again: %v", err)
	}
	label := strings.Replace(sess.ID, "_", "-", 1)
	name := label + "-3"

	t.Run("job", func(t *testing.T) {
		job, _, err := client.Jobs().Info(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkJob(t, job, sess, label)
		if a := job.Affinities; len(a) != 1 || a[0].RTarget != sess.Avoid[0] || *a[0].Weight != -100 {
			t.Errorf("affinities %+v", a)
		}
	})
	t.Run("list", func(t *testing.T) {
		stranger, err := client.Jobs().ParseHCL(`job "ses-0000000000000000000a" {
			type = "batch"
			group "g" {
				task "t" {
					driver = "raw_exec"
				}
			}
		}`, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.Jobs().Register(stranger, nil); err != nil {
			t.Fatal(err)
		}
		jobs, err := s.Jobs(ctx)
		if err != nil || !slices.Equal(jobs, []frontend.Job{{Session: sess.ID, Epoch: 3}}) {
			t.Errorf("jobs: %+v, %v", jobs, err)
		}
	})
	t.Run("explain", func(t *testing.T) {
		if why := s.Explain(ctx, sess.ID, sess.Epoch); !strings.Contains(why, "no placement") && !strings.Contains(why, "no allocation") {
			t.Errorf("got %q", why)
		}
	})
	isLost := func(t *testing.T, epoch uint64, want bool) {
		t.Helper()
		if lost, err := s.Lost(ctx, sess.ID, epoch); err != nil || lost != want {
			t.Errorf("epoch %d lost: %t, %v, want %t", epoch, lost, err, want)
		}
	}
	t.Run("lost", func(t *testing.T) {
		isLost(t, 3, false) // it may get an allocation
		if _, err := s.Lost(ctx, sess.ID, 2); !errors.Is(err, frontend.ErrNotFound) {
			t.Errorf("a job that never was: %v", err)
		}
	})
	t.Run("dead", func(t *testing.T) {
		if _, _, err := client.Jobs().Deregister(name, false, nil); err != nil {
			t.Fatal(err)
		}
		for { // the scheduler comes to it in its own time; no event tells
			jobs, err := s.Jobs(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(jobs, []frontend.Job{{Session: sess.ID, Epoch: 3, Dead: true}}) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		isLost(t, 3, true) // it has got none, and will not
	})
	t.Run("stop", func(t *testing.T) {
		next := *sess
		next.Epoch = 4
		if err := s.Start(ctx, &next); err != nil {
			t.Fatal(err)
		}
		for range 2 { // also when it is gone
			if err := s.Stop(ctx, sess.ID, 3); err != nil {
				t.Fatal(err)
			}
		}
		if jobs, err := s.Jobs(ctx); err != nil || !slices.Equal(jobs, []frontend.Job{{Session: sess.ID, Epoch: 4}}) {
			t.Errorf("after the stop of one life of two: %+v, %v", jobs, err)
		}
		for range 2 {
			if err := s.StopAll(ctx, sess.ID); err != nil {
				t.Fatal(err)
			}
		}
		if jobs, err := s.Jobs(ctx); err != nil || len(jobs) != 0 {
			t.Errorf("jobs: %+v, %v", jobs, err)
		}
		if err := s.Start(ctx, sess); err != nil {
			t.Errorf("start after stop: %v", err)
		}
	})
}

func checkJob(t *testing.T, job *api.Job, sess *frontend.Session, label string) {
	t.Helper()
	group := job.TaskGroups[0]
	task := group.Tasks[0]
	for what, pair := range map[string][2]any{
		"type":           {*job.Type, "batch"},
		"count":          {*group.Count, 1},
		"meta":           {fmt.Sprint(job.Meta), fmt.Sprintf("map[epoch:3 session:%s]", sess.ID)},
		"restarts":       {*group.RestartPolicy.Attempts, 0},
		"reschedules":    {*group.ReschedulePolicy.Attempts, 0},
		"for ever":       {*group.ReschedulePolicy.Unlimited, false},
		"replace":        {*group.Disconnect.Replace, false},
		"ports":          {fmt.Sprint(group.Networks[0].DynamicPorts[0].Label, " ", group.Networks[0].DynamicPorts[1].Label), "api preview"},
		"mode":           {group.Networks[0].Mode, "host"},
		"service":        {group.Services[0].Name, label},
		"port":           {group.Services[0].PortLabel, "preview"},
		"tags":           {strings.Join(group.Services[0].Tags, "|"), "buntime-preview|traefik.enable=true|traefik.http.routers." + label + ".rule=Host(`" + label + "." + domain + "`) || HostRegexp(`^[0-9]+-" + label + "\\.`)"},
		"driver":         {task.Driver, "bun"},
		"logs":           {*task.LogConfig.Disabled, true},
		"config":         {fmt.Sprint(task.Config["session"]), fmt.Sprintf("[map[epoch:3 expires_at:%s id:%s]]", sess.Expires.Format(time.RFC3339), sess.ID)},
		"cpu_cores":      {fmt.Sprint(task.Config["cpu_cores"]), "0.5"},
		"disk":           {fmt.Sprint(task.Config["disk"]), "4096"},
		"memory":         {*task.Resources.MemoryMB, 32},
		"memory_max":     {*task.Resources.MemoryMaxMB, 2048},
		"cpu":            {*task.Resources.CPU, 8},
		"ephemeral disk": {*group.EphemeralDisk.SizeMB, 10},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[0], pair[1])
		}
	}
}

// TestLost: what counts is what clients say of the allocations, not what has become
// of the job.
func TestLost(t *testing.T) {
	type allocs []map[string]string
	alloc := func(desired, client string) map[string]string {
		return map[string]string{"ID": "a", "DesiredStatus": desired, "ClientStatus": client}
	}
	for _, c := range []struct {
		name   string
		allocs allocs
		status string
		want   bool
	}{
		{"runs", allocs{alloc("run", "running")}, "running", false},
		{"about to run", allocs{alloc("run", "pending")}, "running", false},
		{"told to stop, and saves", allocs{alloc("stop", "running")}, "dead", false},
		{"told to stop before it ran", allocs{alloc("stop", "pending")}, "running", false},
		{"has ended", allocs{alloc("run", "complete")}, "dead", true},
		{"has failed", allocs{alloc("run", "failed")}, "dead", true},
		{"its node is away", allocs{alloc("run", "unknown")}, "dead", true},
		{"its node is down", allocs{alloc("stop", "lost")}, "dead", true},
		{"not placed yet", nil, "pending", false},
		{"stopped before it was placed", nil, "dead", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			sess := frontendtest.Session("a")
			job := frontend.JobID(sess.ID, 2)
			answer := func(w http.ResponseWriter, v any) {
				if err := json.NewEncoder(w).Encode(v); err != nil {
					t.Error(err)
				}
			}
			mux := http.NewServeMux()
			mux.HandleFunc("/v1/job/"+job+"/allocations", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, c.allocs)
			})
			mux.HandleFunc("/v1/job/"+job, func(w http.ResponseWriter, _ *http.Request) {
				answer(w, map[string]string{"ID": job, "Status": c.status})
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			s, _ := scheduler(t, server.URL)
			if lost, err := s.Lost(deadline(t), sess.ID, 2); err != nil || lost != c.want {
				t.Errorf("lost %t, %v, want %t", lost, err, c.want)
			}
		})
	}
}

// TestNoOversubscription: a session would have its reservation as its limit.
func TestNoOversubscription(t *testing.T) {
	s, _ := scheduler(t, testserver.Nomad(t, false))
	err := s.Start(deadline(t), frontendtest.Session("a"))
	if !errors.Is(err, frontend.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "set-config -memory-oversubscription=true") {
		t.Errorf("got %v", err)
	}
}

// TestExample: what a user tries first is a job that Nomad takes.
func TestExample(t *testing.T) {
	_, client := scheduler(t, testserver.Nomad(t, true))
	text, err := os.ReadFile("../../jobs/example.nomad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	job, err := client.Jobs().ParseHCL(string(text), true)
	if err != nil {
		t.Fatal(err)
	}
	answer, _, err := client.Jobs().Validate(job, nil)
	if err != nil || answer.Error != "" || answer.Warnings != "" {
		t.Errorf("validate: %+v, %v", answer, err)
	}
	// Nomad's client would take it for a variable of its own.
	if code := fmt.Sprint(job.TaskGroups[0].Tasks[0].Config["code"]); !strings.Contains(code, "Bun.serve") || strings.Contains(code, "${") {
		t.Errorf("code: %s", code)
	}
}

func TestNobodyThere(t *testing.T) {
	s, _ := scheduler(t, "http://127.0.0.1:1")
	if err := s.Start(deadline(t), frontendtest.Session("a")); !errors.Is(err, frontend.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkStart(b *testing.B) {
	s, _ := scheduler(b, testserver.Nomad(b, true))
	for b.Loop() {
		if err := s.Start(b.Context(), frontendtest.Session("bench")); err != nil {
			b.Fatal(err)
		}
	}
}
