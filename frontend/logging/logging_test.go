// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package logging

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	var out bytes.Buffer
	log, err := New(Config{Format: "json", Level: "warn"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	log = slog.New(Handler(log.Handler())).With("part", "a")
	ctx := With(t.Context(), "req_1")
	log.InfoContext(ctx, "not shown")
	log.WarnContext(ctx, "shown\nin one line", "session", "ses_1")
	log.Warn("of no request")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", out.String())
	}
	var first, second map[string]any
	for i, v := range []*map[string]any{&first, &second} {
		if err := json.Unmarshal([]byte(lines[i]), v); err != nil {
			t.Fatalf("%v: %s", err, lines[i])
		}
	}
	if first["request"] != "req_1" || first["session"] != "ses_1" || first["part"] != "a" {
		t.Errorf("%v", first)
	}
	if _, has := second["request"]; has {
		t.Errorf("%v", second)
	}
	if Request(ctx) != "req_1" || Request(t.Context()) != "" {
		t.Error("the context does not say which request it is of")
	}
	for _, bad := range []Config{{Format: "xml"}, {Level: "loud"}} {
		if _, err := New(bad, &out); err == nil || !strings.HasPrefix(err.Error(), "log.") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, good := range []Config{{}, {Format: "text", Level: "debug"}, {Level: "ERROR"}} {
		if _, err := New(good, &out); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
}
