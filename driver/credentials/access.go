// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package credentials

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Access is how Consul or Nomad knows us, and we them.
type Access struct {
	// TokenFile has an ACL token. It comes before any other token.
	TokenFile string
	Files     Files
	// ServerName is what the server's certificate is for, if not the host of its address.
	ServerName string
	// Fail, which may be nil, is told of files that cannot be used any more.
	Fail func(error)
}

// Client makes a client over t, which must not be in use. header is the one that takes
// the token.
func (a Access) Client(t *http.Transport, header string) (*http.Client, error) {
	if !a.Files.None() || a.ServerName != "" {
		if (a.Files.Cert == "") != (a.Files.Key == "") {
			return nil, errors.New("cert_file and key_file belong together")
		}
		certs, err := Open(a.Files, a.Fail)
		if err != nil {
			return nil, err
		}
		dial := DialFunc(t.DialContext)
		if dial == nil {
			dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
		}
		t.DialTLSContext = certs.Dial(dial, a.ServerName)
	}
	client := &http.Client{Transport: t}
	if a.TokenFile != "" {
		token, err := openToken(a.TokenFile, a.Fail)
		if err != nil {
			return nil, err
		}
		client.Transport = &bearer{token: token, header: header, next: t}
	}
	return client, nil
}

func openToken(path string, fail func(error)) (*fresh[string], error) {
	token := &fresh[string]{paths: []string{path}, fail: fail, read: func() (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		token := strings.TrimSpace(string(text))
		if token == "" || strings.ContainsAny(token, " \t\r\n") {
			return "", fmt.Errorf("read token: %s has to have one word", path)
		}
		return token, nil
	}}
	return token, token.open()
}

// bearer shows a token with each request.
type bearer struct {
	token  *fresh[string]
	header string
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	out := *r // a round tripper may not change what it is given
	out.Header = r.Header.Clone()
	out.Header.Set(b.header, b.token.get())
	return b.next.RoundTrip(&out)
}
