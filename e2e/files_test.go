// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

func TestFilesWriteAndRead(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	t.Run("paths", func(t *testing.T) {
		for given, relative := range map[string]string{
			"a.txt":                      "a.txt",
			"./b.txt":                    "b.txt",
			"/workspace/c.txt":           "c.txt",
			"d/e/f.txt":                  "d/e/f.txt",
			"/workspace/d/./g.txt":       "d/g.txt",
			"d//h.txt":                   "d/h.txt",
			"d/e/../i.txt":               "d/i.txt",
			"ü 😀/na me.txt":              "ü 😀/na me.txt",
			"quote'\"$(id)`.txt":         "quote'\"$(id)`.txt",
			"-rf":                        "-rf",
			"..dots..":                   "..dots..",
			"line\nbreak.txt":            "line\nbreak.txt",
			strings.Repeat("n", 255):     strings.Repeat("n", 255),
			"C:\\windows\\style.txt":     "C:\\windows\\style.txt",
			"percent%2F..%2F%00?q#h.txt": "percent%2F..%2F%00?q#h.txt",
		} {
			t.Run(given, func(t *testing.T) {
				s := s.in(t)
				content := "content of " + given
				reply := s.post("/files/write", M{"path": given, "content": content})
				keys(t, "answer", reply.Body, []string{"path", "size"}, nil)
				got := decode[struct {
					Path string `json:"path"`
					Size int    `json:"size"`
				}](t, reply)
				equal(t, "path", got.Path, relative)
				equal(t, "size", got.Size, len(content))
				equal(t, "read", s.read(relative), content)
				equal(t, "read by the given path", s.read(given), content)
				equal(t, "in the session", s.print(`process.stdout.write(await Bun.file(`+quote("/workspace/"+relative)+`).text())`), content)
			})
		}
	})
	t.Run("content", func(t *testing.T) {
		for name, content := range map[string]string{
			"empty": "", "one byte": "x", "unicode": "añ€😀\u2028\ufeff", "controls": "\x00\x01\x1b\x7f\r\n", "not trimmed": "\n \n", "html": "<script>&amp;",
		} {
			s := s.in(t)
			s.write("content", content)
			equal(t, name, s.read("content"), content)
		}
	})
	t.Run("base64", func(t *testing.T) {
		s := s.in(t)
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		for _, data := range [][]byte{all, {}, {0xff}, bytes.Repeat(all, 4096)} {
			reply := s.post("/files/write", M{"path": "bin", "content": base64.StdEncoding.EncodeToString(data), "encoding": "base64"})
			contains(t, "answer", string(reply.Body), fmt.Sprintf(`"size":%d`, len(data)))
			equal(t, "read", s.read("bin"), string(data))
		}
		status(t, s.post("/files/write", M{"path": "u", "content": "text", "encoding": "utf8"}), 200)
		equal(t, "utf8", s.read("u"), "text")
	})
	t.Run("owner and mode", func(t *testing.T) {
		s := s.in(t)
		s.write("own/ed.txt", "x")
		equal(t, "in the session", s.shell(`id -u; stat -c '%u %a' own own/ed.txt; echo more >>own/ed.txt; rm own/ed.txt; rmdir own`), "1000\n1000 755\n1000 644\n")
	})
	t.Run("what code writes", func(t *testing.T) {
		s := s.in(t)
		s.print(`await Bun.write("by/code.bin", new Uint8Array([0, 255, 128]))`)
		equal(t, "read", s.read("by/code.bin"), "\x00\xff\x80")
		s.shell(`umask 077; echo secret >closed.txt; chmod 0 closed.txt; mkdir shut; echo in >shut/in.txt; chmod 0 shut`)
		equal(t, "without permission bits", s.read("closed.txt"), "secret\n")
		equal(t, "in a directory without", s.read("shut/in.txt"), "in\n")
	})
	t.Run("mode is kept", func(t *testing.T) {
		s := s.in(t)
		s.write("run.sh", "#!/bin/sh\necho one")
		s.shell(`chmod 755 run.sh && ./run.sh`)
		s.write("run.sh", "#!/bin/sh\necho two")
		equal(t, "after a write", s.shell(`./run.sh`), "two\n")
	})
}

