// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/monitoring"
)

// scrape reads the metrics of a part as Prometheus does, and what its tools say of their
// names.
func scrape(t *testing.T, reply *client.Reply) map[string]*dto.MetricFamily {
	t.Helper()
	status(t, reply, http.StatusOK)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(reply.Body))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(reply.Body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "buntime_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	return families
}

// counted is what there was of in the test.
var counted = []struct {
	name   string
	labels map[string]string
}{
	{"buntime_request_duration_seconds", map[string]string{"route": "POST /execute", "status": "200"}},
	{"buntime_stage_duration_seconds", map[string]string{"route": "POST /execute", "stage": "node"}},
	{"buntime_errors_total", map[string]string{"route": "GET /files/read", "code": "file_not_found"}},
	{"buntime_preview_duration_seconds", map[string]string{"status": "2xx"}},
	{"buntime_preview_duration_seconds", map[string]string{"status": "1xx"}}, // a WebSocket
	{"buntime_create_duration_seconds", map[string]string{"from": "job", "result": "ok"}},
	{"buntime_wake_duration_seconds", map[string]string{"result": "ok"}},
	{"buntime_consul_request_duration_seconds", map[string]string{"operation": "txn", "status": "2xx"}},
	{"buntime_nomad_request_duration_seconds", map[string]string{"operation": "register", "status": "2xx"}},
	{"buntime_store_request_duration_seconds", map[string]string{"status": "ok"}},
	{"buntime_leader", nil},
	{"buntime_connections", nil},
	{"buntime_node_start_duration_seconds", map[string]string{"kind": "session", "result": "ok"}},
	{"buntime_node_start_duration_seconds", map[string]string{"kind": "wake", "result": "ok"}},
	{"buntime_node_start_stage_duration_seconds", map[string]string{"kind": "wake", "stage": "image"}},
	{"buntime_node_freeze_duration_seconds", map[string]string{"result": "ok"}},
	{"buntime_node_thaw_duration_seconds", map[string]string{"result": "ok"}},
	{"buntime_node_sleep_duration_seconds", map[string]string{"cause": "request", "result": "ok"}},
	{"buntime_node_sandbox_ends_total", map[string]string{"reason": "asleep"}},
	{"buntime_node_executions_total", map[string]string{"kind": "code", "reason": "exit"}},
	{"buntime_node_executions_total", map[string]string{"kind": "code", "reason": "background"}},
	{"buntime_node_executions_total", map[string]string{"kind": "command", "reason": "timeout"}},
	{"buntime_node_executions_total", map[string]string{"kind": "code", "reason": "oom"}},
	{"buntime_node_runners_taken_total", nil},
	{"buntime_node_runners_ready", nil},
	{"buntime_node_snapshot_duration_seconds", map[string]string{"kind": "final", "result": "ok"}},
	{"buntime_node_snapshot_bytes_total", map[string]string{"part": "stored"}},
	{"buntime_node_store_request_duration_seconds", map[string]string{"operation": "put", "status": "ok"}},
	{"buntime_node_store_bytes_total", map[string]string{"operation": "put"}},
	{"buntime_node_restore_duration_seconds", map[string]string{"result": "ok"}},
	{"buntime_node_restorer_up", nil},
	{"buntime_node_restorer_fetches_total", map[string]string{"result": "ok"}},
	{"buntime_node_restorer_fetched_bytes_total", nil},
	{"buntime_node_consul_request_duration_seconds", map[string]string{"operation": "put", "status": "2xx"}},
	{"buntime_node_request_duration_seconds", map[string]string{"route": "POST /v1/execute"}},
	{"buntime_node_errors_total", map[string]string{"code": "file_not_found"}},
	{"buntime_node_preview_requests_total", map[string]string{"status": "2xx"}},
	{"buntime_node_preview_requests_total", map[string]string{"status": "1xx"}},
	{"buntime_node_sandboxes", map[string]string{"state": "active"}},
	{"buntime_node_memory_available_bytes", nil},
	{"buntime_node_state_available_bytes", nil},
}

// happened says whether something with these labels is above zero.
func happened(family *dto.MetricFamily, labels map[string]string) bool {
	return slices.ContainsFunc(family.GetMetric(), func(m *dto.Metric) bool {
		matching := 0
		for _, l := range m.GetLabel() {
			if labels[l.GetName()] == l.GetValue() {
				matching++
			}
		}
		return matching == len(labels) && (m.GetCounter().GetValue() > 0 || m.GetGauge().GetValue() > 0 || m.GetHistogram().GetSampleCount() > 0)
	})
}

