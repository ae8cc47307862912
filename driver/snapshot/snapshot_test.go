// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/e2e/swift"
)

const workspaceSize = 256 << 20

// must ends the test with the first error. It is for what has nothing to do with
// what is tested.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o644))
}

// overwrite writes over what is in a file, in the same blocks.
func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err, f.Close())
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// makeEverything makes one of everything that a file system knows.
func makeEverything(t *testing.T, top string) {
	in := func(name string) string { return top + "/" + name }
	for i, mode := range []uint32{0o000, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o1777} {
		write(t, in(fmt.Sprintf("mode%d", i)), []byte("x"))
		must(t, unix.Chmod(in(fmt.Sprintf("mode%d", i)), mode))
	}
	must(t, os.MkdirAll(in("empty/also empty"), 0o750), unix.Chmod(in("empty"), 0o1700))
	write(t, in("times"), nil)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("times"), []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 1234567890, Nsec: 123456789}}, 0))
	write(t, in("far"), nil)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("far"), []unix.Timespec{{Sec: -5, Nsec: 1}, {Sec: 1 << 33, Nsec: 999999999}}, 0))
	must(t, os.Symlink("../nowhere \n", in("dangling")), os.Symlink(strings.Repeat("long/", 400), in("long link")))
	write(t, in("linked"), noise(1, 10000))
	must(t, os.Link(in("linked"), in("empty/hard link")), os.Link(in("linked"), in("another")))
	must(t, os.Chown(in("linked"), 1000, 1000), os.Lchown(in("dangling"), 1234, 60000))
	must(t, unix.Mkfifo(in("fifo"), 0o600), unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	for _, name := range []string{"new\nline", "\xff\xfe not UTF-8", strings.Repeat("n", 255), "-rf", " ", "\\", "ä", "a\tb"} {
		write(t, in(name), []byte(name))
	}
	sparse, err := os.Create(in("sparse"))
	must(t, err)
	for i := range int64(10) {
		_, err := sparse.WriteAt(noise(uint64(i), 5000), i*7_000_000)
		must(t, err)
	}
	must(t, sparse.Truncate(150<<20), sparse.Close())
	must(t, unix.Setxattr(in("linked"), "user.name", []byte("value\x00\xff"), 0),
		unix.Setxattr(in("empty"), "user.big", noise(2, 3000), 0),
		unix.Setxattr(in("times"), "user.none", nil, 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("linked"), []unix.Timespec{{Sec: 3}, {Sec: 4, Nsec: 5}}, 0))
	deep := top
	for range 200 {
		deep += "/d"
		must(t, os.Mkdir(deep, 0o755))
	}
	write(t, in("big"), noise(3, 20<<20))
	write(t, in("zero"), make([]byte, 3<<20))
}

// TestEverything has all that a file system knows come back, from either store.
func TestEverything(t *testing.T) {
	m := newManager(t)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { makeEverything(t, top) })
	want := tree(t, w)
	inDir, _ := newDir(t)
	inSwift, _ := newSwift(t, 0)
	for name, s := range map[string]store.Store{"dir": inDir, "swift": inSwift} {
		t.Run(name, func(t *testing.T) {
			session := newSession()
			p, stats := asleep(t, newRepository(t, s), session, w, 1, Pointer{})
			t.Logf("%+v, %+v", p, stats)
			// Another node, which knows of the session what is in its record.
			text, err := json.Marshal(map[string]any{"p": p, "k": session.Key})
			must(t, err)
			var record struct {
				P Pointer
				K Key
			}
			must(t, json.Unmarshal(text, &record))
			session.Key = record.K
			again := restored(t, m, newRepository(t, s), session, record.P)
			same(t, "restored", tree(t, again), want)
			check(t, again)
			late := restoredLazily(t, m, newRepository(t, s), session, record.P)
			same(t, "restored lazily", tree(t, late), want)
			must(t, late.Complete(t.Context()))
			check(t, late)
		})
	}
}

