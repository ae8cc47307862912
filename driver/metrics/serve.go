// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/buntime/buntime/driver/door"
)

// minToken is the shortest token, in bytes.
const minToken = 16

// Config says where the node's metrics are to be read.
type Config struct {
	// Address is host:port to listen on; empty is nowhere.
	Address string
	// Token is what who asks has to show, as "Authorization: Bearer …". On loopback there
	// need be none: nothing in a sandbox reaches that.
	Token string
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	if c.Address == "" {
		if c.Token != "" {
			return errors.New("token is given, but no address to listen on")
		}
		return nil
	}
	at, err := netip.ParseAddrPort(c.Address)
	if err != nil {
		return fmt.Errorf("address %q is no IP address with a port, such as 127.0.0.1:9464", c.Address)
	}
	switch {
	case c.Token == "" && !at.Addr().IsLoopback():
		return fmt.Errorf("address %s is open to other machines: set a token, which Prometheus shows as its authorization, or listen on 127.0.0.1", c.Address)
	case c.Token != "" && len(c.Token) < minToken:
		return fmt.Errorf("token must have at least %d characters, got %d", minToken, len(c.Token))
	}
	return nil
}

// Handler answers GET /metrics with the node's metrics and those of more, which may be
// nil, to who shows the token.
func Handler(token string, more prometheus.Collector) http.Handler {
	gather := prometheus.Gatherers{registry}
	if more != nil {
		r := prometheus.NewRegistry()
		r.MustRegister(more)
		gather = append(gather, r)
	}
	// One at a time is what a Prometheus does, and two of them.
	all := promhttp.HandlerFor(gather, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
	want := sha256.Sum256([]byte("Bearer " + token))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		shown := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if token != "" && subtle.ConstantTimeCompare(shown[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "The node's metrics are for who shows the token of the plugin's configuration.", http.StatusUnauthorized)
			return
		}
		all.ServeHTTP(w, r)
	})
	return mux
}

var limits = door.Limits{Head: 10 * time.Second, Idle: 2 * time.Minute, Stall: 10 * time.Second}

// connections is how many there may be at a time, perClient of them of one address.
const (
	connections = 16
	perClient   = 4
)

// listenPause is between two tries: the process that this one replaces may have the
// address for a moment yet.
const listenPause = time.Second

// Serve answers on the address of the configuration until the context ends, with secured,
// if it is not nil, in TLS. What is wrong with it is logged, and tried again: sessions do not depend on it.
func Serve(ctx context.Context, c Config, secured *tls.Config, more prometheus.Collector, log hclog.Logger) {
	l := listen(ctx, c.Address, log)
	if l == nil {
		return
	}
	srv := door.NewServer(Handler(c.Token, more), limits, log.StandardLogger(nil))
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	log.Info("metrics are served", "address", l.Addr().String(), "tls", secured != nil)
	l = door.Limit(l, door.Room{All: connections, Each: perClient})
	if secured != nil {
		l = tls.NewListener(l, secured)
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics are served no more", "error", err)
	}
}

// listen is nil if the context ended first.
func listen(ctx context.Context, address string, log hclog.Logger) net.Listener {
	told := false
	for {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			return l
		}
		if ctx.Err() == nil && !told && !errors.Is(err, syscall.EADDRINUSE) {
			told = true
			log.Warn("cannot serve metrics yet; trying again", "address", address, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenPause):
		}
	}
}
