// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"io"
	"strconv"

	"github.com/buntime/buntime/e2e/client"
)

// events is an event stream that has to go on as the test says.
type events struct {
	*client.Events
	s *session
}

// stream executes with stream: true.
func (s *session) stream(body M) *events {
	s.t.Helper()
	body["stream"] = true
	return s.events(client.Call{Method: "POST", Path: "/execute", JSON: s.body(body)})
}

func (s *session) events(call client.Call) *events {
	s.t.Helper()
	stream, err := s.api.Events(s.ctx, call)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { stream.Close() })
	return &events{stream, s}
}

// next waits for the next event that is no comment.
func (e *events) next() client.Event {
	e.s.t.Helper()
	for {
		event, err := e.Next()
		if err != nil {
			e.s.t.Fatalf("next event: %v", err)
		}
		if !event.IsComment {
			return event
		}
	}
}

// end wants nothing more but the end.
func (e *events) end() {
	e.s.t.Helper()
	for {
		event, err := e.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			e.s.t.Fatalf("end of events: %v", err)
		}
		if !event.IsComment {
			e.s.t.Fatalf("event after the last: %+v", event)
		}
	}
}

// wants is next for an output event, which it has to be; it returns the id.
func (e *events) wants(stream, text string) string {
	e.s.t.Helper()
	event := e.next()
	equal(e.s.t, "event", event.Name+" "+e.piece(event), stream+" "+text)
	return event.ID
}

// piece is the data of a stdout or stderr event.
func (e *events) piece(event client.Event) string {
	e.s.t.Helper()
	return decodeText[struct {
		Data string `json:"data"`
	}](e.s.t, []byte(event.Data)).Data
}

// collected is the output that a stream brought.
type collected struct {
	stdout, stderr string
	ids            []int64 // of its events, in order
	last           client.Event
}

// collect reads output up to the first event of another kind or the end.
func (e *events) collect() collected {
	e.s.t.Helper()
	var c collected
	for {
		event, err := e.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return c
		}
		if err != nil {
			e.s.t.Fatalf("collect events: %v", err)
		}
		switch {
		case event.IsComment:
			continue
		case event.Name == "stdout":
			c.stdout += e.piece(event)
		case event.Name == "stderr":
			c.stderr += e.piece(event)
		default:
			c.last = event
			return c
		}
		if event.ID == "" { // the other stream has a character half printed
			continue
		}
		id, err := strconv.ParseInt(event.ID, 10, 64)
		if err != nil {
			e.s.t.Fatalf("id of an event is no offset: %+v", event)
		}
		c.ids = append(c.ids, id)
	}
}

// outputEvents opens an execution's output after an event id; "" from the start.
func (s *session) outputEvents(executionID, after string) *events {
	s.t.Helper()
	return s.events(client.Call{
		Method: "GET", Path: "/executions/" + executionID + "/output", Query: s.query(nil),
		Header: map[string]string{"Last-Event-ID": after},
	})
}

// output is the whole output of an execution after an event id.
func (s *session) output(executionID, after string) collected {
	s.t.Helper()
	return s.outputEvents(executionID, after).collect()
}
