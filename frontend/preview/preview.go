// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package preview passes requests for ses-….<domain> to the sessions they name.
package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/relay"
	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

// Handler takes the requests whose host is a session's and leaves the others
// to Next.
type Handler struct {
	// Next serves every other host.
	Next http.Handler

	sessions *frontend.Service
	secret   []byte
	domain   string // in lower case, without its port
	scheme   string
	log      *slog.Logger
	observe  func(status int, took time.Duration)
	// NodeWait is how long a request waits for a node that is not there, as one
	// that is being restarted.
	NodeWait time.Duration

	// Proxies are those before the front-end whose word of their clients is taken.
	Proxies door.Networks

	proxy     *httputil.ReverseProxy
	transport *http.Transport
	pool      *relay.Pool
	connect   credentials.DialFunc // to a node
}

// Config is what a Handler needs.
type Config struct {
	Sessions *frontend.Service
	// Scheme and Domain (with or without a port) are those of preview URLs. A
	// request counts whatever port it names.
	Scheme, Domain string
	// Secret is the cluster's node secret.
	Secret []byte
	// TLS, if not nil, are the certificates to speak TLS with nodes.
	TLS *credentials.Certificates
	Log *slog.Logger
	// Observe, if set, is told of each request: its answer's status, 0 if there was none.
	Observe func(status int, took time.Duration)
}

// New makes a Handler.
func New(c Config, next http.Handler) *Handler {
	h := &Handler{
		Next: next, sessions: c.Sessions, secret: c.Secret, scheme: c.Scheme, log: c.Log, observe: c.Observe,
		domain:   strings.ToLower(withoutPort(c.Domain)),
		NodeWait: frontend.NodeWait,
	}
	if h.observe == nil {
		h.observe = func(int, time.Duration) {}
	}
	h.connect = (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	h.transport = node.NewTransport(h.dial)
	if c.TLS != nil {
		h.connect = c.TLS.Dial(h.connect, credentials.Node)
	}
	h.pool = h.newPool()
	h.proxy = &httputil.ReverseProxy{
		Rewrite:       h.rewrite,
		Transport:     follower{h},
		FlushInterval: -1, // each piece as it comes
		ErrorHandler:  h.fail,
		ErrorLog:      slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	return h
}

// Close closes idle connections.
func (h *Handler) Close() {
	h.transport.CloseIdleConnections()
	h.pool.Close()
}

// Session is what a host says if it is a session's below our domain.
func (h *Handler) Session(host string) (door.Host, bool) {
	p := door.ParseHost(host)
	return p, p.Session != "" && p.Domain == h.domain
}

func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		return host[:i]
	}
	return host
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, ok := h.Session(r.Host)
	if !ok {
		h.Next.ServeHTTP(w, r)
		return
	}
	begin, out := time.Now(), &door.Statused{ResponseWriter: w}
	ctx, span := tracing.Root(r.Context(), r)
	span.SetName("preview")
	span.SetAttributes(tracing.Session.String(frontend.FromLabel(host.Session)))
	defer func() {
		tracing.Answered(span, out.Status)
		h.observe(out.Status, time.Since(begin))
	}()
	h.serve(out, r.WithContext(ctx), host)
}

// serve serves a request whose host is a session's.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, host door.Host) {
	switch {
	case host.Port == 0:
		h.fail(w, r, frontend.Invalid("host", "the host %q names no port that there can be", r.Host))
		return
	case !door.Method(r.Method):
		h.fail(w, r, frontend.Errorf(frontend.CodeMethodNotAllowed, "previews take no %s", r.Method))
		return
	}
	if err := h.unpassed(r, frontend.FromLabel(host.Session)); err != nil {
		h.fail(w, r, err)
		return
	}
	// Here and not only when dialling: kept connections must not outlive the session.
	sess, err := h.sessions.ResolvePreview(r.Context(), frontend.FromLabel(host.Session))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, sess)))
}

func errLost() error {
	return frontend.Unsure("the session's node was lost after the request was sent; it may or may not have been done")
}

type sessionKey struct{}

// rewrite makes the request that the node gets: the client's own, but for what
// is not for the app. Its URL's host is the session's place in the sense of who
// may share a connection: session and allocation.
func (h *Handler) rewrite(p *httputil.ProxyRequest) {
	sess := p.In.Context().Value(sessionKey{}).(*frontend.Session)
	p.Out.URL.Scheme = "http"
	p.Out.URL.RawQuery = p.In.URL.RawQuery // also what net/url cannot parse
	p.Out.Host = p.In.Host
	door.Inward(p.Out.Header)
	door.Unforwarded(p.Out.Header)
	p.SetXForwarded()
	p.Out.Header.Set("X-Forwarded-Proto", h.scheme)
	h.address(p.Out, sess)
}

// address sends a request to where a session is in its present life.
func (h *Handler) address(r *http.Request, sess *frontend.Session) {
	r.URL.Host = fmt.Sprintf("%s.%d", sess.ID, sess.Epoch)
	r.Header.Set(door.TokenHeader, claim.PreviewToken(h.secret, sess.ID, sess.Epoch))
}

// errMoved says that a session has begun another life since its request was
// addressed.
var errMoved = errors.New("the session has moved")

// follower sends a request after a session that has left the node it was addressed
// to, asleep or to another. A body can be sent but once: it is sent again only as
// long as nothing of it was read.
type follower struct{ h *Handler }

