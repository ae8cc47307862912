// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture: docs/architecture.md names what there is, and all of it.
func TestArchitecture(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\b(?:driver|frontend|plugins)/[a-z-]+(?:/[a-z-]+)?`).FindAllString(string(text), -1) {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("it names %s: %v", name, err)
		}
	}
	_, table, _ := strings.Cut(string(text), "## What there is")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, top := range []string{"driver", "frontend"} {
		entries, err := os.ReadDir(filepath.Join(root, top))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := top + "/" + e.Name()
			if e.IsDir() && !strings.Contains(table, "`"+name+"`") && program(t, filepath.Join(root, name)) {
				t.Errorf("it does not name %s", name)
			}
		}
	}
}

// program says whether a folder is of a package that is no help of tests only.
func program(t *testing.T, dir string) bool {
	if strings.Contains(filepath.Base(dir), "test") {
		return false
	}
	found := false
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		found = found || strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// links are those of documents to files and to sections of them.
var links = regexp.MustCompile(`\]\(([^)#:\s]*)(#[^)\s]*)?\)`)

// heading is that of a section.
var heading = regexp.MustCompile(`(?m)^#+ (.*)$`)

// TestLinks: every link between documents leads to a file, and to a section that is there.
func TestLinks(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(documents, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			to := path
			if link[1] != "" {
				to = filepath.Join(filepath.Dir(path), link[1])
			}
			target, err := os.ReadFile(to)
			if err != nil {
				if info, serr := os.Stat(to); serr != nil || !info.IsDir() {
					t.Errorf("%s: %s: %v", filepath.Base(path), link[0], err)
				}
				continue
			}
			if link[2] != "" && !hasSection(string(target), link[2][1:]) {
				t.Errorf("%s: %s: there is no such section", filepath.Base(path), link[0])
			}
		}
	}
}

// hasSection says whether a document has a section of that anchor, as GitHub makes them.
func hasSection(text, anchor string) bool {
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		if strings.ReplaceAll(name, " ", "-") == anchor {
			return true
		}
	}
	return false
}
