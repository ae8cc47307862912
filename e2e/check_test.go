// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// M is a JSON object to send.
type M = map[string]any

// usual is the deadline of a test that has no reason for another.
const usual = 60 * time.Second

// deadline is a context that ends with the test, or after d with a cause that
// names the test.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("%s is not done after %v", t.Name(), d))
	t.Cleanup(cancel)
	return ctx
}

// equal fails the test unless got is want.
func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %s, want %s", what, brief(got), brief(want))
	}
}

// contains fails the test unless text has part in it.
func contains(t *testing.T, what, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Fatalf("%s: %s lacks %q", what, brief(text), part)
	}
}

// within fails the test unless low <= got <= high.
func within[T int | int64 | float64 | time.Duration](t *testing.T, what string, got, low, high T) {
	t.Helper()
	if got < low || got > high {
		t.Fatalf("%s: got %v, want %v to %v", what, got, low, high)
	}
}

// brief is a value for a failure's message, cut where it is long.
func brief(v any) string {
	text := fmt.Sprintf("%+v", v)
	if s, ok := v.(string); ok {
		text = fmt.Sprintf("%q", s)
	}
	const most = 2000
	if len(text) > most {
		return fmt.Sprintf("%s … %s (%d bytes)", text[:most/2], text[len(text)-most/2:], len(text))
	}
	return text
}

// send makes a call that has to be answered, with whatever status.
func send(t *testing.T, ctx context.Context, api *client.Client, call client.Call) *client.Reply {
	t.Helper()
	reply, err := api.Do(ctx, call)
	if err != nil {
		t.Fatalf("%v (%v)", err, context.Cause(ctx))
	}
	return reply
}

// status fails the test unless the answer has the status.
func status(t *testing.T, reply *client.Reply, want int) {
	t.Helper()
	if reply.Status != want {
		t.Fatalf("status: got %d, want %d; body %s", reply.Status, want, brief(string(reply.Body)))
	}
}

// decode reads an answer of status 200 into T. A member that T does not have
// fails the test: the contract names every one.
func decode[T any](t *testing.T, reply *client.Reply) T {
	t.Helper()
	status(t, reply, 200)
	contains(t, "Content-Type", reply.Header.Get("Content-Type"), "application/json")
	return decodeText[T](t, reply.Body)
}

func decodeText[T any](t *testing.T, text []byte) T {
	t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decode %T: %v; body %s", v, err, brief(string(text)))
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("decode %T: more than one value in %s", v, brief(string(text)))
	}
	return v
}

// keys fails the test unless the JSON object has exactly the required members
// and, of others, only optional ones.
func keys(t *testing.T, what string, object json.RawMessage, required, optional []string) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		t.Fatalf("%s is no object: %v: %s", what, err, brief(string(object)))
	}
	have := slices.Sorted(maps.Keys(members))
	for _, name := range required {
		if !slices.Contains(have, name) {
			t.Errorf("%s lacks %q, has %q", what, name, have)
		}
	}
	for _, name := range have {
		if !slices.Contains(required, name) && !slices.Contains(optional, name) {
			t.Errorf("%s has %q, which the contract does not name", what, name)
		}
	}
}

// apiError is the envelope of every answer that is no success.
type apiError struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Details json.RawMessage `json:"details,omitempty"`
}

// refusal fails the test unless the answer is an error in the envelope of the
// API with the status and the code.
func refusal(t *testing.T, reply *client.Reply, wantStatus int, wantCode string) apiError {
	t.Helper()
	if reply.Status != wantStatus {
		t.Fatalf("status: got %d, want %d %s; body %s", reply.Status, wantStatus, wantCode, brief(string(reply.Body)))
	}
	contains(t, "Content-Type", reply.Header.Get("Content-Type"), "application/json")
	envelope := decodeText[struct {
		Error apiError `json:"error"`
	}](t, reply.Body)
	if envelope.Error.Code != wantCode {
		t.Fatalf("code: got %q, want %q; body %s", envelope.Error.Code, wantCode, brief(string(reply.Body)))
	}
	if envelope.Error.Message == "" {
		t.Errorf("error %s has no message", wantCode)
	}
	return envelope.Error
}

// refusedField is a refusal with 400 invalid_request that names one of the
// fields, with list indexes written [0] or .0.
func refusedField(t *testing.T, reply *client.Reply, fields ...string) {
	t.Helper()
	e := refusal(t, reply, 400, "invalid_request")
	var details struct {
		Field string `json:"field"`
	}
	if err := json.Unmarshal(e.Details, &details); err != nil {
		t.Fatalf("details of %q: %v: %s", e.Message, err, e.Details)
	}
	dotted := regexp.MustCompile(`\[(\d+)\]`).ReplaceAllString(details.Field, ".$1")
	if !slices.Contains(fields, dotted) {
		t.Fatalf("details.field: got %q, want one of %q; message %q", details.Field, fields, e.Message)
	}
}

// instant reads a time of the API: ISO 8601 UTC, whole seconds, Z.
func instant(t *testing.T, what, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04:05Z", text)
	if err != nil {
		t.Fatalf("%s is no time in whole seconds with Z: %v", what, err)
	}
	return at
}

// eventually asks until done says yes, for what announces itself by no event.
// What it last said is in the failure's message.
func eventually(t *testing.T, ctx context.Context, what string, d time.Duration, done func() (bool, string)) {
	t.Helper()
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		last := bounded.Err() != nil // a machine that stood still has not let it look before
		ok, said := done()
		if ok {
			return
		}
		if !last {
			select {
			case <-bounded.Done():
			case <-tick.C:
			}
		}
		if last || ctx.Err() != nil {
			t.Fatalf("%s: not within %v; last: %s", what, d, said)
		}
	}
}

// nextSecond waits until the wall clock shows another second than at: times of
// the API have no finer parts.
func nextSecond(t *testing.T, ctx context.Context, at time.Time) {
	t.Helper()
	select {
	case <-time.After(time.Until(at.Truncate(time.Second).Add(time.Second + 5*time.Millisecond))):
	case <-ctx.Done():
		t.Fatalf("wait for the next second: %v", context.Cause(ctx))
	}
}
