// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package node_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

const secret = "secret"

// at is a session on a node of the test's.
func at(t *testing.T, h http.HandlerFunc) *frontend.Session {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &frontend.Session{ID: "ses_a", Claim: claim.Claim{Epoch: 7, API: strings.TrimPrefix(s.URL, "http://")}}
}

func client(t *testing.T) *node.Client {
	c := node.NewClient([]byte(secret))
	t.Cleanup(c.Close)
	return c
}

func TestInfo(t *testing.T) {
	c := client(t)
	got, err := c.Info(t.Context(), at(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/info" || r.Header.Get("Authorization") != "Bearer "+claim.Token([]byte(secret), "ses_a", 7) {
			t.Errorf("got %s %v", r.URL, r.Header)
		}
		fmt.Fprint(w, `{"session":"ses_a","state":"idle","lastActive":"2030-01-02T03:04:05Z","filesCount":1,"activeProcesses":2,
			"usage":{"memory":3,"disk":4,"cpuTime":5.5},"awakeBecause":["preview"],"unknown":{}}`)
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := frontend.Info{
		State: frontend.StateIdle, LastActive: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), FilesCount: 1, ActiveProcesses: 2,
		Usage: frontend.Usage{Memory: 3, Disk: 4, CPUTime: 5.5}, AwakeBecause: []string{"preview"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") },
	} {
		if _, err := c.Info(t.Context(), at(t, bad)); err == nil {
			t.Error("no error")
		}
	}
}

// TestErrors: who calls must know whether the request can have been done.
func TestErrors(t *testing.T) {
	c := client(t)
	post := node.Request{Method: "POST", Path: "/v1/execute", Body: []byte("{}")}
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, tc := range map[string]struct {
		session *frontend.Session
		want    error
	}{
		"nobody listens":  {&frontend.Session{ID: "ses_a", Claim: claim.Claim{Epoch: 7, API: strings.TrimPrefix(gone.URL, "http://")}}, node.ErrUnreachable},
		"another's token": {at(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), node.ErrMoved},
		"another's previews": {at(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Host != door.NodeHost {
				t.Errorf("asks for host %q", r.Host)
			}
			w.WriteHeader(421)
		}), node.ErrMoved},
		"gone":   {at(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }), node.ErrMoved},
		"broken": {at(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), node.ErrLost},
	} {
		res, err := c.Do(t.Context(), tc.session, post)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if res != nil {
			res.Body.Close()
		}
		if err != nil && strings.Contains(err.Error(), claim.Token([]byte(secret), "ses_a", 7)) {
			t.Errorf("%s: the token is in the error: %v", name, err)
		}
	}
}

// TestRestart: a node that was restarted between two requests is reached
// again, over a new connection, and the request goes there once.
func TestRestart(t *testing.T) {
	c := client(t)
	got := 0
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got++ })
	first := httptest.NewServer(handler)
	address := first.Listener.Addr().String()
	s := &frontend.Session{ID: "ses_a", Claim: claim.Claim{Epoch: 7, API: address}}
	do := func() error {
		res, err := c.Do(t.Context(), s, node.Request{Method: "POST", Path: "/v1/execute", Body: []byte("{}")})
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
	first.CloseClientConnections()
	if err := do(); err != nil && !errors.Is(err, node.ErrLost) {
		t.Error(err)
	}
	first.Close()
	err := do()
	if errors.Is(err, node.ErrLost) { // the kept connection was not known to be closed yet
		err = do()
	}
	if !errors.Is(err, node.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if got > 2 {
		t.Errorf("the node got %d requests", got)
	}
}
