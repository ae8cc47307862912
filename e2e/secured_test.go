// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// secured is a system of two nodes and two front-ends on a Consul and a Nomad with ACLs
// and TLS, which the commands of docs/cluster.md have made ready for it.
type secured struct{ *cluster }

// TestSecured goes through what an operator of such a cluster relies on.
func TestSecured(t *testing.T) {
	c := startSecured(t)
	t.Run("the main path", c.mainPath)
	t.Run("rights", c.rights)
	t.Run("strangers", c.strangers)
	t.Run("proxies", c.proxies)
	t.Run("certificates change", c.changeCertificates)
	t.Run("tokens change", c.changeTokens)
	t.Run("the node secret changes", c.changeNodeSecret)
	t.Run("nothing secret is in a log", c.keepsSecrets)
}

// securedPool is as small as it can be: a session of a slot, beside those without.
var securedPool = M{"min": 1, "max": 1}

func startSecured(t *testing.T) *secured {
	t.Helper()
	c := &secured{startCluster(t, 5*time.Minute, stack.Options{
		Secured: true, Clients: 2, Frontends: 2, Keys: []stack.Key{},
		Frontend: M{"reap_interval": "1s", "shutdown_timeout": "2s", "pool": securedPool},
	}, settle)}
	args := []string{"create", "-account", "secured", "-plan", "enterprise", "-limit", "requests=1000000", "-label", "first"}
	parts := createdKey.FindStringSubmatch(c.frontendCommand(t, append([]string{"keys"}, args...)...))
	if parts == nil {
		t.Fatal("no key was made")
	}
	for _, f := range c.Frontends {
		api := c.client(t, f.URL, parts[2])
		keyBecomes(t, c.ctx, api, http.StatusOK)
		c.apis = append(c.apis, api)
	}
	return c
}

// settle ends what makes sessions and slots, and waits until nothing of any is on the
// machine: one that was being started when its plugin was restarted goes within a minute.
func settle(ctx context.Context, s *stack.Stack) error {
	var errs []error
	for _, f := range s.Frontends {
		errs = append(errs, f.Kill(ctx, syscall.SIGTERM))
	}
	jobs, _, err := s.Nomad.Jobs().List(&nomad.QueryOptions{Namespace: "buntime"})
	errs = append(errs, err)
	for _, job := range jobs {
		_, _, err := s.Nomad.Jobs().Deregister(job.ID, true, &nomad.WriteOptions{Namespace: "buntime"})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, tearDown(s))...)
}

// frontendCommand runs buntime-frontend with the configuration of the first one.
func (c *secured) frontendCommand(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"-config", filepath.Join(c.Dir, "front-end.json")}, args...)
	out, err := exec.CommandContext(c.ctx, "../out/bin/buntime-frontend", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

// client is one of the API that trusts the cluster's authority.
func (c *secured) client(t *testing.T, base, key string) *client.Client {
	t.Helper()
	config, err := c.TLS()
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = nil
	api := client.New(base, key)
	api.HTTP.Transport.(*http.Transport).TLSClientConfig = config
	return api
}

// pageOver is a session's preview at a front-end, or at a proxy before it.
func pageOver(s *session, base, path string) string {
	u, err := url.Parse(base)
	if err != nil {
		s.t.Fatal(err)
	}
	return "https://" + s.host() + ".preview.localhost:" + u.Port() + path
}

// mainPath is what anybody does with a session, each hop in TLS, each request at a
// Consul and a Nomad that allow what the policies say.
func (c *secured) mainPath(t *testing.T) {
	first := c.create(t)
	second := first.through(c.apis[1])
	equal(t, "output", first.print(`console.log(6 * 7)`), "42\n")
	home, other := c.Clients[0], c.Clients[1]
	if c.life(t, first).node != home.Name { // a slot's is where it was
		home, other = other, home
	}
	second.write("file", "stays")
	equal(t, "file", first.read("file"), "stays")
	first.background(socketServer)

	conn, err := second.api.WebSocket(c.ctx, strings.Replace(pageOver(second, second.api.Base, "/?x"), "https", "wss", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, hello, err := conn.Read(c.ctx); err != nil || !strings.HasPrefix(string(hello), "hello ") {
		t.Errorf("the preview's socket says %s, %v", hello, err)
	}
	equal(t, "a page of an app without pages", first.visit("GET", pageOver(first, first.api.Base, "/"), nil, nil).Status, http.StatusUpgradeRequired)
	term := second.openTerminal(url.Values{"command": {"cat", "file"}, "tty": {"false"}})
	term.until("")
	equal(t, "what the terminal says", term.stdout, "stays")
	conn.Close(websocket.StatusNormalClosure, "")

	status(t, first.sleep(M{"state": "deep-sleep", "force": true}), http.StatusOK)
	c.only(t, other)
	equal(t, "file on another node", second.read("file"), "stays")
	equal(t, "node", c.life(t, first).node, other.Name)
	c.only(t, c.Clients...)
	drained, err := other.ID(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nomad.Nodes().UpdateDrain(drained, &nomad.DrainSpec{Deadline: time.Minute}, false, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, c.ctx, "the session has left the node that is drained", 20*time.Second, func() (bool, string) {
		l := c.life(t, first)
		return l.state == "deep-sleep", fmt.Sprintf("%+v", l)
	})
	equal(t, "file after the drain", first.read("file"), "stays")
	equal(t, "node after the drain", c.life(t, first).node, home.Name)
	if _, err := c.Nomad.Nodes().UpdateDrain(drained, nil, true, nil); err != nil {
		t.Fatal(err)
	}

	status(t, second.drop(), http.StatusOK)
	eventually(t, c.ctx, "the other front-end does not know it any more", 5*time.Second, func() (bool, string) {
		r := first.infoReply()
		return r.Status == http.StatusNotFound, string(r.Body)
	})
	eventually(t, c.ctx, "its key is gone", 20*time.Second, func() (bool, string) {
		pair, _, err := c.Consul.KV().Get("buntime/keys/"+first.id, nil)
		return pair == nil && err == nil, fmt.Sprint(pair, err)
	})
}

// keepsSecrets wants no token and no secret in the log of any part.
func (c *secured) keepsSecrets(t *testing.T) {
	var logs strings.Builder
	if err := c.CopyLogs(&logs); err != nil {
		t.Fatal(err)
	}
	words := map[string]string{"the node secret": c.NodeSecret, "the key": c.apis[0].Key}
	tokens, err := filepath.Glob(filepath.Join(c.Secured.Secrets, "*.token"))
	if err != nil || len(tokens) < 3 {
		t.Fatalf("tokens %q, %v", tokens, err)
	}
	for _, path := range tokens {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		words[filepath.Base(path)] = strings.TrimSpace(string(text))
	}
	for what, word := range words {
		if word == "" || strings.Contains(logs.String(), word) {
			t.Errorf("%s is in a log", what)
		}
	}
}
