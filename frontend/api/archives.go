// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

const (
	tarKind  = "application/x-tar"
	zstdKind = "application/zstd"

	archivePath = "/files/archive"
	// archiveTimeout is how long an archive may take to arrive and be unpacked. One
	// that nothing comes of for a while is given up before.
	archiveTimeout = 10 * time.Minute
	// archiveFiles is how many entries an archive may have for each file that a
	// request may carry: 10,000 on the free plan. A project with its packages has
	// thousands.
	archiveFiles = 100
	// archiveSlack is how much longer than a session's disk an archive may be, in
	// bytes: the heads of many small files.
	archiveSlack = 64 << 20
)

func (s *Server) archiveRoutes(api huma.API) {
	kinds := map[string]*huma.MediaType{}
	for _, kind := range []string{tarKind, zstdKind} {
		kinds[kind] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	}
	add(api, huma.Operation{
		OperationID: "getArchive", Method: http.MethodGet, Path: archivePath, Tags: []string{"files"},
		Summary:     "Read a directory as a tar archive",
		Description: "Accept: application/zstd has it compressed. Names are relative to the directory; the history in .buntime is left out.",
		Responses:   map[string]*huma.Response{"200": {Description: http.StatusText(http.StatusOK), Content: kinds}},
		Errors:      []int{http.StatusNotFound, http.StatusUnsupportedMediaType},
	}, s.getArchive)
	add(api, huma.Operation{
		OperationID: "putArchive", Method: http.MethodPut, Path: archivePath, Tags: []string{"files"},
		Summary: "Unpack a tar archive into a directory",
		Description: "The directory is made if it is not there, and what the archive does not have stays in it. A file may have as many bytes as in other requests, and the archive 100 times as many entries as a request may carry files. " +
			"Nothing may lead out of the workspace: no name and no link. What was unpacked before something is refused stays.",
		Responses:   answers[Unpacked](api),
		RequestBody: &huma.RequestBody{Required: true, Content: kinds},
		Errors:      []int{http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusInsufficientStorage},
	}, s.putArchive)
}

type getArchiveInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Path      string `query:"path" doc:"A directory in the workspace; the workspace itself if left out."`
	Accept    string `header:"Accept" doc:"application/x-tar or application/zstd."`
}

func (s *Server) getArchive(ctx context.Context, in *getArchiveInput) (*raw, error) {
	p, err := cleanPath("path", in.Path)
	if err != nil {
		return nil, err
	}
	kind, err := archiveKind(in.Accept)
	if err != nil {
		return nil, err
	}
	return s.onFiles(ctx, in.SessionID, node.Request{
		Method: http.MethodGet, Path: "/v1/files/archive", Query: url.Values{"path": {p}, "kind": {kind}},
	})
}

// archiveKind is the kind of archive that an Accept header asks for: a plain one
// unless only the other will do, or the other is named first.
func archiveKind(accept string) (string, error) {
	if accept == "" {
		return tarKind, nil
	}
	for part := range strings.SplitSeq(accept, ",") {
		kind, parameters, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || strings.Trim(parameters["q"], "0.") == "" && parameters["q"] != "" { // q=0: not that
			continue
		}
		switch kind {
		case tarKind, "application/*", "*/*":
			return tarKind, nil
		case zstdKind:
			return zstdKind, nil
		}
	}
	return "", frontend.Errorf(frontend.CodeMediaType, "an archive is %s or %s, not %.100q", tarKind, zstdKind, accept)
}

type putArchiveInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Path      string `query:"path" doc:"A directory in the workspace; the workspace itself if left out."`
	Upload
}

// Upload is the part of an input that is a body which is passed on as it arrives.
type Upload struct {
	body   io.ReadCloser
	length int64
	kind   string
}

// Resolve implements huma.Resolver.
func (u *Upload) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	u.body, u.length = r.Body, r.ContentLength
	header := r.Header.Get("Content-Type")
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return []error{frontend.Errorf(frontend.CodeMediaType, "send the archive as it is, not with Content-Encoding: %.100s", encoding)}
	}
	var err error
	if u.kind, _, err = mime.ParseMediaType(header); err != nil || u.kind != tarKind && u.kind != zstdKind {
		return []error{frontend.Errorf(frontend.CodeMediaType, "send the archive with Content-Type: %s or %s, not %.100q", tarKind, zstdKind, header)}
	}
	return nil
}

func (s *Server) putArchive(ctx context.Context, in *putArchiveInput) (*raw, error) {
	p, err := cleanPath("path", in.Path)
	if err != nil {
		return nil, err
	}
	plan := caller(ctx).Allowed
	body := &upload{Reader: in.body}
	out, err := s.forward(ctx, call{
		session: in.SessionID, within: archiveTimeout, late: tooLate(archiveTimeout),
		request: node.Request{
			Method: http.MethodPut, Path: "/v1/files/archive", Header: http.Header{"Content-Type": {in.kind}},
			Query: url.Values{
				"path": {p}, "maxFile": {strconv.Itoa(plan.FileSize)}, "maxFiles": {strconv.Itoa(archiveFiles * plan.Files)},
			},
			Stream: body, Length: in.length,
		},
	})
	if err != nil && body.broken() != nil { // by the client, not by the node
		return nil, unreadable(body.broken()).Unsure()
	}
	return out, err
}

// streams says whether a request's body is passed on as it arrives, so that it needs no
// room here.
func streams(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Path == archivePath
}
