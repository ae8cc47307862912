// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package preview_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/preview"
)

// world is a front-end with one session, whose node is a handler of the test's.
type world struct {
	*preview.Handler
	sessions *frontend.Service
	store    *frontendtest.Store
	session  *frontend.Session
	url      string // of the front-end
	app      atomic.Pointer[http.HandlerFunc]
}

func newWorld(t *testing.T) *world {
	w := &world{store: frontendtest.NewStore()}
	w.answers(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "app") })
	node := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) { (*w.app.Load())(out, r) }))
	t.Cleanup(node.Close)
	scheduler := &frontendtest.Scheduler{Store: w.store, API: "127.0.0.1:1", Preview: strings.TrimPrefix(node.URL, "http://")}
	log := slog.New(slog.DiscardHandler)
	w.sessions = frontend.NewService(w.store, scheduler, frontendtest.Agent{}, log)
	t.Cleanup(w.sessions.Close)
	plan, err := frontend.FindPlan("paid")
	if err != nil {
		t.Fatal(err)
	}
	w.session, err = w.sessions.Create(t.Context(), frontend.Key{Account: "a", Plan: "paid", Allowed: plan}, frontend.CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.Handler = preview.New(preview.Config{Sessions: w.sessions, Scheme: "https", Domain: "Preview.test:8443", Log: log},
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "api") }))
	t.Cleanup(w.Close)
	front := httptest.NewServer(w.Handler)
	t.Cleanup(front.Close)
	w.url = front.URL
	return w
}

func (w *world) answers(h http.HandlerFunc) { w.app.Store(&h) }

// host is the session's, as a preview URL has it.
func (w *world) host() string { return frontend.Label(w.session.ID) + ".preview.test:8443" }

func (w *world) request(t *testing.T, host, path string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	if header != nil {
		r.Header = header
	}
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func (w *world) get(t *testing.T, host string) (int, string) {
	t.Helper()
	res := w.request(t, host, "/", nil)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestHosts(t *testing.T) {
	w := newWorld(t)
	rest := w.session.ID[4:]
	for _, host := range []string{
		"ses-" + rest + ".preview.test", "ses-" + rest + ".preview.test:8443", "ses-" + rest + ".preview.test:1", "ses_" + rest + ".preview.test",
		"3000-ses-" + rest + ".preview.test", "65535-ses_" + rest + ".preview.test", strings.ToUpper("ses-"+rest) + ".PREVIEW.test", "ses-" + rest + ".preview.test.",
	} {
		if status, body := w.get(t, host); status != 200 || body != "app" {
			t.Errorf("%s: %d %s", host, status, body)
		}
	}
	for _, host := range []string{
		"preview.test", "www.preview.test", "api.preview.test:8443", "ses-" + rest + ".other.test", "ses-" + rest, "ses-" + rest + "preview.test",
		"x.ses-" + rest + ".preview.test", "ses-" + rest + ".x.preview.test", "x-ses-" + rest + ".preview.test",
		"-ses-" + rest + ".preview.test", "ses-.preview.test", "localhost", "127.0.0.1:80", "[::1]:80",
	} {
		if status, body := w.get(t, host); status != 200 || body != "api" {
			t.Errorf("%s: %d %s", host, status, body)
		}
	}
}

func TestRequest(t *testing.T) {
	w := newWorld(t)
	var got *http.Request
	w.answers(func(_ http.ResponseWriter, r *http.Request) { got = r })
	res := w.request(t, "3000-"+w.host(), "/a//b%2Fc/../d?x=%20&y;z", http.Header{
		"Cookie": {"a=1"}, "X-Custom": {"v"}, "Authorization": {"Bearer btk_0123456789"},
		"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Host": {"evil"}, "Forwarded": {"for=6.6.6.6"},
	})
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	for what, pair := range map[string][2]string{
		"target":  {got.RequestURI, "/a//b%2Fc/../d?x=%20&y;z"},
		"host":    {got.Host, "3000-" + w.host()},
		"cookie":  {got.Header.Get("Cookie"), "a=1"},
		"custom":  {got.Header.Get("X-Custom"), "v"},
		"our key": {got.Header.Get("Authorization"), ""},
		"for":     {got.Header.Get("X-Forwarded-For"), "127.0.0.1"},
		"proto":   {got.Header.Get("X-Forwarded-Proto"), "https"},
		"fhost":   {got.Header.Get("X-Forwarded-Host"), "3000-" + w.host()},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %q, want %q", what, pair[0], pair[1])
		}
	}
	for _, own := range []string{"Basic YTpi", "Bearer app-token", "Digest x"} {
		w.request(t, w.host(), "/", http.Header{"Authorization": {own}})
		if got.Header.Get("Authorization") != own {
			t.Errorf("the app's own Authorization %q became %q", own, got.Header.Get("Authorization"))
		}
	}
}

func TestAnswer(t *testing.T) {
	w := newWorld(t)
	w.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Location", "/x")
		w.WriteHeader(302)
	})
	res := w.request(t, w.host(), "/", nil)
	if res.StatusCode != 302 || len(res.Header.Values("Set-Cookie")) != 2 || res.Header.Get("Location") != "/x" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	for _, name := range []string{"Server-Timing", "X-Request-Id", "X-RateLimit-Limit", "X-Content-Type-Options"} {
		if v := res.Header.Get(name); v != "" {
			t.Errorf("%s is %q", name, v)
		}
	}
}

