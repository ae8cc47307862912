// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// said is an event as a client sees it.
type said struct {
	stream, data string
	id           int64 // -1: none
}

// tell is what a client is told of pieces from an offset on.
func tell(t *testing.T, pieces []piece, from int64) (events []said) {
	t.Helper()
	w := httptest.NewRecorder()
	out, text := newSSE(w), newDecoder(from)
	for _, p := range pieces {
		end := p.offset + int64(len(p.data))
		if end <= from {
			continue
		}
		if skip := from - p.offset; skip > 0 {
			p.offset, p.data = from, p.data[skip:]
		}
		if err := text.send(out, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := text.rest(out); err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n") {
		e := said{id: -1}
		for line := range strings.SplitSeq(block, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "event":
				e.stream = value
			case "id":
				e.id, _ = strconv.ParseInt(value, 10, 64)
			case "data":
				var d outputEvent
				if err := json.Unmarshal([]byte(value), &d); err != nil {
					t.Fatal(err)
				}
				e.data = d.Data
			}
		}
		events = append(events, e)
	}
	return events
}

// TestEventsGoOnFromTheirIds: behind any id come the very bytes that were not
// before it, also where the two streams cut each other's characters in pieces.
func TestEventsGoOnFromTheirIds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		text := map[stream][]byte{stdout: []byte(strings.Repeat("añ€😀", 4)), stderr: []byte(strings.Repeat("😀z", 4) + "\xf0\x9f")}
		want := map[string]string{"stdout": string(text[stdout]), "stderr": strings.Repeat("😀z", 4) + "\ufffd\ufffd"}
		var pieces []piece
		var end int64
		for len(text[stdout])+len(text[stderr]) > 0 {
			s := stdout
			if rnd.IntN(2) == 1 {
				s = stderr
			}
			n := min(1+rnd.IntN(5), len(text[s]))
			if n == 0 {
				continue
			}
			pieces = append(pieces, piece{s, end, bytes.Clone(text[s][:n])})
			text[s], end = text[s][n:], end+int64(n)
		}
		events := tell(t, pieces, 0)
		before := map[string]string{}
		for i, e := range events {
			before[e.stream] += e.data
			if e.id < 0 {
				continue
			}
			after := map[string]string{}
			if e.id < end {
				for _, e := range tell(t, pieces, e.id) {
					after[e.stream] += e.data
				}
			}
			for s, want := range want {
				if got := before[s] + after[s]; got != want {
					t.Fatalf("round %d, %s after event %d: got %q, want %q", round, s, i, got, want)
				}
			}
		}
		if last := events[len(events)-1]; last.id != end {
			t.Fatalf("round %d: the last id is %d of %d", round, last.id, end)
		}
	}
}
