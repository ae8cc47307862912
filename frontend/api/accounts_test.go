// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestOtherAccount: by no operation that the document has does one account see or touch
// another's session, and its node hears nothing of the attempt. Each names the session
// as the document says, so that one that is added later is tried, too.
func TestOtherAccount(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name, In string
				Required bool
			}
			RequestBody struct {
				Content map[string]struct{ Schema struct{ Ref string } }
			}
		}
	}
	w.send("", http.MethodGet, "/openapi.json", "").ok(&document)
	bodies := map[string]string{ // of operations that need more than a session
		"/execute": `"code":"1"`, "/files/write": `"path":"a","content":""`,
		"/sessions/{id}/extend": `"ttl":600`, "/sessions/{id}/sleep": `"state":"idle"`,
	}
	queries := map[string]string{"path": "a", "sessionId": id}
	tried := 0
	for path, operations := range document.Paths {
		for method, op := range operations {
			method = strings.ToUpper(method)
			query, in := url.Values{}, ""
			for _, p := range op.Parameters {
				if p.In == "query" && p.Required {
					if queries[p.Name] == "" {
						t.Errorf("%s %s: what is %s?", method, path, p.Name)
					}
					query.Set(p.Name, queries[p.Name])
				}
				if p.Name == "sessionId" || p.In == "path" && strings.HasPrefix(path, "/sessions/") {
					in = p.In
				}
			}
			body, kind := "", "application/json"
			for k := range op.RequestBody.Content {
				kind = k
				if kind != "application/json" {
					body = "x"
				} else if in != "path" && !strings.HasPrefix(path, "/sessions") {
					in, body = "body", fmt.Sprintf(`{"sessionId":%q}`, id)
				} else {
					body = "{}"
				}
			}
			if more := bodies[path]; more != "" {
				body = strings.Replace(strings.TrimSuffix(body, "}")+","+more+"}", "{,", "{", 1)
			}
			if in == "" { // of no session: create, list
				switch path {
				case "/sessions", "/sessions/create", "/account":
				case "/operator/sessions", "/operator/system":
					reply{w.serve(newRequest(method, path, "", "", other)), t}.refused(http.StatusForbidden, "forbidden")
				default:
					t.Errorf("%s %s names no session", method, path)
				}
				continue
			}
			target := strings.ReplaceAll(path, "{id}", id) + "?" + query.Encode()
			for _, key := range []string{other, paid} { // the owner's shows that the request is a good one
				w.node.answers(says("{}"))
				r := newRequest(method, strings.TrimSuffix(target, "?"), body, kind, key)
				if strings.HasSuffix(path, "/terminal") {
					r.Header.Set("Upgrade", "websocket")
				}
				out := reply{w.serve(r), t}
				if key == paid {
					if path != "/sessions/{id}" && out.Code != http.StatusOK {
						t.Errorf("%s %s of the own session: %d %s", method, target, out.Code, out.Body)
					}
					continue
				}
				tried++
				out.refused(http.StatusNotFound, "session_not_found")
				if got := w.node.requests(); len(got) > 0 {
					t.Errorf("%s %s reached the node of another's session: %v", method, target, got)
				}
			}
			if method == http.MethodDelete && path == "/sessions/{id}" {
				id = w.create(paid)
				queries["sessionId"] = id
			}
		}
	}
	if tried < 15 {
		t.Errorf("only %d operations were tried", tried)
	}
	var list struct{ Sessions []any }
	w.send(other, http.MethodGet, "/sessions", "").ok(&list)
	if len(list.Sessions) != 0 {
		t.Errorf("another's list has %v", list.Sessions)
	}
}

func newRequest(method, target, body, kind, key string) *http.Request {
	r, err := http.NewRequest(method, "http://api.test"+target, strings.NewReader(body))
	if err != nil {
		panic(err) // the test's own mistake
	}
	if body == "" {
		r.Body = http.NoBody
	} else {
		r.Header.Set("Content-Type", kind)
	}
	r.RemoteAddr = "192.0.2.1:1"
	r.Header.Set("Authorization", "Bearer "+key)
	return r
}