// TestStreams: each piece arrives before the next is made.
func TestStreams(t *testing.T) {
	w := newWorld(t)
	next := make(chan bool)
	w.answers(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			fmt.Fprintln(w, "piece")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	lines := bufio.NewReader(w.request(t, w.host(), "/", nil).Body)
	for range 3 {
		if line, err := lines.ReadString('\n'); err != nil || line != "piece\n" {
			t.Fatalf("%q, %v", line, err)
		}
		next <- true
	}
}

func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	w.answers(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"echo"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, append([]byte("echo "), message...)); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(w.url, "http")+"/socket", &websocket.DialOptions{Host: w.host(), Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err, res)
	}
	defer c.CloseNow()
	if c.Subprotocol() != "echo" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	for i := range 3 {
		want := fmt.Sprint("message ", i)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != "echo "+want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestUnknown(t *testing.T) {
	w := newWorld(t)
	host := "ses-" + strings.Repeat("0", 20) + ".preview.test"
	res := w.request(t, host, "/", http.Header{"Accept": {"application/json"}})
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 404 || !strings.Contains(string(body), `{"error":{"code":"session_not_found"`) || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %s", res.Status, body)
	}
	res = w.request(t, host, "/", http.Header{"Accept": {"text/html,*/*"}})
	body, _ = io.ReadAll(res.Body)
	if res.StatusCode != 404 || !strings.Contains(string(body), "session_not_found") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%s %s", res.Status, body)
	}
}

// TestDeleted: at once, whatever connections are open.
func TestDeleted(t *testing.T) {
	w := newWorld(t)
	if status, _ := w.get(t, w.host()); status != 200 {
		t.Fatal(status)
	}
	if err := w.sessions.Delete(t.Context(), "a", w.session.ID); err != nil {
		t.Fatal(err)
	}
	if status, body := w.get(t, w.host()); status != 404 {
		t.Errorf("%d %s", status, body)
	}
}

