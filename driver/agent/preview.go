// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"crypto/subtle"
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
)

// preview passes requests to the web servers in the session. Who shows the
// token is a front-end, and believed what it says of its client.
func (s *Session) preview(token string, access driver.Access) http.Handler {
	transport := &http.Transport{
		DialContext:            s.dialApp,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true, // bytes pass as they are
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: door.MaxAnswerHeader,
	}
	frontEnd := func(r *http.Request) bool {
		return subtle.ConstantTimeCompare([]byte(r.Header.Get(door.TokenHeader)), []byte(token)) == 1
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
		ErrorHandler: s.previewError,
		ErrorLog:     s.log.StandardLogger(nil),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if access == driver.AccessFrontEnd && !frontEnd(r) {
			http.Error(w, "Previews are reached through the front-end.", http.StatusForbidden)
			return
		}
		host := door.ParseHost(r.Host)
		switch {
		case !door.Method(r.Method):
			http.Error(w, "Previews take no "+r.Method+".", http.StatusMethodNotAllowed)
			return
		case host.Session != "" && host.Session != hostLabel(s.ID):
			// Who comes here has an old address of that session: its port is
			// another's now, and what the visitor carries is none of its business.
			http.Error(w, "This address belongs to another session now. Try again.", http.StatusMisdirectedRequest)
			return
		case host.Port == 0:
			http.Error(w, "There is no such port.", http.StatusBadRequest)
			return
		}
		done := s.active("preview")
		defer done()
		proxy.ServeHTTP(w, r)
	})
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
	return s.box.DialPort(ctx, port)
}

func (s *Session) previewError(w http.ResponseWriter, r *http.Request, err error) {
	stalled := door.Stalled(r.Context())
	if r.Context().Err() != nil && !stalled {
		return // the client went away
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
