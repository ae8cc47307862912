// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

// TestExplain: every error of the API says what to do.
func TestExplain(t *testing.T) {
	for code, want := range map[string]string{
		"session_limit_exceeded": "ask the user to delete one",
		"rate_limit_exceeded":    "make fewer, larger calls",
		"disk_full":              "free space",
		"memory_limit_exceeded":  "work on less",
		"service_unavailable":    "look whether it was done",
		"unauthorized":           "valid API key",
		"internal_error":         "tell the user that it was request req_1",
	} {
		status := http.StatusBadRequest
		if code == "internal_error" {
			status = http.StatusInternalServerError
		}
		err := explain(fmt.Errorf("call: %w", &buntime.Error{Code: code, Status: status, Message: "what happened", RequestID: "req_1"}), true)
		if text := err.Error(); !strings.HasPrefix(text, "what happened ("+code+")\nWhat to do: ") || !strings.Contains(text, want) {
			t.Errorf("%s: %s", code, text)
		}
	}
	if text := explain(&buntime.Error{Code: "service_unavailable", Details: map[string]any{"done": "no"}}, true).Error(); !strings.Contains(text, "nothing was done") {
		t.Error(text)
	}
	if text := explain(&buntime.Error{Code: "x", Details: map[string]any{"done": "unknown"}}, true).Error(); !strings.Contains(text, "may have been done") {
		t.Error(text)
	}
	if own, named := explain(&buntime.Error{Code: "session_not_found"}, true), explain(&buntime.Error{Code: "session_not_found"}, false); own.Error() == named.Error() {
		t.Error(own)
	}
	if err := errors.New("other"); explain(err, true) != err { //nolint:errorlint // the very same
		t.Error("an error that is none of the API's was changed")
	}
}

func TestPortURL(t *testing.T) {
	for port, want := range map[int]string{8080: "http://ses-a.localhost:8700", 3000: "http://3000-ses-a.localhost:8700"} {
		if got := portURL("http://ses-a.localhost:8700", port); got != want {
			t.Errorf("%d: %s", port, got)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("short", int64(0))
	f.Add(strings.Repeat("ñ", longestText), int64(7))
	f.Add("a"+strings.Repeat("🎈", longestText), int64(0))
	f.Fuzz(func(t *testing.T, text string, more int64) {
		text = strings.ToValidUTF8(text, "")
		short, left := cut(text, more, "f")
		if !utf8.ValidString(short) || len(short) > longestText+200 {
			t.Errorf("%d bytes, valid %t", len(short), utf8.ValidString(short))
		}
		if len(text) <= longestText && (short != text || left != more) {
			t.Error("a short text was changed")
		}
	})
}

// FuzzTextOf: a text that is read in parts is the text.
func FuzzTextOf(f *testing.F) {
	f.Add("hello", 2)
	f.Add("ñññ", 1)
	f.Add("a🎈b🎈", 5)
	f.Fuzz(func(t *testing.T, whole string, length int) {
		if !utf8.ValidString(whole) || strings.ContainsRune(whole, 0) || length < utf8.UTFMax || length > 1<<16 {
			t.Skip()
		}
		var got strings.Builder
		for at := 0; at < len(whole); {
			end := min(at+length, len(whole))
			text, rest, ok := textOf([]byte(whole[at:end]), at > 0, end < len(whole))
			if !ok || end-rest <= at {
				t.Fatalf("at %d of %q: %t, %d", at, whole, ok, rest)
			}
			got.WriteString(text)
			at = end - rest
		}
		if got.String() != whole {
			t.Errorf("%q became %q", whole, got.String())
		}
	})
}

// FuzzPeek: what comes in is looked at without harm, and names of calls differ as their
// ids do.
func FuzzPeek(f *testing.F) {
	for _, s := range []string{`{"id":1,"method":"tools/call"}`, `[]`, ``, `{"method":"notifications/cancelled","params":{"requestId":"1"}}`, ` [{}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := peek(body)
		if err == nil && len(body) > 0 && strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
			t.Errorf("%q is more than one message", body)
		}
		if err == nil && !json.Valid(body) {
			t.Errorf("%q is no JSON", body)
		}
		if len(m.ID) > 0 && callName("a", m.ID) == callName("b", m.ID) {
			t.Error("two conversations share a call")
		}
	})
}

// TestAnswersNobodyElse: what is asked of a handler with other headers is refused
// before anything is read of it.
func TestAnswersNobodyElse(t *testing.T) {
	h := NewHandler(HandlerConfig{Origin: "https://api.example", Client: func(*http.Request) *buntime.Client {
		t.Error("asked for a client")
		return nil
	}})
	for _, test := range []struct {
		method, header, value string
		status                int
	}{
		{"POST", "Origin", "https://api.example.evil.example", http.StatusForbidden},
		{"POST", "Origin", "null", http.StatusForbidden},
		{"POST", "Origin", "http://api.example", http.StatusForbidden},
		{"POST", sessionHeader, "mcp-", http.StatusNotFound},
		{"POST", sessionHeader, newID() + "x", http.StatusNotFound},
		{"DELETE", "X-Other", "", http.StatusBadRequest},
		{"GET", "X-Other", "", http.StatusMethodNotAllowed},
		{"PUT", sessionHeader, newID(), http.StatusMethodNotAllowed},
	} {
		r := httptest.NewRequest(test.method, "/mcp", strings.NewReader("{}"))
		r.Header.Set(test.header, test.value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%s %s: %s: status %d, want %d", test.method, test.header, test.value, w.Code, test.status)
		}
	}
}

// TestDocs: docs/mcp.md has just the tools that there are, with their arguments, and
// configurations that can be read.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/mcp.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z]+_[a-z_]+)` \\|.*\\|(.*)\\|$").FindAllStringSubmatch(string(doc), -1) {
		arguments := regexp.MustCompile("`([a-zA-Z]+)`\\??").FindAllStringSubmatch(row[2], -1)
		for _, a := range arguments {
			if a[1] != "base64" {
				documented = append(documented, row[1]+" "+strings.Trim(a[0], "`?")+strings.Repeat("?", strings.Count(a[0], "?")))
			}
		}
		documented = append(documented, row[1])
	}
	var served []string
	for _, tool := range offered(t) {
		served = append(served, tool.Name)
		schema := tool.InputSchema.(map[string]any)
		required, _ := schema["required"].([]any)
		for name := range schema["properties"].(map[string]any) {
			optional := "?"
			if slices.Contains(required, any(name)) {
				optional = ""
			}
			if name != "sessionId" {
				served = append(served, tool.Name+" "+name+optional)
			}
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented: %q\nserved: %q", documented, served)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) < 3 {
		t.Errorf("%d configurations", len(blocks))
	}
	for _, b := range blocks {
		if !json.Valid([]byte(b[1])) {
			t.Errorf("no JSON: %s", b[1])
		}
	}
}

// offered asks a server for its tools.
func offered(t *testing.T) []*mcp.Tool {
	t.Helper()
	client, server := mcp.NewInMemoryTransports()
	s := newServer(nil)
	if _, err := s.Connect(t.Context(), server, nil); err != nil {
		t.Fatal(err)
	}
	c, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tools, err := c.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tools.Tools
}
