// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
)

// TestPlaces: allocations of sessions are told from others by the names of their jobs, on
// all pages of the list.
func TestPlaces(t *testing.T) {
	pages := map[string][]*api.AllocationListStub{
		"": {
			{JobID: "ses-abc", NodeID: "n", NodeName: "node", CreateTime: 5},
			{JobID: "ses-abc-3", NodeID: "m", NodeName: "other", CreateTime: 6},
		},
		"next": {
			{JobID: "ses-"},
			{JobID: "ses-a-b"},
			{JobID: "ses-a-1"},
			{JobID: "ses-a-"},
			{JobID: "ses-A"},
			{JobID: "other"},
			{JobID: "ses-a-2-3"},
			{JobID: "ses-d", NodeID: "n", NodeName: "node", CreateTime: 7},
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		for name, value := range map[string]string{"X-Nomad-Index": "1", "X-Nomad-LastContact": "0", "X-Nomad-KnownLeader": "true"} {
			w.Header().Set(name, value) // the client reads none without the others
		}
		if r.URL.Path != "/v1/allocations" || q.Get("task_states") != "false" {
			t.Errorf("asked for %s", r.URL)
		}
		if q.Get("next_token") == "" {
			w.Header().Set("X-Nomad-NextToken", "next")
		}
		if err := json.NewEncoder(w).Encode(pages[q.Get("next_token")]); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	s, _ := scheduler(t, server.URL)
	got, err := s.Places(deadline(t))
	want := []frontend.Place{
		{Session: "ses_abc", Epoch: 1, Node: "n", NodeName: "node", Since: time.Unix(0, 5)},
		{Session: "ses_abc", Epoch: 3, Node: "m", NodeName: "other", Since: time.Unix(0, 6)},
		{Session: "ses_d", Epoch: 1, Node: "n", NodeName: "node", Since: time.Unix(0, 7)},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
