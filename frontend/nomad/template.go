// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
)

// The words in the job's HCL that stand for a session's own.
const (
	wordID     = "ses_SESSION"
	wordLabel  = "ses-SESSION"
	wordDomain = "DOMAIN"
)

// What a session reserves is not what it may use: the reservation is what the
// scheduler counts, the limits are what the kernel enforces. A quiet session
// holds some 15 MB and no CPU, so reserving the limits would leave nodes empty.
// Both stay in proportion to the limits, so that CPU shares are, too.
const (
	memoryPart  = 64 // of the limit is reserved: 16 MB for 1024
	leastMemory = 10 // MB, what Nomad takes
	mhzPerCore  = 16 // reserved: 4 MHz for a quarter of a core
	leastMHz    = 1
)

// template is the parsed job as JSON: a copy to change is one Unmarshal, and
// words are replaced wherever they stand.
type template struct {
	job    string
	domain string // as the inside of a JSON string
}

// newTemplate checks that a job is one that stamp can work on. nodeTLS has its services
// say so to proxies that go by their tags.
func newTemplate(job *api.Job, domain string, nodeTLS bool) (*template, error) {
	if len(job.TaskGroups) != 1 || len(job.TaskGroups[0].Tasks) != 1 {
		return nil, errors.New("it must have one group with one task")
	}
	for _, service := range job.TaskGroups[0].Services {
		if nodeTLS && slices.Contains(service.Tags, "traefik.enable=true") {
			service.Tags = append(service.Tags, tagsOfTLS...)
		}
	}
	text, err := json.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	quoted, err := json.Marshal(domain)
	if err != nil {
		return nil, fmt.Errorf("encode domain: %w", err)
	}
	return &template{job: string(text), domain: strings.Trim(string(quoted), `"`)}, nil
}

// tagsOfTLS have Traefik speak TLS with nodes, by a transport of its file (docs/cluster.md).
var tagsOfTLS = []string{
	"traefik.http.services." + wordLabel + ".loadbalancer.server.scheme=https",
	"traefik.http.services." + wordLabel + ".loadbalancer.serverstransport=buntime-node@file",
}

// slotPriority is by how much the jobs of slots come after those of sessions that
// somebody waits for.
const slotPriority = 10

// stampSlot is the job of a slot.
func (t *template) stampSlot(s *frontend.Slot) (*api.Job, error) {
	job, err := t.stamp(&frontend.Session{
		ID: s.ID, Epoch: 1, Expires: s.Ends.Add(slotMargin(s.Ends.Sub(s.Made))),
		Limits: frontend.Limits{Memory: s.Shape.Memory, CPU: s.Shape.CPU, Disk: s.Shape.Disk},
	})
	if err != nil {
		return nil, err
	}
	task := job.TaskGroups[0].Tasks[0]
	task.Config["session"].([]map[string]any)[0]["slot"] = true
	if s.Node != "" {
		job.Affinities = append(job.Affinities, api.NewAffinity("${node.unique.id}", "=", s.Node, 100))
	}
	if job.Priority != nil {
		job.Priority = new(max(1, *job.Priority-slotPriority))
	}
	return job, nil
}

// slotMargin is how long after a slot is too old to be taken its node ends it, should
// no front-end have done so: longer than one that has taken it needs to say so.
func slotMargin(age time.Duration) time.Duration {
	return min(max(age/10, 2*time.Second), time.Minute)
}

// stamp is the job of a session.
func (t *template) stamp(s *frontend.Session) (*api.Job, error) {
	text := strings.NewReplacer(wordID, s.ID, wordLabel, frontend.Label(s.ID), wordDomain, t.domain).Replace(t.job)
	job := new(api.Job)
	if err := json.Unmarshal([]byte(text), job); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	id := frontend.JobID(s.ID, s.Epoch)
	job.ID, job.Name = &id, &id
	if job.Meta == nil {
		job.Meta = map[string]string{}
	}
	job.Meta[metaSession], job.Meta[metaEpoch] = s.ID, strconv.FormatUint(s.Epoch, 10)

	for _, node := range s.Avoid {
		job.Affinities = append(job.Affinities, api.NewAffinity("${node.unique.id}", "=", node, -100))
	}

	task := job.TaskGroups[0].Tasks[0]
	if task.Config == nil {
		task.Config = map[string]any{}
	}
	task.Config["session"] = []map[string]any{{
		"id":         s.ID,
		"epoch":      s.Epoch,
		"expires_at": s.Expires.UTC().Format(time.RFC3339),
	}}
	task.Config["cpu_cores"] = s.Limits.CPU
	task.Config["disk"] = s.Limits.Disk

	if task.Resources == nil {
		task.Resources = &api.Resources{}
	}
	task.Resources.CPU = new(max(leastMHz, int(math.Round(s.Limits.CPU*mhzPerCore))))
	task.Resources.MemoryMB = new(max(leastMemory, s.Limits.Memory/memoryPart))
	task.Resources.MemoryMaxMB = new(s.Limits.Memory)
	return job, nil
}
