// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestFilesEscapeByPath: no spelling of a path leaves /workspace.
func TestFilesEscapeByPath(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("a/b.txt", "inside")
	for _, path := range []string{
		"..", "../", "../etc/passwd", "a/../../etc/passwd", "./../etc/passwd", "a/../..", "../workspace-evil",
		"/", "/etc", "/etc/passwd", "//etc/passwd", "/tmp/x", "/proc/self/environ", "/proc/1/root/etc/passwd",
		"/workspace/..", "/workspace/../etc/passwd", "/workspace/../workspace/../etc/passwd", "/workspaceevil/x", "/workspace2",
		"/home/bun/.bashrc", strings.Repeat("../", 100) + "etc/passwd", "a/" + strings.Repeat("../", 100) + "etc/passwd",
	} {
		t.Run(path[:min(len(path), 40)], func(t *testing.T) {
			s := s.in(t)
			refusedField(t, s.get("/files/read", "path", path), "path")
			refusedField(t, s.get("/files/list", "path", path), "path")
			refusedField(t, s.post("/files/write", M{"path": path, "content": "x"}), "path")
			refusedField(t, s.del("/files", "path", path, "recursive", "true"), "path")
			refusedField(t, s.post("/execute", M{"files": []M{{"path": path, "content": "x"}}, "code": "1"}), "files.0.path")
			refusedField(t, s.post("/execute", M{"workingDir": path, "code": "1"}), "workingDir")
		})
	}
	equal(t, "the file", s.read("a/b.txt"), "inside")
	equal(t, "outside", s.shell(`ls -d /tmp/x /workspace?* 2>/dev/null || true`), "")
}

// TestFilesEscapeByLink: a symbolic link that code in the session made leads
// the API nowhere outside.
func TestFilesEscapeByLink(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	host := hostSecret(t)
	s.shell(`
		ln -s /etc etc; ln -s /etc/passwd passwd; ln -s .. up; ln -s / root; ln -s ../../../../../../etc relative
		ln -s /tmp/outside dangling; ln -s /proc/self/root proc; ln -s etc twice; ln -s loop loop
		ln -s ` + host + ` host; ln -s ` + host + `/secret secret; mkdir dir; ln -s ../../etc dir/etc; ln -s /workspace/../etc dots
		mkdir /tmp/out; echo theirs >/tmp/out/victim; ln -s /tmp/out out`)
	reads := []string{
		"passwd", "etc/passwd", "up/etc/passwd", "root/etc/passwd", "relative/passwd", "proc/etc/passwd", "twice/passwd",
		"dir/etc/passwd", "dots/passwd", "host/secret", "secret", "out/victim", "up/up/etc/passwd", "etc/../passwd",
	}
	for _, path := range reads {
		refused(t, path, s.get("/files/read", "path", path), "root:", "host secret", "theirs")
	}
	for _, path := range []string{"etc", "up", "root", "relative", "proc", "twice", "dir/etc", "dots", "host", "out", "etc/apt", "root/tmp/out"} {
		refused(t, path, s.get("/files/list", "path", path), "passwd", "secret", "victim")
	}
	for _, path := range []string{"dangling", "etc/evil", "up/evil", "root/tmp/evil", "host/evil", "out/evil", "out/victim", "up/tmp/out/evil", "dangling/evil", "root/workspace/evil/../../tmp/evil"} {
		refused(t, path, s.post("/files/write", M{"path": path, "content": "evil"}))
		refused(t, path, s.post("/execute", M{"files": []M{{"path": path, "content": "evil"}}, "code": "1"}))
	}
	// A link itself may be replaced or taken away; what it points to may not.
	for _, path := range []string{"passwd", "secret", "host", "out"} {
		if reply := s.post("/files/write", M{"path": path, "content": "evil"}); reply.Status >= 500 {
			t.Errorf("write to the link %s: %d %s", path, reply.Status, reply.Body)
		}
	}
	for _, path := range []string{"host/secret", "out/victim", "up/tmp/out/victim", "root/tmp/out"} {
		refused(t, path, s.del("/files", "path", path, "recursive", "true"))
	}
	for _, path := range []string{"host", "out", "etc", "up"} {
		if reply := s.del("/files", "path", path, "recursive", "true"); reply.Status >= 500 {
			t.Errorf("delete of the link %s: %d %s", path, reply.Status, reply.Body)
		}
	}
	for _, path := range []string{"loop", "loop/x"} {
		for what, reply := range map[string]*client.Reply{
			"read": s.get("/files/read", "path", path), "list": s.get("/files/list", "path", path), "write": s.post("/files/write", M{"path": "loop/x", "content": "x"}),
		} {
			if reply.Status < 400 || reply.Status >= 500 {
				t.Errorf("%s %s: %d %s", what, path, reply.Status, reply.Body)
			}
		}
	}
	refused(t, "workingDir", s.post("/execute", M{"workingDir": "root", "code": "1"}))
	equal(t, "outside in the session", s.shell(`cat /tmp/out/*; ls /tmp/out; ls -d /tmp/evil /tmp/outside 2>/dev/null || true`), "theirs\nvictim\n")
	untouched(t, host)
}