// TestFilesWriteIsAtomic: a reader in the session sees the old or the new
// content, whole, while the file is written again and again.
func TestFilesWriteIsAtomic(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	content := func(letter string) string { return strings.Repeat(letter, 300_000) }
	s.write("file", content("a"))
	reader := s.begin(M{"code": `
		import { readFileSync, existsSync } from "node:fs";
		const seen = new Set<string>();
		let torn = 0, reads = 0;
		await Bun.write("reading", "");
		while (!existsSync("stop")) {
			const text = readFileSync("file", "latin1");
			reads++;
			if (text !== text[0].repeat(300_000)) torn++;
			seen.add(text[0]);
		}
		console.log(JSON.stringify({ torn, reads: reads > 10, seen: seen.size > 1 }));
	`})
	s.waitFor("reading")
	for i := range 40 {
		s.write("file", content(string(rune('a'+i%26))))
	}
	s.write("stop", "")
	equal(t, "reader", s.well(reader.result()), `{"torn":0,"reads":true,"seen":true}`+"\n")
	equal(t, "files left", names(s.list()), []string{"file", "reading", "stop"})
}

func TestFilesList(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	before := time.Now().Truncate(time.Second)
	s.write("b.txt", "12345")
	s.write("a/one.txt", "1")
	s.write("a/two/three.txt", "3")
	s.write("C.txt", "")
	s.write("a.txt", "€")

	t.Run("root", func(t *testing.T) {
		s := s.in(t)
		reply := s.get("/files/list")
		equal(t, "X-Total-Count", reply.Header.Get("X-Total-Count"), "4")
		want := []file{
			{Path: "C.txt", Size: 0, Type: "file"},
			{Path: "a", Type: "directory"},
			{Path: "a.txt", Size: 3, Type: "file"},
			{Path: "b.txt", Size: 5, Type: "file"},
		}
		got := s.list()
		for i := range got {
			modified := instant(t, "modified", got[i].Modified)
			if modified.Before(before.Add(-time.Second)) || modified.After(time.Now().Add(time.Second)) {
				t.Errorf("%s modified %v, which is not between %v and now", got[i].Path, modified, before)
			}
			got[i].Modified = ""
			if got[i].Type == "directory" {
				got[i].Size = 0 // whatever the file system says
			}
		}
		equal(t, "files", got, want)
		for _, path := range []string{".", "./", "/workspace", "/workspace/", ""} {
			equal(t, "with path "+path, names(s.list("path", path)), []string{"C.txt", "a", "a.txt", "b.txt"})
		}
	})
	t.Run("directory", func(t *testing.T) {
		for _, path := range []string{"a", "./a", "a/", "/workspace/a"} {
			equal(t, path, names(s.in(t).list("path", path)), []string{"a/one.txt", "a/two"})
		}
		equal(t, "deeper", names(s.in(t).list("path", "a/two")), []string{"a/two/three.txt"})
	})
	t.Run("empty directory", func(t *testing.T) {
		s := s.in(t)
		s.shell(`mkdir a/empty`)
		equal(t, "files", s.list("path", "a/empty"), []file{})
		s.shell(`rmdir a/empty`)
	})
	t.Run("not there", func(t *testing.T) {
		refusal(t, s.in(t).get("/files/list", "path", "nowhere"), 404, "file_not_found")
		refusal(t, s.in(t).get("/files/list", "path", "a/nowhere/deep"), 404, "file_not_found")
	})
	t.Run("hidden files are files", func(t *testing.T) {
		s := s.in(t)
		s.write(".env", "A=1")
		equal(t, "files", names(s.list()), []string{".env", "C.txt", "a", "a.txt", "b.txt"})
		equal(t, "filesCount", s.info().FilesCount, 6)
	})
}

