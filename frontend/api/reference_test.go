// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	reference     = "../../docs/api.md"
	referenceMark = "<!-- What follows is made from the OpenAPI document: make openapi -->\n"
)

// schema is one of the document's.
type schema struct {
	Ref         string `json:"$ref"`
	Type        any    // a word, or a list of them
	Description string
	Enum        []any
	Items       *schema
	OneOf       []schema
	Properties  map[string]schema
	Required    []string
}

func (s *schema) String() string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, word := range s.Enum {
			words[i] = fmt.Sprintf("`%v`", word)
		}
		return strings.Join(words, ", ")
	case len(s.OneOf) > 0:
		kinds := make([]string, len(s.OneOf))
		for i := range s.OneOf {
			kinds[i] = s.OneOf[i].String()
		}
		return strings.Join(kinds, " or ")
	case s.Items != nil:
		return "list of " + s.Items.String()
	}
	return strings.Trim(fmt.Sprint(s.Type), "[]")
}

// TestReference: the part of docs/api.md that lists the operations is what the document
// says.
func TestReference(t *testing.T) {
	w := newWorld(t)
	var document struct {
		Paths map[string]map[string]struct {
			Summary, Description string
			Parameters           []struct {
				Name, In, Description string
				Required              bool
				Schema                schema
			}
			RequestBody struct {
				Content map[string]struct{ Schema schema }
			}
			Responses map[string]struct {
				Content map[string]struct{ Schema schema }
			}
		}
		Components struct{ Schemas map[string]schema }
	}
	w.send("", http.MethodGet, "/openapi.json", "").ok(&document)
	var b strings.Builder
	cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(document.Paths[path])) {
			op := document.Paths[path][method]
			fmt.Fprintf(&b, "\n## %s %s\n\n%s.%s\n", strings.ToUpper(method), path, op.Summary, strings.TrimRight(" "+op.Description, " "))
			if len(op.Parameters) > 0 {
				fmt.Fprint(&b, "\n| parameter | in | type | |\n|---|---|---|---|\n")
			}
			for _, p := range op.Parameters {
				name := "`" + p.Name + "`"
				if !p.Required {
					name += "?"
				}
				fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, p.In, cell(p.Schema.String()), cell(p.Description))
			}
			for _, kind := range slices.Sorted(maps.Keys(op.RequestBody.Content)) {
				body := op.RequestBody.Content[kind].Schema
				fmt.Fprintf(&b, "\nBody: %s, %s\n", kind, body.String())
			}
			var good, bad []string
			for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
				if status >= "400" {
					bad = append(bad, status)
					continue
				}
				for _, kind := range slices.Sorted(maps.Keys(op.Responses[status].Content)) {
					answer := op.Responses[status].Content[kind].Schema
					good = append(good, fmt.Sprintf("%s, %s, %s", status, kind, answer.String()))
				}
			}
			fmt.Fprintf(&b, "\nAnswer: %s. Errors: %s.\n", strings.Join(good, "; or "), strings.Join(bad, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(document.Components.Schemas)) {
		s := document.Components.Schemas[name]
		fmt.Fprintf(&b, "\n### %s\n\n", name)
		if len(s.Properties) > 0 {
			fmt.Fprint(&b, "| field | type | |\n|---|---|---|\n")
		}
		for _, field := range slices.Sorted(maps.Keys(s.Properties)) {
			p := s.Properties[field]
			mark := ""
			if !slices.Contains(s.Required, field) {
				mark = "?"
			}
			fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", field, mark, cell(p.String()), cell(p.Description))
		}
	}
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	head, have, ok := strings.Cut(string(text), referenceMark)
	if !ok {
		t.Fatalf("%s has no mark", reference)
	}
	if *update {
		if err := os.WriteFile(reference, []byte(head+referenceMark+b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != b.String() {
		t.Errorf("%s is not what is served; make openapi brings it up to date", reference)
	}
}
