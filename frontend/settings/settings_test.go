// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package settings

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// every is a time as configurations have them.
type every time.Duration

func (e *every) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err == nil && d <= 0 {
		err = errors.New("not positive")
	}
	*e = every(d)
	return err
}

func (e every) MarshalText() ([]byte, error) { return []byte(time.Duration(e).String()), nil }

type config struct {
	Listen string  `json:"listen"`
	Secret string  `json:"secret" secret:"true"`
	Rate   float64 `json:"rate"`
	Pool   struct {
		Off bool  `json:"off"`
		Min *int  `json:"min"`
		Age every `json:"max_age"`
	} `json:"pool"`
	Proxies []string `json:"proxies"`
	Store   *struct {
		Key  string `json:"key" secret:"true"`
		Name string `json:"name"`
	} `json:"store"`
	Keys []struct {
		Hash string `json:"hash"`
	} `json:"keys"`
}

// load loads with a file of this text, if there is any.
func load(t *testing.T, file string, environ []string, args ...string) (config, *Set, error) {
	t.Helper()
	sources := Sources{Environ: environ, Prefix: "X_", Alias: map[string]string{"SECRET": "secret"}}
	if file != "" {
		sources.File = write(t, "config.json", file)
	}
	var c config
	flags := flag.NewFlagSet("x", flag.ContinueOnError)
	sources.Flags = Register(flags, new(config))
	if err := sources.Flags.Parse(args); err != nil {
		return c, nil, err
	}
	set, err := Load(&c, sources)
	return c, set, err
}

