// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/tracing"
)

// maxBody bounds a request's body: the front-end has checked it against the
// plan; this is the largest that any plan could ask for.
const maxBody = 256 << 20

// server is one listener of a session.
type server struct {
	http httpServer
	done chan struct{}
}

// httpServer is an *http.Server, or one with a relay before it.
type httpServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
}

// Connections that one session's listeners have room for. They are front-ends'
// and proxies', which use one for each request that is under way.
const (
	apiConnections     = 1024
	previewConnections = 2048
)

// limits leave room for what front-ends add to a head, and for clients that are
// as slow as they may be there.
var limits = door.Limits{Header: door.MaxHeader + 8<<10, Head: 10 * time.Second, Idle: 5 * time.Minute, Stall: time.Minute}

// newServer is for h on one of the session's listeners.
func (s *Session) newServer(h http.Handler) *http.Server {
	return door.NewServer(h, limits, s.log.StandardLogger(nil))
}

// serve answers on l until close, with secured, if it is not nil, in TLS.
func (s *Session) serve(l net.Listener, h httpServer, connections int, secured *tls.Config) {
	srv := server{http: h, done: make(chan struct{})}
	s.servers = append(s.servers, srv)
	l = door.Limit(l, door.Room{All: connections})
	if secured != nil {
		l = tls.NewListener(l, secured)
	}
	go func() {
		defer close(srv.done)
		if err := srv.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("a listener of the session ended", "address", l.Addr().String(), "error", err)
		}
	}()
}

// api is what front-ends call, with one of the session's tokens.
func (i *instance) api(s *Session, tokens tokens) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, activity bool, h func(http.ResponseWriter, *http.Request) error) {
		took := metrics.Route(pattern)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			defer func() {
				took.Observe(time.Since(begin).Seconds())
				if s.log.IsDebug() {
					s.log.Debug("request", "request", door.RequestID(r.Header), "route", pattern, "took", time.Since(begin))
				}
			}()
			ctx, span := tracing.Continue(r.Context(), r, pattern)
			if span.IsRecording() {
				span.SetAttributes(tracing.Session.String(s.ID))
				defer span.End()
				r = r.WithContext(ctx)
			}
			if err := i.admit(r.Context()); err != nil {
				writeError(w, err)
				return
			}
			if activity {
				still, begin := s.life.resting(), time.Now()
				leave, err := s.life.use("request")
				if err != nil {
					writeError(w, notAwake(err))
					return
				}
				defer leave()
				if still {
					w.Header().Set(timingHeader, lasted("thaw", begin))
				}
			}
			if err := h(w, r); err != nil {
				s.tell(r, pattern, err)
				writeError(w, err)
			}
		})
	}
	mux.HandleFunc("GET /v1/prepared", answering(i.servePrepared(s)))
	mux.HandleFunc("POST /v1/begin", answering(i.serveBegin(s)))
	handle("GET /v1/health", false, s.serveHealth)
	handle("GET /v1/info", false, s.serveInfo)
	handle("POST /v1/execute", true, s.serveExecute)
	handle("GET /v1/executions/{id}", true, s.serveExecution)
	handle("GET /v1/executions/{id}/output", true, s.serveOutput)
	handle("GET /v1/executions/{id}/answer", true, s.serveAnswer)
	handle("GET /v1/executions/{id}/answer/output", true, s.serveAnswerOutput)
	handle("POST /v1/kill", true, s.serveKill)
	handle("GET /v1/terminal", false, s.serveTerminal)
	handle("GET /v1/processes", true, s.serveProcesses)
	handle("GET /v1/seen/processes", false, s.serveSeenProcesses)
	handle("GET /v1/files/list", true, s.serveList)
	handle("POST /v1/files/write", true, s.serveWrite)
	handle("GET /v1/files/read", true, s.serveRead)
	handle("DELETE /v1/files", true, s.serveRemove)
	handle("GET /v1/files/archive", true, s.serveArchive)
	handle("PUT /v1/files/archive", true, s.serveUnpack)
	handle("POST /v1/sleep", false, i.serveSleep(s))
	handle("POST /v1/extend", true, i.serveExtend(s))
	handle("POST /v1/end", false, i.serveEnd(s))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer || !tokens.have([]byte(shown)) {
			w.Header().Set(door.MovedHeader, "1") // for who took this for the address of a preview
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// tell logs why a request is answered with an error.
func (s *Session) tell(r *http.Request, route string, err error) {
	level := hclog.Debug // what there are bounds for is no news
	if asError(err).Status == http.StatusInternalServerError {
		level = hclog.Warn
	}
	s.log.Log(level, "could not serve a request", "request", door.RequestID(r.Header), "route", route, "error", err)
}

// answering answers with the error of h, if it has one.
func answering(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			writeError(w, err)
		}
	}
}

func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return invalid("body", "read the request: %v", err)
	}
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return invalid("body", "parse the request: %v", err)
	}
	return nil
}

