// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// keyForms are ways to send a key, {key}, and whether the API takes it so.
var keyForms = map[string]bool{
	"Authorization: Bearer {key}\r\n":                                                 true,
	"AUTHORIZATION:bearer    {key}   \r\n":                                            true,
	"Authorization: BEARER {key}\r\nX: y\r\n":                                         true,
	"Authorization: Bearer\r\n  {key}\r\n":                                            true,
	"Connection: Authorization\r\nAuthorization: Bearer {key}\r\n":                    true,
	"Authorization: Bearer\t{key}\r\n":                                                false,
	"Authorization: {key}\r\n":                                                        false,
	"Authorization: Bearer{key}\r\n":                                                  false,
	"Authorization: Token {key}\r\n":                                                  false,
	"Authorization: Basic {key}\r\n":                                                  false,
	"Authorization: Bearer x, Bearer {key}\r\n":                                       false,
	"Authorization: Bearer {key}, Basic x\r\n":                                        false,
	"Authorization: Bearer \"{key}\"\r\n":                                             false,
	"Authorization: Bearer x\r\nAuthorization: Bearer {key}\r\n":                      false,
	"Authorization: Bearer {key}\r\nAuthorization: Basic x\r\n":                       false,
	"Authorization: Bearer {key}\r\nauthorization: Bearer {key}\r\n":                  false,
	"Proxy-Authorization: Bearer {key}\r\n":                                           false,
	"Proxy_Authorization: Bearer {key}\r\n":                                           false,
	"X-Api-Key: {key}\r\n":                                                            false,
	"X_API_KEY: {key}\r\n":                                                            false,
	"Api-Key: {key}\r\n":                                                              false,
	"X-Auth-Token: {key}\r\n":                                                         false,
	"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n":                        false, // comes with the trailer
	"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: {key}\r\n":                false,
	"Connection: Keep-Alive\r\nKeep-Alive: {key}\r\n":                                 false,
	"TE: trailers\r\nTrailer: X-Key\r\nConnection: te\r\nProxy-Connection: {key}\r\n": false,
}

// TestFrontDoorKeyForms: in whatever form a key is sent, the API takes it or
// does not, and no app sees it, neither through the front-end nor on the node.
func TestFrontDoorKeyForms(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(recorder)
	list := entrances(t, s, s)
	for form, want := range keyForms {
		for _, e := range list[:3] { // the API, the preview, the node's preview port
			head := strings.ReplaceAll(form, "{key}", s.api.Key)
			body := ""
			if strings.Contains(form, "chunked") {
				body = "0\r\nAuthorization: Bearer " + s.api.Key + "\r\n\r\n"
			}
			path := "/carrier"
			if e.name == "API" {
				path = "/sessions"
			}
			text := "GET " + path + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + head + "Connection: close\r\n\r\n" + body
			answer, err := exchangeFor(s.ctx, stranger(), e.address, text, firstSilence, silence)
			if err != nil {
				t.Fatal(err)
			}
			got := statusOf(answer)
			switch {
			case e.name != "API" && got != 200:
				t.Errorf("%q at the %s: status %d: %s", form, e.name, got, brief(answer))
			case e.name == "API" && (got == 200) != want:
				t.Errorf("%q: the API says %d: %s", form, got, brief(answer))
			}
		}
	}
	seen := s.seen()
	equal(t, "requests that reached the app", len(seen), 2*len(keyForms))
	for _, r := range seen {
		if text := fmt.Sprint(r); strings.Contains(strings.ToLower(text), s.api.Key) {
			t.Errorf("the app saw the key: %s", text)
		}
	}
	t.Run("what is the app's own stays", func(t *testing.T) {
		s := s.in(t)
		s.visit("GET", s.page("/own"), http.Header{
			"Authorization": {"Bearer of-the-app"}, "X-Api-Key": {"of-the-app"}, "Cookie": {"key=" + s.api.Key},
		}, nil)
		own := s.seen()[2*len(keyForms):]
		if len(own) != 1 || own[0].Headers["authorization"] != "Bearer of-the-app" || own[0].Headers["x-api-key"] != "of-the-app" || own[0].Headers["cookie"] != "key="+s.api.Key {
			t.Errorf("got %+v", own)
		}
	})
}

