// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestFiles(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for _, c := range []struct{ method, target, body, want string }{
		{"GET", "/files/list?", "", "GET /v1/files/list limit=50&offset=0&path=."},
		{"GET", "/files/list?path=/workspace/a/&limit=7&offset=3", "", "GET /v1/files/list limit=7&offset=3&path=a"},
		{"GET", "/files/read?path=./a/%2e%2e/b%20c", "", "GET /v1/files/read path=b+c"},
		{"HEAD", "/files/read?path=a", "", "HEAD /v1/files/read path=a"},
		{"DELETE", "/files?path=a", "", "DELETE /v1/files path=a"},
		{"DELETE", "/files?path=a&recursive=false", "", "DELETE /v1/files path=a"},
		{"DELETE", "/files?path=a&recursive=true", "", "DELETE /v1/files path=a&recursive=true"},
		{"POST", "/files/write", `{"path":"./a//b","content":"é\n"}`, `POST /v1/files/write {"path":"a/b","content":"é\n"}`},
		{"POST", "/files/write", `{"path":"a","content":"","encoding":"utf8"}`, `POST /v1/files/write {"path":"a","content":"","encoding":"utf8"}`},
		{"POST", "/files/write", `{"path":"a","content":"AAE=","encoding":"base64"}`, `POST /v1/files/write {"path":"a","content":"AAE=","encoding":"base64"}`},
	} {
		w.node.answers(says(`{"from":"node"}`))
		if c.body == "" {
			c.target += "&sessionId=" + id
		} else {
			c.body = `{"sessionId":"` + id + `",` + c.body[1:]
		}
		r := w.send(paid, c.method, c.target, c.body)
		r.ok(nil)
		got := w.node.last(t)
		if text := strings.Join(strings.Fields(got.method+" "+got.path+" "+got.query+" "+got.body), " "); text != c.want {
			t.Errorf("node got %s, want %s", text, c.want)
		}
	}
}

func TestFilesBadInput(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	own := "sessionId=" + id
	bad := []string{
		"..", "../a", "a/../../b", "/", "/etc/passwd", "//etc", "/workspace/..", "/workspace/../etc", "/workspacex", "a\x00b",
		strings.Repeat("n", 256), strings.Repeat("a/", 2100), strings.Repeat("../", 100),
	}
	for _, p := range bad {
		q := url.Values{"sessionId": {id}, "path": {p}}.Encode()
		w.send(free, "GET", "/files/list?"+q, "").field("path")
		w.send(free, "GET", "/files/read?"+q, "").field("path")
		w.send(free, "DELETE", "/files?"+q, "").field("path")
		quoted, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		w.send(free, "POST", "/files/write", `{"sessionId":"`+id+`","path":`+string(quoted)+`,"content":""}`).field("path")
	}
	for _, p := range []string{"", ".", "/workspace", "./", "a/.."} {
		q := url.Values{"sessionId": {id}, "path": {p}}.Encode()
		w.send(free, "GET", "/files/read?"+q, "").field("path")
		w.send(free, "DELETE", "/files?"+q, "").field("path")
	}
	for target, field := range map[string]string{
		"/files/list?" + own + "&limit=0":    "limit",
		"/files/list?" + own + "&limit=101":  "limit",
		"/files/list?" + own + "&limit=x":    "limit",
		"/files/list?" + own + "&offset=-1":  "offset",
		"/files/list?" + own + "&offset=1.5": "offset",
		"/files/list?" + own + "&deep=1":     "deep",
		"/files/list?path=a":                 "sessionId",
		"/files/read?" + own:                 "path",
		"/files/read?path=a":                 "sessionId",
		"/files/read?path=a&x=1&" + own:      "x",
	} {
		w.send(free, "GET", target, "").field(field)
	}
	w.send(free, "DELETE", "/files?path=a", "").field("sessionId")
	w.send(free, "DELETE", "/files?"+own, "").field("path")
	w.send(free, "DELETE", "/files?path=a&recursive=maybe&"+own, "").field("recursive")
	w.send(free, "DELETE", "/files?path=a&recurse=true&"+own, "").field("recurse")
	for rest, field := range map[string]string{
		`"content":""`:                                    "path",
		`"path":"","content":""`:                          "path",
		`"path":1,"content":""`:                           "path",
		`"path":"a/","content":""`:                        "path",
		`"path":".","content":""`:                         "path",
		`"path":"..","content":""`:                        "path",
		`"path":"/etc/x","content":""`:                    "path",
		`"path":"a\u0000","content":""`:                   "path",
		`"path":"a"`:                                      "content",
		`"path":"a","content":1`:                          "content",
		`"path":"a","content":{}`:                         "content",
		`"path":"a","content":"","encoding":"hex"`:        "encoding",
		`"path":"a","content":"","encoding":1`:            "encoding",
		`"path":"a","content":"A","encoding":"base64"`:    "content",
		`"path":"a","content":"A===","encoding":"base64"`: "content",
		`"path":"a","content":"ÿÿÿÿ","encoding":"base64"`: "content",
		`"path":"a","content":"AA-_","encoding":"base64"`: "content",
		`"path":"a","content":"","mode":420`:              "mode",
	} {
		w.send(free, "POST", "/files/write", `{"sessionId":"`+id+`",`+rest+`}`).field(field)
	}
	w.send(free, "POST", "/files/write", `{"path":"a","content":""}`).field("sessionId")
	w.send(free, "POST", "/files/write", "").field("sessionId")
}

