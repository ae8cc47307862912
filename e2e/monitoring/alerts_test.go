// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"
)

// bad is an hour in which an alert has to fire, good one in which it must not. Samples are
// a minute apart.
type hours struct{ bad, good []string }

var alerts = map[string]hours{
	"BuntimeFrontEndDown": {
		bad:  []string{`up{job="buntime-frontend",instance="a"} 1x10 0x50`},
		good: []string{`up{job="buntime-frontend",instance="a"} 1x10 0 1x49`, `up{job="other",instance="a"} 0x60`},
	},
	"BuntimeNoLeader": {
		bad:  []string{`buntime_leader{instance="a"} 1x10 0x50`, `buntime_leader{instance="b"} 0x60`},
		good: []string{`buntime_leader{instance="a"} 1x10 0x50`, `buntime_leader{instance="b"} 0x11 1x48`},
	},
	"BuntimeSweepLate": {
		bad:  []string{`buntime_reap_timestamp_seconds{instance="a"} 0+60x10 600x50`, `buntime_reap_timestamp_seconds{instance="b"} 0x60`},
		good: []string{`buntime_reap_timestamp_seconds{instance="a"} 0+60x10 600x50`, `buntime_reap_timestamp_seconds{instance="b"} 0x10 600+60x49`},
	},
	"BuntimeErrors": {
		bad:  []string{`buntime_request_duration_seconds_count{route="POST /execute",status="200"} 0+90x60`, `buntime_request_duration_seconds_count{route="POST /execute",status="503"} 0+10x60`},
		good: []string{`buntime_request_duration_seconds_count{route="POST /execute",status="200"} 0+1000x60`, `buntime_request_duration_seconds_count{route="POST /execute",status="503"} 0+10x60`, `buntime_request_duration_seconds_count{route="POST /execute",status="404"} 0+900x60`},
	},
	"BuntimeCreatesFailing": {
		bad:  []string{`buntime_create_duration_seconds_count{from="job",result="ok"} 0+9x60`, `buntime_create_duration_seconds_count{from="none",result="error"} 0+1x60`},
		good: []string{`buntime_create_duration_seconds_count{from="job",result="ok"} 0+90x60`, `buntime_create_duration_seconds_count{from="none",result="error"} 0+1x60`, `buntime_create_duration_seconds_count{from="slot",result="refused"} 0+90x60`},
	},
	"BuntimeColdStarts": {
		bad:  []string{`buntime_create_duration_seconds_count{from="slot",result="ok"} 0+10x60`, `buntime_create_duration_seconds_count{from="job",result="ok"} 0+10x60`, `buntime_slot_duration_seconds_count{result="ok"} 5x60`},
		good: []string{`buntime_create_duration_seconds_count{from="job",result="ok"} 0+10x60`, `buntime_slot_duration_seconds_count{result="ok"} 0x60`},
	},
	"BuntimeWakesFailing": {
		bad:  []string{`buntime_wake_duration_seconds_count{result="ok"} 0+9x60`, `buntime_wake_duration_seconds_count{result="error"} 0+1x60`},
		good: []string{`buntime_wake_duration_seconds_count{result="ok"} 0+99x60`, `buntime_wake_duration_seconds_count{result="error"} 0+1x60`},
	},
	"BuntimeWakesSlow": {
		bad:  []string{`buntime_node_start_duration_seconds_bucket{kind="wake",result="ok",le="2.5"} 0+1x60`, `buntime_node_start_duration_seconds_bucket{kind="wake",result="ok",le="5"} 0+10x60`, `buntime_node_start_duration_seconds_bucket{kind="wake",result="ok",le="+Inf"} 0+10x60`},
		good: []string{`buntime_wake_duration_seconds_bucket{result="ok",le="0.5"} 0+10x60`, `buntime_wake_duration_seconds_bucket{result="ok",le="2.5"} 0+10x60`, `buntime_wake_duration_seconds_bucket{result="ok",le="+Inf"} 0+10x60`, `buntime_wake_duration_seconds_bucket{result="error",le="2.5"} 0x60`, `buntime_wake_duration_seconds_bucket{result="error",le="+Inf"} 0+99x60`},
	},
	"BuntimeConsulFailing": {
		bad:  []string{`buntime_node_consul_request_duration_seconds_count{instance="n",operation="get",status="none"} 0+10x60`},
		good: []string{`buntime_consul_request_duration_seconds_count{instance="a",operation="get",status="4xx"} 0+1000x60`, `buntime_consul_request_duration_seconds_count{instance="a",operation="get",status="none"} 0x30 5x30`},
	},
	"BuntimeConsulSlow": {
		bad:  []string{`buntime_consul_request_duration_seconds_bucket{operation="txn",status="2xx",le="0.25"} 0+90x60`, `buntime_consul_request_duration_seconds_bucket{operation="txn",status="2xx",le="0.5"} 0+100x60`, `buntime_consul_request_duration_seconds_bucket{operation="txn",status="2xx",le="+Inf"} 0+100x60`},
		good: []string{`buntime_consul_request_duration_seconds_bucket{operation="watch",status="2xx",le="0.25"} 0x60`, `buntime_consul_request_duration_seconds_bucket{operation="watch",status="2xx",le="+Inf"} 0+100x60`, `buntime_consul_request_duration_seconds_bucket{operation="get",status="2xx",le="0.25"} 0+100x60`, `buntime_consul_request_duration_seconds_bucket{operation="get",status="2xx",le="+Inf"} 0+100x60`},
	},
	"BuntimeNomadFailing": {
		bad:  []string{`buntime_nomad_request_duration_seconds_count{instance="a",operation="register",status="5xx"} 0+10x60`},
		good: []string{`buntime_nomad_request_duration_seconds_count{instance="a",operation="register",status="2xx"} 0+1000x60`, `buntime_nomad_request_duration_seconds_count{instance="a",operation="register",status="5xx"} 0x30 1x30`},
	},
	"BuntimeNomadSlow": {
		bad:  []string{`buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="1"} 0+90x60`, `buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="2.5"} 0+100x60`, `buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="+Inf"} 0+100x60`},
		good: []string{`buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="0.5"} 0+100x60`, `buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="1"} 0+100x60`, `buntime_nomad_request_duration_seconds_bucket{operation="register",status="2xx",le="+Inf"} 0+100x60`},
	},
	"BuntimeNodesUnanswering": {
		bad:  []string{`buntime_node_call_failures_total{instance="a",reason="unreachable"} 0+20x60`},
		good: []string{`buntime_node_call_failures_total{instance="a",reason="unreachable"} 0+1x60`, `buntime_node_call_failures_total{instance="a",reason="moved"} 0+1000x60`},
	},
	"BuntimeConnectionsFull": {
		bad:  []string{`buntime_connections_refused_total{instance="a",reason="total"} 0x20 0+10x20 210x20`},
		good: []string{`buntime_connections_refused_total{instance="a",reason="total"} 7x60`, `buntime_connections_refused_total{instance="a",reason="client"} 0+100x60`},
	},
	"BuntimeSessionsLost": {
		bad:  []string{`buntime_fallbacks_total{instance="a"} 0x20 3x40`},
		good: []string{`buntime_fallbacks_total{instance="a"} 3x60`, `buntime_sessions_ended_total{instance="a",reason="expired"} 0+100x60`},
	},
	"BuntimeKeysStale": {
		bad:  []string{`buntime_keys_stale{instance="a"} 0x20 1x40`},
		good: []string{`buntime_keys_stale{instance="a"} 0x20 1x3 0x36`},
	},
	"BuntimeAuditLost": {
		bad:  []string{`buntime_audit_lost_total{instance="a"} 0x20 1x40`},
		good: []string{`buntime_audit_lost_total{instance="a"} 1x60`},
	},
	"BuntimeNodeDown": {
		bad:  []string{`up{job="buntime-node",instance="n"} 1x10 0x50`},
		good: []string{`up{job="buntime-node",instance="n"} 1x10 0x3 1x46`},
	},
	"BuntimeStoreFailing": {
		bad:  []string{`buntime_node_restorer_fetches_total{instance="n",result="error"} 0+2x60`},
		good: []string{`buntime_node_store_request_duration_seconds_count{instance="n",operation="get",status="missing"} 0+100x60`, `buntime_node_store_request_duration_seconds_count{instance="n",operation="get",status="error"} 0x30 1x30`},
	},
	"BuntimeStoreSlow": {
		bad:  []string{`buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="2.5"} 0+1x60`, `buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="5"} 0+10x60`, `buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="+Inf"} 0+10x60`},
		good: []string{`buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="1"} 0+10x60`, `buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="2.5"} 0+10x60`, `buntime_node_store_request_duration_seconds_bucket{instance="n",operation="put",status="ok",le="+Inf"} 0+10x60`},
	},
	"BuntimeSessionsUnsaved": {
		bad:  []string{`buntime_node_sessions_unsaved{instance="n"} 0x10 2x50`},
		good: []string{`buntime_node_sessions_unsaved{instance="n"} 0x10 2x10 0x39`},
	},
	"BuntimeStartsFailing": {
		bad:  []string{`buntime_node_start_duration_seconds_count{instance="n",kind="slot",result="ok"} 0+1x60`, `buntime_node_start_duration_seconds_count{instance="n",kind="slot",result="error"} 0+1x60`},
		good: []string{`buntime_node_start_duration_seconds_count{instance="n",kind="slot",result="ok"} 0+100x60`, `buntime_node_start_duration_seconds_count{instance="n",kind="slot",result="error"} 0+1x60`},
	},
	"BuntimeSandboxesDying": {
		bad:  []string{`buntime_node_sandbox_ends_total{instance="n",reason="died"} 0x20 5x40`},
		good: []string{`buntime_node_sandbox_ends_total{instance="n",reason="died"} 0x20 1x40`, `buntime_node_sandbox_ends_total{instance="n",reason="asleep"} 0+100x60`},
	},
	"BuntimeFreezesFailing": {
		bad:  []string{`buntime_node_freeze_duration_seconds_count{instance="n",result="error"} 0x20 5x40`},
		good: []string{`buntime_node_freeze_duration_seconds_count{instance="n",result="ok"} 0+100x60`},
	},
	"BuntimeRestorerDown": {
		bad:  []string{`buntime_node_restorer_up{instance="n"} 1x10 0x50`, `buntime_node_restorer_starts_total{instance="n"} 1x60`},
		good: []string{`buntime_node_restorer_up{instance="n"} 0x60`, `buntime_node_restorer_starts_total{instance="n"} 0x60`},
	},
	"BuntimeFenced": {
		bad:  []string{`buntime_node_fenced_total{instance="n"} 0x20 1x40`},
		good: []string{`buntime_node_fenced_total{instance="n"} 1x60`},
	},
	"BuntimeMemoryShort": {
		bad:  []string{`buntime_node_memory_size_bytes{instance="n"} 100x60`, `buntime_node_memory_available_bytes{instance="n"} 50x10 5x50`},
		good: []string{`buntime_node_memory_size_bytes{instance="n"} 100x60`, `buntime_node_memory_available_bytes{instance="n"} 50x10 5x2 50x47`},
	},
	"BuntimeDiskShort": {
		bad:  []string{`buntime_node_state_size_bytes{instance="n"} 100x60`, `buntime_node_state_available_bytes{instance="n"} 50x10 5x50`},
		good: []string{`buntime_node_state_size_bytes{instance="n"} 100x60`, `buntime_node_state_available_bytes{instance="n"} 50x60`},
	},
}