// check has the file system verified by its own tool.
func check(t *testing.T, w *workspace.Workspace) {
	t.Helper()
	must(t, w.Freeze())
	defer w.Thaw()
	out, err := output("e2fsck", "-f", "-n", w.Image())
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestManyFiles(t *testing.T) {
	const files = 100_000
	m := newManager(t)
	w := newWorkspace(t, m, 1<<30)
	within(t, w, func(top string) {
		for i := range files {
			if i%1000 == 0 {
				must(t, os.Mkdir(fmt.Sprintf("%s/%d", top, i/1000), 0o755))
			}
			write(t, fmt.Sprintf("%s/%d/file %d", top, i/1000, i), noise(uint64(i), i%200))
		}
	})
	want := tree(t, w)
	s, _ := newDir(t)
	session, r := newSession(), newRepository(t, s)
	begin := time.Now()
	p, stats := asleep(t, r, session, w, 1, Pointer{})
	slept := time.Now()
	again := restored(t, m, r, session, p)
	t.Logf("%d files: snapshot %v, restore %v, %+v", files, slept.Sub(begin), time.Since(slept), stats)
	same(t, "restored", tree(t, again), want)
}

// TestSeries takes snapshots of what changes at random, goes on from a restored
// workspace now and then, and compares each time.
func TestSeries(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	m := newManager(t)
	s, _ := newDir(t)
	session := newSession()
	w := newWorkspace(t, m, workspaceSize)
	r := newRepository(t, s)
	var p Pointer
	epoch := uint64(1)
	for round := range 12 {
		within(t, w, func(top string) {
			for range 1 + random.IntN(40) {
				change(t, random, top)
			}
		})
		want := tree(t, w)
		var err error
		if random.IntN(2) == 0 {
			p, _ = asleep(t, r, session, w, epoch, p)
		} else {
			p, _, err = r.Snapshot(t.Context(), Request{Session: session, Epoch: epoch, Last: p, Image: w.Image(), Live: w})
			must(t, err)
		}
		if random.IntN(3) > 0 {
			must(t, r.Prune(t.Context(), session, p))
			onlyNeeded(t, r, s, session, p)
		}
		again := []func(testing.TB, *workspace.Manager, *Repository, Session, Pointer) *workspace.Workspace{
			restored, restoredLazily,
		}[round%2](t, m, newRepository(t, s), session, p)
		same(t, fmt.Sprintf("round %d", round), tree(t, again), want)
		must(t, again.Complete(t.Context()))
		check(t, again)
		if random.IntN(3) == 0 { // it wakes elsewhere
			must(t, w.Destroy(t.Context()))
			w, r = again, newRepository(t, s)
			epoch++
		} else {
			must(t, again.Destroy(t.Context()))
		}
	}
}

// change does something to the files below top.
func change(t *testing.T, random *rand.Rand, top string) {
	t.Helper()
	path := fmt.Sprintf("%s/%d/%d", top, random.IntN(4), random.IntN(30))
	other := fmt.Sprintf("%s/%d/%d", top, random.IntN(4), random.IntN(30))
	must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.MkdirAll(filepath.Dir(other), 0o755))
	switch random.IntN(7) {
	case 0, 1:
		write(t, path, noise(random.Uint64(), random.IntN(3<<20)))
	case 2:
		write(t, path, []byte(strings.Repeat("text ", random.IntN(100_000))))
	case 3:
		must(t, os.RemoveAll(path))
	case 4:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		must(t, err)
		_, err = f.WriteAt(noise(random.Uint64(), random.IntN(10_000)), random.Int64N(5<<20))
		must(t, err, f.Close())
	case 5:
		if err := os.Rename(path, other); !errors.Is(err, os.ErrNotExist) {
			must(t, err)
		}
	case 6:
		if err := os.Link(path, other); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
			must(t, err)
		}
	}
}

// onlyNeeded tests that the store has what p needs and nothing else.
func onlyNeeded(t *testing.T, r *Repository, s store.Store, session Session, p Pointer) {
	t.Helper()
	want, err := r.names(t.Context(), session, p)
	must(t, err)
	got := names(t, s, session.ID)
	for _, n := range want {
		if !got[n] {
			t.Errorf("%s is needed and not there", n)
		}
		delete(got, n)
	}
	if len(got) > 0 {
		t.Errorf("not needed: %v", got)
	}
}