// place moves the session to another epoch and address.
func (w *world) place(t *testing.T, epoch uint64, address string) {
	t.Helper()
	w.sessions.Close()
	s, err := w.store.Get(t.Context(), w.session.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.Epoch = epoch
	s.Claim = claim.Claim{Session: s.ID, Epoch: epoch, API: "127.0.0.1:1", Preview: address}
	if err := w.store.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.sessions.Forget(s.ID)
}

// TestMoved: the session wakes up elsewhere; and a node that is not there is
// waited for, but not for ever.
func TestMoved(t *testing.T) {
	w := newWorld(t)
	if _, body := w.get(t, w.host()); body != "app" {
		t.Fatal(body)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "elsewhere") }))
	defer other.Close()
	w.place(t, 2, strings.TrimPrefix(other.URL, "http://"))
	if _, body := w.get(t, w.host()); body != "elsewhere" {
		t.Errorf("got %q", body)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.place(t, 3, l.Addr().String())
	w.NodeWait = 200 * time.Millisecond
	if status, body := w.get(t, w.host()); status != 503 || !strings.Contains(body, "service_unavailable") {
		t.Errorf("%d %s", status, body)
	}
	w.NodeWait = 10 * time.Second
	time.AfterFunc(200*time.Millisecond, func() {
		w.place(t, 4, strings.TrimPrefix(other.URL, "http://"))
	})
	if status, body := w.get(t, w.host()); body != "elsewhere" {
		t.Errorf("%d %q", status, body)
	}
}

// TestAnothersAddress: the port that the record has is that of another session by now,
// whose node says so. The visitor hears nothing of that.
func TestAnothersAddress(t *testing.T) {
	for _, status := range []int{http.StatusMisdirectedRequest, http.StatusForbidden, http.StatusUnauthorized, http.StatusGone} {
		w := newWorld(t)
		w.answers(func(out http.ResponseWriter, _ *http.Request) {
			out.Header().Set(door.MovedHeader, "1")
			out.WriteHeader(status)
		})
		if got, body := w.get(t, w.host()); got != 503 || !strings.Contains(body, "service_unavailable") {
			t.Errorf("after %d from the node: %d %s", status, got, body)
		}
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "elsewhere") }))
		defer other.Close()
		w.place(t, 2, strings.TrimPrefix(other.URL, "http://"))
		if got, body := w.get(t, w.host()); body != "elsewhere" {
			t.Errorf("after %d from the node: %d %q", status, got, body)
		}
	}
}

// TestBrokenBeforeAnswer: a node that lets go of a connection without a word, as when the
// session is put to sleep just then, is asked again only what may be done twice.
func TestBrokenBeforeAnswer(t *testing.T) {
	w := newWorld(t)
	var left atomic.Int32
	w.answers(func(out http.ResponseWriter, r *http.Request) {
		if left.Add(-1) < 0 {
			fmt.Fprint(out, "app")
			return
		}
		conn, _, err := http.NewResponseController(out).Hijack()
		if err != nil {
			panic(err)
		}
		if r.Header.Get("Reset") != "" {
			err = conn.(*net.TCPConn).SetLinger(0)
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			panic(err)
		}
	})
	for _, c := range []struct {
		method string
		broken int32
		want   int
	}{
		{"GET", 1, 200}, {"GET", 2, 200}, {"GET", 100, 503}, {"POST", 1, 503},
	} {
		for _, header := range []http.Header{{}, {"Reset": {"1"}}} {
			left.Store(c.broken)
			r, err := http.NewRequestWithContext(t.Context(), c.method, w.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host, r.Header = w.host(), header
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != c.want {
				t.Errorf("%s after %d connections that broke, %v: %d, want %d", c.method, c.broken, header, res.StatusCode, c.want)
			}
		}
	}
}

// TestMovedWithBody: nothing of a request was sent before its session was found
// elsewhere, so that it can be sent there.
func TestMovedWithBody(t *testing.T) {
	w := newWorld(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s, %v", body, err)
	}))
	defer other.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.NodeWait = 10 * time.Second
	for i, length := range []int64{4, -1} { // known, and not
		w.place(t, uint64(2*i+3), l.Addr().String())
		time.AfterFunc(200*time.Millisecond, func() {
			w.place(t, uint64(2*i+4), strings.TrimPrefix(other.URL, "http://"))
		})
		r, err := http.NewRequestWithContext(t.Context(), "POST", w.url, io.MultiReader(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		r.Host, r.ContentLength = w.host(), length
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || string(got) != "got body, <nil>" {
			t.Errorf("%s %s, %v", res.Status, got, err)
		}
	}
}
