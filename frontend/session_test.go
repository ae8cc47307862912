// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"regexp"
	"testing"

	"github.com/buntime/buntime/frontend"
)

func TestNewID(t *testing.T) {
	shape := regexp.MustCompile(`^ses_[a-z0-9]{20}$`)
	seen := map[string]bool{}
	letters := map[rune]int{}
	for range 10_000 {
		id := frontend.NewID()
		if !shape.MatchString(id) || seen[id] || !frontend.ValidID(id) {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
		for _, c := range id[4:] {
			letters[c]++
		}
	}
	for c, n := range letters { // 200,000 of 36 kinds: 5,556 each, give or take 74
		if n < 5100 || n > 6000 {
			t.Errorf("%q stands in ids %d times", c, n)
		}
	}
}

func TestJobID(t *testing.T) {
	id := frontend.NewID()
	first, second := frontend.JobID(id, 1), frontend.JobID(id, 2)
	if first != frontend.Label(id) || second != first+"-2" {
		t.Errorf("%s, %s", first, second)
	}
	if got := frontend.FromLabel(second); got != "" {
		t.Errorf("the job of a later life is taken for the label of %q", got)
	}
}

func TestLabel(t *testing.T) {
	id := frontend.NewID()
	label := frontend.Label(id)
	if label != "ses-"+id[4:] || frontend.FromLabel(label) != id || frontend.FromLabel(id) != id {
		t.Errorf("%s: %s", id, label)
	}
	for _, no := range []string{"", "ses", "ses-", "ses-A", "ses-a-b", "ses--a", "x-ses-a", "ses-ses_a", "www"} {
		if got := frontend.FromLabel(no); got != "" {
			t.Errorf("%q is %q", no, got)
		}
	}
}

func TestFindPlan(t *testing.T) {
	if _, err := frontend.FindPlan("gold"); err == nil {
		t.Error("there is a plan of gold")
	}
	p, err := frontend.FindPlan("enterprise")
	if err != nil {
		t.Fatal(err)
	}
	q := p.With(frontend.Plan{Sessions: 5000, CPU: 8})
	if q.Sessions != 5000 || q.CPU != 8 || q.Memory != p.Memory || q.Fixed {
		t.Errorf("%+v", q)
	}
}
