// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

func (s *Server) fileRoutes(api huma.API) {
	notFound := []int{http.StatusNotFound}
	list := answers[Files](api)
	list["200"].Headers = total("entries")
	add(api, huma.Operation{
		OperationID: "listFiles", Method: http.MethodGet, Path: "/files/list", Tags: []string{"files"},
		Summary: "List one directory, sorted by path", Responses: list, Errors: notFound,
	}, s.listFiles)
	add(api, huma.Operation{
		OperationID: "writeFile", Method: http.MethodPost, Path: "/files/write", Tags: []string{"files"},
		Summary: "Write a file in one step, with the directories above it", Responses: answers[Written](api),
		Errors: []int{http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage},
	}, s.writeFile)
	add(api, huma.Operation{
		OperationID: "readFile", Method: http.MethodGet, Path: "/files/read", Tags: []string{"files"},
		Summary: "Read a file, or with Range a part of it", Responses: bytesOf("application/octet-stream"), Errors: notFound,
	}, s.readFile)
	add(api, huma.Operation{
		OperationID: "deleteFile", Method: http.MethodDelete, Path: "/files", Tags: []string{"files"},
		Summary: "Delete a file or directory", Responses: answers[Removed](api), Errors: notFound,
	}, s.deleteFile)
}

// onFiles forwards an operation on files.
func (s *Server) onFiles(ctx context.Context, session string, r node.Request) (*raw, error) {
	return s.forward(ctx, call{session: session, request: r, within: fileTimeout, late: tooLate(fileTimeout)})
}

type listFilesInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Path      string `query:"path" doc:"A directory in the workspace; the workspace itself if left out."`
	Limit     int    `query:"limit" default:"50" minimum:"1" maximum:"100"`
	Offset    int    `query:"offset" default:"0" minimum:"0" maximum:"1000000000"`
}

func (s *Server) listFiles(ctx context.Context, in *listFilesInput) (*raw, error) {
	p, err := cleanPath("path", in.Path)
	if err != nil {
		return nil, err
	}
	return s.onFiles(ctx, in.SessionID, node.Request{
		Method: http.MethodGet, Path: "/v1/files/list",
		Query: url.Values{"path": {p}, "limit": {strconv.Itoa(in.Limit)}, "offset": {strconv.Itoa(in.Offset)}},
	})
}

// writeRequest is the body of POST /files/write.
type writeRequest struct {
	SessionID string  `json:"sessionId"`
	Path      string  `json:"path"`
	Content   *string `json:"content" nullable:"false"`
	Encoding  string  `json:"encoding,omitzero" enum:"utf8,base64" doc:"Of content; utf8 if left out."`
}

type writeInput struct {
	JSON[writeRequest]
}

func (s *Server) writeFile(ctx context.Context, in *writeInput) (*raw, error) {
	r := in.value
	if err := r.check(caller(ctx).Allowed); err != nil {
		return nil, err
	}
	body, err := json.Marshal(struct {
		Path     string `json:"path"`
		Content  string `json:"content"`
		Encoding string `json:"encoding,omitzero"`
	}{r.Path, *r.Content, r.Encoding})
	if err != nil {
		return nil, fmt.Errorf("encode file for node: %w", err)
	}
	return s.onFiles(ctx, r.SessionID, node.Request{Method: http.MethodPost, Path: "/v1/files/write", Body: body})
}

// check refuses what cannot be written, and brings the path into its clean form.
func (r *writeRequest) check(plan frontend.Plan) error {
	if err := needSession(r.SessionID); err != nil {
		return err
	}
	clean, err := cleanFile("path", r.Path)
	if err != nil {
		return err
	}
	if strings.HasSuffix(r.Path, "/") {
		return frontend.Invalid("path", "path %q names a directory", r.Path)
	}
	r.Path = clean
	if r.Content == nil {
		return frontend.Invalid("content", "content is missing; an empty file has the content \"\"")
	}
	size := len(*r.Content)
	switch r.Encoding {
	case "", "utf8":
	case "base64":
		if size, err = decodedSize(*r.Content); err != nil {
			return frontend.Invalid("content", "content is no base64: %v", err)
		}
	default:
		return frontend.Invalid("encoding", "encoding is utf8 or base64, not %q", r.Encoding)
	}
	return checkSize("content", size, plan)
}

// decodedSize checks base64 in pieces, so that nothing of its size is made.
func decodedSize(text string) (int, error) {
	d := base64.NewDecoder(base64.StdEncoding, strings.NewReader(text))
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	size := 0
	for {
		n, err := d.Read(buf[:])
		size += n
		if err != nil {
			return size, ignoreEOF(err)
		}
	}
}

type readInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Path      string `query:"path" required:"true"`
	Request
}

// Request is the part of an input that is the HTTP request itself, for what
// concerns HTTP only and passes through.
type Request struct {
	method string
	header http.Header
}

// Resolve implements huma.Resolver.
func (h *Request) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	h.method, h.header = r.Method, http.Header{}
	for _, name := range []string{"Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since"} {
		if values, ok := r.Header[name]; ok {
			h.header[name] = values
		}
	}
	return nil
}

func (s *Server) readFile(ctx context.Context, in *readInput) (*raw, error) {
	p, err := cleanFile("path", in.Path)
	if err != nil {
		return nil, err
	}
	return s.onFiles(ctx, in.SessionID, node.Request{
		Method: in.method, Path: "/v1/files/read", Query: url.Values{"path": {p}}, Header: in.header,
	})
}

type deleteFileInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Path      string `query:"path" required:"true"`
	Recursive bool   `query:"recursive" doc:"Whether a directory goes with what is in it."`
}

func (s *Server) deleteFile(ctx context.Context, in *deleteFileInput) (*raw, error) {
	p, err := cleanFile("path", in.Path)
	if err != nil {
		return nil, err
	}
	q := url.Values{"path": {p}}
	if in.Recursive {
		q.Set("recursive", "true")
	}
	return s.onFiles(ctx, in.SessionID, node.Request{Method: http.MethodDelete, Path: "/v1/files", Query: q})
}
