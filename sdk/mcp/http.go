// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

// HandlerConfig is what a Handler needs.
type HandlerConfig struct {
	// Client is a client of the API with the key that a request carries.
	Client func(*http.Request) *buntime.Client
	// Origin is the API's own, which browsers' requests have to come from.
	Origin string
	// Cancels carries cancellations between front-ends; nil: there is one only.
	Cancels func(*http.Request) Cancels
	Log     *slog.Logger
}

// Cancels tells all front-ends that a client has cancelled a call.
type Cancels interface {
	Cancel(ctx context.Context, call string) error
	Cancelled(ctx context.Context, call string) (bool, error)
}

// Handler serves the protocol over HTTP ("streamable HTTP"). It keeps nothing that
// another one needs: each message is answered on its own, and has to carry a key that
// was checked before.
type Handler struct {
	HandlerConfig
	inner http.Handler
	known memory
	calls calls
}

// NewHandler makes a Handler.
func NewHandler(c HandlerConfig) *Handler {
	h := &Handler{HandlerConfig: c}
	server := newServer(func(ctx context.Context) (*caller, error) {
		if who, ok := ctx.Value(callerKey{}).(*caller); ok {
			return who, nil
		}
		return nil, errors.New("the call has no caller")
	})
	h.inner = mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{
		Stateless: true, Logger: c.Log, PropagateRequestCancellation: true,
		// The API bounds bodies by the key's plan, and checks the key, which a page of
		// another origin has not: so a name that was bound to this address is of no use.
		MaxRequestBodyBytes: -1, DisableLocalhostProtection: true,
	})
	return h
}

type callerKey struct{}

const (
	sessionHeader = "Mcp-Session-Id"
	// aliveEvery is how often a silent stream says that it lives. Proxies on the way
	// give up others after a minute.
	aliveEvery = 15 * time.Second
	// askCancelled is how often it is asked whether a call was cancelled by way of
	// another front-end.
	askCancelled = time.Second
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, h.Origin) {
		http.Error(w, "this is not for pages of other origins", http.StatusForbidden)
		return
	}
	id := r.Header.Get(sessionHeader)
	if id != "" && !validID(id) { // the client begins anew then
		http.Error(w, "there is no such MCP session", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodPost:
		h.post(w, r, id)
	case http.MethodDelete:
		h.end(w, r, id)
	default: // there is nothing that the server would say by itself
		w.Header().Set("Allow", "POST, DELETE")
		http.Error(w, "send messages by POST", http.StatusMethodNotAllowed)
	}
}

// sameOrigin says whether an Origin header is that of a URL.
func sameOrigin(origin, base string) bool {
	u, err := url.Parse(base)
	return err == nil && strings.EqualFold(origin, u.Scheme+"://"+u.Host)
}

