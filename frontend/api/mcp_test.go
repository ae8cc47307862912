// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// withKey sends a key with each request.
type withKey string

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(k))
	return http.DefaultTransport.RoundTrip(r)
}

// talk opens a conversation.
func (w *world) talk(key string) *mcp.ClientSession {
	w.t.Helper()
	srv := httptest.NewServer(w)
	w.t.Cleanup(srv.Close)
	c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := c.Connect(w.t.Context(), &mcp.StreamableClientTransport{
		Endpoint: srv.URL + "/mcp", HTTPClient: &http.Client{Transport: withKey(key)}, DisableStandaloneSSE: true, MaxRetries: -1,
	}, &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { session.Close() })
	return session
}

// TestMCPCallsTheAPI: a tool is a call of the API with the key of its message, in the
// conversation's own session or one that is named, of the same account.
func TestMCPCallsTheAPI(t *testing.T) {
	w := newWorld(t)
	result := `{"stdout":"42\n","stderr":"","exitCode":0,"executionTime":1,"memoryUsed":1,"cpuTime":1,"timedOut":false,"filesWritten":[],"executionId":"exe_1","pid":7,"background":false,"reason":"exit","truncated":{"stdout":0,"stderr":0}}`
	w.node.answers(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(rw, "event: stdout\nid: 3\ndata: {\"data\":\"42\\n\"}\n\nevent: result\ndata: %s\n\n", result)
	})
	one := w.talk(paid)
	var told []string
	for range 2 {
		r, err := one.CallTool(t.Context(), &mcp.CallToolParams{Name: "execute_code", Arguments: map[string]any{"code": "console.log(42)"}})
		if err != nil || r.IsError || !strings.HasPrefix(text(r), "42\n[exit code 0") {
			t.Fatalf("%v: %+v", err, r)
		}
		told = append(told, structured(t, r)["sessionId"].(string))
	}
	if told[0] != told[1] {
		t.Errorf("two sessions of one conversation: %v", told)
	}
	if got := w.node.last(t); !strings.Contains(got.body, "console.log(42)") || !strings.Contains(got.body, `"stream":true`) {
		t.Errorf("the node got %s", got.body)
	}
	for key, refusedToo := range map[string]bool{other: true, paid: false} {
		r, err := w.talk(key).CallTool(t.Context(), &mcp.CallToolParams{Name: "execute_code", Arguments: map[string]any{"code": "1", "sessionId": told[0]}})
		if err != nil || r.IsError != refusedToo {
			t.Errorf("%s in a session of %s: %v: %s", key, paid, err, text(r))
		}
		if refusedToo && !strings.Contains(text(r), "session_not_found") {
			t.Error(text(r))
		}
	}
}

// TestMCPFrontends: a conversation's session is found by a front-end that has not seen
// it, and ends by one that has not made it.
func TestMCPFrontends(t *testing.T) {
	w := newWorld(t)
	id := w.begin(paid)
	first := w.tool(paid, id, "session_info", nil)["sessionId"].(string)
	second := w.again() // a front-end with an empty memory
	if got := second.tool(paid, id, "session_info", nil)["sessionId"]; got != first {
		t.Errorf("the other front-end has %v, not %s", got, first)
	}
	if got := second.send(paid, http.MethodDelete, "/mcp", "", "Mcp-Session-Id", id); got.Code != http.StatusNoContent {
		t.Errorf("end: %d %s", got.Code, got.Body)
	}
	w.send(paid, http.MethodGet, "/sessions/"+first, "").refused(http.StatusNotFound, "session_not_found")
}

var accepts = []string{"Content-Type", "application/json", "Accept", "application/json, text/event-stream"}

// begin begins a conversation and returns its id.
func (w *world) begin(key string) string {
	w.t.Helper()
	r := w.send(key, http.MethodPost, "/mcp", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, accepts...)
	id := r.Header().Get("Mcp-Session-Id")
	if r.Code != http.StatusOK || id == "" {
		w.t.Fatalf("initialize: %d %s", r.Code, r.Body)
	}
	return id
}

// tool calls a tool that has to do what it is told, and returns its structured result.
func (w *world) tool(key, id, name string, arguments map[string]any) map[string]any {
	w.t.Helper()
	message, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": name, "arguments": arguments}})
	if err != nil {
		w.t.Fatal(err)
	}
	r := w.send(key, http.MethodPost, "/mcp", string(message), append(accepts, "Mcp-Session-Id", id, "Mcp-Protocol-Version", "2025-11-25")...)
	_, data, _ := strings.Cut(r.Body.String(), "data: ")
	var got struct{ Result mcp.CallToolResult }
	if err := json.NewDecoder(strings.NewReader(data)).Decode(&got); err != nil || got.Result.IsError {
		w.t.Fatalf("%s: %v: %d %s", name, err, r.Code, r.Body)
	}
	return structured(w.t, &got.Result)
}

func text(r *mcp.CallToolResult) string {
	if r == nil || len(r.Content) == 0 {
		return ""
	}
	c, _ := r.Content[0].(*mcp.TextContent)
	return c.Text
}

func structured(t testing.TB, r *mcp.CallToolResult) map[string]any {
	t.Helper()
	got, ok := r.StructuredContent.(map[string]any)
	if !ok {
		t.Fatalf("no structured result: %+v", r)
	}
	return got
}

// TestMCPCancel: a call that is cancelled at another front-end ends.
func TestMCPCancel(t *testing.T) {
	w := newWorld(t)
	id := w.begin(paid)
	w.tool(paid, id, "session_info", nil)
	running, killed := make(chan struct{}), make(chan struct{})
	w.node.answers(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/execute":
			rw.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(rw).Flush()
			close(running)
			<-killed
			fmt.Fprint(rw, "event: result\ndata: {\"reason\":\"killed\",\"exitCode\":137}\n\n")
		case "/v1/processes":
			var body struct{ ExecutionID string }
			_ = json.Unmarshal([]byte(w.node.requests()[0].body), &body)
			fmt.Fprintf(rw, `{"processes":[{"pid":7,"executionId":%q},{"pid":8,"executionId":"other"}]}`, body.ExecutionID)
		case "/v1/kill":
			if body := bodyOf(r); !strings.Contains(body, `"pid":7`) {
				t.Errorf("killed %s", body)
			}
			close(killed)
			fmt.Fprint(rw, `{"killed":1,"pids":[7]}`)
		}
	})
	done := make(chan reply, 1)
	go func() {
		done <- w.send(paid, http.MethodPost, "/mcp", `{"jsonrpc":"2.0","id":"seven","method":"tools/call","params":{"name":"run_command","arguments":{"command":"sleep 100"}}}`,
			append(accepts, "Mcp-Session-Id", id, "Mcp-Protocol-Version", "2025-11-25")...)
	}()
	<-running
	cancel := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"seven"}}`
	headers := append(accepts, "Mcp-Session-Id", id)
	if r := w.again().send(other, http.MethodPost, "/mcp", cancel, headers...); r.Code != http.StatusAccepted { // is not theirs
		t.Errorf("cancel by another: %d %s", r.Code, r.Body)
	}
	if r := w.again().send(paid, http.MethodPost, "/mcp", cancel, headers...); r.Code != http.StatusAccepted {
		t.Errorf("cancel: %d %s", r.Code, r.Body)
	}
	if r := <-done; !strings.Contains(r.Body.String(), "was cancelled") {
		t.Errorf("%d %s", r.Code, r.Body)
	}
}