func (s *Session) serveHealth(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Session) serveInfo(w http.ResponseWriter, r *http.Request) error {
	info, err := s.Info(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

func (s *Session) serveExecute(w http.ResponseWriter, r *http.Request) error {
	var req ExecuteRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if (req.Code == nil) == (req.Command == nil) {
		return invalid("code", "exactly one of code and command is needed")
	}
	if req.ExecutionID == "" {
		return invalid("executionId", "executionId is missing")
	}
	begin := time.Now()
	req.request = door.RequestID(r.Header)
	ctx, began := tracing.Span(r.Context(), "begin", tracing.Execution.String(req.ExecutionID))
	e, err := s.begin(ctx, req)
	began()
	if err != nil {
		if !unknown(err) {
			w.Header().Set(doneHeader, doneNo)
		}
		return err
	}
	defer e.deliver()
	if req.Stream {
		w.Header().Set("Trailer", timingHeader)
		err := s.streamOutput(r.Context(), w, e, 0, e.answered)
		w.Header().Set(timingHeader, lasted("exec", begin))
		return ignoreGone(err)
	}
	ctx, answered := tracing.Span(r.Context(), "run", tracing.Execution.String(req.ExecutionID))
	res, err := s.answer(ctx, e)
	answered()
	if err != nil {
		return err
	}
	w.Header().Add(timingHeader, lasted("exec", begin))
	writeJSON(w, http.StatusOK, res)
	_ = http.NewResponseController(w).Flush() // before it is delivered; a client that is gone does not read it
	return nil
}

// timingHeader says where the time went; the front-end adds its own.
const timingHeader = "Server-Timing"

// lasted is how long something has taken, in the header's form.
func lasted(name string, begin time.Time) string {
	return fmt.Sprintf("%s;dur=%.2f", name, float64(time.Since(begin))/float64(time.Millisecond))
}

// ignoreGone drops an error that comes of a client that went away in the middle
// of a stream: there is nobody to tell.
func ignoreGone(error) error { return nil }

func (s *Session) serveExecution(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if e, ok := s.find(id); ok {
		writeJSON(w, http.StatusOK, e.lookup())
		return nil
	}
	res, err := s.past(id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, res)
	return nil
}

func (s *Session) serveOutput(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	var offset int64
	if h := r.Header.Get("Last-Event-ID"); h != "" {
		n, err := strconv.ParseInt(h, 10, 64)
		if err != nil || n < 0 {
			return invalid("Last-Event-ID", "Last-Event-ID %q is no byte offset", h)
		}
		offset = n
	}
	if e, ok := s.find(id); ok {
		var until <-chan struct{}
		if r.URL.Query().Get("until") == "answer" {
			until = e.answered
		}
		return ignoreGone(s.streamOutput(r.Context(), w, e, min(offset, e.output.offset()), until))
	}
	return s.replayOutput(r.Context(), w, id, offset, s.pastResult)
}

func (s *Session) serveKill(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Pid    int             `json:"pid"`
		Signal json.RawMessage `json:"signal"`
	}
	if err := readJSON(r, &req); err != nil {
		return err
	}
	signal, err := parseSignal(req.Signal)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), killTimeout, errors.New("the processes did not end in time"))
	defer cancel()
	k, err := s.killProcesses(ctx, req.Pid, signal)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, k)
	return nil
}

// parseSignal reads a signal's number or name, with or without SIG.
func parseSignal(raw json.RawMessage) (syscall.Signal, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return 0, nil
	}
	var n int
	if json.Unmarshal(raw, &n) == nil {
		if n < 1 || n > 64 {
			return 0, invalid("signal", "signal %d is not between 1 and 64", n)
		}
		return syscall.Signal(n), nil
	}
	var name string
	if json.Unmarshal(raw, &name) == nil {
		name = "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
		if sig := unix.SignalNum(name); sig != 0 {
			return sig, nil
		}
	}
	return 0, invalid("signal", "signal %s is unknown", raw)
}

func (s *Session) serveProcesses(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]any{"processes": s.processes(r.Context())})
	return nil
}

// serveSeenProcesses tells of processes without waking the session or counting as
// activity.
func (s *Session) serveSeenProcesses(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]any{"processes": s.seenProcesses(r.Context())})
	return nil
}

func (s *Session) serveList(w http.ResponseWriter, r *http.Request) error {
	s.awaitRecords(r.Context())
	q := r.URL.Query()
	limit, offset := 50, 0
	for name, n := range map[string]*int{"limit": &limit, "offset": &offset} {
		if v := q.Get(name); v != "" {
			i, err := strconv.Atoi(v)
			if err != nil || i < 0 {
				return invalid(name, "%s %q is no number of entries", name, v)
			}
			*n = i
		}
	}
	list, total, err := s.files.list(q.Get("path"), limit, offset)
	if err != nil {
		return err
	}
	w.Header().Set("X-Total-Count", strconv.Itoa(total))
	writeJSON(w, http.StatusOK, map[string]any{"files": list})
	return nil
}

func (s *Session) serveWrite(w http.ResponseWriter, r *http.Request) error {
	var req struct{ Path, Content, Encoding string }
	if err := readJSON(r, &req); err != nil {
		return err
	}
	content, err := decode(req.Content, req.Encoding)
	if err != nil {
		return err
	}
	name, err := s.files.write("path", req.Path, content)
	if err != nil {
		return err
	}
	if s.life.gone() {
		return errGone // what is written now is not in the snapshot
	}
	writeJSON(w, http.StatusOK, map[string]any{"path": name, "size": len(content)})
	return nil
}

func (s *Session) serveRead(w http.ResponseWriter, r *http.Request) error {
	s.awaitRecords(r.Context())
	p := r.URL.Query().Get("path")
	f, st, err := s.files.open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	serveFile(w, r, p, f, st)
	return nil
}

func (s *Session) serveRemove(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	name, err := s.files.remove(r.Context(), q.Get("path"), q.Get("recursive") == "true")
	if err != nil {
		return err
	}
	if s.life.gone() {
		return errGone
	}
	writeJSON(w, http.StatusOK, map[string]any{"deleted": true, "path": name})
	return nil
}