// TestLittleChange has a small change cost little, also on another node, and many
// of them not pile up.
func TestLittleChange(t *testing.T) {
	m := newManager(t)
	s, _ := newDir(t)
	session := newSession()
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) {
		for i := range 40 {
			write(t, fmt.Sprintf("%s/%d", top, i), noise(uint64(i), 1<<20))
		}
	})
	first, all := asleep(t, newRepository(t, s), session, w, 1, Pointer{})
	r, p := newRepository(t, s), first
	for i := range 60 {
		within(t, w, func(top string) { write(t, top+"/0", noise(uint64(1000+i), 200_000)) })
		var stats Stats
		p, stats = asleep(t, r, session, w, 2, p)
		if stats.Uploaded > all.Uploaded/10 {
			t.Logf("round %d has stored %d bytes anew", i, stats.Uploaded)
		}
		if i == 0 && (stats.Uploaded > all.Uploaded/50 || stats.Objects != 2) {
			t.Errorf("a change of 0.2 of 40 MB: %+v", stats)
		}
		must(t, r.Prune(t.Context(), session, p))
	}
	if n := len(names(t, s, session.ID)); n > 10+mostSmall+3 || p.Stored > first.Stored*3/2 {
		t.Errorf("after 60 changes %d objects, %d bytes; at first %d", n, p.Stored, first.Stored)
	}
	// Nothing has changed but the time in the superblock.
	_, stats := asleep(t, r, session, w, 2, p)
	if stats.Changed > chunkSize {
		t.Errorf("no change: %+v", stats)
	}
}

// TestLive takes snapshots beside a program that writes to two files in turn. In
// each the two are of one moment.
func TestLive(t *testing.T) {
	m := newManager(t)
	s, _ := newDir(t)
	session, r := newSession(), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) {
		write(t, top+"/noise", noise(1, 50<<20))
		stop := startWriter(t, top)
		defer stop()
		var p Pointer
		for i := range 5 {
			var stats Stats
			var err error
			p, stats, err = r.Snapshot(t.Context(), Request{Session: session, Epoch: 1, Last: p, Image: w.Image(), Live: w})
			must(t, err)
			t.Logf("frozen for %v, %+v", stats.Paused, stats)
			if stats.Paused == 0 {
				t.Error("no pause")
			}
			again := restored(t, m, newRepository(t, s), session, p)
			within(t, again, func(top string) {
				a, errA := os.ReadFile(top + "/a")
				b, errB := os.ReadFile(top + "/b")
				must(t, errA, errB)
				if d := len(a) - len(b); d != 0 && d != record {
					t.Errorf("snapshot %d: %d bytes in the first file and %d in the second", i, len(a), len(b))
				}
				for i := range a {
					if a[i] != byte(i/record) || i < len(b) && b[i] != a[i] {
						t.Fatalf("snapshot %d: wrong at %d of %d and %d", i, i, len(a), len(b))
					}
				}
			})
			must(t, again.Destroy(t.Context()))
		}
	})
}

const record = 1000

// startWriter appends to a and then to b, again and again.
func startWriter(t *testing.T, top string) (stop func()) {
	a, errA := os.Create(top + "/a")
	b, errB := os.Create(top + "/b")
	must(t, errA, errB)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, record)
		for i := range 50 << 20 / record {
			for j := range buf {
				buf[j] = byte(i)
			}
			for _, f := range []*os.File{a, b} {
				if _, err := f.Write(buf); err != nil {
					t.Error(err)
					return
				}
			}
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	}()
	return func() { close(done); <-ended; a.Close(); b.Close() }
}

