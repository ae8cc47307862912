// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot/store"
)

// trees are what people have in a workspace: packages, in exact versions.
var trees = []struct {
	name     string
	size     int64
	rounds   int
	packages []string
}{
	{"50 MB", 1 << 30, 5, []string{"typescript@5.9.3", "express@5.1.0", "lodash@4.17.21", "react@19.1.0", "react-dom@19.1.0", "zod@4.0.0", "hono@4.9.0"}},
	{"500 MB", 2 << 30, 3, []string{
		"typescript@5.9.3", "next@15.5.4", "@mui/material@7.3.2", "react@19.1.0", "react-dom@19.1.0",
		"aws-sdk@2.1692.0", "vite@7.1.5", "eslint@9.35.0", "lodash@4.17.21", "three@0.170.0",
	}},
}

// installed returns a directory with the packages in its node_modules, which is
// made once.
func installed(b *testing.B, name string, packages []string) string {
	b.Helper()
	cache := os.Getenv("BUNTIME_CACHE")
	if cache == "" {
		home, err := os.UserCacheDir()
		must(b, err)
		cache = filepath.Join(home, "buntime")
	}
	dir := filepath.Join(cache, "trees", strings.ReplaceAll(name, " ", "-"))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	must(b, os.MkdirAll(filepath.Dir(dir), 0o755))
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	must(b, err)
	defer os.RemoveAll(tmp)
	write(b, tmp+"/package.json", []byte("{}\n"))
	cmd := exec.Command("npm", append([]string{"install", "--no-audit", "--no-fund", "--ignore-scripts"}, packages...)...)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("npm install: %v\n%s", err, out)
	}
	must(b, os.Chmod(tmp, 0o755), os.Rename(tmp, dir))
	return dir
}

// sample is a column of the table.
type sample struct {
	taken []float64
}

func (s *sample) since(begin time.Time) {
	s.taken = append(s.taken, float64(time.Since(begin).Microseconds())/1000)
}
func (s *sample) bytes(n int64) { s.taken = append(s.taken, float64(n)/1e6) }

func (s *sample) median() float64 {
	slices.Sort(s.taken)
	return s.taken[len(s.taken)/2]
}

// result is what one way of keeping a workspace took.
type result struct{ first, firstBytes, second, secondBytes, wake, wakeCPU, use sample }

func (r *result) columns() []*sample {
	return []*sample{&r.first, &r.firstBytes, &r.second, &r.secondBytes, &r.wake, &r.wakeCPU, &r.use}
}

// BenchmarkSnapshot has both ways take turns: snapshots as in this package, and a
// compressed archive of all files, stored whole.
//
//	first, second   a sleep, and another one after a line was appended to every
//	                hundredth file
//	wake            until the workspace is mounted, by a node that knows nothing
//	CPU             of it, on the node: not that of Swift and of loop devices
//	and read        until all files have been read then
func BenchmarkSnapshot(b *testing.B) {
	for _, tr := range trees {
		b.Run(tr.name, func(b *testing.B) {
			dir := installed(b, tr.name, tr.packages)
			inDir, _ := newDir(b)
			server, err := swiftServer()
			must(b, err)
			for _, to := range []struct {
				name  string
				store store.Store
			}{{"Swift", dialSwift(b, server, server.AuthURL(), 0)}, {"directory", inDir}} {
				s := to.store
				var ours, archive result
				m := newManager(b)
				here, there := newRepository(b, s), newRepository(b, s)
				for range tr.rounds {
					measure(b, m, s, dir, tr.size, &ours, snapshotter(b, here, there))
					measure(b, m, s, dir, tr.size, &archive, archiver(s))
				}
				fmt.Printf("\n%-28s %9s %9s %9s %9s %9s %9s %9s\n", tr.name+", "+to.name, "first", "MB", "second", "MB", "wake", "CPU", "and read")
				row("snapshot", &ours, &archive)
				row("tar and zstd", &archive, &archive)
			}
		})
	}
}

func row(name string, r, base *result) {
	fmt.Printf("%-28s", name)
	for _, c := range r.columns() {
		fmt.Printf(" %9.1f", c.median())
	}
	fmt.Printf("\n%-28s", "  ratio")
	for i, c := range r.columns() {
		fmt.Printf(" %9.2f", c.median()/base.columns()[i].median())
	}
	fmt.Println()
}

// way is how a workspace is kept: both return a way back, and store says how many
// bytes it has stored.
type way struct {
	store func(w *workspace.Workspace) int64
	wake  func(m *workspace.Manager, id string, size int64) (*workspace.Workspace, error)
}

