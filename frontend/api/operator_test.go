// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
)

const told = `{"state":"idle","usage":{"memory":5,"disk":6,"cpuTime":7},"activeProcesses":3,"awakeBecause":["terminal"],"nextTransition":{"to":"deep-sleep","at":"2030-01-01T00:00:00Z"}}`

type anySession struct {
	SessionID, Account, State, Node string
	Metadata                        any
	Usage                           *struct{ Memory int }
	ActiveProcesses                 *int
	AwakeBecause                    []string
	NextTransition                  *struct{ To string }
}

// TestOperator: an operator's key sees which sessions there are, of all accounts, and how
// they do; nobody else does.
func TestOperator(t *testing.T) {
	w := newWorld(t)
	w.node.answers(says(told))
	a, b := w.create(paid), w.create(other)
	w.sessions.Close() // where they are is noted
	var list struct{ Sessions []anySession }
	r := w.send(op, http.MethodGet, "/operator/sessions", "")
	r.ok(&list)
	if len(list.Sessions) != 2 || r.Header().Get("X-Total-Count") != "2" {
		t.Fatalf("%s", r.Body)
	}
	i := slices.IndexFunc(list.Sessions, func(s anySession) bool { return s.SessionID == a })
	if i < 0 || list.Sessions[1-i].SessionID != b {
		t.Fatalf("%s", r.Body)
	}
	s := list.Sessions[i]
	if s.Account != "paid" || s.State != "idle" || s.Node != "node" || s.Usage == nil || s.Usage.Memory != 5 || s.Metadata != nil || *s.ActiveProcesses != 3 ||
		fmt.Sprint(s.AwakeBecause) != "[terminal]" || s.NextTransition.To != "deep-sleep" {
		t.Errorf("%s", r.Body)
	}
	r = w.send(op, http.MethodGet, "/operator/sessions?account=other", "")
	r.ok(&list)
	if len(list.Sessions) != 1 || list.Sessions[0].SessionID != b {
		t.Errorf("%s", r.Body)
	}

	var system struct {
		Frontend string
		Awake    int
		Nodes    []struct {
			ID, Status        string
			Healthy, Eligible bool
			Sessions          int
		}
		Pools []struct{ Memory, Ready int }
		Times map[string]struct {
			Count uint64
			Below []uint64
		}
	}
	r = w.send(op, http.MethodGet, "/operator/system", "")
	r.ok(&system)
	if system.Frontend == "" || system.Awake != 2 || len(system.Nodes) != 1 || system.Nodes[0].Sessions != 2 || system.Nodes[0].Status != "ready" ||
		!system.Nodes[0].Healthy || !system.Nodes[0].Eligible || len(system.Pools) != 1 || system.Pools[0].Memory != 1024 || system.Times["create"].Count != 2 {
		t.Errorf("%s", r.Body)
	}
	if below := system.Times["create"].Below; len(below) == 0 || below[len(below)-1] != 2 {
		t.Errorf("%s", r.Body)
	}

	w.node.answers(says("{}"))
	for _, path := range []string{"/operator/sessions", "/operator/sessions?account=other", "/operator/system"} {
		w.send(other, http.MethodGet, path, "").refused(http.StatusForbidden, "forbidden")
		w.send("", http.MethodGet, path, "").refused(http.StatusUnauthorized, "unauthorized")
	}
	// And of what is in another's session an operator's key sees no more than others.
	w.send(op, http.MethodGet, "/sessions/"+a, "").refused(http.StatusNotFound, "session_not_found")
	if got := w.node.requests(); len(got) > 0 {
		t.Errorf("the node got %v", got)
	}
}

// TestListTells: a list has what the sessions' nodes tell.
func TestListTells(t *testing.T) {
	w := newWorld(t)
	w.node.answers(says(told))
	w.create(paid)
	w.sessions.Close() // where it is is noted
	var list struct{ Sessions []anySession }
	r := w.send(paid, http.MethodGet, "/sessions", "")
	r.ok(&list)
	if len(list.Sessions) != 1 || list.Sessions[0].Usage == nil || list.Sessions[0].Usage.Memory != 5 || list.Sessions[0].State != "idle" || list.Sessions[0].NextTransition.To != "deep-sleep" {
		t.Errorf("%s", r.Body)
	}
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	list.Sessions = nil
	r = w.send(paid, http.MethodGet, "/sessions", "")
	r.ok(&list)
	if len(list.Sessions) != 1 || list.Sessions[0].Usage != nil || list.Sessions[0].NextTransition != nil {
		t.Errorf("%s", r.Body)
	}
}

// TestSeenProcesses: who only looks asks the node for what is no activity.
func TestSeenProcesses(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.answers(says(`{"processes":[]}`))
	w.send(paid, http.MethodGet, "/processes?wake=false&sessionId="+id, "").ok(nil)
	if r := w.node.last(t); r.path != "/v1/seen/processes" {
		t.Errorf("the node got %+v", r)
	}
	w.send(other, http.MethodGet, "/processes?wake=false&sessionId="+id, "").refused(http.StatusNotFound, "session_not_found")
	w.send(paid, http.MethodGet, "/processes?wake=x&sessionId="+id, "").field("wake")
}
