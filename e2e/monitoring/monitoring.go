// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package monitoring reads docs/monitoring with Prometheus' own parser, for tests that
// hold it against what the parts really say of themselves.
package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// Docs is the folder with the documentation.
func Docs() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "docs")
}

// Query is an expression, and where it stands.
type Query struct{ Where, Expr string }

// Rules are the alerts.
func Rules() ([]rulefmt.RuleNode, error) {
	groups, errs := rulefmt.ParseFile(filepath.Join(Docs(), "monitoring", "alerts.yml"))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	var all []rulefmt.RuleNode
	for _, group := range groups.Groups {
		all = append(all, group.Rules...)
	}
	return all, nil
}

// variables of Grafana's that expressions have, and a value of each.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$node", ".*", "$frontend", ".*")

// Dashboard are the queries of the dashboard.
func Dashboard() ([]Query, error) {
	text, err := os.ReadFile(filepath.Join(Docs(), "monitoring", "dashboard.json"))
	if err != nil {
		return nil, fmt.Errorf("read dashboard: %w", err)
	}
	var board struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		return nil, fmt.Errorf("read dashboard: %w", err)
	}
	var all []Query
	for _, panel := range board.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			return nil, fmt.Errorf("read dashboard: panel %q shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, Query{"panel " + panel.Title, variables.Replace(target.Expr)})
		}
	}
	return all, nil
}

// Metrics are what there is: of each name the sets of labels that it was seen with.
type Metrics map[string][]map[string]string

// Add adds what a part has said. The series of a histogram have the names that
// Prometheus gives them.
func (m Metrics) Add(families map[string]*dto.MetricFamily) {
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			set := map[string]string{}
			for _, l := range metric.GetLabel() {
				set[l.GetName()] = l.GetValue()
			}
			if family.GetType() != dto.MetricType_HISTOGRAM {
				m[name] = append(m[name], set)
				continue
			}
			m[name+"_count"], m[name+"_sum"] = append(m[name+"_count"], set), append(m[name+"_sum"], set)
			bucket := map[string]string{"le": ""}
			maps.Copy(bucket, set)
			m[name+"_bucket"] = append(m[name+"_bucket"], bucket)
		}
	}
}

// scraped are the labels that Prometheus gives to whatever it reads, and rare those that
// have some of their values only when something is wrong.
var (
	scraped = []string{"instance", "job"}
	rare    = []string{"status", "code", "route", "operation"}
)

// Check says what an expression asks for that there is not: metrics, labels of them, and
// values of these. up is Prometheus' own.
func (m Metrics) Check(expr string) error {
	root, err := parser.ParseExpr(expr)
	if err != nil {
		return err
	}
	var errs []error
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			errs = append(errs, m.selected(n))
		case *parser.AggregateExpr:
			errs = append(errs, m.grouped(n))
		}
		return nil
	})
	return errors.Join(errs...)
}

func (m Metrics) selected(n *parser.VectorSelector) error {
	if n.Name == "up" {
		return nil
	}
	series, ok := m[n.Name]
	if !ok {
		return fmt.Errorf("there is no metric %s", n.Name)
	}
	for _, matcher := range n.LabelMatchers {
		if matcher.Name == labels.MetricName || slices.Contains(scraped, matcher.Name) {
			continue
		}
		if !slices.ContainsFunc(series, func(set map[string]string) bool { _, has := set[matcher.Name]; return has }) {
			return fmt.Errorf("%s has no label %s", n.Name, matcher.Name)
		}
		if !slices.Contains(rare, matcher.Name) && !slices.ContainsFunc(series, func(set map[string]string) bool { return matcher.Matches(set[matcher.Name]) }) {
			return fmt.Errorf("nothing of %s has %s", n.Name, matcher)
		}
	}
	return nil
}

func (m Metrics) grouped(n *parser.AggregateExpr) error {
	known := map[string]bool{}
	parser.Inspect(n.Expr, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			for _, set := range m[v.Name] {
				for label := range set {
					known[label] = true
				}
			}
		}
		return nil
	})
	for _, label := range n.Grouping {
		if !known[label] && !slices.Contains(scraped, label) {
			return fmt.Errorf("%s: what is grouped has no label %s", n, label)
		}
	}
	return nil
}

// names finds our metrics in a text.
var names = regexp.MustCompile(`\bbuntime_[a-z0-9_]*[a-z0-9]`)

// Named are the metrics that a text names.
func Named(text string) []string {
	all := names.FindAllString(text, -1)
	slices.Sort(all)
	return slices.Compact(all)
}