// TestFrontDoorForwarded: what a visitor says of where it comes from is not
// believed, and nothing of what front-end and node say to each other goes on.
func TestFrontDoorForwarded(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(recorder)
	host := s.host() + "." + system.previewDomain
	lies := "X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 666\r\n" +
		"X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nX-Buntime-Token: evil\r\nX_Buntime_Token: evil\r\n" +
		"Connection: close, X-Forwarded-For, X-Forwarded-Proto, X-Buntime-Token\r\n\r\n"
	front := entrances(t, s, s)[1]
	answer, err := exchangeRaw(s.ctx, front.address, "GET / HTTP/1.1\r\nHost: "+host+"\r\n"+lies)
	if err != nil || statusOf(answer) != 200 {
		t.Fatalf("%v: %s", err, brief(answer))
	}
	got := s.seen()
	if len(got) != 1 {
		t.Fatalf("the app saw %+v", got)
	}
	h := got[0].Headers
	if text := strings.ToLower(fmt.Sprint(h)); strings.Contains(text, "6.6.6.6") || strings.Contains(text, "evil") || strings.Contains(text, "666") || strings.Contains(text, "token") {
		t.Errorf("the app saw %s", text)
	}
	equal(t, "X-Forwarded-For", h["x-forwarded-for"], "127.0.0.1")
	equal(t, "X-Forwarded-Proto", h["x-forwarded-proto"], "http")
	equal(t, "X-Forwarded-Host", h["x-forwarded-host"], host)

	// A proxy that comes to the node by itself is named behind its client.
	answer, err = exchangeRaw(s.ctx, s.ports()["preview"], "GET / HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Buntime-Token: evil\r\nConnection: close\r\n\r\n")
	if err != nil || statusOf(answer) != 200 {
		t.Fatalf("%v: %s", err, brief(answer))
	}
	h = s.seen()[1].Headers
	equal(t, "X-Forwarded-For", h["x-forwarded-for"], "203.0.113.7, 127.0.0.1")
	equal(t, "X-Forwarded-Proto", h["x-forwarded-proto"], "https")
	if strings.Contains(fmt.Sprint(h), "evil") {
		t.Errorf("the app saw %v", h)
	}
}

// TestFrontDoorTokens: the node opens a session's API to the token of that
// session's life and to nothing else.
func TestFrontDoorTokens(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system's secret is not ours to know")
	}
	a, b := newSession(t), newSession(t)
	a.command("true") // it is there
	b.command("true")
	secret := []byte(system.stack.NodeSecret)
	right := claim.Token(secret, a.id, 1)
	address := a.ports()["api"]
	ask := func(lines string) int {
		t.Helper()
		answer, err := exchangeRaw(a.ctx, address, "GET /v1/info HTTP/1.1\r\nHost: node\r\n"+lines+"Connection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		return statusOf(answer)
	}
	equal(t, "status with the right one", ask("Authorization: Bearer "+right+"\r\n"), 200)
	for name, lines := range map[string]string{
		"none": "", "another session's": "Authorization: Bearer " + claim.Token(secret, b.id, 1) + "\r\n",
		"the next life's": "Authorization: Bearer " + claim.Token(secret, a.id, 2) + "\r\n", "life 0's": "Authorization: Bearer " + claim.Token(secret, a.id, 0) + "\r\n",
		"the preview's":          "Authorization: Bearer " + claim.PreviewToken(secret, a.id, 1) + "\r\n",
		"in a header of its own": "X-Buntime-Token: " + right + "\r\n", "the secret": "Authorization: Bearer " + system.stack.NodeSecret + "\r\n",
		"an API key": "Authorization: Bearer " + a.api.Key + "\r\n", "cut": "Authorization: Bearer " + right[:len(right)-1] + "\r\n",
		"longer": "Authorization: Bearer " + right + "0\r\n", "capitals": "Authorization: Bearer " + strings.ToUpper(right) + "\r\n",
		"behind a wrong one": "Authorization: Bearer x\r\nAuthorization: Bearer " + right + "\r\n", "empty": "Authorization: Bearer \r\n",
		"another secret's": "Authorization: Bearer " + claim.Token([]byte("another secret altogether"), a.id, 1) + "\r\n",
	} {
		if got := ask(lines); got != 401 {
			t.Errorf("token %s: status %d", name, got)
		}
	}
}