// TestMonitoring: the dashboard and the alerts ask for what front-end and node really say
// of themselves, once there was something of everything, and the documentation has all of it.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system runs already, and where its nodes have their metrics is not known")
	}
	s := createSession(t, deadline(t, usual), enterprise(), M{"resourceLimits": M{"memory": 256}})
	s.print(`1`)
	s.shell(`echo x >file`)
	s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	s.fetch("/")
	s.read("file")
	status(t, s.sleep(M{"state": "idle"}), http.StatusOK)
	s.fetch("/")
	status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	s.read("file")
	status(t, s.get("/files/read", "path", "none"), http.StatusNotFound)
	equal(t, "timed out", s.execute(M{"command": "sleep 100", "timeout": 1}).TimedOut, true)
	status(t, s.post("/execute", M{"code": `const hold = []; for (;;) hold.push(new Uint8Array(16 << 20).fill(1))`}), http.StatusInsufficientStorage)
	s.background(socketServer)
	socket, err := s.api.WebSocket(s.ctx, strings.Replace(s.page("/"), "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	socket.CloseNow()

	_, key := newKey(t, s.ctx, "create", "-account", "monitoring", "-operator", "-limit", "requests=1000000", "-label", "prometheus")
	frontEnd := shared.WithKey(key)
	node := client.New(system.stack.Clients[0].MetricsURL, system.stack.MetricsToken)
	status(t, send(t, s.ctx, node.WithKey("wrong"), client.Call{Method: "GET", Path: "/metrics"}), http.StatusUnauthorized)
	queries, err := monitoring.Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := monitoring.Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		queries = append(queries, monitoring.Query{Where: "alert " + rule.Alert.Value, Expr: rule.Expr.Value})
	}
	there := monitoring.Metrics{}
	// Sessions are counted by the leader from time to time.
	eventually(t, s.ctx, "all metrics", 60*time.Second, func() (bool, string) {
		reply, err := frontEnd.Do(s.ctx, client.Call{Method: "GET", Path: "/metrics"})
		if err != nil || reply.Status != http.StatusOK {
			return false, fmt.Sprintf("no metrics of the front-end yet: %v", err) // it does not know the key yet
		}
		all := scrape(t, reply)
		maps.Copy(all, scrape(t, send(t, s.ctx, node, client.Call{Method: "GET", Path: "/metrics"})))
		there = monitoring.Metrics{}
		there.Add(all)
		for _, c := range counted {
			if !happened(all[c.name], c.labels) {
				return false, fmt.Sprintf("nothing of %s %v", c.name, c.labels)
			}
		}
		return len(there["buntime_sessions"]) > 0, "no sessions are counted"
	})
	for _, q := range queries {
		if err := there.Check(q.Expr); err != nil {
			t.Errorf("%s: %s: %v", q.Where, q.Expr, err)
		}
	}

	docs, err := os.ReadFile(filepath.Join(monitoring.Docs(), "operation.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range monitoring.Named(string(docs)) {
		named[name] = true
	}
	known := map[string]bool{}
	for name := range there {
		for _, part := range []string{"_count", "_sum", "_bucket"} {
			if _, of := there[strings.TrimSuffix(name, part)+"_bucket"]; of {
				name = strings.TrimSuffix(name, part)
			}
		}
		known[name] = true
		if strings.HasPrefix(name, "buntime_") && !named[name] {
			t.Errorf("docs/operation.md does not say what %s is", name)
		}
	}
	for name := range named {
		if !known[name] && name != "buntime_node" {
			t.Errorf("docs/operation.md has %s, and nobody says that", name)
		}
	}
	// No series is of one session, account or key.
	for name, series := range there {
		for _, set := range series {
			for label, value := range set {
				for _, word := range []string{s.id, s.host(), "monitoring", "enterprise-", "key_"} {
					if strings.Contains(value, word) {
						t.Errorf("%s{%s=%q}", name, label, value)
					}
				}
			}
		}
	}
}

// TestAuditLog: front-end and command line write down, in one file, who has done what.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system runs already, and where its audit log is is not known")
	}
	s := newSession(t)
	r := s.print(`"never written down"`)
	_ = r
	reply := s.post("/execute", M{"command": "echo never written down"})
	e := decode[execution](t, reply)
	s.write("never written down", "never written down")
	id, _ := newKey(t, s.ctx, "create", "-account", "audited")
	keysCommand(t, s.ctx, "revoke", id)
	want := []string{
		`"action":"session.create","outcome":"ok","account":"enterprise","key":"file_`,
		`"session":"` + s.id + `","execution":"` + e.ExecutionID + `","request":"` + reply.Header.Get("X-Request-Id") + `","remote":"127.0.0.1","status":200`,
		`"action":"files.write","outcome":"ok"`,
		`"action":"key.create","outcome":"ok","account":"audited","by":"`,
		`"action":"key.revoke","outcome":"ok","account":"audited","by":"`,
		`"subject":"` + id + `"`,
	}
	eventually(t, s.ctx, "the audit log", 20*time.Second, func() (bool, string) {
		text, err := os.ReadFile(filepath.Join(system.stack.Dir, "front-end.audit"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "never written") {
			t.Fatal("code, a command, or a file is in the audit log")
		}
		for _, part := range want {
			if !strings.Contains(string(text), part) {
				return false, "no " + part
			}
		}
		return true, ""
	})
}
