// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsText string

var docsTemplate = template.Must(template.New("docs").Parse(docsText))

// docsPolicy lets the page have its own style, and nothing else.
const docsPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsOperation is an operation on the page.
type docsOperation struct {
	Method, Path string
	*huma.Operation
	Body    []docsContent
	Answers []docsAnswer
}

type docsAnswer struct {
	Status, Description string
	Content             []docsContent
	Headers             map[string]*huma.Header
}

// docsContent is a media type and what it has.
type docsContent struct{ Kind, Type string }

// docsSchema is an object on the page.
type docsSchema struct {
	Name       string
	Properties []docsProperty
}

type docsProperty struct {
	Name, Type, Doc string
	Required        bool
}

// renderDocs makes the page of the OpenAPI document, which therefore has all that it
// has. It is one file that loads nothing.
func renderDocs(doc *huma.OpenAPI) ([]byte, error) {
	var operations []docsOperation
	for path, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodDelete: item.Delete,
		} {
			if op != nil {
				operations = append(operations, docsOperation{method, path, op, requestOf(op.RequestBody), answersOf(op)})
			}
		}
	}
	slices.SortFunc(operations, func(a, b docsOperation) int {
		return cmp.Or(cmp.Compare(strings.Join(a.Tags, " "), strings.Join(b.Tags, " ")), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	var schemas []docsSchema
	all := doc.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := docsSchema{Name: name}
		for _, property := range slices.Sorted(maps.Keys(all[name].Properties)) {
			p := all[name].Properties[property]
			s.Properties = append(s.Properties, docsProperty{property, typeOf(p), p.Description, slices.Contains(all[name].Required, property)})
		}
		schemas = append(schemas, s)
	}
	var page bytes.Buffer
	err := docsTemplate.Execute(&page, map[string]any{"Doc": doc, "Operations": operations, "Schemas": schemas})
	if err != nil {
		return nil, fmt.Errorf("render docs: %w", err)
	}
	return page.Bytes(), nil
}

func requestOf(body *huma.RequestBody) []docsContent {
	if body == nil {
		return nil
	}
	return contentOf(body.Content)
}

func answersOf(op *huma.Operation) (all []docsAnswer) {
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		own := maps.Clone(r.Headers) // what all have stands at the top
		maps.DeleteFunc(own, func(_ string, h *huma.Header) bool { return h.Ref != "" })
		all = append(all, docsAnswer{status, r.Description, contentOf(r.Content), own})
	}
	return all
}

func contentOf(content map[string]*huma.MediaType) (all []docsContent) {
	for _, kind := range slices.Sorted(maps.Keys(content)) {
		all = append(all, docsContent{kind, typeOf(content[kind].Schema)})
	}
	return all
}

// typeOf is a schema in a few words; of an object that is described apart, its name.
func typeOf(s *huma.Schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case s.Type == huma.TypeArray:
		return "list of " + typeOf(s.Items)
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, word := range s.Enum {
			words[i] = fmt.Sprint(word)
		}
		return strings.Join(words, " | ")
	case len(s.OneOf) > 0:
		kinds := make([]string, len(s.OneOf))
		for i, one := range s.OneOf {
			kinds[i] = typeOf(one)
		}
		return strings.Join(kinds, " or ")
	}
	return strings.TrimSpace(s.Type + " " + s.Format)
}

// serveDocs answers GET /docs.
func serveDocs(page []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", docsPolicy)
		_, _ = w.Write(page) // a client that is gone does not read the answer
	}
}