// TestInterrupted has a store fail in the middle: the last snapshot is untouched,
// another try stores the rest only, and nothing is left over.
func TestInterrupted(t *testing.T) {
	m := newManager(t)
	s, proxy := newSwift(t, 1)
	session, r := newSession(), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 10<<20)) })
	want := tree(t, w)
	last, _ := asleep(t, r, session, w, 1, Pointer{})
	within(t, w, func(top string) {
		overwrite(t, top+"/a", noise(3, 10<<20)) // all of what the last snapshot has
		write(t, top+"/b", noise(2, 60<<20))
	})
	now := tree(t, w)
	must(t, w.Freeze())
	req := Request{Session: session, Epoch: 1, Last: last, Image: w.Image()}

	proxy.Set(func(n int, r *http.Request) swift.Action {
		if r.Method == http.MethodPut && n >= 8 {
			return swift.Answer(http.StatusServiceUnavailable)
		}
		return nil
	})
	_, failed, err := r.Snapshot(t.Context(), req)
	if err == nil || failed.Objects == 0 {
		t.Fatalf("%+v, %v", failed, err)
	}
	proxy.Set(nil)
	must(t, r.Prune(t.Context(), session, last)) // takes neither it nor what was just stored
	same(t, "the last snapshot", tree(t, restored(t, m, newRepository(t, s), session, last)), want)

	p, stats, err := r.Snapshot(t.Context(), req)
	must(t, err)
	t.Logf("at first %+v, then %+v", failed, stats)
	if stats.Uploaded+failed.Uploaded > 80<<20 {
		t.Errorf("stored twice: %+v, then %+v", failed, stats)
	}
	same(t, "after another try", tree(t, restored(t, m, newRepository(t, s), session, p)), now)
	must(t, r.Prune(t.Context(), session, p))
	onlyNeeded(t, r, s, session, p)

	// A node that died in the middle remembers nothing, and another one prunes what
	// it has left.
	proxy.Set(func(n int, r *http.Request) swift.Action {
		if r.Method == http.MethodPut && n >= 8 {
			return swift.Cut
		}
		return nil
	})
	req.Last = Pointer{Epoch: p.Epoch, Serial: p.Serial}
	if _, _, err := newRepository(t, s).Snapshot(t.Context(), req); err == nil {
		t.Fatal("no error")
	}
	proxy.Set(nil)
	req.Epoch, req.Last = 2, p
	after := newRepository(t, s)
	p, _, err = after.Snapshot(t.Context(), req)
	must(t, err, w.Thaw(), after.Prune(t.Context(), session, p))
	onlyNeeded(t, after, s, session, p)
	same(t, "after the death of a node", tree(t, restored(t, m, after, session, p)), now)
}

// TestFaults restores from a store that does each of the things that stores do
// once, and then always: the right image, or an error and no image.
func TestFaults(t *testing.T) {
	m := newManager(t)
	s, proxy := newSwift(t, 3)
	session := newSession()
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 20<<20)) })
	want := tree(t, w)
	p, _ := asleep(t, newRepository(t, s), session, w, 1, Pointer{})
	faults := map[string]swift.Action{
		"500": swift.Answer(500), "503": swift.Answer(503), "429": swift.Answer(429), "401": swift.Answer(401),
		"cut": swift.Cut, "delay": swift.Delay(300 * time.Millisecond), "truncate": swift.Truncate(100_000),
		"corrupt begin": swift.CorruptAnswer(0), "corrupt": swift.CorruptAnswer(3000),
	}
	for name, action := range faults {
		t.Run(name, func(t *testing.T) {
			for _, which := range []int{0, 1, 2} { // the manifest, and objects
				proxy.Set(func(n int, _ *http.Request) swift.Action {
					if n == which {
						return action
					}
					return nil
				})
				again := restored(t, m, newRepository(t, s), session, p)
				same(t, fmt.Sprint("request ", which), tree(t, again), want)
				must(t, again.Destroy(t.Context()))
			}
			proxy.Set(func(int, *http.Request) swift.Action { return action })
			defer proxy.Set(nil)
			path := filepath.Join(t.TempDir(), "image")
			err := newRepository(t, s).Restore(t.Context(), session, p, path)
			switch {
			case name == "delay":
				must(t, err)
				return
			case err == nil:
				t.Error("restored")
			case strings.HasPrefix(name, "corrupt") && !errors.Is(err, ErrCorrupt):
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("an image is left: %v", err)
			}
		})
	}
}