// attempt is a request's body for one attempt to send it. The transport closes it
// when it has failed, and may be reading it still.
type attempt struct {
	io.Reader
	mu         sync.Mutex
	used, over bool
}

var errOver = errors.New("the attempt to send the request is over")

// Read implements io.Reader.
func (a *attempt) Read(p []byte) (int, error) {
	a.mu.Lock()
	over := a.over
	a.used = a.used || !over
	a.mu.Unlock()
	if over {
		return 0, errOver
	}
	return a.Reader.Read(p)
}

// Close implements io.Closer. The server closes the body itself.
func (a *attempt) Close() error { return nil }

// whole ends the attempt and says whether the body is whole still.
func (a *attempt) whole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	return !a.used
}

func (f follower) RoundTrip(r *http.Request) (*http.Response, error) {
	const most = 3
	body := r.Body
	r = r.WithContext(r.Context()) // a copy: the caller's keeps its body
	for range most - 1 {
		var once *attempt
		if body != nil && body != http.NoBody {
			once = &attempt{Reader: body}
			r.Body = once
		}
		sess := r.Context().Value(sessionKey{}).(*frontend.Session)
		attended, answered := f.h.sessions.Attend(r.Context(), sess)
		res, err := f.h.transport.RoundTrip(r.WithContext(attended))
		answered()
		// Asleep, or an address that is another session's by now.
		gone := err == nil && res.Header.Get(door.MovedHeader) != ""
		silent := err != nil && errors.Is(context.Cause(attended), frontend.ErrSilent)
		switch {
		case silent && !harmless(r):
			f.h.sessions.Forget(sess.ID)
			return nil, errLost()
		case !gone && !silent && !errors.Is(err, errMoved) && (!unanswered(err) || !harmless(r)):
			return res, err
		}
		if gone {
			res.Body.Close()
		}
		f.h.sessions.Forget(sess.ID)
		if gone {
			if err := f.h.sessions.Moved(r.Context(), sess); err != nil {
				return nil, err
			}
		}
		if once != nil && !once.whole() {
			return nil, frontend.Unavailable("the session went to sleep while the request was on its way; try again")
		}
		if sess, err = f.h.sessions.ResolvePreview(r.Context(), sess.ID); err != nil {
			return nil, err
		}
		r = r.Clone(context.WithValue(r.Context(), sessionKey{}, sess))
		f.h.address(r, sess)
		r.Body = body
	}
	res, err := f.h.transport.RoundTrip(r)
	if err == nil && res.Header.Get(door.MovedHeader) != "" { // not the app's words
		res.Body.Close()
		return nil, frontend.Unavailable("the session is on its way to another node; try again")
	}
	return res, err
}

// unanswered says whether the connection to the node broke before an answer came, as it
// does when the session is put to sleep just then. An app's own connection that breaks
// is none of that: the node answers in its place.
func unanswered(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// harmless says whether a request may be sent again that has maybe been done.
func harmless(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
}

const (
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// dial is dialNode for the address of a request (see address).
func (h *Handler) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	id, number, _ := strings.Cut(addr, ".")
	number, _, _ = strings.Cut(number, ":")
	epoch, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, err
	}
	return h.dialNode(ctx, id, epoch)
}

// dialNode connects to the node that carries a session in its life epoch. One that is not
// there is tried again, at the place that the record names by then.
func (h *Handler) dialNode(ctx context.Context, id string, epoch uint64) (net.Conn, error) {
	begin := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		sess, err := h.sessions.ResolvePreview(ctx, id)
		if err != nil {
			return nil, err
		}
		if sess.Epoch != epoch {
			return nil, errMoved
		}
		conn, err := h.connect(ctx, "tcp", sess.Claim.Preview)
		if err == nil {
			return conn, nil
		}
		h.sessions.Forget(id)
		if err := h.sessions.Moved(ctx, sess); err != nil {
			return nil, err
		}
		if time.Since(begin)+pause > h.NodeWait {
			h.log.Warn("node does not answer for preview", "session", id, "err", err)
			return nil, frontend.Unavailable("the session's node does not answer at the moment; try again")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// fail answers when the app cannot.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	stalled := door.Stalled(r.Context())
	if errors.Is(r.Context().Err(), context.Canceled) && !stalled {
		return // the client went away
	}
	e, ok := errors.AsType[*frontend.Error](err)
	if stalled {
		e, ok = frontend.Errorf(frontend.CodeRequestTimeout, "the request has not arrived in time"), true
	}
	id := door.RequestID(r.Header)
	if id == "" {
		id = frontend.NewRequestID()
	}
	w.Header().Set(door.RequestHeader, id)
	if !ok {
		h.log.Warn("preview", "request", id, "host", r.Host, "path", r.URL.Path, "err", err)
		e = frontend.Unsure("the connection to the session broke; try again")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	// A client that is gone does not read the answer; nothing is to be done.
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(e.Code.Status())
		_ = page.Execute(w, e)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Code.Status())
	_ = json.NewEncoder(w).Encode(map[string]*frontend.Error{"error": e})
}

var page = template.Must(template.New("").Parse(`<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Code}}</title>
<style>body{font:16px/1.5 system-ui;max-width:34em;margin:20vh auto;padding:0 1em}code{color:#777}</style>
<h1>Nothing to preview</h1><p>{{.Message}}</p><p><code>{{.Code}}</code></p>
`))