// TestFilesLinkInside: links that stay inside /workspace are as good as files.
func TestFilesLinkInside(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("data/file.txt", "inside")
	s.shell(`ln -s data alias; ln -s /workspace/data absolute; ln -s ../data/file.txt data/self.txt; ln -s data/../data/file.txt dotted`)
	for _, path := range []string{"alias/file.txt", "absolute/file.txt", "data/self.txt", "dotted"} {
		t.Run(path, func(t *testing.T) { equal(t, "read", s.in(t).read(path), "inside") })
	}
	t.Run("write through a directory", func(t *testing.T) {
		s := s.in(t)
		s.write("alias/new.txt", "new")
		equal(t, "content", s.read("data/new.txt"), "new")
	})
	t.Run("delete of a link", func(t *testing.T) {
		s := s.in(t)
		status(t, s.del("/files", "path", "alias", "recursive", "true"), 200)
		equal(t, "what it pointed to", s.read("data/file.txt"), "inside")
	})
}

// TestFilesLinkSwapped: code in the session swaps a directory for a link to
// the outside, as fast as it can, while the API works below it. No answer may
// be from outside, and nothing outside may change.
func TestFilesLinkSwapped(t *testing.T) {
	t.Parallel()
	for _, attack := range []struct {
		name string
		do   func(s *session) *client.Reply
	}{
		{"read", func(s *session) *client.Reply { return s.get("/files/read", "path", "cur/secret") }},
		{"list", func(s *session) *client.Reply { return s.get("/files/list", "path", "cur") }},
		{"write", func(s *session) *client.Reply {
			return s.post("/files/write", M{"path": "cur/evil", "content": "evil"})
		}},
		{"write deeper", func(s *session) *client.Reply {
			return s.post("/files/write", M{"path": "cur/made/by/us", "content": "evil"})
		}},
		{"delete", func(s *session) *client.Reply {
			s.post("/files/write", M{"path": "cur/evil", "content": "evil"})
			return s.del("/files", "path", "cur/evil")
		}},
		{"delete recursively", func(s *session) *client.Reply {
			s.post("/files/write", M{"path": "cur/made/by/us", "content": "evil"})
			return s.del("/files", "path", "cur/made", "recursive", "true")
		}},
	} {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			s := createSession(t, deadline(t, 2*time.Minute), enterprise(), M{"resourceLimits": M{"cpu": 1}})
			host := hostSecret(t)
			// /tmp/out stands for a place outside that the session has too.
			for _, dir := range []string{host, "/tmp/out"} {
				s.shell(`mkdir -p cur/made/by /tmp/out/made; echo inside >cur/secret; echo inside >cur/evil; echo "host secret" >/tmp/out/secret; echo kept >/tmp/out/evil; echo kept >/tmp/out/made/kept; echo kept >/tmp/out/outside-only; ln -sfn ` + dir + ` link`)
				swapper := s.background(swap)
				var good, bad int
				for i := 0; i < 300 || (good == 0 || bad == 0) && i < 3000; i++ {
					reply := attack.do(s)
					switch reply.Status {
					case 200:
						good++
						if text := string(reply.Body); strings.Contains(text, "host secret") || strings.Contains(text, "kept") || strings.Contains(text, "outside") {
							t.Fatalf("answer %d is from outside: %s", i, text)
						}
					case 400:
						bad++ // met the link
					case 404: // deleted before
					default:
						t.Fatalf("answer %d: %d %s", i, reply.Status, reply.Body)
					}
				}
				if good == 0 || bad == 0 {
					t.Errorf("no race: %d answers of success, %d refusals", good, bad)
				}
				t.Logf("%s, link to %s: %d answers of success, %d refusals", attack.name, dir, good, bad)
				s.kill(M{"pid": swapper.PID})
				s.gone(swapper.PID)
				untouched(t, host)
				equal(t, "/tmp/out", s.shell(`cd /tmp/out && find . -type f | sort && cat secret evil made/kept && rm -rf /tmp/out /workspace/*`),
					"./evil\n./made/kept\n./outside-only\n./secret\nhost secret\nkept\nkept\n")
			}
		})
	}
}

