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
	"syscall"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/relay"
)

// preview passes requests to the web servers in the session. Who shows one of the
// tokens is a front-end, and believed what it says of its client.
func (s *Session) preview(tokens tokens, access driver.Access) http.Handler {
	transport := &http.Transport{
		DialContext:            s.dialApp,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // bytes pass as they are
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: door.MaxAnswerHeader,
	}
	frontEnd := func(r *http.Request) bool {
		return tokens.have([]byte(r.Header.Get(door.TokenHeader)))
	}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // streams are streams
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = net.JoinHostPort("session", strconv.Itoa(door.ParseHost(r.In.Host).Port))
			r.Out.Host = r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, also what Go does not parse
			forwarded(r, frontEnd(r.In))
			door.Inward(r.Out.Header)
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del(door.MovedHeader) // an app cannot say so
			if leave, ok := r.Request.Context().Value(answeredKey{}).(func()); ok {
				leave()
			}
			return nil
		},
		ErrorHandler: s.previewError,
		ErrorLog:     s.log.StandardLogger(nil),
	}
	return http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		w := &door.Statused{ResponseWriter: to}
		defer func() { metrics.Previewed(w.Status) }()
		if err := relay.Failure(r.Context()); err != nil {
			s.previewError(w, r, err)
			return
		}
		host := door.ParseHost(r.Host)
		switch {
		case r.Host == door.NodeHost, host.Session != "" && host.Session != hostLabel(s.ID):
			// Who comes here has an old address of that session, or of what another
			// one's node did at it: its port is another's now, and what the visitor
			// carries is none of its business.
			w.Header().Set(door.MovedHeader, "1")
			http.Error(w, "This address belongs to another session now. Try again.", http.StatusMisdirectedRequest)
			return
		case access == driver.AccessFrontEnd && !frontEnd(r):
			if r.Header.Get(door.TokenHeader) != "" { // a front-end's for another life of this session
				w.Header().Set(door.MovedHeader, "1")
			}
			http.Error(w, "Previews are reached through the front-end.", http.StatusForbidden)
			return
		case !door.Method(r.Method):
			http.Error(w, "Previews take no "+r.Method+".", http.StatusMethodNotAllowed)
			return
		case host.Port == 0:
			http.Error(w, "There is no such port.", http.StatusBadRequest)
			return
		}
		// Until the app has answered; from then on what counts is that bytes flow
		// (dialApp): a connection that nobody uses keeps no session awake.
		leave, err := s.life.use("preview")
		if err != nil {
			if errors.Is(err, errAsleep) {
				w.Header().Set(door.MovedHeader, "1")
			}
			writeError(w, notAwake(err))
			return
		}
		defer leave()
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), answeredKey{}, leave)))
	})
}

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

// forwarded says where a request comes from. A front-end has said it, in words
// that only front-ends' may be. Others are proxies at best: the app sees what
// they say, and behind it whom we have seen.
func forwarded(r *httputil.ProxyRequest, frontEnd bool) {
	said := []string{"X-Forwarded-Host", "X-Forwarded-Proto"}
	if frontEnd {
		said = append(said, "X-Forwarded-For")
	} else {
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
		r.SetXForwarded() // adds to that one, and sets the others
	}
	for _, name := range said {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
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
	stalled := door.Stalled(r.Context())
	if r.Context().Err() != nil && !stalled {
		return // the client went away
	}
	if errors.Is(err, errAsleep) { // since it was let in: nothing has reached the app
		w.Header().Set(door.MovedHeader, "1")
		writeError(w, errGone)
		return
	}
	port := door.ParseHost(r.Host).Port
	message := fmt.Sprintf("The app on port %d of this session did not answer: %v", port, err)
	if errors.Is(err, syscall.ECONNREFUSED) {
		message = fmt.Sprintf("Nothing listens on port %d in this session. Start a web server there, for instance Bun.serve({ port: %d, fetch() { … } }).", port, port)
	}
	w.Header().Set("Cache-Control", "no-store")
	if stalled {
		http.Error(w, "The request has not arrived in time.", http.StatusRequestTimeout)
		return
	}
	http.Error(w, message, http.StatusBadGateway)
}
