// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package console_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuilt: what is committed is what comes of the sources.
func TestBuilt(t *testing.T) {
	if out, err := exec.Command("./build", "check").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestLicences: of each package that is part of the page there is a licence.
func TestLicences(t *testing.T) {
	text, err := os.ReadFile("dist/licences.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"preact", "@preact/signals", "@codemirror/view", "@xterm/xterm", "uplot", "ansi-sequence-parser", "eventsource-parser"} {
		if !strings.Contains(string(text), "\n"+name+" ") {
			t.Errorf("nothing of %s", name)
		}
	}
}

// TestNoMarkup: no source makes elements of text, which is the one way for a session's
// text to be more than that.
func TestNoMarkup(t *testing.T) {
	names, err := filepath.Glob("src/*.ts*")
	if err != nil || len(names) == 0 {
		t.Fatal(err, names)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "dangerously", "document.write", "DOMParser", "createContextualFragment", "eval(", "new Function", "srcdoc"} {
			if strings.Contains(string(text), way) {
				t.Errorf("%s has %s", name, way)
			}
		}
	}
}
