// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// TestFrontendJob runs jobs/frontend.nomad.hcl: the front-end as a job, which is healthy
// in Consul's catalog and serves sessions.
func TestFrontendJob(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system is not ours to run other jobs on")
	}
	ctx := deadline(t, 3*time.Minute)
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "jobs/frontend.nomad.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	key := stack.NewKey()
	keys, err := json.Marshal([]stack.Key{{Key: key, Account: "job", Plan: "paid"}})
	if err != nil {
		t.Fatal(err)
	}
	s := system.stack
	variables := fmt.Sprintf("driver = \"raw_exec\"\ncount = 1\nbinary = %q\nbase_url = \"http://localhost\"\npreview_domain = \"localhost\"\nconsul = %q\nnomad = %q\nmore = %q\n",
		filepath.Join(root, "out/bin/buntime-frontend"), s.ConsulAddr, s.NomadAddr, `"pool": {"off": true}, "keys": `+string(keys)+`,`)
	job, err := s.Nomad.Jobs().ParseHCLOpts(&nomad.JobsParseRequest{JobHCL: string(text), Variables: variables, Canonicalize: true})
	if err != nil {
		t.Fatal(err)
	}
	const secrets = "nomad/jobs/buntime-frontend"
	v := nomad.NewVariable(secrets)
	v.Items = nomad.VariableItems{"node_secret": s.NodeSecret}
	if _, _, err := s.Nomad.Variables().Create(v, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.Nomad.Variables().Delete(secrets, nil); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := s.Nomad.Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, _, err := s.Nomad.Jobs().Deregister(*job.ID, true, nil); err != nil {
			t.Error(err)
		}
	})
	var address string
	eventually(t, ctx, "the front-end is healthy", time.Minute, func() (bool, string) {
		found, _, err := s.Consul.Health().Service("buntime-frontend", "", true, nil)
		if err != nil || len(found) != 1 {
			return false, fmt.Sprint(found, err)
		}
		address = fmt.Sprintf("http://%s:%d", found[0].Service.Address, found[0].Service.Port)
		return true, ""
	})
	t.Run("a session", func(t *testing.T) {
		session := createSession(t, ctx, client.New(address, key), nil)
		equal(t, "output", session.well(session.execute(M{"code": "console.log(6 * 7)"})), "42\n")
	})

	allocs, _, err := s.Nomad.Jobs().Allocations(*job.ID, false, nil)
	if err != nil || len(allocs) != 1 {
		t.Fatalf("allocations %v: %v", allocs, err)
	}
	if text := fetchURL(t, ctx, s.NomadAddr+"/v1/job/"+*job.ID).Body; strings.Contains(string(text), s.NodeSecret) {
		t.Error("the node secret is in the job")
	}
	if _, _, err := s.Nomad.Jobs().Deregister(*job.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the front-end has ended gently", 30*time.Second, func() (bool, string) {
		alloc, _, err := s.Nomad.Allocations().Info(allocs[0].ID, nil)
		if err != nil {
			return false, err.Error()
		}
		state := alloc.TaskStates["frontend"]
		if state == nil || state.State != "dead" {
			return false, fmt.Sprint(alloc.ClientStatus)
		}
		if state.Failed {
			t.Errorf("it has failed: %+v", state.Events[len(state.Events)-1])
		}
		return true, ""
	})
}
