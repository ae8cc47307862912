// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials/credentialstest"
	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// taken is how long what lies in a file may take to count: a second, and a busy machine.
const taken = 20 * time.Second

func (c *secured) nodeRoots(t *testing.T) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Secured.Secrets, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatal("ca.pem has no certificate")
	}
	return roots
}

// using has a session executed in and visited through both front-ends until stop is
// called, over connections that are kept and ones that are not. Nothing may fail.
func (c *secured) using(t *testing.T) (s *session, stop func()) {
	t.Helper()
	s = c.create(t)
	s.background(server(8080, ""))
	over := make(chan struct{})
	var loops sync.WaitGroup
	for n, api := range c.apis {
		loops.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-over:
					return
				default:
				}
				call := client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"command": "echo x"})}
				reply, err := api.Do(c.ctx, call)
				if err != nil || reply.Status != http.StatusOK {
					t.Errorf("execute at front-end %d: %v, %+v", n, err, reply)
					return
				}
				res, err := api.HTTP.Get(pageOver(s, api.Base, "/"))
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("visit at front-end %d: %v, %+v", n, err, res)
					return
				}
				res.Body.Close()
			}
		})
	}
	return s, sync.OnceFunc(func() { close(over); loops.Wait() })
}

// changeCertificates has the authority between front-ends and nodes changed for another, in
// the steps of docs/cluster.md, while sessions are used and made.
func (c *secured) changeCertificates(t *testing.T) {
	s, stop := c.using(t)
	defer stop()
	at := c.claimOf(t, s)
	ca := filepath.Join(c.Secured.Secrets, "ca.pem")
	old, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	former := c.role(t, "frontend")
	next, err := credentialstest.NewAuthority("the next")
	if err != nil {
		t.Fatal(err)
	}
	newcomer := c.role(t, "frontend")
	cert, err := next.Certificate("frontend.buntime")
	if err != nil {
		t.Fatal(err)
	}
	newcomer.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	newcomer.RootCAs = x509.NewCertPool()
	newcomer.RootCAs.AppendCertsFromPEM(append(bytes.Clone(old), next.PEM...))
	becomes := func(what string, config *tls.Config, ok bool) {
		t.Helper()
		token := claim.Token([]byte(c.NodeSecret), s.id, at.Epoch)
		eventually(t, c.ctx, what, taken, func() (bool, string) {
			got, err := tlsStatus(at.API, config, token)
			return (err == nil && got == http.StatusOK) == ok, fmt.Sprint(got, err)
		})
	}
	becomes("a front-end of the next authority is refused", newcomer, false)
	put := func(path string, text []byte) {
		t.Helper()
		if err := credentialstest.Replace(path, text); err != nil {
			t.Fatal(err)
		}
	}
	put(ca, append(bytes.Clone(old), next.PEM...))
	becomes("a front-end of the next authority is taken", newcomer, true)
	for _, role := range []string{"node", "frontend"} {
		if err := next.Write(c.Secured.Secrets, role, role+".buntime"); err != nil {
			t.Fatal(err)
		}
	}
	onlyNext := newcomer.Clone()
	onlyNext.RootCAs = x509.NewCertPool()
	onlyNext.RootCAs.AppendCertsFromPEM(next.PEM)
	becomes("the node shows a certificate of the next authority", onlyNext, true)
	put(ca, next.PEM)
	former.RootCAs = newcomer.RootCAs // it would take the node's
	becomes("a front-end of the former authority is refused", former, false)

	// A certificate and a key that do not belong together are not taken up.
	key := filepath.Join(c.Secured.Secrets, "node-key.pem")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := next.Issue("node.buntime")
	if err != nil {
		t.Fatal(err)
	}
	put(key, other)
	eventually(t, c.ctx, "the plugin says that it goes on with what it had", taken, func() (bool, string) {
		_, err := tlsStatus(at.API, onlyNext, "") // it looks when somebody comes
		log := c.Logs("nomad-client", 1000) + c.Logs("nomad-client-1", 1000)
		return strings.Contains(log, "goes on with the certificates that it had") && err == nil, fmt.Sprint(err)
	})
	put(key, good)
	stop()
	// New listeners and new connections, all of them of the next authority.
	for _, api := range c.apis {
		fresh := createSession(t, c.ctx, api, M{"resourceLimits": M{"memory": 512}}) // no slot is of that shape
		equal(t, "output", fresh.print(`console.log("new")`), "new\n")
	}
}