func TestFilesListPages(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.shell(`mkdir many; cd many; for i in $(seq -w 1 230); do : >f$i; done`)
	want := []string{}
	for i := range 230 {
		want = append(want, fmt.Sprintf("many/f%03d", i+1))
	}
	equal(t, "default page", names(s.list("path", "many")), want[:50])
	got := []string{}
	for offset := 0; ; offset += 100 {
		reply := s.get("/files/list", "path", "many", "limit", "100", "offset", strconv.Itoa(offset))
		equal(t, "X-Total-Count", reply.Header.Get("X-Total-Count"), "230")
		page := names(s.list("path", "many", "limit", "100", "offset", strconv.Itoa(offset)))
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	equal(t, "all pages", got, want)
	equal(t, "a page in the middle", names(s.list("path", "many", "limit", "3", "offset", "101")), want[101:104])
	equal(t, "past the end", names(s.list("path", "many", "offset", "230")), []string{})
}

func TestFilesReadRange(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("digits.txt", "0123456789")
	read := func(t *testing.T, header map[string]string) *client.Reply {
		t.Helper()
		return send(t, s.ctx, s.api, client.Call{Method: "GET", Path: "/files/read", Query: s.query([]string{"path", "digits.txt"}), Header: header})
	}
	whole := read(t, nil)
	status(t, whole, 200)
	equal(t, "Content-Length", whole.Header.Get("Content-Length"), "10")
	equal(t, "Accept-Ranges", whole.Header.Get("Accept-Ranges"), "bytes")
	contains(t, "Content-Type", whole.Header.Get("Content-Type"), "text/plain")
	etag := whole.Header.Get("ETag")
	if len(etag) < 3 {
		t.Fatalf("ETag is %q", etag)
	}
	for given, want := range map[string]struct{ body, content string }{
		"bytes=0-0":    {"0", "bytes 0-0/10"},
		"bytes=2-5":    {"2345", "bytes 2-5/10"},
		"bytes=7-":     {"789", "bytes 7-9/10"},
		"bytes=-3":     {"789", "bytes 7-9/10"},
		"bytes=8-1000": {"89", "bytes 8-9/10"},
	} {
		t.Run(given, func(t *testing.T) {
			got := read(t, map[string]string{"Range": given})
			status(t, got, http.StatusPartialContent)
			equal(t, "body", string(got.Body), want.body)
			equal(t, "Content-Range", got.Header.Get("Content-Range"), want.content)
		})
	}
	t.Run("past the end", func(t *testing.T) {
		got := read(t, map[string]string{"Range": "bytes=10-"})
		status(t, got, http.StatusRequestedRangeNotSatisfiable)
		equal(t, "Content-Range", got.Header.Get("Content-Range"), "bytes */10")
	})
	t.Run("ETag", func(t *testing.T) {
		status(t, read(t, map[string]string{"If-None-Match": etag}), http.StatusNotModified)
		equal(t, "range of the same", read(t, map[string]string{"If-Range": etag, "Range": "bytes=1-2"}).Status, 206)
		for _, content := range []string{"9876543210", "x"} {
			s.in(t).write("digits.txt", content)
			got := read(t, map[string]string{"If-None-Match": etag})
			status(t, got, 200)
			equal(t, "body", string(got.Body), content)
			if got.Header.Get("ETag") == etag {
				t.Errorf("another content has the same ETag %s", etag)
			}
		}
		if strings.HasPrefix(etag, "W/") {
			t.Skip("a weak ETag takes no part in If-Range")
		}
		equal(t, "range of another", read(t, map[string]string{"If-Range": etag, "Range": "bytes=0-0"}).Status, 200)
	})
	t.Run("a big one", func(t *testing.T) {
		s := s.in(t)
		s.print(`await Bun.write("big.bin", Buffer.alloc(60 << 20, "0123456789abcdef"))`)
		reply := s.get("/files/read", "path", "big.bin")
		equal(t, "length", len(reply.Body), 60*mib)
		equal(t, "end", string(reply.Body[60*mib-16:]), "0123456789abcdef")
	})
}

func TestFilesReadErrors(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("dir/file.txt", "x")
	for _, path := range []string{"nowhere", "dir/nowhere", "nowhere/deep"} {
		refusal(t, s.get("/files/read", "path", path), 404, "file_not_found")
		refusal(t, s.del("/files", "path", path), 404, "file_not_found")
	}
	for _, reply := range []*client.Reply{s.get("/files/read", "path", "dir/file.txt/below"), s.del("/files", "path", "dir/file.txt/below")} {
		if reply.Status != 400 && reply.Status != 404 {
			t.Errorf("below a file: %d %s", reply.Status, reply.Body)
		}
	}
	for _, path := range []string{"dir", ".", "/workspace"} {
		refusedField(t, s.get("/files/read", "path", path), "path")
	}
	for _, path := range []string{"dir", "dir/file.txt/below", ".", "/workspace", "dir/", strings.Repeat("n", 256)} {
		refusedField(t, s.post("/files/write", M{"path": path, "content": "x"}), "path")
	}
	equal(t, "the file", s.read("dir/file.txt"), "x")
}

func TestFilesDelete(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, path := range []string{"a.txt", "./b.txt", "/workspace/d/c.txt"} {
		s.write(path, "x")
		reply := s.del("/files", "path", path)
		keys(t, "answer", reply.Body, []string{"deleted", "path"}, nil)
		got := decode[struct {
			Deleted bool   `json:"deleted"`
			Path    string `json:"path"`
		}](t, reply)
		equal(t, "deleted", got.Deleted, true)
		equal(t, "path", got.Path, strings.TrimPrefix(strings.TrimPrefix(path, "./"), "/workspace/"))
		refusal(t, s.get("/files/read", "path", path), 404, "file_not_found")
	}
	t.Run("empty directory", func(t *testing.T) {
		status(t, s.in(t).del("/files", "path", "d"), 200)
		equal(t, "files", s.in(t).list(), []file{})
	})
	t.Run("full directory", func(t *testing.T) {
		s := s.in(t)
		s.write("full/of/files.txt", "x")
		refusedField(t, s.del("/files", "path", "full"), "recursive", "path")
		refusedField(t, s.del("/files", "path", "full", "recursive", "false"), "recursive", "path")
		equal(t, "still there", s.read("full/of/files.txt"), "x")
		status(t, s.del("/files", "path", "full", "recursive", "true"), 200)
		refusal(t, s.get("/files/list", "path", "full"), 404, "file_not_found")
	})
	t.Run("the workspace itself", func(t *testing.T) {
		s := s.in(t)
		s.write("keep.txt", "x")
		for _, path := range []string{".", "/workspace", "/workspace/", "./", "keep.txt/.."} {
			reply := s.del("/files", "path", path, "recursive", "true")
			if reply.Status < 400 || reply.Status >= 500 {
				t.Errorf("delete of %q: %d %s", path, reply.Status, reply.Body)
			}
		}
		equal(t, "still there", s.read("keep.txt"), "x")
	})
	t.Run("a big tree", func(t *testing.T) {
		s := s.in(t)
		s.shell(`mkdir -p tree && cd tree && for d in $(seq 1 50); do mkdir $d; for f in 1 2 3 4 5 6 7 8 9 10; do : >$d/$f; done; done; mkdir shut; : >shut/in; chmod 0 shut`)
		status(t, s.del("/files", "path", "tree", "recursive", "true"), 200)
		equal(t, "files", names(s.list()), []string{"keep.txt"})
	})
}
