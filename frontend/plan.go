// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import "fmt"

// Plan is what an account's keys allow. A key may raise single values.
type Plan struct {
	// Memory (MB), CPU (cores) and Disk (MB) are the most that a session may ask for.
	Memory int     `json:"memory,omitzero"`
	CPU    float64 `json:"cpu,omitzero"`
	Disk   int     `json:"disk,omitzero"`
	// Fixed plans take no wishes: every session has DefaultLimits.
	Fixed bool `json:"-"`
	// TTL is the longest life of a session, in seconds.
	TTL int `json:"ttl,omitzero"`
	// Sessions is how many may be unexpired at a time.
	Sessions int `json:"sessions,omitzero"`
	// Requests is how many an API key may make a minute.
	Requests int `json:"requests,omitzero"`
	// Timeout is the longest that an execution may ask for, in seconds.
	Timeout int `json:"timeout,omitzero"`
	// FileSize is in bytes; Files is how many a request may carry.
	FileSize int `json:"fileSize,omitzero"`
	Files    int `json:"files,omitzero"`
}

const (
	// DefaultTTL is in seconds, on every plan.
	DefaultTTL = 86400
	// MinTTL is in seconds, on every plan.
	MinTTL = 300
	// MaxMetadata is the most that a session's metadata may have, in bytes of JSON.
	MaxMetadata = 16384
	// MaxVariables is how many environment variables an execution may have.
	MaxVariables = 100
)

// The least that a session may ask for: below, Bun itself does not start, or
// takes seconds to.
const (
	minMemory = 64
	minCPU    = 0.05
	minDisk   = 64
)

var plans = map[string]Plan{
	"free": {
		Memory: 1024, CPU: 0.25, Disk: 1024, Fixed: true,
		TTL: 86400, Sessions: 10, Requests: 100, Timeout: 30, FileSize: 10 << 20, Files: 100,
	},
	"paid": {
		Memory: 4096, CPU: 1, Disk: 5120,
		TTL: 604800, Sessions: 100, Requests: 1000, Timeout: 300, FileSize: 50 << 20, Files: 1000,
	},
}

// FindPlan is a plan by name: free, paid, or enterprise, which is paid until
// its keys say more.
func FindPlan(name string) (Plan, error) {
	base := name
	if name == "enterprise" {
		base = "paid"
	}
	p, ok := plans[base]
	if !ok {
		return Plan{}, fmt.Errorf("find plan %q: there are free, paid and enterprise", name)
	}
	return p, nil
}

// With is the plan with the values of o that are not zero.
func (p Plan) With(o Plan) Plan {
	set := func(v *int, o int) {
		if o != 0 {
			*v = o
		}
	}
	if o.CPU != 0 {
		p.CPU = o.CPU
	}
	set(&p.Memory, o.Memory)
	set(&p.Disk, o.Disk)
	set(&p.TTL, o.TTL)
	set(&p.Sessions, o.Sessions)
	set(&p.Requests, o.Requests)
	set(&p.Timeout, o.Timeout)
	set(&p.FileSize, o.FileSize)
	set(&p.Files, o.Files)
	return p
}

// Negative says whether any value is below zero, which no plan has.
func (p Plan) Negative() bool {
	return min(p.Memory, p.Disk, p.TTL, p.Sessions, p.Requests, p.Timeout, p.FileSize, p.Files) < 0 || p.CPU < 0
}

// Key is an API key: whose it is and what it allows. The secret itself is kept
// nowhere, only its hash, by whoever looks keys up.
type Key struct {
	// ID names the key to people; it is no secret.
	ID      string
	Account string
	Plan    string // its name
	Allowed Plan
	// Operator says that it is of who runs the front-ends: it can see how they do, and
	// which sessions there are, but nothing of what is in other accounts' sessions.
	Operator bool
}

// LimitsRequest is what a client asks for; nil leaves the default.
type LimitsRequest struct {
	Memory  *int     `json:"memory,omitempty" doc:"Memory in MB."`
	CPU     *float64 `json:"cpu,omitempty" doc:"CPU in cores."`
	Timeout *int     `json:"timeout,omitempty" doc:"Time in seconds after which an execution that names none is killed."`
	Disk    *int     `json:"disk,omitempty" doc:"Size of the workspace in MB."`
}

// limits are those of a session for which r was asked, r may be nil.
func (p Plan) limits(plan string, r *LimitsRequest) (Limits, error) {
	l := DefaultLimits
	if r == nil {
		return l, nil
	}
	set(&l.Memory, r.Memory)
	set(&l.CPU, r.CPU)
	set(&l.Timeout, r.Timeout)
	set(&l.Disk, r.Disk)
	for _, c := range []struct {
		name                      string
		value, least, most, fixed float64
		unit                      string
	}{
		{"memory", float64(l.Memory), minMemory, float64(p.Memory), float64(DefaultLimits.Memory), "MB"},
		{"cpu", l.CPU, minCPU, p.CPU, DefaultLimits.CPU, "cores"},
		{"timeout", float64(l.Timeout), 1, float64(p.Timeout), float64(DefaultLimits.Timeout), "seconds"},
		{"disk", float64(l.Disk), minDisk, float64(p.Disk), float64(DefaultLimits.Disk), "MB"},
	} {
		field := "resourceLimits." + c.name
		switch {
		case !(c.value >= c.least): // also what is no number
			return l, Invalid(field, "%s is at least %v %s, not %v", c.name, c.least, c.unit, c.value)
		case p.Fixed && c.value != c.fixed:
			return l, Errorf(CodeForbidden, "the %s plan has sessions of %v %s %s only; leave it out or change the plan", plan, c.fixed, c.unit, c.name).at(field)
		case c.value > c.most:
			return l, Errorf(CodeForbidden, "this key allows at most %v %s %s, not %v", c.most, c.unit, c.name, c.value).at(field)
		}
	}
	return l, nil
}

func set[T any](value *T, wish *T) {
	if wish != nil {
		*value = *wish
	}
}
