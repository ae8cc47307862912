// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

func TestCreateAnswer(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	before := time.Now().Truncate(time.Second)
	reply := send(t, ctx, paid(), client.Call{Method: "POST", Path: "/sessions/create", JSON: M{
		"ttl":            3600,
		"metadata":       M{"userId": "user_123"},
		"resourceLimits": M{"memory": 512, "cpu": 0.5, "timeout": 60},
	}})
	after := time.Now()
	got := decode[created](t, reply)
	dropLater(t, paid(), got.SessionID)

	keys(t, "answer", reply.Body, []string{"sessionId", "expiresAt", "previewUrl", "createdAt", "resourceLimits"}, nil)
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(reply.Body, &parts); err != nil {
		t.Fatal(err)
	}
	keys(t, "resourceLimits", parts["resourceLimits"], []string{"memory", "cpu", "timeout", "disk"}, nil)

	if !regexp.MustCompile(`^ses_[a-z0-9]{20}$`).MatchString(got.SessionID) {
		t.Errorf("sessionId %q is not ses_ and 20 of [a-z0-9]", got.SessionID)
	}
	createdAt := instant(t, "createdAt", got.CreatedAt)
	if createdAt.Before(before) || createdAt.After(after) {
		t.Errorf("createdAt %v is not between %v and %v", createdAt, before, after)
	}
	equal(t, "expiresAt - createdAt", instant(t, "expiresAt", got.ExpiresAt).Sub(createdAt), time.Hour)
	equal(t, "memory", got.ResourceLimits.Memory, 512)
	equal(t, "cpu", got.ResourceLimits.CPU, 0.5)
	equal(t, "timeout", got.ResourceLimits.Timeout, 60)
	within(t, "disk", got.ResourceLimits.Disk, 1024, 5120)

	preview, err := url.Parse(got.PreviewURL)
	if err != nil {
		t.Fatalf("parse previewUrl: %v", err)
	}
	equal(t, "host of previewUrl", preview.Host, strings.Replace(got.SessionID, "_", "-", 1)+"."+system.previewDomain)
	if preview.Scheme != "http" && preview.Scheme != "https" {
		t.Errorf("previewUrl %q is no URL of the web", got.PreviewURL)
	}
	equal(t, "path of previewUrl", strings.Trim(preview.Path, "/"), "")
}

func TestCreateDefaults(t *testing.T) {
	t.Parallel()
	want := limits{Memory: 1024, CPU: 0.25, Timeout: 30, Disk: 1024}
	cases := []struct {
		name string
		api  *client.Client
		call client.Call
	}{
		{"no body", paid(), client.Call{}},
		{"empty object", paid(), client.Call{JSON: M{}}},
		{"content type with charset", paid(), client.Call{JSON: M{}, Header: map[string]string{"Content-Type": "application/json; charset=utf-8"}}},
		{"empty limits", paid(), client.Call{JSON: M{"resourceLimits": M{}}}},
		{"free plan", free(), client.Call{}},
		{"free plan asks for what it has", free(), client.Call{JSON: M{"resourceLimits": M{"memory": 1024, "cpu": 0.25, "timeout": 30}}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.call.Method, c.call.Path = "POST", "/sessions/create"
			got := decode[created](t, send(t, deadline(t, usual), c.api, c.call))
			dropLater(t, c.api, got.SessionID)
			equal(t, "resourceLimits", got.ResourceLimits, want)
			life := instant(t, "expiresAt", got.ExpiresAt).Sub(instant(t, "createdAt", got.CreatedAt))
			equal(t, "life", life, 24*time.Hour)
		})
	}
}

func TestCreateTTL(t *testing.T) {
	t.Parallel()
	cases := []struct {
		plan string
		api  *client.Client
		ttl  int
		good bool
	}{
		{"paid", paid(), 299, false},
		{"paid", paid(), 300, true},
		{"paid", paid(), 604800, true},
		{"paid", paid(), 604801, false},
		{"free", free(), 300, true},
		{"free", free(), 86400, true},
		{"free", free(), 86401, false},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.plan, c.ttl), func(t *testing.T) {
			reply := send(t, deadline(t, usual), c.api, client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"ttl": c.ttl}})
			if !c.good {
				refusedField(t, reply, "ttl")
				return
			}
			got := decode[created](t, reply)
			dropLater(t, c.api, got.SessionID)
			life := instant(t, "expiresAt", got.ExpiresAt).Sub(instant(t, "createdAt", got.CreatedAt))
			equal(t, "life", life, time.Duration(c.ttl)*time.Second)
		})
	}
}

