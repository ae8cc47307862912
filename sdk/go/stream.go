// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Event is a piece of an execution's output, or its end.
type Event struct {
	// Stream is stdout or stderr; "" with a Result.
	Stream string
	// Data is what was printed, byte for byte: it need not be UTF-8.
	Data string
	// Result comes last.
	Result *Result
	// ExecutionID is the execution's, from the first event on.
	ExecutionID string
	// LastID is where to read on, as Output's from; with a Result, behind all that came.
	LastID string
}

// silence is how long a stream may say nothing: the server says every 15 s that it lives.
const silence = 45 * time.Second

// ExecuteStream is Execute with the output as it is printed. A connection that breaks is
// made again, and every byte comes once. Who stops reading does not end the execution;
// who ends the context does not either.
func (c *Client) ExecuteStream(ctx context.Context, r ExecuteRequest) iter.Seq2[Event, error] {
	body := struct {
		ExecuteRequest
		Stream bool `json:"stream"`
	}{r, true}
	first := keyed(call{method: http.MethodPost, path: "/execute", body: body}, r.IdempotencyKey)
	return c.events(ctx, first, outputCall{session: r.SessionID, until: "answer", started: r.Started})
}

// Output reads an execution's output from a place on, "" for the beginning, until it
// ends: until it is over or, with until "answer", until Execute's answer.
func (c *Client) Output(ctx context.Context, session, execution, from, until string) iter.Seq2[Event, error] {
	o := outputCall{session: session, execution: execution, until: until}
	p := position{id: from}
	return c.events(ctx, o.call(p), o)
}

// outputCall is how to read an execution's output on.
type outputCall struct {
	session, execution, until string
	started                   func(id string) // of the first connection only
}

func (o outputCall) call(p position) call {
	q := in(o.session, "")
	if o.until != "" {
		q.Set("until", o.until)
	}
	h := http.Header{}
	if p.id != "" {
		h.Set("Last-Event-ID", p.id)
	}
	return call{method: http.MethodGet, path: "/executions/" + url.PathEscape(o.execution) + "/output", query: q, header: h}
}

func (c *Client) events(ctx context.Context, next call, o outputCall) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		p := position{id: next.header.Get("Last-Event-ID")}
		cuts := 0
		for {
			going, err := c.connection(ctx, next, &o, &p, func(e Event) bool {
				cuts = 0
				return yield(e, nil)
			})
			if !going {
				return
			}
			cuts++
			e, ok := errors.AsType[*Error](err)
			if !ok || o.execution == "" || cuts > c.MaxRetries || !e.cut() {
				yield(Event{}, err)
				return
			}
			if err := c.wait(ctx, e, cuts); err != nil {
				yield(Event{}, err)
				return
			}
			next = o.call(p)
			p.again()
		}
	}
}

// connection reads the events of one connection. going says whether there is more to
// come, which there is after an error only.
func (c *Client) connection(ctx context.Context, call call, o *outputCall, p *position, yield func(Event) bool) (going bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := &Error{Code: CodeClientTimeout, Message: fmt.Sprintf("the stream has said nothing for %v", silence)}
	alarm := time.AfterFunc(max(silence, c.limit()+executionSlack), func() { cancel(quiet) }) // a session may have to wake first
	defer alarm.Stop()
	res, err := c.open(ctx, call)
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return true, &Error{Code: CodeInvalidResponse, Status: res.StatusCode, Message: fmt.Sprintf("the answer is %q and no stream of events", kind)}
	}
	if id := res.Header.Get("X-Execution-Id"); id != "" {
		o.execution = id
	}
	if o.started != nil {
		o.started(o.execution)
		o.started = nil
	}
	for event, err := range serverEvents(res.Body, func() { alarm.Reset(silence) }) {
		if err != nil {
			return true, err
		}
		told := Event{ExecutionID: o.execution}
		switch event.name {
		case "stdout", "stderr":
			var piece struct {
				Data   string
				Base64 []byte // what was printed, where that is no UTF-8
			}
			if err := json.Unmarshal([]byte(event.data), &piece); err != nil {
				return true, fmt.Errorf("read events: %w", err)
			}
			if piece.Base64 != nil {
				piece.Data = string(piece.Base64)
			}
			told.Stream, told.Data = event.name, p.take(event.name, piece.Data, event.id)
			if told.LastID = p.id; told.Data == "" {
				continue
			}
		case "result":
			told.Result, told.LastID = new(Result), event.id
			if err := json.Unmarshal([]byte(event.data), told.Result); err != nil {
				return true, fmt.Errorf("read events: %w", err)
			}
			yield(told)
			return false, nil
		case "error":
			return true, eventError(event.data)
		default: // of a newer server
			continue
		}
		if !yield(told) {
			return false, nil
		}
	}
	return true, &Error{Code: CodeConnection, Message: "the stream has ended before the result"}
}

// eventError is the error that an event of that name has.
func eventError(data string) error {
	var said envelope
	if err := json.Unmarshal([]byte(data), &said); err != nil || said.Error.Code == "" {
		return &Error{Code: CodeInvalidResponse, Status: http.StatusOK, Message: "read events: an error that is none of the API's"}
	}
	return &Error{Code: said.Error.Code, Status: http.StatusOK, Message: said.Error.Message, Details: said.Error.Details}
}

// cut says whether an error is that of a connection, here or behind the server, and not
// of the execution.
func (e *Error) cut() bool {
	return e.Code == CodeConnection || e.Code == CodeClientTimeout || e.Code == "service_unavailable"
}

// position is where a reader of an execution's output is.
//
// The id of an event is a byte offset in both streams together: everything before it
// has been sent, nothing behind it. An event has none while the other stream has a
// character half printed. So what came since the last id comes again on the next
// connection, and is dropped there.
type position struct {
	id string
	// beyond is how much of each stream was taken that lies behind id, and repeated how
	// much of that this connection has yet to repeat: in bytes, of stdout and stderr.
	beyond, repeated [2]int
}

// again is called before the first event of each further connection.
func (p *position) again() { p.repeated = p.beyond }

// take takes an event's data and returns what of it is new.
func (p *position) take(stream, data, id string) string {
	i := 0
	if stream == "stderr" {
		i = 1
	}
	old := min(p.repeated[i], len(data))
	p.repeated[i] -= min(old, p.repeated[i])
	if id != "" {
		p.id, p.beyond = id, p.repeated
	} else {
		p.beyond[i] += len(data) - old
	}
	return data[old:]
}
