// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestTypes: the types have just the fields that the API's document has.
func TestTypes(t *testing.T) {
	text, err := os.ReadFile("../typescript/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
			}
		}
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"CreateRequest": CreateRequest{}, "Created": Created{}, "Listed": Listed{}, "Session": Session{}, "Usage": Usage{},
		"Transition": Transition{}, "Durability": Durability{}, "Limits": Limits{}, "LimitsRequest": LimitsRequest{},
		"Execution": Result{}, "Process": Process{}, "Killed": Killed{}, "File": Entry{}, "Unpacked": Unpacked{},
	} {
		schema, ok := document.Components.Schemas[name]
		if !ok {
			t.Errorf("the document has no %s", name)
			continue
		}
		ours := fields(reflect.TypeOf(v))
		theirs := map[string]bool{}
		for property := range schema.Properties {
			theirs[property] = true
			if !slices.Contains(ours, property) {
				t.Errorf("%s lacks %s", name, property)
			}
		}
		for _, field := range ours {
			if !theirs[field] {
				t.Errorf("%s has %s, which is not in the document", name, field)
			}
		}
	}
	// stream is the method's business.
	ours, theirs := append(fields(reflect.TypeFor[ExecuteRequest]()), "stream"), []string{}
	for property := range document.Components.Schemas["ExecuteRequest"].Properties {
		theirs = append(theirs, property)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	if !slices.Equal(ours, theirs) {
		t.Errorf("ExecuteRequest has %v, and the document %v", ours, theirs)
	}
}

// fields are the names that a struct has in JSON.
func fields(t reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if len(f.Index) == 1 && f.Anonymous || name == "-" || name == "" {
			continue
		}
		names = append(names, name)
	}
	return names
}