// TestFileSizes: to the byte, of the file and not of what carries it.
func TestFileSizes(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	const most = 10 << 20
	write := func(content, encoding string) reply {
		return w.send(free, "POST", "/files/write", `{"sessionId":"`+id+`","path":"a","content":"`+content+`","encoding":"`+encoding+`"}`)
	}
	write(strings.Repeat("x", most), "utf8").ok(nil)
	write(strings.Repeat("x", most+1), "utf8").refused(413, "file_too_large")
	write(strings.Repeat(`\n`, most), "utf8").ok(nil)
	write(base64.StdEncoding.EncodeToString(make([]byte, most)), "base64").ok(nil)
	write(base64.StdEncoding.EncodeToString(make([]byte, most+1)), "base64").refused(413, "file_too_large")
	write(strings.Repeat("x", 30<<20), "utf8").refused(413, "file_too_large") // the body itself
}

func TestReadFile(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	w.node.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Content-Type", "text/x-odd")
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(content))
	})
	read := func(header ...string) reply {
		return w.send(paid, "GET", "/files/read?path=a&sessionId="+id, "", header...)
	}
	r := read()
	r.ok(nil)
	if !bytes.Equal(r.Body.Bytes(), content) {
		t.Errorf("got %d bytes", r.Body.Len())
	}
	for name, want := range map[string]string{
		"Content-Length": "1048576", "Content-Type": "text/x-odd", "ETag": `"e"`, "Accept-Ranges": "bytes",
		"Last-Modified": "Thu, 01 Jan 1970 00:00:01 GMT", "X-Content-Type-Options": "nosniff",
	} {
		if got := r.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if r := read("Range", "bytes=1-3"); r.Code != 206 || r.Body.String() != "123" || r.Header().Get("Content-Range") != "bytes 1-3/1048576" {
		t.Errorf("range: %d %s %v", r.Code, r.Body, r.Header())
	}
	if r := read("If-None-Match", `"e"`); r.Code != 304 || r.Body.Len() != 0 {
		t.Errorf("same: %d", r.Code)
	}
	if r := read("If-Range", `"f"`, "Range", "bytes=1-3"); r.Code != 200 {
		t.Errorf("changed: %d", r.Code)
	}
	if r := read("Range", "bytes=9999999-"); r.Code != 416 {
		t.Errorf("past the end: %d", r.Code)
	}
}