// post answers one message.
func (h *Handler) post(w http.ResponseWriter, r *http.Request, id string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, fmt.Sprintf("the message cannot be read: %v", err), status)
		return
	}
	m, err := peek(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	who := &caller{client: h.Client(r)}
	switch {
	case m.Method == "initialize":
		id = newID()
		w.Header().Set(sessionHeader, id)
	case m.Method == "notifications/cancelled" && id != "":
		h.cancel(r, id, m.Params.RequestID)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if id == "" {
		who.talk = loose{who.client}
	} else {
		who.talk = h.named(r, who.client, id)
	}
	if m.Method == "tools/call" && id != "" {
		cancelled, leave := h.listen(r, callName(id, m.ID))
		defer leave()
		who.cancelled = cancelled
	}
	w.Header().Set("X-Accel-Buffering", "no") // proxies of nginx's kind wait for more otherwise
	live := &liveWriter{ResponseWriter: w}
	defer live.stop()
	who.begun = live.start
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
	r.Body = io.NopCloser(bytes.NewReader(body))
	h.inner.ServeHTTP(live, r)
}

func (h *Handler) named(r *http.Request, client *buntime.Client, id string) *named {
	sum := sha256.Sum256([]byte(r.Header.Get("Authorization") + "\x00" + id))
	return &named{client: client, id: id, known: &h.known, name: string(sum[:])}
}

// end ends a conversation, and its session.
func (h *Handler) end(w http.ResponseWriter, r *http.Request, id string) {
	if id == "" {
		http.Error(w, "name the MCP session to end: "+sessionHeader, http.StatusBadRequest)
		return
	}
	if err := h.named(r, h.Client(r), id).end(r.Context()); err != nil {
		h.Log.Warn("end an MCP session; its session ends at its time", "err", err)
		http.Error(w, "its session could not be deleted; try again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// newID is an Mcp-Session-Id. It is no secret: the key is.
func newID() string { return "mcp-" + strings.ToLower(rand.Text()) }

func validID(id string) bool {
	rest, ok := strings.CutPrefix(id, "mcp-")
	return ok && len(rest) == 26 && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// message is what is looked at of a JSON-RPC message.
type message struct {
	ID     json.RawMessage
	Method string
	Params struct {
		RequestID json.RawMessage
	}
}

// peek reads what concerns the transport. Whether the message is right otherwise is for
// the protocol to say.
func peek(body []byte) (message, error) {
	var m message
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		return m, errors.New("send one message at a time")
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("the message is no JSON-RPC: %w", err)
	}
	return m, nil
}

// callName names a call of a conversation. 1 and "1" are different ids.
func callName(id string, request json.RawMessage) string {
	sum := sha256.Sum256([]byte(id + "\x00" + string(bytes.TrimSpace(request))))
	return hex.EncodeToString(sum[:])
}

// calls are those that run here and can be cancelled.
type calls struct {
	mu   sync.Mutex
	ends map[string]func()
}

// listen tells when a call is cancelled, here or at another front-end.
func (h *Handler) listen(r *http.Request, name string) (cancelled <-chan struct{}, leave func()) {
	name = owner(r) + name
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	over, done := context.WithCancel(context.WithoutCancel(r.Context()))
	h.calls.put(name, cancel)
	var wait sync.WaitGroup
	if h.Cancels != nil {
		elsewhere := h.Cancels(r)
		wait.Go(func() {
			tick := time.NewTicker(askCancelled)
			defer tick.Stop()
			for {
				select {
				case <-over.Done():
					return
				case <-tick.C:
				}
				// What cannot be asked now is asked again.
				if yes, err := elsewhere.Cancelled(over, name); err == nil && yes {
					cancel()
					return
				}
			}
		})
	}
	return ctx.Done(), func() {
		h.calls.drop(name)
		done()
		wait.Wait()
		cancel()
	}
}

// cancel cancels a call, wherever it runs.
func (h *Handler) cancel(r *http.Request, id string, request json.RawMessage) {
	name := owner(r) + callName(id, request)
	if h.calls.cancel(name) || h.Cancels == nil {
		return
	}
	if err := h.Cancels(r).Cancel(r.Context(), name); err != nil {
		h.Log.Warn("tell the other front-ends of a cancelled call", "err", err)
	}
}

// owner keeps the calls of one key apart from another's.
func owner(r *http.Request) string {
	sum := sha256.Sum256([]byte(r.Header.Get("Authorization")))
	return hex.EncodeToString(sum[:8]) + ":"
}

func (c *calls) put(name string, end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		c.ends = map[string]func(){}
	}
	c.ends[name] = end
}

func (c *calls) drop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, name)
}

func (c *calls) cancel(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	end, ok := c.ends[name]
	if ok {
		end()
	}
	return ok
}

// liveWriter writes comments to a stream of events that is silent.
type liveWriter struct {
	http.ResponseWriter
	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// start begins with that, once the answer has its headers.
func (l *liveWriter) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(aliveEvery, l.alive)
}

func (l *liveWriter) alive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	if strings.HasPrefix(l.Header().Get("Content-Type"), "text/event-stream") {
		// A client that is gone is noticed by who writes the result.
		_, _ = io.WriteString(l.ResponseWriter, ": alive\n\n")
		_ = http.NewResponseController(l.ResponseWriter).Flush()
	}
	l.timer.Reset(aliveEvery)
}

// Write implements http.ResponseWriter. The protocol writes each event at once, so that
// no comment comes between.
func (l *liveWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ResponseWriter.Write(p)
}

// WriteHeader implements http.ResponseWriter.
func (l *liveWriter) WriteHeader(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ResponseWriter.WriteHeader(status)
}

// FlushError is for http.ResponseController.
func (l *liveWriter) FlushError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return http.NewResponseController(l.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (l *liveWriter) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *liveWriter) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.timer != nil {
		l.timer.Stop()
	}
}
