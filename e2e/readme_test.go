// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/buntime/buntime/e2e/stack"
)

// TestReadme runs the README's tour of curl as it stands, and wants what its comments
// say: "…" stands for anything.
func TestReadme(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	var script strings.Builder
	var want []string
	for _, line := range shellLines(t, "README.md", "A first tour") {
		expected, is := strings.CutPrefix(line, "# ")
		switch {
		case strings.HasPrefix(line, "export BUNTIME_URL="): // what make run prints
		case is: // of the command before
			want = append(want, strings.TrimSpace(expected))
			fmt.Fprintf(&script, "printf '\\n--- %d\\n'\n", len(want))
		default:
			script.WriteString(line)
		}
	}
	preview := strings.TrimPrefix(system.previewDomain, "localhost")
	program := strings.ReplaceAll(script.String(), ":8700", preview)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", program)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "BUNTIME_URL="+system.base, "BUNTIME_KEY="+system.paid)
	out, err := cmd.Output()
	if id := sessionIDs.Find(out); id != nil {
		dropLater(t, paid(), string(id))
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, program, out)
	}
	rest := string(out)
	for i, expected := range want {
		got, more, ok := strings.Cut(rest, fmt.Sprintf("\n--- %d\n", i+1))
		rest = more
		expected = strings.ReplaceAll(expected, ":8700", preview)
		pattern := strings.ReplaceAll(regexp.QuoteMeta(expected), "…", "(?s:.*)")
		if !ok || !regexp.MustCompile(pattern+`$`).MatchString(strings.TrimSpace(got)) {
			t.Errorf("the README says %s, and it is %s", expected, got)
		}
	}
	if len(want) < 7 {
		t.Errorf("only %d answers are told", len(want))
	}
}

// shellLines are the lines of the shell's blocks in a part of a document.
func shellLines(t *testing.T, file, heading string) (lines []string) {
	t.Helper()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(text), "## "+heading+"\n")
	part, _, end := strings.Cut(part, "\n## ")
	if !ok || !end {
		t.Fatalf("%s has no part %q", file, heading)
	}
	for _, block := range shellBlock.FindAllStringSubmatch(part, -1) {
		lines = slices.AppendSeq(lines, strings.Lines(block[1]))
	}
	return lines
}
