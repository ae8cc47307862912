// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials/credentialstest"
)

// token is one that docs/cluster.md has had made.
func (c *secured) token(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Secured.Secrets, name+".token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// consulAs is Consul for a token.
func (c *secured) consulAs(t *testing.T, token string) *consul.Client {
	t.Helper()
	config, err := c.TLS()
	if err != nil {
		t.Fatal(err)
	}
	api, err := consul.NewClient(&consul.Config{
		Address: c.ConsulAddr, Token: token, HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: config}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// denied wants a 403 of Consul or Nomad, or words that say why else it was refused.
func denied(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was allowed", what)
		return
	}
	for _, word := range append(words, "403", "Permission denied") {
		if strings.Contains(err.Error(), word) {
			return
		}
	}
	t.Errorf("%s was refused, but not for want of a right: %v", what, err)
}

// rights: a token can do what it is for, as the other tests show, and nothing of this.
func (c *secured) rights(t *testing.T) {
	put := func(api *consul.Client, key string) error {
		_, err := api.KV().Put(&consul.KVPair{Key: key, Value: []byte("x")}, nil)
		return err
	}
	read := func(api *consul.Client, key string) error {
		pair, _, err := api.KV().Get(key, nil)
		if err == nil && pair == nil { // Consul says so of a key that there is and may not be read
			err = os.ErrPermission
		}
		return err
	}
	s := c.create(t)
	record := "buntime/sessions/" + s.id
	if err := read(c.Consul, record); err != nil {
		t.Fatal(err)
	}
	frontend, node := c.consulAs(t, c.token(t, "consul-frontend")), c.consulAs(t, c.token(t, "consul-node"))
	for _, api := range []*consul.Client{frontend, node} {
		denied(t, "writing what is not Buntime's", put(api, "buntimes/x"))
		denied(t, "registering a service", api.Agent().ServiceRegister(&consul.AgentServiceRegistration{Name: "web"}))
		_, _, err := api.ACL().TokenList(nil)
		denied(t, "listing tokens", err)
		_, _, err = api.ACL().PolicyCreate(&consul.ACLPolicy{Name: "x", Rules: `acl = "write"`}, nil)
		denied(t, "making a policy", err)
	}
	denied(t, "a node's changing a record", put(node, record))
	denied(t, "a node's making a key", put(node, "buntime/api-keys/x"))
	if err := read(node, record); err != nil {
		t.Errorf("a node may not read a record: %v", err)
	}
	keys, _, err := c.Consul.KV().Keys("buntime/api-keys/", "", nil)
	if err != nil || len(keys) == 0 {
		t.Fatalf("keys %q, %v", keys, err)
	}
	for _, key := range keys {
		denied(t, "a node's reading "+key, read(node, key), os.ErrPermission.Error())
	}
	denied(t, "anybody's reading a record", read(c.consulAs(t, ""), record), os.ErrPermission.Error())
	c.nomadRights(t)
	c.transport(t)
}

func (c *secured) nomadRights(t *testing.T) {
	config, err := c.TLS()
	if err != nil {
		t.Fatal(err)
	}
	api, err := nomad.NewClient(&nomad.Config{
		Address: c.NomadAddr, SecretID: c.token(t, "nomad-frontend"), HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: config}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := func(namespace, driver string) error {
		task := nomad.NewTask("x", driver).SetConfig("command", "/bin/true")
		job := nomad.NewBatchJob("x", "x", "global", 50).AddDatacenter("*").AddTaskGroup(nomad.NewTaskGroup("x", 1).AddTask(task))
		job.Namespace = &namespace
		_, _, err := api.Jobs().Register(job, nil)
		return err
	}
	denied(t, "a job in another namespace", in("default", "bun"))
	denied(t, "another driver", in("buntime", "raw_exec"), `task driver "raw_exec" is not allowed`, "not allowed")
	_, _, err = api.Jobs().List(&nomad.QueryOptions{Namespace: "default"})
	denied(t, "listing jobs of another namespace", err)
	_, _, err = api.Variables().List(&nomad.QueryOptions{Namespace: "buntime"})
	if found, _, _ := api.Variables().List(&nomad.QueryOptions{Namespace: "default"}); len(found) > 0 {
		t.Errorf("it may list variables: %v, %v", found, err)
	}
	id, err := c.Clients[0].ID(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.Nodes().UpdateDrain(id, &nomad.DrainSpec{}, false, nil)
	denied(t, "draining a node", err)
	_, _, err = api.ACLTokens().List(nil)
	denied(t, "listing tokens", err)
}

// transport: Consul takes nothing but TLS, of who has a certificate of the cluster's.
func (c *secured) transport(t *testing.T) {
	res, err := http.Get("http" + strings.TrimPrefix(c.ConsulAddr, "https") + "/v1/status/leader")
	if err == nil {
		res.Body.Close()
		equal(t, "status of plain HTTP at Consul", res.StatusCode, http.StatusBadRequest)
	}
	config, err := c.TLS()
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = nil
	if _, err := tlsStatus(c.ConsulAddr[len("https://"):], config, ""); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("Consul without a certificate: %v", err)
	}
}

// tlsStatus asks an address for the path /v1/status/leader, or another, by its first
// request over a connection of its own.
func tlsStatus(address string, config *tls.Config, bearer string) (int, error) {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	req, err := http.NewRequest(http.MethodGet, "https://"+address+"/v1/health", nil)
	if err != nil {
		return 0, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// claimOf is where a session is.
func (c *secured) claimOf(t *testing.T, s *session) claim.Claim {
	t.Helper()
	l := c.life(t, s)
	pair, _, err := c.Consul.KV().Get(claim.Key("buntime", s.id, l.epoch), nil)
	if err != nil || pair == nil {
		t.Fatalf("read claim of %s: %v, %v", s.id, pair, err)
	}
	var at claim.Claim
	if err := json.Unmarshal(pair.Value, &at); err != nil {
		t.Fatal(err)
	}
	return at
}

// role is the TLS of one that has a certificate of the authority of docs/cluster.md.
func (c *secured) role(t *testing.T, name string) *tls.Config {
	t.Helper()
	file := func(name string) string { return filepath.Join(c.Secured.Secrets, name) }
	roots := c.nodeRoots(t)
	config := &tls.Config{RootCAs: roots, ServerName: "node.buntime"}
	if name != "" {
		cert, err := tls.LoadX509KeyPair(file(name+".pem"), file(name+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		// Whatever a server asks for: what it takes is the question.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return config
}

// strangers: a session's ports on its node are for front-ends, and that of its previews for
// proxies, too, of Buntime's authority and nobody else's.
func (c *secured) strangers(t *testing.T) {
	s := c.create(t)
	s.background(server(8080, ""))
	at := c.claimOf(t, s)
	token := claim.Token([]byte(c.NodeSecret), s.id, at.Epoch)
	for _, plain := range []string{at.API, at.Preview} {
		res, err := http.Get("http://" + plain + "/v1/health")
		if err == nil { // net/http says what is wrong, the relay nothing
			res.Body.Close()
			equal(t, "status of plain HTTP at a session's port", res.StatusCode, http.StatusBadRequest)
		}
	}
	other, err := credentialstest.NewAuthority("another")
	if err != nil {
		t.Fatal(err)
	}
	forged := func(by *credentialstest.Authority, names ...string) *tls.Config {
		cert, err := by.Certificate(names...)
		if err != nil {
			t.Fatal(err)
		}
		config := c.role(t, "")
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return config
	}
	old := c.role(t, "frontend")
	old.MaxVersion = tls.VersionTLS12
	for _, try := range []struct {
		who     string
		config  *tls.Config
		api     int // status; 0: no TLS comes about
		preview int
		word    string
	}{
		{"a front-end", c.role(t, "frontend"), 200, 200, ""},
		{"a proxy", c.role(t, "proxy"), 0, 200, "bad certificate"},
		{"a node", c.role(t, "node"), 0, 0, "bad certificate"}, // it is for a server's use
		{"who has no certificate", c.role(t, ""), 0, 0, "certificate required"},
		{"a front-end of another authority", forged(other, "frontend.buntime"), 0, 0, "certificate authority"},
		{"a front-end of the cluster's authority", forged(c.Secured.Authority, "frontend.buntime"), 0, 0, "certificate authority"},
		{"who is called like one", forged(other, "frontend.buntime.example.com"), 0, 0, "certificate authority"},
		{"a front-end of yesterday", old, 0, 0, "protocol version"},
	} {
		for port, want := range map[string]int{at.API: try.api, at.Preview: try.preview} {
			got, err := tlsStatus(port, try.config, token)
			switch {
			case want != 0 && (err != nil || got != want):
				t.Errorf("%s at %s: status %d, %v, not %d", try.who, port, got, err, want)
			case want == 0 && (err == nil || !strings.Contains(err.Error(), try.word)):
				t.Errorf("%s at %s: status %d, %v, not %q", try.who, port, got, err, try.word)
			}
		}
	}
	// Below TLS the token is asked for as ever.
	if got, err := tlsStatus(at.API, c.role(t, "frontend"), "wrong"); err != nil || got != http.StatusUnauthorized {
		t.Errorf("a front-end without the session's token: %d, %v", got, err)
	}
	// And a node has to be one: what a front-end calls is not anybody with a port.
	notNode := c.role(t, "frontend")
	notNode.ServerName = "frontend.buntime"
	if _, err := tlsStatus(at.API, notNode, token); err == nil || !strings.Contains(err.Error(), "not frontend.buntime") {
		t.Errorf("a node as another part: %v", err)
	}
	c.vacant(t)
}

// vacant: the ports of a slot are as those of a session.
func (c *secured) vacant(t *testing.T) {
	eventually(t, c.ctx, "a slot whose ports are tried", 30*time.Second, func() (bool, string) {
		slots, _, err := c.Consul.KV().Keys("buntime/slots/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range slots {
			id := strings.TrimPrefix(slot, "buntime/slots/")
			pair, _, err := c.Consul.KV().Get(claim.Key("buntime", id, 1), nil)
			if err != nil || pair == nil {
				continue // it has not started yet, or was taken meanwhile
			}
			var at claim.Claim
			if err := json.Unmarshal(pair.Value, &at); err != nil {
				t.Fatal(err)
			}
			for _, port := range []string{at.API, at.Preview} {
				if got, err := tlsStatus(port, c.role(t, ""), ""); err == nil || !strings.Contains(err.Error(), "certificate required") {
					t.Errorf("a slot's port: %d, %v", got, err)
				}
			}
			return true, ""
		}
		return false, fmt.Sprintf("%q", slots)
	})
}
