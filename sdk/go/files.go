// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// in is the query that names a session and, if it is not empty, a path in it.
func in(session, path string) url.Values {
	q := url.Values{"sessionId": {session}}
	if path != "" {
		q.Set("path", path)
	}
	return q
}

// ListFiles lists one directory of a session, sorted by path; "" is the workspace.
func (c *Client) ListFiles(ctx context.Context, session, path string, limit, offset int) (*Page[Entry], error) {
	q := page(limit, offset)
	maps.Copy(q, in(session, path))
	var out struct{ Files []Entry }
	header, err := c.json(ctx, call{method: http.MethodGet, path: "/files/list", query: q}, &out)
	if err != nil {
		return nil, err
	}
	return &Page[Entry]{out.Files, total(header, len(out.Files))}, nil
}

// WriteFile writes a whole file, at once: who reads it sees the old or the new.
// Directories on the way are made.
func (c *Client) WriteFile(ctx context.Context, session, path string, content []byte) error {
	body := map[string]any{"sessionId": session, "path": path, "content": string(content)}
	if !utf8.Valid(content) {
		body["content"], body["encoding"] = base64.StdEncoding.EncodeToString(content), "base64"
	}
	_, err := c.json(ctx, call{method: http.MethodPost, path: "/files/write", body: body}, nil)
	return err
}

// OpenFile reads a file. The caller closes it; its size is -1 if the server has not
// said.
func (c *Client) OpenFile(ctx context.Context, session, path string) (content io.ReadCloser, size int64, err error) {
	res, err := c.open(ctx, call{method: http.MethodGet, path: "/files/read", query: in(session, path)})
	if err != nil {
		return nil, 0, err
	}
	return res.Body, res.ContentLength, nil
}

// ReadFile reads a whole file, which may have most bytes; 0 is no limit.
func (c *Client) ReadFile(ctx context.Context, session, path string, most int64) (content []byte, err error) {
	err = c.try(ctx, call{method: http.MethodGet, path: "/files/read", query: in(session, path), limit: c.limit()}, func(res *http.Response) error {
		defer res.Body.Close()
		if most > 0 && res.ContentLength > most {
			return fmt.Errorf("read %s: it has %d bytes, more than %d", path, res.ContentLength, most)
		}
		content, err = io.ReadAll(res.Body)
		return err
	})
	if err != nil {
		return nil, err
	}
	return content, nil
}

// ReadPart reads a part of a file, of at most length bytes from offset on, and says how
// many the whole has.
func (c *Client) ReadPart(ctx context.Context, session, path string, offset, length int64) (part []byte, size int64, err error) {
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)}}
	err = c.try(ctx, call{method: http.MethodGet, path: "/files/read", query: in(session, path), header: header, limit: c.limit()}, func(res *http.Response) error {
		defer res.Body.Close()
		size = res.ContentLength
		if _, whole, ok := strings.Cut(res.Header.Get("Content-Range"), "/"); ok {
			size, err = strconv.ParseInt(whole, 10, 64)
			if err != nil {
				return &Error{Code: CodeInvalidResponse, Status: res.StatusCode, Message: fmt.Sprintf("read %s: the size %q is none", path, whole)}
			}
		} else if offset > 0 { // an empty file has no parts, and the whole of it was not asked for
			return nil
		}
		part, err = io.ReadAll(io.LimitReader(res.Body, length))
		return err
	})
	return part, size, err
}

// DeleteFile removes a file or, with recursive, a directory and what is in it.
func (c *Client) DeleteFile(ctx context.Context, session, path string, recursive bool) error {
	q := in(session, path)
	if recursive {
		q.Set("recursive", "true")
	}
	_, err := c.json(ctx, call{method: http.MethodDelete, path: "/files", query: q, gone: "file_not_found"}, nil)
	return err
}

// Pack reads a directory of a session as a tar archive; "" is the workspace. The caller
// closes it. An archive that ends early is an error of its reader: a whole one has its
// end mark. What is in it was made by the session, so do not trust its names.
func (c *Client) Pack(ctx context.Context, session, path string) (io.ReadCloser, error) {
	res, err := c.open(ctx, call{method: http.MethodGet, path: "/files/archive", query: in(session, path), header: http.Header{"Accept": {"application/x-tar"}}})
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Unpack unpacks a tar archive into a directory of a session; "" is the workspace. It is
// made once: what the archive had until an error may be there.
func (c *Client) Unpack(ctx context.Context, session, path string, archive io.Reader) (*Unpacked, error) {
	var out Unpacked
	call := call{method: http.MethodPut, path: "/files/archive", query: in(session, path), stream: archive, kind: "application/x-tar", limit: archiveTimeout}
	if _, err := c.json(ctx, call, &out); err != nil {
		return nil, err
	}
	return &out, nil
}