// TestFrontDoorSecrets: neither a key nor what opens a node is in Nomad's job,
// in Consul, or in anything that a session can read.
func TestFrontDoorSecrets(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system's secret is not ours to know")
	}
	s := newSession(t)
	s.background(recorder)
	s.fetch("/")
	words := append(secretWords(), s.token(), claim.PreviewToken([]byte(system.stack.NodeSecret), s.id, 1))
	check := func(what, text string) {
		t.Helper()
		if text == "" {
			t.Errorf("%s is empty", what)
		}
		for _, word := range words {
			if strings.Contains(text, word) {
				t.Errorf("a secret is in %s", what)
			}
		}
	}
	for _, path := range []string{"/v1/job/" + s.host(), "/v1/job/" + s.host() + "/allocations", "/v1/job/" + s.host() + "/evaluations"} {
		var v json.RawMessage
		nomadGet(s, path, &v)
		check(path, string(v))
	}
	pairs, _, err := system.stack.Consul.KV().List("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range pairs {
		check("Consul's "+pair.Key, pair.Key+string(pair.Value))
	}
	var services json.RawMessage
	s.consul("/v1/catalog/services", &services)
	check("Consul's catalog", string(services))
	check("what a session can read of its processes", s.shell(`exec 2>/dev/null
		for p in /proc/[0-9]* /proc/self/task/*; do for f in environ cmdline status maps mountinfo; do
			echo $p/$f; tr '\0' '\n' <$p/$f
		done; done; env; cat /proc/net/*; true`))
	check("files of a session", s.shell(`grep -raoE '(btk_[a-z0-9]{20,}|[0-9a-f]{64})' /workspace /tmp /run /etc /dev/shm 2>/dev/null || true; echo end`))
	// On the host: the sandbox's first process, which has the plugin's environment to inherit.
	var state struct{ Pid int }
	files, err := filepath.Glob(filepath.Join(system.stack.Dir, "driver/sandboxes/*/state.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sandboxes: %v", err)
	}
	looked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // another test's, which has ended
		}
		check(file, string(text))
		if json.Unmarshal(text, &state) != nil || state.Pid == 0 {
			continue
		}
		for _, name := range []string{"environ", "cmdline"} {
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", state.Pid, name)); err == nil {
				check("init's "+name, string(text)+"\x00")
				looked++
			}
		}
	}
	if looked == 0 {
		t.Error("no sandbox's init could be looked at")
	}
}

// secretWords are the keys and the node secret.
func secretWords() []string {
	return []string{system.paid, system.free, system.enterprise, system.stack.NodeSecret, system.stack.MetricsToken}
}

var sessionIDs = regexp.MustCompile(`ses[-_][a-z0-9]{20}`)

// secretsKept wants no key in any file of a system, and neither the node secret
// nor a token of any session in its logs. It is called when all tests are over.
func secretsKept(s *stack.Stack) error {
	words := secretWords()
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile
		}
		info, err := d.Info()
		if err != nil || strings.HasSuffix(path, ".img") || info.Size() > 256<<20 {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, key := range words[:3] {
			if strings.Contains(string(text), key) {
				return fmt.Errorf("an API key is in %s", path)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var logs strings.Builder
	if err := s.CopyLogs(&logs); err != nil {
		return err
	}
	text := logs.String()
	for _, id := range sessionIDs.FindAllString(text, -1) {
		id = strings.Replace(id, "-", "_", 1)
		for epoch := range uint64(4) {
			words = append(words, claim.Token([]byte(s.NodeSecret), id, epoch), claim.PreviewToken([]byte(s.NodeSecret), id, epoch))
		}
		if len(words) > 20_000 { // a long run: enough is enough
			break
		}
	}
	for _, word := range words {
		if i := strings.Index(text, word); i >= 0 {
			line := text[strings.LastIndexByte(text[:i], '\n')+1 : i]
			return fmt.Errorf("a key, token or secret is in the logs, after %q", line)
		}
	}
	return nil
}

// TestFrontDoorHeaders: answers of the API are data and no browser's business,
// and pages of other origins get nothing.
func TestFrontDoorHeaders(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("page.html", "<script>alert(1)</script>")
	s.write("page.svg", "<svg/>")
	query := s.query([]string{"path", "page.html"})
	for name, call := range map[string]client.Call{
		"info":       {Method: "GET", Path: "/sessions/" + s.id},
		"page":       {Method: "GET", Path: "/files/read", Query: query},
		"picture":    {Method: "GET", Path: "/files/read", Query: s.query([]string{"path", "page.svg"})},
		"stream":     {Method: "POST", Path: "/execute", JSON: s.body(M{"code": "1", "stream": true})},
		"execution":  {Method: "POST", Path: "/execute", JSON: s.body(M{"code": "1"})},
		"nothing":    {Method: "GET", Path: "/nothing"},
		"no key":     {Method: "GET", Path: "/sessions", Header: map[string]string{"Authorization": ""}},
		"health":     {Method: "GET", Path: "/healthz"},
		"document":   {Method: "GET", Path: "/openapi.json"},
		"preflight":  {Method: "OPTIONS", Path: "/execute", Header: map[string]string{"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}},
		"other page": {Method: "GET", Path: "/sessions", Header: map[string]string{"Origin": "https://evil.example"}},
	} {
		h := send(t, s.ctx, s.api, call).Header
		for header, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
		} {
			if got := h.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		for header := range h {
			if strings.HasPrefix(header, "Access-Control-") || header == "Set-Cookie" || header == "Server" {
				t.Errorf("%s: there is %s: %q", name, header, h[header])
			}
		}
	}
}