func measure(b *testing.B, m *workspace.Manager, s store.Store, tree string, size int64, r *result, by way) {
	b.Helper()
	w := newWorkspace(b, m, size)
	within(b, w, func(top string) {
		out, err := exec.Command("cp", "-a", tree+"/.", top+"/").CombinedOutput()
		if err != nil {
			b.Fatalf("cp: %v: %s", err, out)
		}
	})
	must(b, w.Sync())
	begin := time.Now()
	n := by.store(w)
	r.first.since(begin)
	r.firstBytes.bytes(n)
	within(b, w, func(top string) { touch(b, top) })
	must(b, w.Sync())
	begin = time.Now()
	n = by.store(w)
	r.second.since(begin)
	r.secondBytes.bytes(n)
	must(b, w.Destroy(b.Context()))

	begin, cpu := time.Now(), cpuTime(b)
	w, err := by.wake(m, fmt.Sprintf("w%d", ids.Add(1)), size)
	must(b, err)
	r.wake.since(begin)
	r.wakeCPU.since(time.Now().Add(cpu - cpuTime(b)))
	within(b, w, func(top string) { readAll(b, top) })
	r.use.since(begin)
	must(b, w.Destroy(b.Context()))
	for name := range names(b, s, "ses_test") {
		must(b, s.Delete(b.Context(), name))
	}
}

// cpuTime is what this process and those that it has waited for have used.
func cpuTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		must(b, unix.Getrusage(who, &u))
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// touch appends a line to every hundredth file.
func touch(b *testing.B, top string) {
	n := 0
	must(b, filepath.WalkDir(top+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n++; n%100 != 50 {
			return nil
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, "// a line")
		return errors.Join(err, f.Close())
	}))
}

func readAll(b *testing.B, top string) {
	must(b, filepath.WalkDir(top+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	}))
}

// snapshotter has a workspace fall asleep on one node and wake on another.
func snapshotter(b *testing.B, r, there *Repository) way {
	session := newSession()
	r.Forget(session.ID)
	there.Forget(session.ID)
	var p Pointer
	return way{
		store: func(w *workspace.Workspace) int64 {
			_, err := w.Trim()
			must(b, err, w.Freeze())
			var stats Stats
			p, stats, err = r.Snapshot(b.Context(), Request{Session: session, Epoch: 1, Last: p, Image: w.Image()})
			must(b, err, w.Thaw())
			return stats.Uploaded
		},
		wake: func(m *workspace.Manager, id string, _ int64) (*workspace.Workspace, error) {
			arrived := filepath.Join(b.TempDir(), "arrived")
			return m.CreateFrom(b.Context(), id, p.Size, b.TempDir(), func(context.Context, string) (workspace.Source, error) {
				return here{there, session, p, arrived}, nil
			})
		},
	}
}

func archiver(s store.Store) way {
	const name = "ses_test/archive"
	var size int
	return way{
		store: func(w *workspace.Workspace) int64 {
			root, err := w.Root()
			if err != nil {
				panic(err)
			}
			defer root.Close()
			top, err := root.Open(".")
			if err != nil {
				panic(err)
			}
			defer top.Close()
			cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("tar -C /proc/%d/fd/%d --xattrs -cf - . | zstd -3 -T0 -q", os.Getpid(), top.Fd()))
			data, err := cmd.Output()
			if err == nil {
				size = len(data)
				err = s.Put(context.Background(), name, data, time.Now().Add(time.Hour))
			}
			if err != nil {
				panic(err)
			}
			return int64(size)
		},
		wake: func(m *workspace.Manager, id string, n int64) (*workspace.Workspace, error) {
			w, err := m.Create(context.Background(), id, n)
			if err != nil {
				return nil, err
			}
			root, err := w.Root()
			if err != nil {
				return nil, err
			}
			defer root.Close()
			top, err := root.Open(".")
			if err != nil {
				return nil, err
			}
			defer top.Close()
			data := make([]byte, size)
			if err := s.Get(context.Background(), name, 0, data); err != nil {
				return nil, err
			}
			cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("zstd -dcq | tar -C /proc/%d/fd/%d --xattrs -xf -", os.Getpid(), top.Fd()))
			cmd.Stdin = bytes.NewReader(data)
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("unpack: %w: %s", err, out)
			}
			return w, nil
		},
	}
}

// BenchmarkPause measures for how long a session is held up by a snapshot that is
// taken while it writes.
func BenchmarkPause(b *testing.B) {
	for _, tr := range trees {
		b.Run(tr.name, func(b *testing.B) {
			dir := installed(b, tr.name, tr.packages)
			s, _ := newDir(b)
			session, r, m := newSession(), newRepository(b, s), newManager(b)
			w := newWorkspace(b, m, tr.size)
			var pauses sample
			var p Pointer
			within(b, w, func(top string) {
				out, err := exec.Command("cp", "-a", dir+"/.", top+"/").CombinedOutput()
				if err != nil {
					b.Fatalf("cp: %v: %s", err, out)
				}
				for range 10 {
					touch(b, top)
					var stats Stats
					p, stats, err = r.Snapshot(b.Context(), Request{Session: session, Epoch: 1, Last: p, Image: w.Image(), Live: w})
					must(b, err)
					pauses.since(time.Now().Add(-stats.Paused))
				}
			})
			fmt.Printf("\n%s: frozen for %.1f ms, median of 10; at most %.1f\n", tr.name, pauses.median(), pauses.taken[9])
		})
	}
}
