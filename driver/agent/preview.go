// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// previewPort is where a session's web server is expected (sessions.md).
const previewPort = 8080

// preview passes requests to the web servers in the session.
func (s *Session) preview() http.Handler {
	transport := &http.Transport{
		DialContext:           s.dialApp,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // bytes pass as they are
		ExpectContinueTimeout: time.Second,
	}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // streams are streams
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = net.JoinHostPort("session", strconv.Itoa(portOf(r.In.Host)))
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, also what Go does not parse
			for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[h]; ok {
					r.Out.Header[h] = v
				}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del(movedHeader) // an app cannot say so
			if leave, ok := r.Request.Context().Value(answeredKey{}).(func()); ok {
				leave()
			}
			return nil
		},
		ErrorHandler: s.previewError,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := sessionOf(r.Host); id != "" && id != hostLabel(s.ID) {
			// Who comes here has an old address of that session: its port is
			// another's now, and what the visitor carries is none of its business.
			http.Error(w, "This address belongs to another session now. Try again.", http.StatusMisdirectedRequest)
			return
		}
		if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer btk_") {
			r.Header.Del("Authorization") // an API key is never the app's
		}
		// Until the app has answered; from then on what counts is that bytes flow
		// (dialApp): a connection that nobody uses keeps no session awake.
		leave, err := s.life.use("preview")
		if err != nil {
			if errors.Is(err, errAsleep) {
				w.Header().Set(movedHeader, "1")
			}
			writeError(w, notAwake(err))
			return
		}
		defer leave()
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), answeredKey{}, leave)))
	})
}

// movedHeader marks an answer of the node's own: that the session has left it, and
// nothing of the request was done.
const movedHeader = "X-Buntime-Moved"

// answeredKey is the context key of what to call when the app has answered.
type answeredKey struct{}

// appConn is a connection to an app. What passes it is activity of the session,
// and what goes in is preceded by its being awake.
type appConn struct {
	net.Conn
	life *life
}

func (c appConn) Write(p []byte) (int, error) {
	if err := c.life.touch(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c appConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		if terr := c.life.touch(); terr != nil && err == nil {
			err = terr
		}
	}
	return n, err
}

// portOf returns the port that a host's first label names: <port>-ses-…; any
// other host means the usual one.
func portOf(host string) int {
	label, _, _ := strings.Cut(host, ".")
	number, rest, ok := strings.Cut(label, "-")
	if ok && (strings.HasPrefix(rest, "ses-") || strings.HasPrefix(rest, "ses_")) {
		if port, err := strconv.ParseUint(number, 10, 16); err == nil && port > 0 {
			return int(port)
		}
	}
	return previewPort
}

// sessionOf returns the host label of the session that a host names, "" for
// a host that names none: an address of the node.
func sessionOf(host string) string {
	label, _, _ := strings.Cut(host, ".")
	if number, rest, ok := strings.Cut(label, "-"); ok {
		if _, err := strconv.ParseUint(number, 10, 16); err == nil {
			label = rest
		}
	}
	label = strings.ToLower(strings.Replace(label, "_", "-", 1))
	if !strings.HasPrefix(label, "ses-") {
		return ""
	}
	label, _, _ = strings.Cut(label, ":")
	return label
}

// dialApp connects to the port in addr, in the session.
func (s *Session) dialApp(ctx context.Context, _, addr string) (net.Conn, error) {
	_, number, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		return nil, err
	}
	conn, err := s.box.DialPort(ctx, port)
	if err != nil {
		return nil, err
	}
	return appConn{conn, s.life}, nil
}

func (s *Session) previewError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client went away
	}
	port := portOf(r.Host)
	message := fmt.Sprintf("The app on port %d of this session did not answer: %v", port, err)
	if errors.Is(err, syscall.ECONNREFUSED) {
		message = fmt.Sprintf("Nothing listens on port %d in this session. Start a web server there, for instance Bun.serve({ port: %d, fetch() { … } }).", port, port)
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, message, http.StatusBadGateway)
}
