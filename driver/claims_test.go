// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
)

const testSession = "ses_abcdefghij0123456789"

// kv is as much of Consul's KV as a claim needs.
type kv struct {
	mu     sync.Mutex
	values map[string][]byte
	tokens []string
}

func newKV(t *testing.T) (*kv, string) {
	store := &kv{values: map[string][]byte{}}
	server := httptest.NewServer(store)
	t.Cleanup(server.Close)
	return store, server.URL
}

func (s *kv) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, r.Header.Get("X-Consul-Token"))
	key := strings.TrimPrefix(r.URL.Path, "/v1/kv/")
	value, there := s.values[key]
	switch {
	case r.Method == http.MethodPut && r.URL.Query().Get("cas") == "0":
		if !there {
			s.values[key], _ = io.ReadAll(r.Body)
		}
		fmt.Fprint(w, !there)
	case r.Method == http.MethodGet && there:
		_ = json.NewEncoder(w).Encode([]api.KVPair{{Key: key, Value: value}})
	default:
		http.NotFound(w, r)
	}
}

func (s *kv) claim(t *testing.T, key string) (c claim.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	must.NoError(t, json.Unmarshal(s.values[key], &c))
	return c
}

// sessionPlugin is a plugin on a node that serves sessions.
func sessionPlugin(t *testing.T, consul string) *plugin {
	return newPlugin(t, runtimes[0], map[string]any{
		"node_secret": "0123456789abcdef0123456789abcdef",
		"consul":      map[string]any{"address": consul, "token": "from the config", "prefix": "test"},
	})
}

func (p *plugin) session(t *testing.T, epoch int) *drivers.TaskConfig {
	cfg := p.task(t, program{}, map[string]any{"session": map[string]any{
		"id": testSession, "epoch": epoch, "expires_at": time.Now().Add(time.Hour).Format(time.RFC3339),
	}})
	cfg.NodeID = "n1"
	cfg.Resources.Ports = sessionPorts()
	return cfg
}

func TestStartSession(t *testing.T) {
	store, url := newKV(t)
	p := sessionPlugin(t, url)
	first := p.session(t, 1)
	p.start(t, first)
	must.Eq(t, claim.Claim{
		Session: testSession, Epoch: 1, Alloc: first.AllocID, Node: "n1",
		API: "127.0.0.1:20001", Preview: "127.0.0.1:20002",
	}, store.claim(t, "test/claims/"+testSession+"/1"))
	must.Eq(t, []string{"from the config"}, store.tokens)
	status, err := p.Impl().InspectTask(first.ID)
	must.NoError(t, err)
	must.Eq(t, map[string]string{"session": testSession, "epoch": "1"}, status.DriverAttributes)

	// Nomad replaced the allocation, and the first one lives.
	_, _, err = p.StartTask(p.session(t, 1))
	must.ErrorContains(t, err, "session is claimed: epoch 1 of session "+testSession+" belongs to allocation "+first.AllocID+" on node n1")
	must.False(t, structs.IsRecoverable(err))

	// Nomad starts the same allocation again in place.
	must.NoError(t, p.DestroyTask(first.ID, true))
	again := first.Copy()
	again.ID += "2"
	_, _, err = p.StartTask(again)
	must.ErrorContains(t, err, "an earlier start of this allocation")
	must.False(t, structs.IsRecoverable(err))

	p.start(t, p.session(t, 2))
}

func TestStartSessionExpired(t *testing.T) {
	store, url := newKV(t)
	p := sessionPlugin(t, url)
	cfg := p.session(t, 1)
	must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{"session": map[string]any{
		"id": testSession, "epoch": 1, "expires_at": "2001-01-01T00:00:00Z",
	}}))
	_, _, err := p.StartTask(cfg)
	must.ErrorContains(t, err, "expired at 2001-01-01T00:00:00Z")
	must.MapEmpty(t, store.values)
}

func TestStartSessionWithoutConsul(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	listener.Close()
	p := sessionPlugin(t, listener.Addr().String())
	_, _, err = p.StartTask(p.session(t, 1))
	must.ErrorContains(t, err, "claim epoch 1 of session "+testSession)
	must.True(t, structs.IsRecoverable(err))
}

func TestClaimDeadline(t *testing.T) {
	stop := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer silent.Close()
	defer close(stop)
	claims, err := driver.NewConsulClaims(driver.ConsulConfig{Address: silent.URL, Prefix: "test"})
	must.NoError(t, err)
	began := time.Now()
	err = claims.Claim(t.Context(), claim.Claim{Session: testSession, Epoch: 1})
	must.ErrorContains(t, err, "no answer from Consul within 2s")
	must.Less(t, 5*time.Second, time.Since(began))

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.Canceled)
	must.ErrorIs(t, claims.Claim(ctx, claim.Claim{}), context.Canceled)
}

// TestClaimRealConsul lets many claim one epoch at a time.
func TestClaimRealConsul(t *testing.T) {
	claims, err := driver.NewConsulClaims(driver.ConsulConfig{Address: startConsul(t), Prefix: "test"})
	must.NoError(t, err)
	const claimants = 20
	for epoch := range uint64(10) {
		errs := make(chan error, claimants)
		for alloc := range claimants {
			go func() {
				errs <- claims.Claim(t.Context(), claim.Claim{
					Session: testSession, Epoch: epoch + 1, Alloc: fmt.Sprint("a", alloc%5), Node: "n1",
				})
			}()
		}
		won := 0
		for range claimants {
			if err := <-errs; err == nil {
				won++
			} else {
				must.ErrorIs(t, err, driver.ErrClaimed)
			}
		}
		must.Eq(t, 1, won)
	}
}

// startConsul starts a Consul of the test's own on loopback and returns its
// address.
func startConsul(t *testing.T) string {
	t.Helper()
	binary := findConsul()
	if binary == "" {
		t.Fatal("no Consul in the tool cache or on PATH: make deps")
	}
	var listeners [4]net.Listener // all at a time, for different ports
	var ports [4]int
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must.NoError(t, err)
		listeners[i], ports[i] = listener, listener.Addr().(*net.TCPAddr).Port
	}
	for _, listener := range listeners {
		listener.Close()
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	config := fmt.Sprintf(`ports { http = %d dns = -1 grpc = -1 grpc_tls = -1 server = %d serf_lan = %d serf_wan = %d }`,
		ports[0], ports[1], ports[2], ports[3])
	file := filepath.Join(t.TempDir(), "test.hcl")
	must.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	cmd := exec.Command(binary, "agent", "-dev", "-bind=127.0.0.1", "-log-level=warn", "-config-file="+file)
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	client, err := api.NewClient(&api.Config{Address: address})
	must.NoError(t, err)
	within(t, time.Minute, "Consul has a leader", func() bool {
		leader, err := client.Status().Leader()
		return err == nil && leader != ""
	})
	return address
}

func findConsul() string {
	if found, _ := filepath.Glob(filepath.Join(toolCache(), "bin", "consul-*")); len(found) != 0 {
		return found[len(found)-1]
	}
	found, _ := exec.LookPath("consul")
	return found
}
