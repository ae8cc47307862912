// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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

// TestMonitoring: the dashboard and the alerts ask for what front-end and node really say
// of themselves, once there was something of everything, and the documentation has all of it.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system runs already, and where its nodes have their metrics is not known")
	}
	s := newSession(t)
	s.print(`1`)
	s.shell(`echo x >file`)
	s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	s.fetch("/")
	s.read("file")
	status(t, s.sleep(M{"state": "idle"}), http.StatusOK)
	s.fetch("/")
	status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	s.read("file")

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
		there = monitoring.Metrics{}
		there.Add(scrape(t, reply))
		there.Add(scrape(t, send(t, s.ctx, node, client.Call{Method: "GET", Path: "/metrics"})))
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
