// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
)

var minimal = `{"node_secret":"0123456789abcdef","keys":[{"hash":"` + keys.Hash("btk_0123456789") + `","account":"a","plan":"free"}]}`

func noEnv(string) string { return "" }

func TestDefaults(t *testing.T) {
	c, err := parse([]byte(minimal), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":8080" || c.BaseURL != "http://localhost:8080" || c.PreviewDomain != "localhost:8080" || c.PreviewScheme != "http" ||
		time.Duration(c.ReapInterval) != 10*time.Second || time.Duration(c.ReadHeaderTimeout) != 10*time.Second ||
		time.Duration(c.StallTimeout) != 30*time.Second || c.Connections.Total != 8192 || c.Connections.PerClient != 512 {
		t.Errorf("%+v", c)
	}
	c, err = parse([]byte(strings.Replace(minimal, "{", `{"preview_domain":"apps.example.com","base_url":"https://api.example.com",
		"listen":"127.0.0.1:9","reap_interval":"1m","nomad":{"address":"http://n:1","token":"t"},"consul":{"address":"c:1","token":"t","prefix":"p"},`, 1)), noEnv)
	if err != nil || c.PreviewScheme != "https" || c.domain() != "apps.example.com" || c.Consul.Prefix != "p" || c.Nomad.Token != "t" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPoolConfig(t *testing.T) {
	for text, want := range map[string]frontend.PoolSettings{
		`{}`:           {Min: 4, Max: 50, MaxAge: time.Hour, Refills: 4, NodeMemory: 1024},
		`{"min":0}`:    {Min: 0, Max: 50, MaxAge: time.Hour, Refills: 4, NodeMemory: 1024},
		`{"min":80}`:   {Min: 80, Max: 80, MaxAge: time.Hour, Refills: 4, NodeMemory: 1024},
		`{"off":true}`: {},
		`{"min":1,"max_age":"1m","refills":2,"node_memory":5,"max":7}`: {Min: 1, Max: 7, MaxAge: time.Minute, Refills: 2, NodeMemory: 5},
	} {
		c, err := parse([]byte(strings.Replace(minimal, "{", `{"pool":`+text+",", 1)), noEnv)
		if got := c.Pool.settings(); err != nil || got != want || c.Pool.Starts != 16 {
			t.Errorf("%s: %+v, %d, %v", text, got, c.Pool.Starts, err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for change, want := range map[string]string{
		`"listn":":1",`:                "listn",
		`"listen":"1",`:                "listen",
		`"base_url":"localhost",`:      "base_url",
		`"preview_domain":"http://a",`: "preview_domain",
		`"preview_domain":"a/b",`:      "preview_domain",
		"\"preview_domain\":\"a`b\",":  "preview_domain",
		`"preview_scheme":"ftp",`:      "preview_scheme",
		`"reap_interval":"soon",`:      "invalid duration",
		`"reap_interval":"-1s",`:       "positive",
		`"reap_interval":10,`:          "reap_interval",
		`"nomad":{"host":"x"},`:        "host",
		`"trusted_proxies":["lb"],`:    "trusted_proxies",
		`"connections":{"total":-1},`:  "connections",
		`"stall_timeout":"0s",`:        "positive",
		`"pool":{"min":-1},`:           "pool",
		`"pool":{"min":9,"max":3},`:    "pool",
		`"pool":{"refills":-1},`:       "pool",
		`"pool":{"max_age":"never"},`:  "invalid duration",
	} {
		if _, err := parse([]byte(strings.Replace(minimal, "{", "{"+change, 1)), noEnv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to name %s", change, err, want)
		}
	}
	for _, text := range []string{"", "{", "[]", strings.Replace(minimal, "0123456789abcdef", "short", 1)} {
		if _, err := parse([]byte(text), noEnv); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	// A key in plain text: the error helps, and does not repeat it.
	plain := strings.Replace(minimal, `"hash":"`+keys.Hash("btk_0123456789"), `"key":"btk_0123456789`, 1)
	if _, err := parse([]byte(plain), noEnv); err == nil || !strings.Contains(err.Error(), "new-key") || strings.Contains(err.Error(), "btk_0123456789") {
		t.Errorf("a key in plain text: %v", err)
	}
	if _, err := ReadConfig(""); err == nil || !strings.Contains(err.Error(), "-config") {
		t.Errorf("got %v", err)
	}
}

func TestSecretFromEnvironment(t *testing.T) {
	text := strings.Replace(minimal, `"node_secret":"0123456789abcdef",`, "", 1)
	c, err := parse([]byte(text), func(name string) string {
		if name == "BUNTIME_NODE_SECRET" {
			return "fedcba9876543210"
		}
		return ""
	})
	if err != nil || c.NodeSecret != "fedcba9876543210" {
		t.Errorf("%+v, %v", c, err)
	}
}
