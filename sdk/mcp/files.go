// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

const (
	// longestImage is what models take, in bytes.
	longestImage = 5 << 20
	// longestRead is how much of a file one call may read.
	longestRead = 1 << 20
)

type writeFile struct {
	Path     string `json:"path" jsonschema:"where, relative to /workspace; directories on the way are made"`
	Content  string `json:"content" jsonschema:"the whole file"`
	Encoding string `json:"encoding,omitempty" jsonschema:"utf8 (the default), or base64 for content that is no text"`
	Session
}

// Written is the structured result of write_file.
type Written struct {
	SessionID string `json:"sessionId"`
	Path      string `json:"path"`
	Size      int    `json:"size" jsonschema:"in bytes"`
}

type readFile struct {
	Path   string `json:"path" jsonschema:"relative to /workspace"`
	Offset int64  `json:"offset,omitempty" jsonschema:"byte to begin at; 0 by default"`
	Length int64  `json:"length,omitempty" jsonschema:"most bytes to read; 30000 by default, 1048576 at most"`
	Session
}

// Read is the structured result of read_file.
type Read struct {
	SessionID string `json:"sessionId"`
	Path      string `json:"path"`
	Size      int64  `json:"size" jsonschema:"of the whole file, in bytes"`
	Offset    int64  `json:"offset"`
	Next      int64  `json:"next,omitempty" jsonschema:"the offset to read on from; left out at the end"`
	Content   string `json:"content,omitempty" jsonschema:"the text; left out for an image"`
}

type listFiles struct {
	Path   string `json:"path,omitempty" jsonschema:"a directory relative to /workspace, which is the default"`
	Offset int    `json:"offset,omitempty" jsonschema:"entries to leave out, to see more than the first 100"`
	Session
}

// Listed is the structured result of list_files.
type Listed struct {
	SessionID string  `json:"sessionId"`
	Files     []Entry `json:"files"`
	Total     int     `json:"total" jsonschema:"entries in the directory"`
}