// TestAlerts: every alert fires in an hour that is bad in its way, and not in one that only
// looks like it.
func TestAlerts(t *testing.T) {
	t.Parallel()
	rules, err := Rules()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, rule := range rules {
		name := rule.Alert.Value
		if known[name] {
			t.Errorf("%s is there twice", name)
		}
		known[name] = true
		hours, ok := alerts[name]
		if !ok {
			t.Errorf("nobody has tried whether %s fires", name)
			continue
		}
		hold := time.Duration(rule.For)
		if !fires(t, rule.Expr.Value, hold, parseSeries(t, hours.bad)) {
			t.Errorf("%s does not fire", name)
		}
		if fires(t, rule.Expr.Value, hold, parseSeries(t, hours.good)) {
			t.Errorf("%s fires for nothing", name)
		}
		if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has the severity %q", name, s)
		}
	}
	for name := range alerts {
		if !known[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestJobs: alerts and dashboard go by the names of the jobs that prometheus.yml has.
func TestJobs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(Docs(), "monitoring", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.RuleFiles, []string{"alerts.yml"}) || len(config.ScrapeConfigs) != 2 {
		t.Errorf("%+v", config)
	}
	queries, err := Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		queries = append(queries, Query{rule.Alert.Value, rule.Expr.Value})
	}
	for _, q := range queries {
		expr, err := parser.ParseExpr(q.Expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, matchers := range parser.ExtractSelectors(expr) {
			for _, m := range matchers {
				if m.Name != "job" {
					continue
				}
				found := false
				for _, job := range config.ScrapeConfigs {
					found = found || m.Matches(job.JobName)
				}
				if !found {
					t.Errorf("%s: there is no job for %s", q.Where, m)
				}
			}
		}
	}
}

var section = regexp.MustCompile(`(?m)^## (Buntime\w+)$`)

// TestRunbook: every alert leads to a section of the runbook that says what it means, how
// to look and what to do, and every section is of one.
func TestRunbook(t *testing.T) {
	t.Parallel()
	rules, err := Rules()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(Docs(), "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	at := section.FindAllSubmatchIndex(text, -1)
	for n, where := range at {
		end := len(text)
		if n+1 < len(at) {
			end = at[n+1][0]
		}
		sections[string(text[where[2]:where[3]])] = string(text[where[1]:end])
	}
	for _, rule := range rules {
		name := rule.Alert.Value
		body, ok := sections[name]
		if !ok {
			t.Errorf("the runbook has nothing on %s", name)
			continue
		}
		delete(sections, name)
		for _, part := range []string{"**Means.**", "**Look.**", "**Do.**"} {
			if !strings.Contains(body, part) {
				t.Errorf("%s: the runbook has no %s", name, part)
			}
		}
		if url := rule.Annotations["runbook_url"]; !strings.HasSuffix(url, "docs/runbook.md#"+strings.ToLower(name)) {
			t.Errorf("%s leads to %s", name, url)
		}
		if rule.Annotations["summary"] == "" {
			t.Errorf("%s says nothing", name)
		}
	}
	for name := range sections {
		t.Errorf("the runbook has a section on %s, and there is no such alert", name)
	}
}

// TestQueriesParse: Prometheus understands what the dashboard asks for.
func TestQueriesParse(t *testing.T) {
	t.Parallel()
	queries, err := Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	if len(queries) < 20 {
		t.Errorf("the dashboard has %d queries", len(queries))
	}
	none := Metrics{}
	for _, q := range queries {
		// With nothing there, all that is wrong has to be that.
		if err := none.Check(q.Expr); err == nil || !strings.Contains(err.Error(), "there is no metric") {
			t.Errorf("%s: %s: %v", q.Where, q.Expr, err)
		}
	}
	if got := Named("`buntime_a_total{x}`, buntime_b_"); !slices.Equal(got, []string{"buntime_a_total", "buntime_b"}) {
		t.Errorf("got %q", got)
	}
}

// TestCheck: what is not there is found: a metric, a label, a value of it, a label that is
// grouped by.
func TestCheck(t *testing.T) {
	t.Parallel()
	there := Metrics{
		"a_total":  {{"result": "ok", "status": "2xx"}, {"result": "error", "status": "2xx"}},
		"b_bucket": {{"le": "", "kind": "x"}},
	}
	for _, good := range []string{
		`rate(a_total{result="ok"}[5m])`, `sum by (result, instance) (a_total)`, `a_total{result=~"ok|gone"} > 1`, `a_total{status="5xx"}`,
		`histogram_quantile(0.9, sum by (le, kind) (rate(b_bucket{job="buntime-node"}[5m])))`, `up{job="x"} == 0`,
	} {
		if err := there.Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`c_total`, `sum(rate(a_total[5m])) / sum(rate(c_total[5m]))`, `a_total{kind="x"}`, `a_total{result="gone"}`, `sum by (kind) (a_total)`, `sum(`,
	} {
		if there.Check(bad) == nil {
			t.Errorf("%s is found to be there", bad)
		}
	}
}
