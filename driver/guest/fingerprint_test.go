// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOutranks(t *testing.T) {
	for _, c := range []struct {
		old, added string
		want       bool
	}{
		{"a.js", "a.ts", true},
		{"a", "a.ts", true}, // a directory
		{"a.ts", "a", true},
		{"a.ts", "a.js", true}, // for imports of ./a.js
		{"a.b.ts", "a.b", true},
		{"a.ts", "b.ts", false},
		{"a.ts", "a.test.ts", false},
		{"a.ts", ".a", false},
		{"a.ts", "data.json", false},
		{"a.ts", "package.json", true},
		{"a.ts", "node_modules", true},
		{"a.ts", ".env.local", true},
		{"a.ts", "bunfig.toml", true},
	} {
		old := map[string]fs.FileMode{c.old: 0}
		now := map[string]fs.FileMode{c.old: 0, c.added: 0}
		if got := outranks(now, old); got != c.want {
			t.Errorf("%s beside %s: %v, want %v", c.added, c.old, got, c.want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	write := func(name, text string) func(string) error {
		return func(dir string) error {
			full := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				return err
			}
			return os.WriteFile(full, []byte(text), 0o644)
		}
	}
	for name, c := range map[string]struct {
		change func(dir string) error
		holds  bool
	}{
		"nothing":              {func(string) error { return nil }, true},
		"data":                 {write("app/more.txt", "x"), true},
		"deep file":            {write("app/src/new.ts", "x"), true},
		"file in node_modules": {write("app/node_modules/pkg/new.js", "x"), true},
		"our own":              {write("app/.buntime-2.ts", "x"), true},
		"our directory":        {write("app/.buntime/x", "x"), true},
		"base of tsconfig":     {write("conf/base.json", "{} "), false},
		"base of the base":     {write("conf/deep.json", "{}"), false},
		"package's tsconfig":   {write("app/node_modules/@tsconfig/bun/tsconfig.json", "{}"), false},
		"above":                {write("package.json", "{}"), false},
		"env above":            {write(".env", "A=B"), false}, // cannot be told from a name that matters
		"env":                  {write("app/.env", "A=C"), false},
		"new env":              {write("app/.env.local", "A=C"), false},
		"removed":              {func(dir string) error { return os.Remove(dir + "/app/data.json") }, false},
		"directory is a file": {func(dir string) error {
			if err := os.RemoveAll(dir + "/app/src"); err != nil {
				return err
			}
			return os.WriteFile(dir+"/app/src", nil, 0o644)
		}, false},
		"directory is gone": {func(dir string) error { return os.RemoveAll(dir + "/app") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"app/tsconfig.json":              `{"extends": ["../conf/base.json", "@tsconfig/bun"]}`,
				"conf/base.json":                 `{"extends" : "./deep"}`,
				"app/.env":                       "A=B",
				"app/data.json":                  "{}",
				"app/src/a.ts":                   "1",
				"app/node_modules/pkg/index.js":  "1",
				"app/.buntime/executions/x/code": "1",
			} {
				if err := write(name, text)(dir); err != nil {
					t.Fatal(err)
				}
			}
			f := takeFingerprint(filepath.Join(dir, "app"), dir)
			if !f.holds() {
				t.Fatal("it does not hold from the start")
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			if got := f.holds(); got != c.holds {
				t.Errorf("it holds: %v, want %v", got, c.holds)
			}
		})
	}
}

// TestConfigWithoutEnd gives init, which has memory of its own, configuration files
// that have no end, or that nobody ever writes to.
func TestConfigWithoutEnd(t *testing.T) {
	for _, name := range []string{"bunfig.toml", "tsconfig.json", "jsconfig.json"} {
		for kind, make := range map[string]func(path string) error{
			"device":     func(path string) error { return os.Symlink("/dev/zero", path) },
			"pipe":       func(path string) error { return unix.Mkfifo(path, 0o644) },
			"large file": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 20<<30)) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				dir := t.TempDir()
				if err := make(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				done := goDo(func() {
					if name == "bunfig.toml" {
						if !runsBefore(dir, nil) {
							t.Error("a runner would wait with it")
						}
						return
					}
					if f := takeFingerprint(dir, dir); f.holds() {
						t.Error("what nobody has looked at is taken for unchanged")
					}
				})
				select {
				case <-done:
				case <-time.After(20 * time.Second):
					t.Fatal("init still reads it")
				}
			})
		}
	}
}

func goDo(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// TestReroutes: no runner waits where a module of the session's could stand in for the
// gate's.
func TestReroutes(t *testing.T) {
	for text, want := range map[string]bool{
		`{"compilerOptions": {"paths": {"*": ["./src/*"]}}}`:                                    true,
		`{"compilerOptions": {"paths": {"/run/*" /* { */ : ["./src/*"]}}}`:                      true,
		"{\"compilerOptions\": {\"paths\": {'/run/buntime/gate.ts' // {\n\n: [\"./pre.ts\"]}}}": true,
		`{"compilerOptions": {"paths": {"\u002a": ["./src/*"]}}}`:                               true,
		`{"compilerOptions": {"paths": {"@/*": ["./src/*"], "lib": ["./lib"]}}}`:                false,
		`{"include": ["**/*.ts", "/a"], "compilerOptions": {"outDir": "/x", "baseUrl": "."}}`:   false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "base.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tsconfig.json"), []byte(`{"extends": "./base.json"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if f := takeFingerprint(dir, dir); f.reroutes != want {
			t.Errorf("%s: %v, want %v", text, f.reroutes, want)
		}
	}
}