func TestCreateLimits(t *testing.T) {
	t.Parallel()
	create := func(t *testing.T, api *client.Client, want M) *client.Reply {
		return send(t, deadline(t, usual), api, client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"resourceLimits": want}})
	}
	t.Run("paid up to its ceiling", func(t *testing.T) {
		got := decode[created](t, create(t, paid(), M{"memory": 4096, "cpu": 1, "timeout": 300}))
		dropLater(t, paid(), got.SessionID)
		equal(t, "memory", got.ResourceLimits.Memory, 4096)
		equal(t, "cpu", got.ResourceLimits.CPU, 1.0)
		equal(t, "timeout", got.ResourceLimits.Timeout, 300)
	})
	for _, above := range []M{{"memory": 2048}, {"cpu": 0.5}, {"timeout": 31}, {"memory": 512}} {
		t.Run(fmt.Sprint("free asks for ", above), func(t *testing.T) {
			refusal(t, create(t, free(), above), 403, "forbidden")
		})
	}
	t.Run("timeout is the default of executions", func(t *testing.T) {
		s := createSession(t, deadline(t, usual), paid(), M{"resourceLimits": M{"timeout": 1}})
		r := s.code(`await Bun.sleep(20_000)`)
		equal(t, "timedOut", r.TimedOut, true)
		within(t, "executionTime", r.ExecutionTime, 950, 5000)
	})
	t.Run("memory is what the session has", func(t *testing.T) {
		s := createSession(t, deadline(t, usual), paid(), M{"resourceLimits": M{"memory": 256}})
		e := refusal(t, s.post("/execute", M{"code": `Buffer.alloc(400 << 20, 1)`}), 507, "memory_limit_exceeded")
		contains(t, "message", e.Message, "256MB")
	})
}

func TestCreateMetadata(t *testing.T) {
	t.Parallel()
	t.Run("unchanged", func(t *testing.T) {
		cases := map[string]string{
			"nested":      `{"a":{"b":[1,2,{"c":null}],"d":true},"e":[]}`,
			"big integer": `{"n":9007199254740993,"f":0.1}`,
			"unicode":     `{"ключ":"значение 😀 \u2028","nul":"\u0000"}`,
			"markup":      `{"html":"<script>alert(1)</script>&amp;","crlf":"a\r\nX-Evil: 1"}`,
			"odd names":   `{"":"empty","__proto__":{"x":1},"a.b":"dot","a b":"space"}`,
			"empty":       `{}`,
		}
		for name, text := range cases {
			t.Run(name, func(t *testing.T) {
				ctx := deadline(t, usual)
				reply := send(t, ctx, paid(), client.Call{
					Method: "POST", Path: "/sessions/create",
					Body: strings.NewReader(`{"metadata":` + text + `}`),
				})
				c := decode[created](t, reply)
				dropLater(t, paid(), c.SessionID)
				s := &session{t: t, ctx: ctx, api: paid(), id: c.SessionID}
				if got := s.info().Metadata; !sameJSON(t, string(got), text) {
					t.Fatalf("metadata: got %s, want %s", got, text)
				}
			})
		}
	})
	// {"k":"…"} has 8 bytes beside the value.
	for size, good := range map[int]bool{16384: true, 16385: false} {
		t.Run(strconv.Itoa(size)+" bytes", func(t *testing.T) {
			ctx := deadline(t, usual)
			value := strings.Repeat("x", size-8)
			reply := send(t, ctx, paid(), client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"metadata": M{"k": value}}})
			if !good {
				refusedField(t, reply, "metadata")
				return
			}
			c := decode[created](t, reply)
			dropLater(t, paid(), c.SessionID)
			s := &session{t: t, ctx: ctx, api: paid(), id: c.SessionID}
			if got := s.info().Metadata; !sameJSON(t, string(got), `{"k":"`+value+`"}`) {
				t.Fatalf("metadata came back with %d bytes", len(got))
			}
		})
	}
}

// sameJSON compares two JSON texts by value, numbers by their digits.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	value := func(text string) (v any) {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("decode %s: %v", brief(text), err)
		}
		return v
	}
	return reflect.DeepEqual(value(a), value(b))
}

// TestHeaders: the ones that every answer carries, good or bad.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for name, reply := range map[string]*client.Reply{
		"info":    s.infoReply(),
		"execute": s.post("/execute", M{"code": `console.log(1)`}),
		"refused": s.post("/execute", M{}),
		"unknown": send(t, s.ctx, s.api, client.Call{Method: "GET", Path: "/sessions/ses_unknown"}),
	} {
		t.Run(name, func(t *testing.T) {
			number := func(name string) int {
				n, err := strconv.Atoi(reply.Header.Get(name))
				if err != nil {
					t.Errorf("%s is %q", name, reply.Header.Get(name))
				}
				return n
			}
			limit, remaining := number("X-RateLimit-Limit"), number("X-RateLimit-Remaining")
			if limit < 1 || remaining < 0 || remaining > limit {
				t.Errorf("%d of %d requests remain", remaining, limit)
			}
			reset := time.Unix(int64(number("X-RateLimit-Reset")), 0)
			if d := time.Until(reset); d < -5*time.Second || d > 2*time.Minute {
				t.Errorf("X-RateLimit-Reset is %v from now", d)
			}
			for _, name := range []string{"X-Request-Id", "Server-Timing"} {
				if reply.Header.Get(name) == "" {
					t.Errorf("no %s", name)
				}
			}
		})
	}
}
