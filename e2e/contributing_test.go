// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/buntime/buntime/e2e/stack"
)

// TestContributing runs the commands with which CONTRIBUTING.md looks into a session: each
// has to work, and to print something.
func TestContributing(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system's files are not known")
	}
	ctx := deadline(t, usual)
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	s := createSession(t, ctx, paid(), nil)
	s.background(tokenServer)
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	commands := 0
	for _, line := range shellLines(t, "CONTRIBUTING.md", "Debugging a session") {
		line = strings.TrimSpace(line)
		if line == "" || strings.Contains(line, " -i -t ") { // it wants a terminal
			continue
		}
		// An assignment, two in one line included, is for what follows.
		if regexp.MustCompile(`^[a-z]+=\$\(`).MatchString(line) {
			script.WriteString(line + "\n")
			continue
		}
		commands++
		line = strings.Replace(line, "-- /bin/bash ", "-- /bin/bash -c 'id; pwd' ", 1)
		fmt.Fprintf(&script, "echo '--- %d'\n%s\n", commands, line)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "dir="+system.stack.Dir, "session="+s.id, "NOMAD_ADDR="+system.nomad, "CONSUL_HTTP_ADDR="+system.consul)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s\n%s", err, script.String(), out, complaints.String())
	}
	for i, printed := range regexp.MustCompile(`(?m)^--- \d+$`).Split(string(out), -1)[1:] {
		if strings.TrimSpace(printed) == "" {
			t.Errorf("command %d of these prints nothing:\n%s", i+1, script.String())
		}
	}
	contains(t, "what is printed", string(out), s.id)
	if commands < 9 {
		t.Errorf("there are only %d commands", commands)
	}
}
