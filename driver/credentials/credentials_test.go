// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package credentials_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/credentials/credentialstest"
)

// world is a folder of certificates, and who signs them.
type world struct {
	dir       string
	authority *credentialstest.Authority
}

func newWorld(t *testing.T) *world {
	t.Helper()
	a, err := credentialstest.NewAuthority("one")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t.TempDir(), a}
	w.put(t, "ca.pem", a.PEM)
	for _, role := range []string{"node", "frontend", "proxy"} {
		w.issue(t, role)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) put(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := credentialstest.Replace(w.path(name), text); err != nil {
		t.Fatal(err)
	}
}

func (w *world) issue(t *testing.T, role string) {
	t.Helper()
	if err := w.authority.Write(w.dir, role, role+".buntime"); err != nil {
		t.Fatal(err)
	}
}

func (w *world) open(t *testing.T, role string, fail func(error)) *credentials.Certificates {
	t.Helper()
	c, err := credentials.Open(credentials.Files{CA: w.path("ca.pem"), Cert: w.path(role + ".pem"), Key: w.path(role + "-key.pem")}, fail)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve answers over TLS, and counts the handshakes that resumed a session.
func serve(t *testing.T, config *tls.Config) (address string, resumed *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resumed = new(atomic.Int64)
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		}
		fmt.Fprint(w, "hello")
	})}
	go srv.Serve(tls.NewListener(l, config))
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String(), resumed
}

// ask sends a request over a connection of its own.
func ask(c *credentials.Certificates, name, address string) error {
	t := &http.Transport{DisableKeepAlives: true, DialContext: credentials.Telling(c.Dial(new(net.Dialer).DialContext, name))}
	res, err := t.RoundTrip(httptest.NewRequest(http.MethodGet, "http://"+address+"/", nil))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	return err
}

// until waits for what only looking tells.
func until(t *testing.T, what string, done func() (bool, error)) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		ok, err := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address, resumed := serve(t, w.open(t, "node", nil).Server(credentials.FrontEnd))
	frontend := w.open(t, "frontend", nil)
	for range 3 {
		if err := ask(frontend, credentials.Node, address); err != nil {
			t.Fatal(err)
		}
	}
	if resumed.Load() != 2 {
		t.Errorf("%d of 2 further connections resumed the session", resumed.Load())
	}
	proxy := w.open(t, "proxy", nil)
	for range 2 { // the second could resume
		if err := ask(proxy, credentials.Node, address); !credentials.Refused(err) {
			t.Errorf("a proxy where front-ends may come: %v", err)
		}
	}
	told, err := credentials.Telling(proxy.Dial(new(net.Dialer).DialContext, credentials.Node))(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := told.Read(make([]byte, 1)); !credentials.Refused(err) {
		t.Errorf("a proxy that waits: %v", err)
	}
	told.Close()
	if _, err := told.Write([]byte("GET")); !credentials.Refused(err) {
		t.Errorf("a proxy that goes on: %v", err)
	}
	err = ask(frontend, credentials.FrontEnd, address)
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" || !strings.Contains(err.Error(), "not frontend.buntime") {
		t.Errorf("a node as a front-end: %v", err)
	}
	bare, err := credentials.Open(credentials.Files{CA: w.path("ca.pem")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(bare, credentials.Node, address); !credentials.Refused(err) {
		t.Errorf("without a certificate: %v", err)
	}
	// Who shows its certificate whatever authorities the server names.
	other, err := credentialstest.NewAuthority("another")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Certificate(credentials.FrontEnd)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &forged, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // for a server that says nothing
	if _, err := conn.Read(make([]byte, 1)); !credentials.Refused(err) {
		t.Errorf("a front-end of another authority: %v", err)
	}
	both, _ := serve(t, w.open(t, "node", nil).Server(credentials.FrontEnd, credentials.Proxy))
	for _, c := range []*credentials.Certificates{frontend, proxy} {
		if err := ask(c, credentials.Node, both); err != nil {
			t.Error(err)
		}
	}
	anybody, _ := serve(t, w.open(t, "node", nil).Server())
	if err := ask(bare, credentials.Node, anybody); err != nil {
		t.Error(err)
	}
}

// TestAuthorityChanges: neither side takes what is of an authority that is gone from the
// file, by a session of before either.
func TestAuthorityChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address, resumed := serve(t, w.open(t, "node", nil).Server(credentials.FrontEnd))
	frontend := w.open(t, "frontend", nil)
	// One whose files stay as they are.
	stale := newWorld(t)
	stale.authority = w.authority
	stale.issue(t, "frontend")
	next, err := credentialstest.NewAuthority("two")
	if err != nil {
		t.Fatal(err)
	}
	bundle := append(append([]byte{}, w.authority.PEM...), next.PEM...)
	stale.put(t, "ca.pem", bundle)
	former := stale.open(t, "frontend", nil)
	for _, c := range []*credentials.Certificates{frontend, former} {
		if err := ask(c, credentials.Node, address); err != nil {
			t.Fatal(err)
		}
	}
	w.authority = next
	w.put(t, "ca.pem", bundle)
	w.issue(t, "frontend")
	w.issue(t, "node")
	w.put(t, "ca.pem", next.PEM)
	until(t, "a front-end of the authority before is refused", func() (bool, error) {
		err := ask(former, credentials.Node, address)
		return credentials.Refused(err), err
	})
	before := resumed.Load()
	until(t, "one of the next is taken", func() (bool, error) {
		err := ask(frontend, credentials.Node, address)
		return err == nil, err
	})
	if err := ask(former, credentials.Node, address); !credentials.Refused(err) {
		t.Errorf("the former comes back: %v", err)
	}
	if resumed.Load() != before {
		t.Error("a session of before was resumed")
	}
	old := w.authority
	w.authority = stale.authority // who shows an old certificate is no node
	w.issue(t, "node")
	w.authority = old
	until(t, "a node of the authority before is refused", func() (bool, error) {
		err := ask(frontend, credentials.Node, address)
		var unknown x509.UnknownAuthorityError
		return errors.As(err, &unknown), err
	})
}

