// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/buntime/buntime/driver/guest/wire"
)

// program is a case of testdata: sections that begin with "-- name --".
//
//	main.ts      the code
//	env          variables of the request
//	before/…     files that are there when the runner starts
//	late/…       files written while it waits
//	delete       files removed while it waits, before late
//	presymlink/… and symlink/…, the same for links: the text is the target
type program map[string]string

var section = regexp.MustCompile(`(?m)^-- (.*) --\n`)

func readProgram(t *testing.T, name string) program {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	p := make(program)
	marks := section.FindAllStringSubmatchIndex(text, -1)
	for i, m := range marks {
		end := len(text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		p[text[m[2]:m[3]]] = text[m[1]:end]
	}
	return p
}

func (p program) env() map[string]string {
	env := make(map[string]string)
	for line := range strings.Lines(p["env"]) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[k] = v
	}
	return env
}

// lay makes the files of one stage.
func (p program) lay(b *box, stage string) {
	b.tb.Helper()
	for name, content := range p {
		if rest, ok := strings.CutPrefix(name, stage+"/"); ok {
			b.write("workspace/"+rest, content)
		}
	}
	prefix := map[string]string{"before": "presymlink/", "late": "symlink/"}[stage]
	for name, target := range p {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if err := os.Symlink(strings.TrimSpace(target), filepath.Join(b.workspace, rest)); err != nil {
				b.tb.Fatal(err)
			}
		}
	}
}

// change is what happens while a runner waits.
func (p program) change(b *box) {
	b.tb.Helper()
	for name := range strings.FieldsSeq(p["delete"]) {
		if err := os.RemoveAll(filepath.Join(b.workspace, name)); err != nil {
			b.tb.Fatal(err)
		}
	}
	p.lay(b, "late")
}

func (b *box) emptyWorkspace() {
	b.tb.Helper()
	for _, name := range b.visible() {
		if err := os.RemoveAll(filepath.Join(b.workspace, name)); err != nil {
			b.tb.Fatal(err)
		}
	}
}

// oracle is what plain Bun makes of p, in a file of the name that init gives to
// code: so outputs can be compared byte for byte.
func (p program) oracle(b *box) result {
	b.tb.Helper()
	p.lay(b, "before")
	p.change(b)
	b.write("workspace/.buntime.ts", p["main.ts"])
	r := b.plain(p.env(), b.cfg.Bun, "run", ".buntime.ts")
	b.emptyWorkspace()
	return r
}

// run runs p in a runner that was prepared with env, and tells whether it was
// that one.
func (p program) run(b *box, id string, env map[string]string) (r result, c *client, warm bool) {
	b.tb.Helper()
	p.lay(b, "before")
	pid := b.prepare(id, env)
	p.change(b)
	c = b.code(id, p["main.ts"], p.env())
	j := b.journal(c, id)
	r = c.finish()
	b.eventually("journal of all output", func() bool {
		stdout, stderr := j.read()
		return stdout == r.stdout && stderr == r.stderr
	})
	if c.saw(wire.EventExiting) && c.atEvent[wire.EventExiting] != len(r.stdout) {
		b.tb.Errorf("%d of %d bytes came before exiting", c.atEvent[wire.EventExiting], len(r.stdout))
	}
	for _, name := range b.visible() {
		if wire.IsEntry(name) {
			b.tb.Errorf("%s is left in the workspace", name)
		}
	}
	b.emptyWorkspace()
	return r, c, pid != 0 && pid == c.events[0].Pid
}

// ports are all that programs print of what differs between two runs.
var ports = regexp.MustCompile(`(localhost|127\.0\.0\.1):\d+`)

func (r result) same(o result) string {
	differ := func(a, b string) bool {
		return a != b && ports.ReplaceAllString(a, "$1:PORT") != ports.ReplaceAllString(b, "$1:PORT")
	}
	var diff []string
	if r.code != o.code {
		diff = append(diff, fmt.Sprintf("exit code %d, with plain bun %d", r.code, o.code))
	}
	if differ(r.stdout, o.stdout) {
		diff = append(diff, fmt.Sprintf("stdout (%d bytes)\n%.1000s\nwith plain bun (%d bytes)\n%.1000s", len(r.stdout), r.stdout, len(o.stdout), o.stdout))
	}
	if differ(r.stderr, o.stderr) {
		diff = append(diff, fmt.Sprintf("stderr (%d bytes)\n%.1000s\nwith plain bun (%d bytes)\n%.1000s", len(r.stderr), r.stderr, len(o.stderr), o.stderr))
	}
	return strings.Join(diff, "\n")
}

func programs(t *testing.T, dir string) map[string]program {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no programs: ", err)
	}
	all := make(map[string]program)
	for _, f := range files {
		all[strings.TrimSuffix(filepath.Base(f), ".txt")] = readProgram(t, f)
	}
	return all
}

// TestLikePlainBun runs each program with plain Bun, in a runner that waited,
// and in one that is replaced because its environment was another.
func TestLikePlainBun(t *testing.T) {
	for name, p := range programs(t, "programs") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			want := p.oracle(b)
			got, _, warm := p.run(b, "warm", p.env())
			if diff := got.same(want); diff != "" {
				t.Errorf("prepared (used: %v): %s", warm, diff)
			}
			got, _, warm = p.run(b, "cold", map[string]string{"ONLY_THEN": "1"})
			if diff := got.same(want); diff != "" {
				t.Errorf("replaced: %s", diff)
			}
			if warm {
				t.Error("a runner with another environment was used")
			}
		})
	}
}

// kept are the changes of testdata/stale that are so common that they must not
// cost the runner.
var kept = map[string]bool{
	"bun_lock_added": true, "data_file_added": true, "dir_index_outranked": true, "dir_replaced": true,
	"module_added": true, "module_changed": true, "nested_node_modules": true, "nested_package": true,
	"nested_tsconfig": true, "node_modules_grown": true, "node_modules_upgraded": true,
	"node_modules_replaced": true, "require_resolve": true,
}

// TestChangesWhileWaiting runs programs whose outcome depends on files that
// change between the start of a runner and its use.
func TestChangesWhileWaiting(t *testing.T) {
	for name, p := range programs(t, "stale") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			want := p.oracle(b)
			got, _, warm := p.run(b, "x", p.env())
			if diff := got.same(want); diff != "" {
				t.Errorf("(prepared runner used: %v) %s", warm, diff)
			}
			if kept[name] && !warm {
				t.Error("the runner was replaced without need")
			}
		})
	}
}
