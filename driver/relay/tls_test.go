// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/buntime/buntime/driver/credentials/credentialstest"
)

// TestOverTLS is what the relay does where client and app speak TLS with it: the same.
func TestOverTLS(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"answers": TestAnswers, "cut": TestCut, "requests": TestRequests, "pipelined": TestPipelined, "until the end": TestUntilTheEnd,
		"closed meanwhile": TestClosedMeanwhile, "client gone": TestClientGone, "shutdown": TestShutdown,
		"slow reader": TestSlowReader, "large answers": TestLargeAnswers,
	} {
		t.Run(name, test)
	}
}

func overTLS(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestOverTLS/") }

var certificate = sync.OnceValues(func() (tls.Certificate, error) {
	a, err := credentialstest.NewAuthority("relay")
	if err != nil {
		return tls.Certificate{}, err
	}
	return a.Certificate("localhost")
})

// layer has TLS on a listener, where the test is of that.
func layer(t testing.TB, l net.Listener) net.Listener {
	if !overTLS(t) {
		return l
	}
	cert, err := certificate()
	if err != nil {
		t.Error(err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
}

// dialer is for such a listener.
func dialer(t testing.TB) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if !overTLS(t) {
		return new(net.Dialer).DialContext
	}
	return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext
}
