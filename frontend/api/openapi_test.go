// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"testing"
)

// committed is the OpenAPI document that the TypeScript client's types are made
// from.
const committed = "../../sdk/typescript/openapi.json"

var update = flag.Bool("update", false, "write the OpenAPI document to "+committed)

// TestOpenAPIIsCommitted: the document that the client's types are made from is
// the one that is served.
func TestOpenAPIIsCommitted(t *testing.T) {
	w := newWorld(t)
	var document map[string]any
	w.send("", http.MethodGet, "/openapi.json", "").ok(&document)
	delete(document, "servers") // where this one is
	served, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	served = append(served, '\n')
	if *update {
		if err := os.WriteFile(committed, served, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, served) {
		t.Errorf("%s is not what is served; make openapi brings it and the client's types up to date", committed)
	}
}

// TestDocumentedHeaders: what the document says of every answer's headers is so.
func TestDocumentedHeaders(t *testing.T) {
	w := newWorld(t)
	var document struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct{ Headers map[string]any }
		}
		Components struct{ Headers map[string]any }
	}
	w.send("", http.MethodGet, "/openapi.json", "").ok(&document)
	if len(document.Components.Headers) != 6 {
		t.Errorf("%v", document.Components.Headers)
	}
	for path, operations := range document.Paths {
		for method, op := range operations {
			for status, r := range op.Responses {
				for name := range document.Components.Headers {
					late := name != "Retry-After" || status == "429" || status == "503"
					if _, there := r.Headers[name]; there != late {
						t.Errorf("%s %s, %s: %s there %t", method, path, status, name, there)
					}
				}
			}
		}
	}
	id := w.create(paid)
	for _, r := range []reply{w.send(paid, "GET", "/sessions/"+id, ""), w.send(paid, "GET", "/sessions/none", ""), w.send("", "GET", "/sessions", ""), w.send(paid, "PUT", "/sessions", "")} {
		for name := range document.Components.Headers {
			if name != "Retry-After" && r.Header().Get(name) == "" {
				t.Errorf("answer %d without %s", r.Code, name)
			}
		}
	}
}
