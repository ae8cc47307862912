// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// results collects what the tests in the machine say.
type results struct {
	t        *testing.T
	packages map[string]*packageResult
	current  *packageResult
}

// packageResult is the outcome of one Run.
type packageResult struct {
	raw   strings.Builder
	code  string // exit code; empty if it did not come to its end
	tests []*testResult
}

// testResult is that of one test, with its subtests.
type testResult struct {
	name    string
	output  strings.Builder
	failed  bool
	skipped bool
	passed  bool
}

func newResults(t *testing.T) *results {
	return &results{t: t, packages: map[string]*packageResult{}}
}

// line takes a line of output. It is shown at once, so that whoever waits sees
// how far it is.
func (r *results) line(s string) {
	if name, ok := strings.CutPrefix(s, Begin); ok {
		r.current = &packageResult{}
		r.packages[name] = r.current
		return
	}
	if r.current == nil {
		r.t.Log(s)
		return
	}
	if code, ok := strings.CutPrefix(s, End); ok {
		r.current.code = code
		r.current = nil
		return
	}
	r.current.raw.WriteString(s + "\n")
	if testing.Verbose() {
		fmt.Fprintln(os.Stderr, "vm: "+strings.TrimPrefix(s, "\x16"))
	}
}

// report turns what was collected into subtests.
func (r *results) report(t *testing.T, runs []Run) {
	for _, run := range runs {
		t.Run(strings.ReplaceAll(run.Package, "/", "."), func(t *testing.T) {
			p := r.packages[run.Package]
			if p == nil {
				t.Fatal("did not run")
			}
			p.parse(t, run.Package)
			for _, test := range p.tests {
				t.Run(test.name, test.report)
			}
			if len(p.tests) == 0 || p.code != "0" && !t.Failed() {
				t.Errorf("exit code %q\n%s", p.code, p.raw.String())
			}
		})
	}
}

func (test *testResult) report(t *testing.T) {
	t.Log("\n" + test.output.String())
	switch {
	case test.failed:
		t.Error("failed")
	case test.skipped:
		t.Error("skipped: run it, or leave it out with the reason")
	case !test.passed:
		t.Error("did not come to its end")
	}
}

// parse has Go's own tool read the output.
func (p *packageResult) parse(t *testing.T, name string) {
	cmd := exec.CommandContext(t.Context(), "go", "tool", "test2json", "-t", "-p", name)
	cmd.Stdin = strings.NewReader(p.raw.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("parse output of tests: %v\n%s", err, p.raw.String())
	}
	byName := map[string]*testResult{}
	for in := json.NewDecoder(strings.NewReader(string(out))); ; {
		var event struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := in.Decode(&event); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("parse events of tests: %v", err)
		}
		if event.Test == "" {
			continue
		}
		top, _, sub := strings.Cut(event.Test, "/")
		test := byName[top]
		if test == nil {
			test = &testResult{name: top}
			byName[top] = test
			p.tests = append(p.tests, test)
		}
		test.output.WriteString(event.Output)
		switch event.Action {
		case "fail":
			test.failed = true
		case "skip":
			test.skipped = true
		case "pass":
			test.passed = test.passed || !sub
		}
	}
}