// TestTampered has whoever can write to the store change nothing unseen.
func TestTampered(t *testing.T) {
	m := newManager(t)
	s, path := newDir(t)
	session, r := newSession(), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 12<<20)) })
	old, _ := asleep(t, r, session, w, 1, Pointer{})
	within(t, w, func(top string) { write(t, top+"/a", noise(2, 12<<20)) })
	p, _ := asleep(t, r, session, w, 1, old)
	gen, oldGen := filepath.Join(path, session.ID, p.generation().String()), filepath.Join(path, session.ID, old.generation().String())

	fails := func(t *testing.T, s Session, p Pointer, want error) {
		t.Helper()
		image := filepath.Join(t.TempDir(), "image")
		// What was put in the place of something longer ends too early.
		err := newRepository(t, r.store).Restore(t.Context(), s, p, image)
		if !errors.Is(err, want) && (!errors.Is(want, ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Errorf("got %v, not %v", err, want)
		}
		if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("an image is left: %v", err)
		}
	}
	swap := func(t *testing.T, a, b string) {
		t.Helper()
		must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
		t.Cleanup(func() { must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)) })
	}
	tests := map[string]func(t *testing.T){
		"older manifest":   func(t *testing.T) { swap(t, gen+"/manifest", oldGen+"/manifest"); fails(t, session, p, ErrCorrupt) },
		"older object":     func(t *testing.T) { swap(t, gen+"/00000", oldGen+"/00000"); fails(t, session, p, ErrCorrupt) },
		"exchanged":        func(t *testing.T) { swap(t, gen+"/00000", gen+"/00001"); fails(t, session, p, ErrCorrupt) },
		"missing object":   func(t *testing.T) { hide(t, gen+"/00001"); fails(t, session, p, store.ErrNotExist) },
		"missing manifest": func(t *testing.T) { hide(t, gen+"/manifest"); fails(t, session, p, store.ErrNotExist) },
		"other key": func(t *testing.T) {
			other := session
			other.Key = NewKey()
			fails(t, other, p, ErrCorrupt)
		},
		"other session": func(t *testing.T) {
			other := session
			other.ID = "ses_other"
			must(t, os.Symlink(session.ID, filepath.Join(path, other.ID)))
			defer os.Remove(filepath.Join(path, other.ID))
			fails(t, other, p, ErrCorrupt)
		},
		"other pointer": func(t *testing.T) {
			q := p
			q.Size++
			fails(t, session, q, ErrCorrupt)
			q = p
			q.Digest = old.Digest
			fails(t, session, q, ErrCorrupt)
			q = p
			q.Length = 1 << 40
			fails(t, session, q, ErrCorrupt)
			fails(t, session, Pointer{}, ErrCorrupt)
		},
	}
	for _, object := range []string{"manifest", "00000", "00001"} {
		tests["flipped "+object] = func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(gen, object))
			must(t, err)
			for range 5 {
				at := rand.IntN(len(data))
				flip(t, filepath.Join(gen, object), int64(at))
				fails(t, session, p, ErrCorrupt)
				flip(t, filepath.Join(gen, object), int64(at))
			}
		}
	}
	for name, test := range tests {
		t.Run(name, test)
	}
	same(t, "in the end", tree(t, restored(t, m, newRepository(t, s), session, p)), tree(t, w))
}

func hide(t *testing.T, path string) {
	t.Helper()
	must(t, os.Rename(path, path+"~"))
	t.Cleanup(func() { must(t, os.Rename(path+"~", path)) })
}

// flip changes a byte, and not the time of modification, which is the expiry.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	must(t, err, f.Close(), os.Chtimes(path, time.Time{}, info.ModTime()))
}

// TestLateWriter has a node whose epoch is over change nothing of a later one.
func TestLateWriter(t *testing.T) {
	m := newManager(t)
	s, _ := newDir(t)
	session := newSession()
	late, now := newRepository(t, s), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 10<<20)) })
	p1, _ := asleep(t, late, session, w, 1, Pointer{})
	again := restored(t, m, now, session, p1)
	within(t, again, func(top string) { write(t, top+"/b", noise(2, 10<<20)) })
	p2, _ := asleep(t, now, session, again, 2, p1)
	want := tree(t, again)

	within(t, w, func(top string) { write(t, top+"/a", noise(3, 10<<20)) })
	asleep(t, late, session, w, 1, p1)            // which can no more be put into the record
	must(t, late.Prune(t.Context(), session, p1)) // which had been
	same(t, "after the late one's", tree(t, restored(t, m, newRepository(t, s), session, p2)), want)
	must(t, now.Prune(t.Context(), session, p2))
	onlyNeeded(t, now, s, session, p2)
	if _, _, err := late.Snapshot(t.Context(), Request{Session: session, Epoch: 1, Last: p2, Image: w.Image()}); err == nil {
		t.Error("a snapshot of epoch 1 on top of one of epoch 2")
	}
}

