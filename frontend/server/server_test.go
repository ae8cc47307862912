// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/testserver"
)

const (
	key    = "btk_0123456789"
	secret = "0123456789abcdef"
)

// cluster is real Consul and Nomad servers, and a stand-in for a node: it
// claims the session of each job as soon as it sees it, and answers for all.
type cluster struct {
	t      testing.TB
	consul string
	nomad  string
	kv     *consul.KV
	jobs   *nomad.Jobs
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, consul: testserver.Consul(t), nomad: testserver.Nomad(t, true)}
	cc, err := consul.NewClient(&consul.Config{Address: c.consul})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nomad.NewClient(&nomad.Config{Address: c.nomad})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c.kv, c.jobs = cc.KV(), nc.Jobs()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"path":%q}`, r.URL.Path)
	}))
	t.Cleanup(node.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.claimAll(ctx, strings.TrimPrefix(node.URL, "http://")) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

// claimAll is what nodes do, told by Nomad's blocking queries.
func (c *cluster) claimAll(ctx context.Context, address string) {
	claimed := map[string]bool{}
	q := (&nomad.QueryOptions{Prefix: "ses-"}).WithContext(ctx)
	for ctx.Err() == nil {
		stubs, meta, err := c.jobs.List(q)
		if err != nil {
			continue
		}
		q.WaitIndex = meta.LastIndex
		for _, stub := range stubs {
			if !claimed[stub.ID] {
				claimed[stub.ID] = true
				id := strings.Replace(stub.ID, "-", "_", 1)
				value, _ := json.Marshal(claim.Claim{Session: id, Epoch: 1, Alloc: "alloc", Node: "node", API: address, Preview: address})
				if _, _, err := c.kv.CAS(&consul.KVPair{Key: claim.Key("buntime", id, 1), Value: value}, nil); err != nil {
					c.t.Error(err)
				}
			}
		}
	}
}

// frontEnd is one that runs.
type frontEnd struct {
	t    testing.TB
	url  string
	stop func() error
}

func (c *cluster) frontEnd(change ...func(*Config)) *frontEnd {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	config := Config{
		Pool:          PoolConfig{Off: true}, // the stand-in makes no sandboxes
		ShutdownDelay: new(Delay(0)),
		Listen:        l.Addr().String(), NodeSecret: secret, ReapInterval: Duration(100 * time.Millisecond),
		Keys: []keys.Config{{Hash: keys.Hash(key), Account: "a", Plan: "enterprise"}},
	}
	config.Keys[0].Limits.Requests, config.Keys[0].Limits.Sessions = 1<<30, 1<<30
	config.Nomad.Address, config.Consul.Address = c.nomad, c.consul
	if err := config.defaults(); err != nil {
		c.t.Fatal(err)
	}
	for _, do := range change {
		do(&config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	go func() { ended <- Serve(ctx, config, l, log) }()
	f := &frontEnd{t: c.t, url: "http://" + l.Addr().String()}
	f.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	c.t.Cleanup(func() { _ = f.stop() }) // the test has looked at its error
	return f
}

func (f *frontEnd) call(method, path string, body any) (int, map[string]any) {
	f.t.Helper()
	var text io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			f.t.Fatal(err)
		}
		text = bytes.NewReader(b)
	}
	r, err := http.NewRequest(method, f.url+path, text)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	var got map[string]any
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, got
}

func (f *frontEnd) must(method, path string, body any) map[string]any {
	f.t.Helper()
	status, got := f.call(method, path, body)
	if status != 200 {
		f.t.Fatalf("%s %s: %d %v", method, path, status, got)
	}
	return got
}

func (f *frontEnd) create() string {
	f.t.Helper()
	return f.must("POST", "/sessions/create", nil)["sessionId"].(string)
}

// empty waits until Consul has no key of sessions and Nomad no job, or fails.
func (c *cluster) empty() {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute) // a Consul that starts may take half of it to have a leader elected
	for {
		keys, _, err := c.kv.Keys("buntime/", "", nil)
		if err != nil {
			c.t.Fatal(err)
		}
		keys = slices.DeleteFunc(keys, func(key string) bool { return key == "buntime/leader" })
		jobs, _, err := c.jobs.PrefixList("ses-")
		if err != nil {
			c.t.Fatal(err)
		}
		if len(keys)+len(jobs) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("left: keys %q, %d jobs", keys, len(jobs))
		}
		time.Sleep(20 * time.Millisecond) // the reaper says nothing when it is done
	}
}

// TestFrontEnds: a session outlives the front-end that made it, and two that
// run at once agree.
func TestFrontEnds(t *testing.T) {
	c := newCluster(t)
	one := c.frontEnd()
	// All that a front-end needs is there, but for nodes, once it has read the keys.
	const want = "map[consul:ok keys:ok nodes:Nomad knows no node with the driver nomad:ok]"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status, got := one.call("GET", "/readyz", nil)
		if status == 503 && fmt.Sprint(got["error"].(map[string]any)["details"].(map[string]any)["checks"]) == want {
			break
		}
		if status != 503 || time.Now().After(deadline) {
			t.Fatal(status, got)
		}
	}
	id := one.create()
	execute := map[string]any{"sessionId": id, "code": "1"}
	one.must("POST", "/execute", execute)
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}

	two, three := c.frontEnd(), c.frontEnd()
	for _, f := range []*frontEnd{two, three} {
		if got := f.must("POST", "/execute", execute); got["path"] != "/v1/execute" {
			t.Errorf("got %v", got)
		}
		if got := f.must("GET", "/sessions", nil); len(got["sessions"].([]any)) != 1 {
			t.Errorf("list: %v", got)
		}
	}
	two.must("DELETE", "/sessions/"+id, nil)
	if status, got := two.call("POST", "/execute", execute); status != 404 {
		t.Errorf("at once: %d %v", status, got)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		if status, _ := three.call("POST", "/execute", execute); status == 404 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("another front-end still knows a deleted session after 5 s")
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.empty()
}

// TestCrashes: what a front-end leaves that dies between two steps.
func TestCrashes(t *testing.T) {
	c := newCluster(t)
	id := c.frontEnd().create()
	// A record that never started, one without a job, and a job without a record.
	pair, _, err := c.kv.Get("buntime/sessions/"+id, nil)
	if err != nil || pair == nil {
		t.Fatal(pair, err)
	}
	old := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for _, change := range []string{`"state":"starting"`, `"state":"active"`} {
		var record map[string]any
		if err := json.Unmarshal(pair.Value, &record); err != nil {
			t.Fatal(err)
		}
		lost := "ses_" + strings.Repeat("0", 19) + fmt.Sprint(len(change)%10)
		record["id"], record["since"] = lost, old
		record["state"] = strings.Split(change, `"`)[3]
		text, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.kv.Put(&consul.KVPair{Key: "buntime/sessions/" + lost, Value: text}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.kv.DeleteTree("buntime/sessions/"+id, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.kv.DeleteTree("buntime/accounts/", nil); err != nil {
		t.Fatal(err)
	}
	c.empty()
}

// TestShutdown: a request under way is answered.
func TestShutdown(t *testing.T) {
	c := newCluster(t)
	f := c.frontEnd()
	f.create()
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 20 {
		wg.Go(func() {
			r, _ := http.NewRequest("POST", f.url+"/sessions/create", nil)
			r.Header.Set("Authorization", "Bearer "+key)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				if !slices.ContainsFunc([]string{"refused", "EOF", "reset", "broken pipe", "server closed idle connection"}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
					errs <- err
				}
				return
			}
			defer res.Body.Close()
			if res.StatusCode != 200 {
				errs <- fmt.Errorf("status %d", res.StatusCode)
			}
		})
	}
	time.Sleep(10 * time.Millisecond) // some are under way, some not; either is right
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// TestShutdownDelay: a front-end that is to end says so first, and serves until proxies have
// noticed, with answers that end their connections.
func TestShutdownDelay(t *testing.T) {
	c := newCluster(t)
	// systemd's socket, which is told of all this.
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	told := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		_ = systemd.SetReadDeadline(time.Now().Add(10 * time.Second)) // of an open socket
		if n, err := systemd.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("systemd was told %q, %v, not %q", b[:n], err, want)
		}
	}
	f := c.frontEnd(func(c *Config) { c.ShutdownDelay = new(Delay(5 * time.Second)) })
	told("READY=1")
	id := f.create()
	ended := make(chan error, 1)
	go func() { ended <- f.stop() }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		status, got := f.call("GET", "/readyz", nil)
		if status == 503 && strings.Contains(fmt.Sprint(got), "front-end: it ends") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is to end, and ready for 10 s")
		}
		time.Sleep(time.Millisecond)
	}
	told("STOPPING=1")
	r, err := http.NewRequest("GET", f.url+"/sessions/"+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal("a request while it is not ready: ", err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || !res.Close {
		t.Errorf("status %d; ends its connection: %v", res.StatusCode, res.Close)
	}
	if status, _ := f.call("GET", "/healthz", nil); status != 200 {
		t.Error("it is not healthy")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(f.url, "http://"), time.Second); err == nil {
		t.Error("it takes connections after its end")
	}
}

// BenchmarkCreate is POST /sessions/create and DELETE on real Consul and Nomad
// servers with a node that claims at once: what the front-end, they and the
// way between them take.
func BenchmarkCreate(b *testing.B) {
	c := newCluster(b)
	f := c.frontEnd()
	f.create()
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		id := f.create()
		took = append(took, time.Since(begin))
		f.must("DELETE", "/sessions/"+id, nil)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "ms-create-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "ms-create-p99")
}

// BenchmarkBurst creates 100 sessions at once.
func BenchmarkBurst(b *testing.B) {
	c := newCluster(b)
	f := c.frontEnd()
	f.create()
	for b.Loop() {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { f.create() })
		}
		wg.Wait()
	}
}