// Entry is one of a directory.
type Entry struct {
	Path     string    `json:"path"`
	Type     string    `json:"type" jsonschema:"file or directory"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func (t tools) addFiles() {
	add(t, mcp.Tool{
		Name: "write_file", Title: "Write a file", Annotations: hints(false, true, true),
		Description: "Write a file of the session's /workspace, whole; one that is there is replaced.",
	}, (*call).writeFile)
	add(t, mcp.Tool{
		Name: "read_file", Title: "Read a file", Annotations: hints(true, false, true),
		Description: "Read a text file of the session's /workspace, or see an image (PNG, JPEG, GIF, WebP). A long text comes in parts: read on from next. " +
			"The whole output of an earlier run is in .buntime/executions/<executionId>/stdout and stderr.",
	}, (*call).readFile)
	add(t, mcp.Tool{
		Name: "list_files", Title: "List a directory", Annotations: hints(true, false, true),
		Description: "List one directory of the session's /workspace, 100 entries at a time.",
	}, (*call).listFiles)
}

func (c *call) writeFile(ctx context.Context, in writeFile) (*answer[Written], error) {
	content := []byte(in.Content)
	switch in.Encoding {
	case "", "utf8":
	case "base64":
		var err error
		if content, err = base64.StdEncoding.DecodeString(in.Content); err != nil {
			return nil, toldf("send the content as base64 with padding, or leave encoding out for text.", "The content is no base64: %v", err)
		}
	default:
		return nil, toldf("leave it out for text, or use base64.", "encoding is %.20q, which is neither utf8 nor base64.", in.Encoding)
	}
	if err := c.client.WriteFile(ctx, c.session, in.Path, content); err != nil {
		return nil, err
	}
	return &answer[Written]{text: fmt.Sprintf("Wrote %d bytes to %s.", len(content), in.Path), out: Written{c.session, in.Path, len(content)}}, nil
}

func (c *call) readFile(ctx context.Context, in readFile) (*answer[Read], error) {
	length := in.Length
	if length == 0 {
		length = longestText
	}
	if in.Offset < 0 || length < 0 || length > longestRead {
		return nil, toldf("correct them and call again.", "offset is from 0 on, and length from 1 to %d.", longestRead)
	}
	part, size, err := c.client.ReadPart(ctx, c.session, in.Path, in.Offset, length)
	if e, ok := errors.AsType[*buntime.Error](err); ok && e.Status == http.StatusRequestedRangeNotSatisfiable {
		return nil, toldf("read from a smaller offset.", "%s ends before byte %d.", in.Path, in.Offset)
	}
	if err != nil {
		return nil, err
	}
	out := Read{SessionID: c.session, Path: in.Path, Size: size, Offset: in.Offset}
	kind := http.DetectContentType(part)
	if in.Offset == 0 && seen(kind) {
		return c.readImage(ctx, in.Path, part, kind, out)
	}
	whole := in.Offset+int64(len(part)) >= size
	text, rest, ok := textOf(part, in.Offset > 0, !whole)
	if !ok {
		return nil, toldf("have code in the session read it (execute_code), or look at it with run_command (`file`, `od -c | head`).",
			"%s is no text: %d bytes of %s.", in.Path, size, kind)
	}
	out.Content = text
	if whole {
		return &answer[Read]{text: text, out: out}, nil
	}
	out.Next = in.Offset + int64(len(part)-rest)
	return &answer[Read]{text: fmt.Sprintf("%s\n[bytes %d to %d of %d; read on with offset %d]", text, in.Offset, out.Next, size, out.Next), out: out}, nil
}

// seen says whether models can see what is of this kind.
func seen(kind string) bool {
	switch kind {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return true
	}
	return false
}

func (c *call) readImage(ctx context.Context, path string, part []byte, kind string, out Read) (*answer[Read], error) {
	if out.Size > longestImage {
		return nil, toldf("make it smaller in the session first.", "The image %s has %d bytes, more than the %d that can be shown.", path, out.Size, longestImage)
	}
	if int64(len(part)) < out.Size {
		var err error
		if part, err = c.client.ReadFile(ctx, c.session, path, longestImage); err != nil {
			return nil, err
		}
	}
	return &answer[Read]{
		text: fmt.Sprintf("%s: %s, %d bytes.", path, kind, out.Size), out: out,
		image: &mcp.ImageContent{Data: part, MIMEType: kind},
	}, nil
}

// textOf is a part of a file as text, if it is that: without the pieces of characters
// at its ends where the part was cut. rest is how many bytes are missing at its end.
func textOf(part []byte, cutBefore, cutAfter bool) (text string, rest int, ok bool) {
	if cutBefore {
		for n := 0; n < utf8.UTFMax-1 && len(part) > 0 && !utf8.RuneStart(part[0]); n++ {
			part = part[1:]
		}
	}
	if cutAfter {
		for n := 1; n < utf8.UTFMax && n <= len(part); n++ {
			if at := len(part) - n; utf8.RuneStart(part[at]) {
				if !utf8.FullRune(part[at:]) {
					part, rest = part[:at], n
				}
				break
			}
		}
	}
	text = string(part)
	return text, rest, utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

func (c *call) listFiles(ctx context.Context, in listFiles) (*answer[Listed], error) {
	page, err := c.client.ListFiles(ctx, c.session, in.Path, 100, in.Offset)
	if err != nil {
		return nil, err
	}
	out := Listed{SessionID: c.session, Files: make([]Entry, 0, len(page.Items)), Total: page.Total}
	var b strings.Builder
	for _, f := range page.Items {
		out.Files = append(out.Files, Entry{f.Path, f.Type, f.Size, f.Modified})
		if f.Type == "directory" {
			fmt.Fprintf(&b, "%s/\n", f.Path)
		} else {
			fmt.Fprintf(&b, "%s  %d bytes\n", f.Path, f.Size)
		}
	}
	switch last := in.Offset + len(page.Items); {
	case page.Total == 0:
		b.WriteString("[it is empty]")
	case last < page.Total:
		fmt.Fprintf(&b, "[%d of %d entries; offset %d shows more]", len(page.Items), page.Total, last)
	}
	return &answer[Listed]{text: strings.TrimSuffix(b.String(), "\n"), out: out}, nil
}
