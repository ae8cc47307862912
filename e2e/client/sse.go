// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

// Event is one server-sent event, or a comment: a block that has nothing but
// lines that start with a colon.
type Event struct {
	ID   string
	Name string
	Data string
	// Comment is the text after the colon, with its leading space.
	Comment   string
	IsComment bool
}

// Events is an answer of type text/event-stream.
type Events struct {
	Header http.Header
	body   io.ReadCloser
	lines  *bufio.Reader
}

// Events sends a call and expects an event stream with status 200. The stream
// lasts until it is closed, the server ends it, or ctx is done.
func (c *Client) Events(ctx context.Context, call Call) (*Events, error) {
	res, err := c.Open(ctx, call)
	if err != nil {
		return nil, err
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "text/event-stream" || res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return nil, fmt.Errorf("want an event stream from %s %s, got %d %q: %s",
			call.Method, call.Path, res.StatusCode, res.Header.Get("Content-Type"), body)
	}
	return &Events{Header: res.Header, body: res.Body, lines: bufio.NewReaderSize(res.Body, 64<<10)}, nil
}

// Next waits for the next event or comment; io.EOF says that the server ended
// the stream between two of them.
func (e *Events) Next() (Event, error) {
	var event Event
	var data []string
	begun := false
	for {
		line, err := e.lines.ReadString('\n')
		if err == io.EOF && (begun || line != "") {
			return event, fmt.Errorf("read event: stream ends inside %q: %w", line, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return event, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			if !begun {
				continue
			}
			event.Data = strings.Join(data, "\n")
			event.IsComment = event.ID == "" && event.Name == "" && data == nil
			return event, nil
		}
		begun = true
		name, value, _ := strings.Cut(line, ":")
		if name == "" {
			event.Comment = value
			continue
		}
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			event.ID = value
		case "event":
			event.Name = value
		case "data":
			data = append(data, value)
		}
	}
}

// Close goes away in the middle of the stream.
func (e *Events) Close() error { return e.body.Close() }