func write(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence: a flag before the environment, before the file, before the default.
func TestPrecedence(t *testing.T) {
	const file = `{
		// a comment
		"listen": "file", "rate": 0.5, "pool": {"min": 0, "max_age": "1m"}, "proxies": ["a"],
		"keys": [{"hash": "h"}],
	}`
	c, _, err := load(t, file, nil)
	if err != nil || c.Listen != "file" || c.Rate != 0.5 || *c.Pool.Min != 0 || time.Duration(c.Pool.Age) != time.Minute || c.Proxies[0] != "a" ||
		c.Store != nil || c.Keys[0].Hash != "h" {
		t.Errorf("%+v, %v", c, err)
	}
	environ := []string{"X_LISTEN=environment", "X_POOL_MIN=2", "X_PROXIES=b, c", "X_STORE_NAME=n", "OTHER=1", "X_RATE="}
	c, _, err = load(t, file, environ)
	if err != nil || c.Listen != "environment" || *c.Pool.Min != 2 || strings.Join(c.Proxies, "+") != "b+c" || c.Store.Name != "n" || c.Rate != 0.5 {
		t.Errorf("%+v, %v", c, err)
	}
	c, set, err := load(t, file, environ, "-listen", "first", "-listen=flag", "-pool-off", "-pool-max-age", "2m")
	if err != nil || c.Listen != "flag" || !c.Pool.Off || *c.Pool.Min != 2 || time.Duration(c.Pool.Age) != 2*time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	var out strings.Builder
	if err := set.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"listen", `"flag"`, "-listen"}, {"pool.min", "2", "X_POOL_MIN"}, {"rate", "0.5", set.find1("rate").From}, {"secret", "(none)", "default"}, {"pool.max_age", `"2m0s"`, "-pool-max-age"}} {
		found := false
		for line := range strings.Lines(out.String()) {
			found = found || strings.Join(strings.Fields(line), " ") == strings.Join(want, " ")
		}
		if !found {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
}

func (s *Set) find1(name string) *Setting {
	st, _ := s.find(name)
	return st
}

// TestSecrets: they come from files, which a higher source overrules as a whole, and are
// not shown.
func TestSecrets(t *testing.T) {
	path := write(t, "secret", "from a file\n")
	for name, given := range map[string]struct {
		file    string
		environ []string
		args    []string
		want    string
	}{
		"in the file":            {`{"secret": "plain"}`, nil, nil, "plain"},
		"by the file":            {`{"secret_file": "` + path + `"}`, nil, nil, "from a file"},
		"by the environment":     {`{"secret": "plain"}`, []string{"X_SECRET_FILE=" + path}, nil, "from a file"},
		"by another name":        {"", []string{"SECRET=other"}, nil, "other"},
		"file by another name":   {"", []string{"SECRET_FILE=" + path}, nil, "from a file"},
		"by a flag":              {`{"secret": "plain"}`, []string{"X_SECRET=more"}, []string{"-secret-file", path}, "from a file"},
		"over a file of nothing": {`{"secret_file": "/nowhere"}`, []string{"X_SECRET=more"}, nil, "more"},
	} {
		t.Run(name, func(t *testing.T) {
			c, set, err := load(t, given.file, given.environ, given.args...)
			if err != nil || c.Secret != given.want {
				t.Fatalf("%q, %v", c.Secret, err)
			}
			var out strings.Builder
			if err := set.Print(&out); err != nil || strings.Contains(out.String(), given.want) || !strings.Contains(out.String(), "(hidden)") {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
	c, _, err := load(t, `{"store": {"key_file": "`+path+`"}}`, nil)
	if err != nil || c.Store.Key != "from a file" {
		t.Errorf("%+v, %v", c.Store, err)
	}
}

// TestRefused: errors name what is wrong and what was meant, and no secret.
func TestRefused(t *testing.T) {
	empty := write(t, "empty", "\n")
	for name, given := range map[string]struct {
		file    string
		environ []string
		args    []string
		want    []string
	}{
		"unknown":              {`{"listn": ""}`, nil, nil, []string{"listn", "listen?", "config.json"}},
		"unknown in a group":   {`{"pool": {"mim": 1}}`, nil, nil, []string{"pool.mim", "pool.min?"}},
		"in another group":     {`{"max_age": "1m"}`, nil, nil, []string{"max_age", "pool.max_age?"}},
		"like nothing":         {`{"zzzzzzzz": 1}`, nil, nil, []string{"zzzzzzzz is no setting"}},
		"in other letters":     {`{"Listen": ""}`, nil, nil, []string{"Listen", "listen?"}},
		"twice":                {`{"listen": "a", "listen": "b"}`, nil, nil, []string{"listen"}},
		"within a list":        {`{"keys": [{"hush": ""}]}`, nil, nil, []string{"keys", "hush"}},
		"no object":            {`[]`, nil, nil, []string{"object"}},
		"no group":             {`{"pool": 1}`, nil, nil, []string{"pool", "object"}},
		"no JSON":              {"{\n\"listen\": }", nil, nil, []string{"line 2"}},
		"number for a time":    {`{"pool": {"max_age": 10}}`, nil, nil, []string{"pool.max_age", "text"}},
		"no time":              {`{"pool": {"max_age": "soon"}}`, nil, nil, []string{"pool.max_age", "soon"}},
		"text for a number":    {`{"pool": {"min": "1"}}`, nil, nil, []string{"pool.min", "whole number"}},
		"a secret's kind":      {`{"secret": 12345678}`, nil, nil, []string{"secret", "text"}},
		"twice, once as file":  {`{"secret": "12345678", "secret_file": "/nowhere"}`, nil, nil, []string{"secret", "twice"}},
		"no file":              {`{"secret_file": "/nowhere"}`, nil, nil, []string{"secret", "/nowhere", "config.json"}},
		"empty file":           {`{"secret_file": "` + empty + `"}`, nil, nil, []string{"secret", "empty"}},
		"unknown variable":     {"", []string{"X_POOL_MIM=1"}, nil, []string{"X_POOL_MIM", "X_POOL_MIN?"}},
		"variable":             {"", []string{"X_POOL_MIN=many"}, nil, []string{"X_POOL_MIN", "whole number"}},
		"variable twice":       {"", []string{"X_SECRET=12345678", "SECRET=12345678"}, nil, []string{"X_SECRET", "SECRET"}},
		"list of objects":      {"", []string{"X_KEYS=a"}, nil, []string{"X_KEYS", "file"}},
		"unknown flag":         {"", nil, []string{"-pool-mim", "1"}, []string{"-pool-mim", "-pool-min?"}},
		"flag":                 {"", nil, []string{"-rate", "much"}, []string{"-rate", "number"}},
		"a secret as a flag":   {"", nil, []string{"-secret", "12345678"}, []string{"-secret-file"}},
		"flag without a value": {"", nil, []string{"-listen"}, []string{"-listen"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := load(t, given.file, given.environ, given.args...)
			if err == nil {
				t.Fatalf("taken: %+v", c)
			}
			for _, want := range given.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "12345678") {
				t.Errorf("a secret is in: %v", err)
			}
		})
	}
}
