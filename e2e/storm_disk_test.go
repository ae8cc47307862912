// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStormDisk: whatever a session fills its disk with, it gets no more than it
// was promised of the node's, and what it deletes comes back, to it and to the node.
func TestStormDisk(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("it looks at the images of its own system, and BUNTIME_E2E_URL names another")
	}
	s := createSession(t, deadline(t, 8*time.Minute), enterprise(), M{"resourceLimits": M{"cpu": 1}})
	s.command("true") // a session is there once a node has claimed it, its sandbox a little later
	image := s.image()
	const limit, most = 1 << 30, 1280 << 20 // of files; with what ext4 itself takes
	full := func(what string) {
		t.Helper()
		within(t, "bytes of the node's disk with "+what, allocated(t, image), limit/2, most)
		equal(t, "a small file beside "+what, s.command(`head -c 1M /dev/zero >more`).ExitCode, 1)
	}
	empty := func(what string) {
		t.Helper()
		equal(t, "end of rm", s.execute(M{"timeout": 120, "command": `rm -rf /workspace/* && sync /workspace`}).ExitCode, 0)
		within(t, "usage.disk after "+what, s.info().Usage.Disk, 0, 64<<20)
	}

	r := s.execute(M{"timeout": 120, "command": `head -c 2G /dev/zero >a; stat -c %s a; ln a b && echo linked; truncate -s 100G sparse && echo sparse`})
	contains(t, "stderr", r.Stderr, "No space left on device")
	contains(t, "stdout", r.Stdout, "linked\nsparse\n")
	size, err := strconv.ParseInt(strings.Fields(r.Stdout)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "bytes of the file", size, limit-64<<20, limit+16<<20)
	full("a file, a link to it and a sparse one")
	empty("one file")

	ghost := s.execute(M{"timeout": 240, "code": `
		import { openSync, writeSync, unlinkSync } from "node:fs";
		const fd = openSync("ghost", "w"), chunk = Buffer.alloc(1 << 20, 1);
		unlinkSync("ghost");
		try { for (;;) writeSync(fd, chunk); } catch (e) { if (e.code !== "ENOSPC") throw e; }
		Bun.serve({ port: 8080, fetch: () => new Response("full") });`})
	equal(t, "it holds a deleted file, stderr "+ghost.Stderr, ghost.Background, true)
	full("a file that is deleted but open")
	s.kill(nil)
	eventually(t, s.ctx, "space of the deleted file", 30*time.Second, func() (bool, string) {
		used := s.info().Usage.Disk
		return used < 64<<20, strconv.FormatInt(used, 10)
	})

	r = s.execute(M{"timeout": 240, "code": `
		import { mkdirSync, writeFileSync } from "node:fs";
		let n = 0;
		try {
			for (let i = 0; ; i++) {
				mkdirSync("many/" + i, { recursive: true });
				for (let j = 0; j < 1000; j++, n++) writeFileSync("many/" + i + "/" + j, "x");
			}
		} catch (e) { console.log(e.code, n); }`})
	var code string
	var files int
	if _, err := fmt.Sscan(r.Stdout, &code, &files); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	equal(t, "the end of many small files", code, "ENOSPC")
	within(t, "small files", files, 200_000, 300_000)
	within(t, "bytes of the node's disk with many small files", allocated(t, image), 0, most)
	equal(t, "a neighbour meanwhile", newSession(t).print(`await Bun.write("x", "y"); console.log("writes")`), "writes\n")
	s.execute(M{"timeout": 120, "command": `rm -rf many`})
	empty("many small files")
	equal(t, "the session", s.print(`await Bun.write("x", "y"); console.log("writes")`), "writes\n")

	eventually(t, s.ctx, "the node has its disk back", 2*time.Minute, func() (bool, string) {
		n := allocated(t, image)
		return n < 256<<20, fmt.Sprintf("%d bytes", n)
	})
}

// image is the file on the host that the session's workspace lies in.
func (s *session) image() string {
	s.t.Helper()
	var allocs []struct{ ID string }
	nomadGet(s, "/v1/job/"+s.host()+"/allocations", &allocs)
	if len(allocs) != 1 {
		s.t.Fatalf("session %s has %d allocations", s.id, len(allocs))
	}
	states, err := filepath.Glob(filepath.Join(system.stack.Dir, "driver/sandboxes/*/state.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range states {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), allocs[0].ID) {
			return filepath.Join(system.stack.Dir, "driver/workspaces", filepath.Base(filepath.Dir(path))+".img")
		}
	}
	s.t.Fatalf("no sandbox of %s in %s", s.id, system.stack.Dir)
	return ""
}

// allocated is what a file takes of the disk, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st.Blocks * 512
}