// TestEnds has objects end with their session, whenever that is.
func TestEnds(t *testing.T) {
	m := newManager(t)
	s, path := newDir(t)
	session, r := newSession(), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 5<<20)) })
	ends := func(what string, needed Pointer, want time.Time) {
		t.Helper()
		list, err := newRepository(t, s).names(t.Context(), session, needed)
		must(t, err)
		for _, name := range list {
			info, err := os.Stat(filepath.Join(path, name))
			must(t, err)
			if d := info.ModTime().Sub(want).Abs(); d > time.Second {
				t.Errorf("%s: %s ends at %v, not %v", what, name, info.ModTime(), want)
			}
		}
	}
	p, _ := asleep(t, r, session, w, 1, Pointer{})
	ends("first", p, session.Expires)
	later := session.Expires.Add(time.Hour)
	p, err := r.Extend(t.Context(), session, p, later)
	must(t, err)
	ends("extended", p, later)
	session.Expires = later.Add(time.Hour)
	p, stats := asleep(t, r, session, w, 1, p)
	ends("with the next snapshot", p, session.Expires)
	if stats.Changed > chunkSize { // the superblock has a time
		t.Errorf("stored what had not changed: %+v", stats)
	}
	p, err = newRepository(t, s).Extend(t.Context(), session, p, later)
	must(t, err)
	ends("shortened by another", p, later)

	var there []string
	for id, err := range r.Sessions(t.Context(), "") {
		must(t, err)
		there = append(there, id)
	}
	if len(there) != 1 || there[0] != session.ID {
		t.Errorf("sessions %v", there)
	}
	must(t, r.Remove(t.Context(), session.ID), r.Remove(t.Context(), session.ID))
	if left := names(t, s, session.ID); len(left) > 0 {
		t.Errorf("left after removal: %v", left)
	}
	for _, id := range []string{"", "..", "a/b", "."} {
		if err := r.Remove(t.Context(), id); err == nil {
			t.Errorf("removed %q", id)
		}
	}
}

// TestLost has a snapshot not build on what the store has lost.
func TestLost(t *testing.T) {
	m := newManager(t)
	s, path := newDir(t)
	session := newSession()
	w := newWorkspace(t, m, workspaceSize)
	within(t, w, func(top string) { write(t, top+"/a", noise(1, 5<<20)) })
	want := tree(t, w)
	p, _ := asleep(t, newRepository(t, s), session, w, 1, Pointer{})
	must(t, os.Remove(filepath.Join(path, session.ID, p.generation().String(), "manifest")))
	p, stats := asleep(t, newRepository(t, s), session, w, 1, p)
	if stats.Changed < 5<<20 {
		t.Errorf("built on a manifest that is not there: %+v", stats)
	}
	same(t, "restored", tree(t, restored(t, m, newRepository(t, s), session, p)), want)
}

func TestBusy(t *testing.T) {
	m := newManager(t)
	s, _ := newDir(t)
	session, r := newSession(), newRepository(t, s)
	w := newWorkspace(t, m, workspaceSize)
	release, err := r.begin(t.Context(), session.ID)
	must(t, err)
	if _, _, err := r.Snapshot(t.Context(), Request{Session: session, Image: w.Image()}); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	release()
	asleep(t, r, session, w, 1, Pointer{})
	session.Key = Key{}
	if _, _, err := r.Snapshot(t.Context(), Request{Session: session, Image: w.Image()}); err == nil {
		t.Error("a snapshot without a key")
	}
	if s := fmt.Sprintf("%v %s %+v", session.Key, session.Key, session); strings.Contains(s, "0 0 0") {
		t.Errorf("a key in the log: %s", s)
	}
}