// changeTokens: the tokens of front-ends and nodes are revoked, and those that are put in
// their files count, with nothing restarted.
func (c *secured) changeTokens(t *testing.T) {
	works := func() (bool, string) {
		ctx, cancel := context.WithTimeout(c.ctx, 3*time.Second) // a create that waits for a node would take long
		defer cancel()
		reply, err := c.apis[0].Do(ctx, client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"resourceLimits": M{"memory": 256}}})
		if err != nil || reply.Status != http.StatusOK {
			return false, fmt.Sprint(err, brief(reply))
		}
		id := decode[created](t, reply).SessionID
		dropLater(t, c.apis[0], id)
		return true, ""
	}
	eventually(t, c.ctx, "a session is made", taken, works)
	nomadToken := func(t *testing.T) (string, error) {
		made, _, err := c.Nomad.ACLTokens().Create(&nomad.ACLToken{Name: "next", Type: "client", Policies: []string{"buntime-frontend"}}, nil)
		if err != nil {
			return "", err
		}
		list, _, err := c.Nomad.ACLTokens().List(nil)
		if err != nil {
			return "", err
		}
		for _, stub := range list {
			if stub.Name == "buntime-frontend" {
				_, err = c.Nomad.ACLTokens().Delete(stub.AccessorID, nil)
			}
		}
		return made.SecretID, err
	}
	consulToken := func(who string) func(t *testing.T) (string, error) {
		return func(t *testing.T) (string, error) {
			self, _, err := c.consulAs(t, c.token(t, "consul-"+who)).ACL().TokenReadSelf(nil)
			if err != nil {
				return "", err
			}
			made, _, err := c.Consul.ACL().TokenCreate(&consul.ACLToken{Policies: []*consul.ACLLink{{Name: "buntime-" + who}}}, nil)
			if err != nil {
				return "", err
			}
			_, err = c.Consul.ACL().TokenDelete(self.AccessorID, nil)
			return made.SecretID, err
		}
	}
	for name, change := range map[string]func(t *testing.T) (string, error){
		"nomad-frontend": nomadToken, "consul-frontend": consulToken("frontend"), "consul-node": consulToken("node"),
	} {
		t.Run(name, func(t *testing.T) {
			secret, err := change(t)
			if err != nil {
				t.Fatal(err)
			}
			if err := credentialstest.Replace(filepath.Join(c.Secured.Secrets, name+".token"), []byte(secret+"\n")); err != nil {
				t.Fatal(err)
			}
			eventually(t, c.ctx, "the next token counts", taken, works)
		})
	}
}

// changeNodeSecret goes from one node secret to the next in the steps of docs/cluster.md.
// A session that was there before goes on in all of them.
func (c *secured) changeNodeSecret(t *testing.T) {
	s := c.create(t)
	s.write("file", "stays")
	s.background(server(8080, ""))
	both := func(when string) {
		t.Helper()
		for n, api := range c.apis {
			equal(t, fmt.Sprintf("file %s, at front-end %d", when, n), s.through(api).read("file"), "stays")
			page := s.visit("GET", pageOver(s, api.Base, "/"), nil, nil)
			equal(t, fmt.Sprintf("status of the preview %s, at front-end %d", when, n), page.Status, http.StatusOK)
		}
	}
	restartAll := func(parts ...interface{ Alive() bool }) {
		t.Helper()
		if err := c.Configure(); err != nil {
			t.Fatal(err)
		}
		errs := make([]error, len(parts))
		var all sync.WaitGroup
		for i, part := range parts {
			all.Go(func() {
				switch part := part.(type) {
				case *stack.Frontend:
					errs[i] = part.Restart(c.ctx)
				case *stack.Part:
					errs[i] = part.Restart(c.ctx)
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for _, api := range c.apis {
			api.HTTP.CloseIdleConnections()
		}
	}
	// Also on a node that has nothing to do with the session. An agent that is ended while it
	// starts its plugin leaves that behind.
	eachNode := func() {
		t.Helper()
		for _, node := range c.Clients {
			c.only(t, node)
			fresh := createSession(t, c.ctx, c.apis[0], M{"resourceLimits": M{"memory": 512}}) // no slot is of that shape
			equal(t, "output", fresh.print(`console.log("new")`), "new\n")
		}
		c.only(t, c.Clients...)
	}
	at := c.claimOf(t, s)
	api := func(secret string) int {
		t.Helper()
		got, err := tlsStatus(at.API, c.role(t, "frontend"), claim.Token([]byte(secret), s.id, at.Epoch))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	former := c.NodeSecret
	c.OldNodeSecret, c.NodeSecret = former, strings.Repeat("next", 8)
	restartAll(&c.Clients[0].Agent, &c.Clients[1].Agent)
	both("with nodes that take both")
	eachNode()
	equal(t, "status with the former secret", api(former), http.StatusOK)
	restartAll(c.Frontends[0])
	both("with one front-end of each")
	restartAll(c.Frontends[1])
	both("with front-ends of the next")
	c.OldNodeSecret = ""
	restartAll(&c.Clients[0].Agent, &c.Clients[1].Agent)
	both("with nodes of the next alone")
	equal(t, "status with the former secret", api(former), http.StatusUnauthorized)
	eachNode()
}
