// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/settings"
)

var minimal = `{"node_secret":"0123456789abcdef","keys":[{"hash":"` + keys.Hash("btk_0123456789") + `","account":"a","plan":"free"}]}`

// load loads a file of this text.
func load(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "frontend.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path, environ, nil)
	return c, err
}

func TestDefaults(t *testing.T) {
	c, err := load(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != ":8080" || c.BaseURL != "http://localhost:8080" || c.PreviewDomain != "localhost:8080" || c.PreviewScheme != "http" ||
		time.Duration(c.ReapInterval) != 10*time.Second || time.Duration(c.ReadHeaderTimeout) != 10*time.Second ||
		time.Duration(c.StallTimeout) != 30*time.Second || c.Connections.Total != 8192 || c.Connections.PerClient != 512 {
		t.Errorf("%+v", c)
	}
	c, err = load(t, strings.Replace(minimal, "{", `{"preview_domain":"apps.example.com","base_url":"https://api.example.com",
		"listen":"127.0.0.1:9","reap_interval":"1m","nomad":{"address":"http://n:1","token":"t"},"consul":{"address":"c:1","token":"t","prefix":"p"},`, 1))
	if err != nil || c.PreviewScheme != "https" || c.domain() != "apps.example.com" || c.Consul.Prefix != "p" || c.Nomad.Token != "t" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestConfigOfACluster: what docs/cluster.md has for front-ends is a configuration.
func TestConfigOfACluster(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/cluster.md has no configuration")
	}
	dir := t.TempDir()
	for _, name := range []string{"nomad-frontend.token", "consul-frontend.token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("t\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := load(t, strings.ReplaceAll(string(block[1]), "/etc/buntime", dir))
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeTLS.files().Complete() != nil || c.TLS.files().None() || c.Nomad.Namespace != "buntime" || c.Nomad.TokenFile != filepath.Join(dir, "nomad-frontend.token") || c.Consul.Token != "t" || c.Consul.CertFile == "" {
		t.Errorf("%+v", c)
	}
	c, err = load(t, strings.Replace(minimal, "{", `{"tls":{"cert_file":"a","key_file":"b"},`, 1))
	if err != nil || c.BaseURL != "https://localhost:8080" || c.PreviewScheme != "https" {
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
		c, err := load(t, strings.Replace(minimal, "{", `{"pool":`+text+",", 1))
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
		`"tls":{"cert_file":"a"},`:     "tls: cert_file and key_file",
		`"tls":{"ca_file":"a"},`:       "ca_file",
		`"node_tls":{"key_file":"a"},`: "node_tls: ca_file",
		`"pool":{"min":9,"max":3},`:    "pool",
		`"pool":{"refills":-1},`:       "pool",
		`"pool":{"max_age":"never"},`:  "invalid duration",
	} {
		if _, err := load(t, strings.Replace(minimal, "{", "{"+change, 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to name %s", change, err, want)
		}
	}
	for _, text := range []string{"", "{", "[]", strings.Replace(minimal, "0123456789abcdef", "short", 1)} {
		if _, err := load(t, text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	// A key in plain text: the error helps, and does not repeat it.
	plain := strings.Replace(minimal, `"hash":"`+keys.Hash("btk_0123456789"), `"key":"btk_0123456789`, 1)
	if _, err := load(t, plain); err == nil || !strings.Contains(err.Error(), "new-key") || strings.Contains(err.Error(), "btk_0123456789") {
		t.Errorf("a key in plain text: %v", err)
	}
}

// TestSecretFromEnvironment: by its name, or by the one that the plugin's has too; then there
// need be no file at all.
func TestSecretFromEnvironment(t *testing.T) {
	for _, name := range []string{"BUNTIME_FRONTEND_NODE_SECRET", "BUNTIME_NODE_SECRET"} {
		c, _, err := Load("", []string{name + "=fedcba9876543210"}, nil)
		if err != nil || c.NodeSecret != "fedcba9876543210" {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// exampleComment is what makes a setting of the example a comment: prose never begins with these.
var exampleComment = regexp.MustCompile(`(?m)^(\s*)// (["}])`)

// TestExample: the example has every setting, each with its default.
func TestExample(t *testing.T) {
	c, err := load(t, string(Example), "BUNTIME_NODE_SECRET=0123456789abcdef")
	if err != nil {
		t.Fatalf("as it is: %v", err)
	}
	want := Config{NodeSecret: "0123456789abcdef"}
	if err := want.defaults(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(want, *c) {
		t.Errorf("as it is, it sets something: %+v, the defaults are %+v", *c, want)
	}

	path := filepath.Join(t.TempDir(), "frontend.json")
	if err := os.WriteFile(path, exampleComment.ReplaceAll(Example, []byte("$1$2")), 0o600); err != nil {
		t.Fatal(err)
	}
	var got Config
	set, err := settings.Load(&got, settings.Sources{File: path})
	if err != nil {
		t.Fatal(err)
	}
	want = Config{}
	if err := want.defaults(); err != nil {
		t.Fatal(err)
	}
	defaults := settings.Of(&want)
	for i, st := range set.All() {
		if st.From == "" {
			t.Errorf("%s is not there", st.Name)
			continue
		}
		value, _ := set.Value(st)
		other, there := defaults.Value(defaults.All()[i])
		if !there { // a group that is not there by default
			other = ""
		}
		if list, ok := value.([]keys.Config); ok && len(list) == 0 {
			value = []keys.Config(nil)
		}
		if list, ok := value.([]string); ok && len(list) == 0 {
			value = []string(nil)
		}
		if !reflect.DeepEqual(other, value) {
			t.Errorf("%s is %v, and its default %v", st.Name, value, other)
		}
	}
}

// TestSettingsAreTold: the table of docs/operation.md has all settings.
func TestSettingsAreTold(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range settings.Of(new(Config)).All() {
		name := st.Name
		if strings.HasPrefix(name, "store.swift.") {
			name = "store.swift"
		}
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/operation.md has no `%s`", name)
		}
	}
}
