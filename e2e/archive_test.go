// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/buntime/buntime/e2e/client"
)

func (s *session) archive(path, accept string) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{
		Method: "GET", Path: "/files/archive", Query: s.query([]string{"path", path}), Header: map[string]string{"Accept": accept},
	})
}

func (s *session) unpack(path, kind string, body io.Reader) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{
		Method: "PUT", Path: "/files/archive", Query: s.query([]string{"path", path}), Header: map[string]string{"Content-Type": kind}, Body: body,
	})
}

// TestArchives takes a tree out of one session and puts it into another, plain and
// compressed, and tries to write outside.
func TestArchives(t *testing.T) {
	t.Parallel()
	from, to := newSession(t), newSession(t)
	from.command(`mkdir -p tree/deep/empty && cd tree && echo hello >deep/a && head -c 20000000 /dev/urandom >big && printf '#!/bin/sh\necho ran\n' >run && chmod +x run && ln -s deep/a link && mkfifo pipe`)
	want := from.shell("cd tree && find . -type f -o -type l | sort | xargs sha256sum")
	for kind, dir := range map[string]string{"application/x-tar": "plain", "application/zstd": "packed/deep"} {
		r := from.archive("tree", kind)
		status(t, r, 200)
		equal(t, "Content-Type", r.Header.Get("Content-Type"), kind)
		put := to.unpack(dir, kind, bytes.NewReader(r.Body))
		got := decode[struct {
			Path        string
			Files, Size int64
		}](t, put)
		equal(t, "files", got.Files, 3)
		equal(t, "path", got.Path, dir)
		equal(t, "sums", to.shell("cd "+dir+" && find . -type f -o -type l | sort | xargs sha256sum"), want)
		equal(t, "program", to.shell(dir+"/run"), "ran\n")
	}
	t.Run("all of the workspace, without the history", func(t *testing.T) {
		in := tar.NewReader(bytes.NewReader(from.in(t).archive("", "").Body))
		for {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix([]byte(h.Name), []byte(".buntime")) {
				t.Errorf("%s is in the archive", h.Name)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		s := to.in(t)
		refusal(t, s.archive("none", ""), 404, "file_not_found")
		refusal(t, s.archive("plain/big", ""), 400, "invalid_request")
		refusal(t, s.archive("../x", ""), 400, "invalid_request")
		refusal(t, s.archive("", "text/plain"), 415, "unsupported_media_type")
		refusal(t, s.unpack("x", "application/gzip", bytes.NewReader([]byte("x"))), 415, "unsupported_media_type")
		refusal(t, s.unpack("x", "application/x-tar", bytes.NewReader(bytes.Repeat([]byte("x"), 4096))), 400, "invalid_request")
		refusal(t, s.unpack("x", "application/zstd", bytes.NewReader([]byte("no zstd"))), 400, "invalid_request")
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeReg, Name: "../../out"},
			{Typeflag: tar.TypeReg, Name: "/out"},
			{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"},
			{Typeflag: tar.TypeBlock, Name: "d"},
			{Typeflag: tar.TypeLink, Name: "l", Linkname: "../../etc/passwd"},
		} {
			refusal(t, s.unpack("", "application/x-tar", bytes.NewReader(tarOf(t, h))), 400, "invalid_request")
		}
	})
	t.Run("a file that is too large, of many zeros", func(t *testing.T) {
		s := createSession(t, to.ctx, free(), nil).in(t)
		for size, want := range map[int64]int{10 << 20: 200, 10<<20 + 1: 413} {
			var b bytes.Buffer
			z, err := zstd.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			w := tar.NewWriter(z)
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: size, Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Close(), z.Close()); err != nil {
				t.Fatal(err)
			}
			status(t, s.unpack("", "application/zstd", &b), want)
		}
	})
}

func tarOf(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&h), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