// TestHalf: a certificate whose key is not there yet leaves all as it was, and is told of.
func TestHalf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var told atomic.Int64
	node := w.open(t, "node", func(error) { told.Add(1) })
	address, _ := serve(t, node.Server(credentials.FrontEnd))
	frontend := w.open(t, "frontend", nil)
	cert, key, err := w.authority.Issue("node.buntime")
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, "node.pem", cert)
	until(t, "it is told", func() (bool, error) {
		if err := ask(frontend, credentials.Node, address); err != nil {
			t.Fatal(err)
		}
		return told.Load() > 0, nil
	})
	w.put(t, "node-key.pem", key)
	want, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the new one is shown", func() (bool, error) {
		conn, err := w.open(t, "frontend", nil).Dial(new(net.Dialer).DialContext, credentials.Node)(t.Context(), "tcp", address)
		if err != nil {
			return false, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Equal(want.Leaf), nil
	})
	if told.Load() != 1 {
		t.Errorf("it was told %d times", told.Load())
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Consul-Token"))
	}))
	defer srv.Close()
	client, err := credentials.Access{TokenFile: path}.Client(new(http.Transport), credentials.ConsulToken)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Consul-Token", "of the configuration")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if req.Header.Get("X-Consul-Token") != "of the configuration" {
			t.Error("the caller's request was changed")
		}
		return string(text)
	}
	if got := shown(); got != "one" {
		t.Errorf("token %q", got)
	}
	if err := os.WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the next one counts", func() (bool, error) { return shown() == "two", nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // it looks once a second
	if got := shown(); got != "two" {
		t.Errorf("token %q of a file that is away", got)
	}
	for _, text := range []string{"", "two words"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (credentials.Access{TokenFile: path}).Client(new(http.Transport), "X"); err == nil {
			t.Errorf("%q was taken for a token", text)
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, files := range map[string]credentials.Files{
		"read certificate":         {Cert: w.path("node.pem"), Key: w.path("proxy-key.pem")},
		"no such file":             {CA: w.path("none.pem")},
		"no certificate in PEM":    {CA: w.path("node-key.pem")},
		"read authorities: open /": {CAPath: "/nowhere"},
	} {
		if _, err := credentials.Open(files, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, not %q", files, err, name)
		}
	}
	if _, err := (credentials.Access{Files: credentials.Files{Cert: "x"}}).Client(new(http.Transport), "X"); err == nil {
		t.Error("a certificate without a key was taken")
	}
}