// swap exchanges cur, a directory, and link, a symbolic link, for ever. There
// is no moment without a cur, and it is each of the two half of the time.
const swap = `
	import { dlopen } from "bun:ffi";
	const libc = dlopen("libc.so.6", { renameat2: { args: ["i32", "cstring", "i32", "cstring", "u32"], returns: "i32" } });
	const cwd = -100, exchange = 2;
	const [cur, link] = ["cur\0", "link\0"].map((name) => Buffer.from(name));
	const turn = () => libc.symbols.renameat2(cwd, cur, cwd, link, exchange);
	if (turn() !== 0) throw new Error("renameat2 does not work");
	Bun.serve({ port: 8080, fetch: () => new Response("x") });
	const run = () => { for (let i = 0; i < 101; i++) turn(); setImmediate(run); };
	run();
`

// hostSecret makes a directory on the host, open to everybody, with a file
// that must not be read or changed from a session.
func hostSecret(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "outside-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{dir, filepath.Join(dir, "made"), filepath.Join(dir, "made/by")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"secret", "evil", "made/kept", "outside-only"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("host secret"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// untouched fails the test when anything in the host's directory has changed.
func untouched(t *testing.T, dir string) {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, strings.TrimPrefix(path, dir)+" "+string(text))
		return err
	})
	equal(t, "error of reading the host's directory", err, nil)
	equal(t, "the host's directory", all, []string{"/evil host secret", "/made/kept host secret", "/outside-only host secret", "/secret host secret"})
}

// refused wants 400 for a path that leaves the workspace, and none of the
// words in the answer.
func refused(t *testing.T, path string, reply *client.Reply, words ...string) {
	t.Helper()
	if reply.Status != 400 {
		t.Errorf("%s: got %d, want 400: %s", path, reply.Status, brief(string(reply.Body)))
		return
	}
	for _, word := range words {
		if strings.Contains(string(reply.Body), word) {
			t.Errorf("%s: the answer has %q: %s", path, word, brief(string(reply.Body)))
		}
	}
}

// TestFilesSpecial: what is neither file nor directory never holds up a call.
func TestFilesSpecial(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.shell(`mkfifo fifo; mkdir dir; mkfifo dir/fifo`)
	s.background(`require("node:net").createServer().listen("/workspace/socket"); Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	for _, path := range []string{"fifo", "dir/fifo", "socket"} {
		t.Run(path, func(t *testing.T) {
			s := s.in(t)
			for what, do := range map[string]func() *client.Reply{
				"read":      func() *client.Reply { return s.get("/files/read", "path", path) },
				"list":      func() *client.Reply { return s.get("/files/list", "path", path) },
				"list dir":  func() *client.Reply { return s.get("/files/list", "path", filepath.Dir(path)) },
				"below":     func() *client.Reply { return s.post("/files/write", M{"path": path + "/below", "content": "x"}) },
				"info":      s.infoReply,
				"read with": func() *client.Reply { return s.get("/files/read", "path", "./"+path) },
			} {
				reply := do()
				within(t, what+" took", reply.Took, 0, 5*time.Second)
				if reply.Status >= 500 || strings.HasPrefix(what, "read") && reply.Status == 200 {
					t.Errorf("%s: %d %s", what, reply.Status, reply.Body)
				}
			}
		})
	}
	t.Run("devices cannot be made", func(t *testing.T) {
		r := s.in(t).command(`mknod zero c 1 5; mknod disk b 7 0`)
		if r.ExitCode == 0 {
			t.Error("mknod succeeded")
		}
		equal(t, "files", names(s.in(t).list()), []string{"dir", "fifo", "socket"})
	})
	t.Run("write in the place of a FIFO", func(t *testing.T) {
		s := s.in(t)
		reply := s.post("/files/write", M{"path": "fifo", "content": "x"})
		within(t, "took", reply.Took, 0, 5*time.Second)
		if reply.Status != 200 && reply.Status != 400 {
			t.Errorf("status %d: %s", reply.Status, reply.Body)
		}
	})
	t.Run("delete", func(t *testing.T) {
		s := s.in(t)
		for _, path := range []string{"fifo", "socket"} {
			status(t, s.del("/files", "path", path), 200)
		}
		status(t, s.del("/files", "path", "dir", "recursive", "true"), 200)
		equal(t, "files", names(s.list()), []string{})
	})
	t.Run("an endless file", func(t *testing.T) {
		s := s.in(t)
		s.shell(`truncate -s 100G sparse`)
		reply := send(t, s.ctx, s.api, client.Call{
			Method: "GET", Path: "/files/read", Query: s.query([]string{"path", "sparse"}),
			Header: map[string]string{"Range": fmt.Sprintf("bytes=%d-", 100<<30-4)},
		})
		equal(t, "end", fmt.Sprint(reply.Status, len(reply.Body)), "206 4")
	})
}
