// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

// sseComment is how often a silent stream says that it is alive (api.md).
const sseComment = 15 * time.Second

// sse writes server-sent events.
type sse struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

func newSSE(w http.ResponseWriter) *sse {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold small events back
	w.WriteHeader(http.StatusOK)
	return &sse{w: w, rc: http.NewResponseController(w)}
}

func (s *sse) event(name, id string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.buf = append(s.buf[:0], "event: "...)
	s.buf = append(s.buf, name...)
	if id != "" {
		s.buf = append(append(s.buf, "\nid: "...), id...)
	}
	s.buf = append(append(s.buf, "\ndata: "...), body...)
	s.buf = append(s.buf, "\n\n"...)
	return s.flush()
}

func (s *sse) comment() error {
	s.buf = append(s.buf[:0], ": alive\n\n"...)
	return s.flush()
}

func (s *sse) flush() error {
	// A client that does not read for a minute is gone; its execution is not.
	if err := s.rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(s.buf); err != nil {
		return err
	}
	return s.rc.Flush()
}

// outputEvent is a piece of output. JSON has no bytes that are no UTF-8: Data has
// U+FFFD for them, and Base64 is then the piece as it was printed.
type outputEvent struct {
	Data   string `json:"data"`
	Base64 []byte `json:"base64,omitempty"`
}

func newOutputEvent(data []byte) outputEvent {
	e := outputEvent{Data: string(data)}
	if !utf8.Valid(data) {
		e.Base64 = data
	}
	return e
}

// streamOutput sends the output of e from offset on and, when it is over or
// until is closed, once the result.
// The id of an event is the offset behind its data: what a client that was cut
// off names as the last it has seen. It has none while the other stream has a
// character half printed: there is no offset then before which everything was
// sent and behind which nothing was.
func (s *Session) streamOutput(ctx context.Context, w http.ResponseWriter, e *execution, offset int64, until <-chan struct{}) error {
	leave, err := s.life.useMore("output stream of " + e.ExecutionID)
	if err != nil {
		return err
	}
	defer leave()
	out := newSSE(w)
	text := newDecoder(offset)
	for {
		step, cancel := context.WithTimeoutCause(ctx, sseComment, errQuiet)
		pieces, behind, over, err := e.output.next(step, text.offset, until)
		cancel()
		switch {
		case errors.Is(err, errQuiet):
			if err := out.comment(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case behind:
			err := s.journal.replay(ctx, e.ExecutionID, text.offset, e.output.offset(), func(p piece) error {
				return text.send(out, p)
			})
			if err != nil {
				return out.event("error", "", envelope{asError(fmt.Errorf("output before the last %d bytes is not to be had: %w", windowSize, err))})
			}
			continue
		}
		for _, p := range pieces {
			if err := text.send(out, p); err != nil {
				return err
			}
		}
		if over {
			return s.streamResult(ctx, out, text, e, until == nil)
		}
	}
}

var errQuiet = errors.New("nothing was printed for a while")

// streamResult ends a stream, with what the caller was told or, at the end of the
// execution, with what came of it.
func (s *Session) streamResult(ctx context.Context, out *sse, text *decoder, e *execution, end bool) error {
	if err := text.rest(out); err != nil {
		return err
	}
	r, err := s.answer(ctx, e)
	if end && err == nil {
		r, err = s.judge(e.snapshot())
	}
	if err != nil {
		return out.event("error", "", envelope{asError(err)})
	}
	return out.event("result", strconv.FormatInt(text.offset, 10), r)
}

// decoder cuts output into events of whole characters.
type decoder struct {
	offset int64 // behind the last byte taken
	held   map[stream][]byte
}

func newDecoder(offset int64) *decoder {
	return &decoder{offset: offset, held: map[stream][]byte{}}
}

func (d *decoder) send(out *sse, p piece) error {
	data := p.data
	if held := d.held[p.stream]; len(held) > 0 {
		data = append(held, data...)
	}
	d.offset = p.offset + int64(len(p.data))
	whole := len(data)
	for i := 1; i < utf8.UTFMax && i <= len(data); i++ {
		if utf8.RuneStart(data[len(data)-i]) {
			if !utf8.FullRune(data[len(data)-i:]) {
				whole = len(data) - i
			}
			break
		}
	}
	d.held[p.stream] = append([]byte(nil), data[whole:]...)
	if whole == 0 {
		return nil
	}
	return d.event(out, p.stream, data[:whole])
}

// event sends data of a stream. What of that stream is held came last, so that
// the id stands before it.
func (d *decoder) event(out *sse, s stream, data []byte) error {
	id := ""
	if len(d.held[s.other()]) == 0 {
		id = strconv.FormatInt(d.offset-int64(len(d.held[s])), 10)
	}
	return out.event(s.String(), id, newOutputEvent(data))
}

// rest sends what never became a whole character.
func (d *decoder) rest(out *sse) error {
	for _, s := range []stream{stdout, stderr} {
		if held := d.held[s]; len(held) > 0 {
			d.held[s] = nil
			if err := d.event(out, s, held); err != nil {
				return err
			}
		}
	}
	return nil
}
