// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/credentials/credentialstest"
	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// traefikEnv names a binary of Traefik, which cannot be built from what Go's module proxy serves here.
const traefikEnv = "BUNTIME_E2E_TRAEFIK"

// proxies runs front-ends as Nomad's job, and the proxies of jobs/proxies before them.
func (c *secured) proxies(t *testing.T) {
	c.frontendJob(t)
	t.Run("HAProxy", func(t *testing.T) { c.behind(t, c.startHAProxy(t)) })
	t.Run("Traefik", func(t *testing.T) {
		if os.Getenv(traefikEnv) == "" {
			t.Skip(traefikEnv + " names no Traefik")
		}
		c.behind(t, c.startTraefik(t))
	})
}

// jobFile reads a file below jobs, with some words replaced, as an operator would.
func jobFile(t *testing.T, name string, words ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../jobs", name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(words); i += 2 {
		if !strings.Contains(string(text), words[i]) {
			t.Fatalf("jobs/%s has no %q", name, words[i])
		}
	}
	return strings.NewReplacer(words...).Replace(string(text))
}

// frontendJob has two front-ends run as docs/cluster.md says.
func (c *secured) frontendJob(t *testing.T) {
	secrets := c.Secured.Secrets
	for from, to := range map[string]string{c.Secured.File("frontend"): "tls.pem", c.Secured.Key("frontend"): "tls-key.pem"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := credentialstest.Replace(filepath.Join(secrets, to), text); err != nil {
			t.Fatal(err)
		}
	}
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	pool, err := json.Marshal(securedPool) // of who leads
	if err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf(`"trusted_proxies": ["127.0.0.1"], "reap_interval": "1s", "pool": %s, "store": {"dir": %q},`, pool, filepath.Join(c.Dir, "store"))
	vars := jobFile(t, "proxies/traefik-tags.vars.hcl", "api.example.com", "localhost", `preview\\.example\\.net`, `preview\\.localhost`) + fmt.Sprintf(
		"driver = \"raw_exec\"\nbinary = %q\nbase_url = \"https://localhost\"\npreview_domain = \"preview.localhost\"\nnomad = %q\nnomad_namespace = \"buntime\"\nconsul = %q\ntls = true\nmore = %q\n",
		filepath.Join(root, "out/bin/buntime-frontend"), c.NomadAddr, c.ConsulAddr, more)
	if err := os.WriteFile(filepath.Join(secrets, "frontend.vars.hcl"), []byte(vars), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.RunDocument(c.ctx, "docs/cluster.md", "Front-ends as a job", "A proxy before the front-ends"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.endJob(t) })
	eventually(t, c.ctx, "two front-ends are healthy", time.Minute, func() (bool, string) {
		found, _, err := c.Consul.Health().Service("buntime-frontend", "", true, nil)
		for _, f := range found { // what Traefik goes by
			if !slices.Contains(f.Service.Tags, "traefik.http.services.buntime-frontend.loadbalancer.server.scheme=https") {
				t.Fatalf("tags %q", f.Service.Tags)
			}
		}
		return err == nil && len(found) == 2, c.jobState(err)
	})
	allocs, _, err := c.Nomad.Jobs().Allocations("buntime-frontend", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range allocs {
		if text, err := c.Nomad.Raw().Response("/v1/job/"+a.JobID, nil); err == nil {
			body, _ := io.ReadAll(text)
			text.Close()
			if strings.Contains(string(body), c.NodeSecret) || strings.Contains(string(body), "PRIVATE KEY") {
				t.Error("a secret is in the job")
			}
		}
	}
}

// endJob returns when both have ended: one that leads makes slots until then.
func (c *secured) endJob(t *testing.T) {
	if _, _, err := c.Nomad.Jobs().DeregisterOpts("buntime-frontend", &nomad.DeregisterOptions{NoShutdownDelay: true}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, c.ctx, "the front-ends' job has ended", time.Minute, func() (bool, string) {
		allocs, _, err := c.Nomad.Jobs().Allocations("buntime-frontend", true, nil)
		over := err == nil
		for _, a := range allocs {
			over = over && (a.ClientStatus == nomad.AllocClientStatusComplete || a.ClientStatus == nomad.AllocClientStatusFailed)
		}
		return over, c.jobState(err)
	})
	if _, _, err := c.Nomad.Jobs().Deregister("buntime-frontend", true, nil); err != nil {
		t.Error(err)
	}
}

func (c *secured) jobState(err error) string {
	allocs, _, lerr := c.Nomad.Jobs().Allocations("buntime-frontend", true, nil)
	state := fmt.Sprint(err, lerr)
	for _, a := range allocs {
		for _, task := range a.TaskStates {
			for _, e := range task.Events {
				state += "; " + e.DisplayMessage
			}
		}
	}
	evals, _, _ := c.Nomad.Jobs().Evaluations("buntime-frontend", nil)
	for _, e := range evals {
		for _, m := range e.FailedTGAllocs {
			state += "; " + brief(m)
		}
	}
	return state
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// program runs a proxy until the test ends.
func (c *secured) program(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	log := filepath.Join(c.Dir, filepath.Base(name)+".log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(append(os.Environ(), "BUNTIME_STACK="+c.Dir), env...)
	if err := errors.Join(cmd.Start(), out.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself, which the test has seen
		gone := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		gone.Stop()
		if text, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("==> %s\n%s", log, text)
		}
	})
}

// startHAProxy runs jobs/proxies/haproxy.cfg as it stands, and returns its address.
func (c *secured) startHAProxy(t *testing.T) string {
	t.Helper()
	secrets, address := c.Secured.Secrets, freePort(t)
	var all []byte
	for _, name := range []string{"tls.pem", "tls-key.pem"} {
		text, err := os.ReadFile(filepath.Join(secrets, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	if err := credentialstest.Replace(filepath.Join(secrets, "clients.pem"), all); err != nil {
		t.Fatal(err)
	}
	c.program(t, []string{
		"BIND=" + address, "CERTIFICATES=" + filepath.Join(secrets, "clients.pem"), "CONSUL_DNS=" + c.ConsulDNS(),
		"FRONTEND_CA=" + c.Secured.Root(), "FRONTEND_NAME=localhost",
	}, "/usr/sbin/haproxy", "-db", "-f", "../jobs/proxies/haproxy.cfg")
	return address
}

// startTraefik runs the files of jobs/proxies with this cluster's addresses and files.
func (c *secured) startTraefik(t *testing.T) string {
	t.Helper()
	secrets, address := c.Secured.Secrets, freePort(t)
	write := func(name, text string) string {
		path := filepath.Join(secrets, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dynamic := write("traefik-buntime.yaml", jobFile(t, "proxies/traefik-buntime.yaml",
		"api.example.com", "localhost", "/etc/traefik/tls.pem", filepath.Join(secrets, "tls.pem"), "/etc/traefik/tls-key.pem", filepath.Join(secrets, "tls-key.pem"),
		"/etc/traefik/frontend-ca.pem", c.Secured.Root()))
	static := write("traefik.yaml", jobFile(t, "proxies/traefik.yaml",
		`":443"`, fmt.Sprintf("%q", address), "/etc/traefik/buntime.yaml", dynamic, "127.0.0.1:8501", strings.TrimPrefix(c.ConsulAddr, "https://"),
		"/etc/traefik/cluster-ca.pem", c.Secured.Root(), "/etc/traefik/consul-client.pem", c.Secured.File("client"), "/etc/traefik/consul-client-key.pem", c.Secured.Key("client")))
	c.program(t, []string{"CONSUL_HTTP_TOKEN_FILE=" + filepath.Join(secrets, "consul-proxy.token")}, os.Getenv(traefikEnv), "--configFile="+static)
	return address
}

// visitor is where the clients of proxies come from.
const visitor = "127.0.0.9"

// behind is what has to come through a proxy.
func (c *secured) behind(t *testing.T, address string) {
	base := "https://localhost:" + address[strings.LastIndexByte(address, ':')+1:]
	api := c.client(t, base, c.apis[0].Key)
	api.HTTP.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(visitor)}}
		return d.DialContext(ctx, network, address)
	}
	eventually(t, c.ctx, "the proxy has front-ends", time.Minute, func() (bool, string) {
		reply, err := api.Do(c.ctx, client.Call{Method: "GET", Path: "/readyz"})
		return err == nil && reply.Status == http.StatusOK, fmt.Sprint(err, brief(reply))
	})
	s := createSession(t, c.ctx, api, M{})
	equal(t, "output", s.print(`console.log("through")`), "through\n")
	s.background(strings.Replace(socketServer, `new Response("no socket", { status: 426 })`, `Response.json(Object.fromEntries(req.headers))`, 1))

	var seen map[string]string
	page := s.visit("GET", pageOver(s, base, "/?a=b"), http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Proto": {"gopher"}}, nil)
	if err := json.Unmarshal(page.Body, &seen); err != nil {
		t.Fatalf("%v: %s", err, page.Body)
	}
	host := strings.TrimPrefix(strings.TrimSuffix(pageOver(s, base, "/"), "/"), "https://")
	for name, want := range map[string]string{"host": host, "x-forwarded-for": visitor, "x-forwarded-proto": "https", "x-forwarded-host": host} {
		equal(t, name+", as the app sees it", seen[name], want)
	}
	conn, err := api.WebSocket(c.ctx, strings.Replace(pageOver(s, base, "/?x"), "https", "wss", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, hello, err := conn.Read(c.ctx); err != nil || !strings.HasPrefix(string(hello), "hello ") {
		t.Errorf("the app's socket says %s, %v", hello, err)
	}
	c.curl(t, s, base, address)
	c.events(t, api, base)

	// Asleep, it is woken by who visits.
	quiet := createSession(t, c.ctx, api, M{})
	quiet.write("file", "here")
	status(t, quiet.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	equal(t, "status of the preview of a session that sleeps", quiet.visit("GET", pageOver(quiet, base, "/"), nil, nil).Status, http.StatusBadGateway) // awake, without an app
	equal(t, "file", quiet.read("file"), "here")
}

// events: an event is here before the app makes the next.
func (c *secured) events(t *testing.T, api *client.Client, base string) {
	t.Helper()
	s := createSession(t, c.ctx, api, M{})
	s.background(stepwise)
	res := s.open("GET", pageOver(s, base, "/events"), nil, nil)
	lines := bufio.NewReader(res.Body)
	for n := 1; n <= 3; n++ {
		want := fmt.Sprintf("id: %d\ndata: %d\n\n", n, n)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(lines, got); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
		equal(t, "event", string(got), want)
		equal(t, "next", s.visit("GET", pageOver(s, base, "/next"), nil, nil).Status, http.StatusOK)
	}
}

// curl is a client that knows HTTP/2.
func (c *secured) curl(t *testing.T, s *session, base, address string) {
	t.Helper()
	port := address[strings.LastIndexByte(address, ':')+1:]
	out, err := exec.CommandContext(c.ctx, "curl", "--silent", "--show-error", "--http2", "--cacert", c.Secured.Root(),
		"--resolve", s.host()+".preview.localhost:"+port+":127.0.0.1", "--output", os.DevNull, "--write-out", "%{http_version} %{http_code}",
		pageOver(s, base, "/")).CombinedOutput()
	if err != nil || string(out) != "2 200" {
		t.Errorf("curl: %v, %s", err, out)
	}
}
