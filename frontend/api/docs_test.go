// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"html"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/buntime/buntime/frontend"
)

// TestDocs: the page has every operation, and every object that one names.
func TestDocs(t *testing.T) {
	w := newWorld(t)
	var document struct {
		Paths      map[string]map[string]struct{ OperationID, Summary string }
		Components struct{ Schemas, Headers map[string]any }
	}
	w.send("", http.MethodGet, "/openapi.json", "").ok(&document)
	r := w.send("", http.MethodGet, "/docs", "")
	r.ok(nil)
	page := r.Body.String()
	if kind := r.Header().Get("Content-Type"); kind != "text/html; charset=utf-8" || strings.Contains(page, "<script") {
		t.Errorf("Content-Type %q", kind)
	}
	if policy := r.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") {
		t.Errorf("policy %q", policy)
	}
	for path, operations := range document.Paths {
		for _, op := range operations {
			if !strings.Contains(page, `id="`+op.OperationID+`"`) || !strings.Contains(page, html.EscapeString(op.Summary)) || !strings.Contains(page, "<code>"+path+"</code>") {
				t.Errorf("%s is not on the page", op.OperationID)
			}
		}
	}
	for name := range document.Components.Headers {
		if !strings.Contains(page, "<code>"+name+"</code>") {
			t.Errorf("%s is not on the page", name)
		}
	}
	for name := range document.Components.Schemas {
		if !strings.Contains(page, `id="schema-`+name+`"`) {
			t.Errorf("%s is not on the page", name)
		}
	}
}

// TestAnswers: docs/answers.md says of every error code what helps.
func TestAnswers(t *testing.T) {
	text, err := os.ReadFile("../../docs/answers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## By code")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, code := range frontend.Codes() {
		row := ""
		for line := range strings.Lines(table) {
			if strings.Contains(line, "`"+string(code)+"`") {
				row = line
				break
			}
		}
		if !strings.Contains(row, strconv.Itoa(code.Status())) {
			t.Errorf("docs/answers.md does not explain %d %s: %q", code.Status(), code, row)
		}
	}
}
