// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command runs a command line with an environment of its own.
func command(t *testing.T, env map[string]string, in string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(args, Std{In: strings.NewReader(in), Out: &out, Err: &errs, Getenv: func(name string) string { return env[name] }, retryDelay: time.Millisecond})
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	for line, want := range map[string]string{
		"--nonsense":          "unknown flag",
		"completion -o x zsh": `the output "x"`,
		"completion nonsense": "",
	} {
		code, _, stderr := command(t, nil, "", strings.Fields(line)...)
		if want != "" && (code != exitUsage || !strings.Contains(stderr, want)) {
			t.Errorf("%s: code %d, %s", line, code, stderr)
		}
	}
	code, stdout, _ := command(t, nil, "", "--help")
	if code != 0 || !strings.Contains(stdout, "Exit codes") {
		t.Errorf("--help: code %d, %s", code, stdout)
	}
}

// TestWhere: the flags before the environment before the file, and no key goes to an
// address that it was not kept with.
func TestWhere(t *testing.T) {
	dir := t.TempDir()
	a := &app{Std: Std{Err: &bytes.Buffer{}, Getenv: func(name string) string { return map[string]string{"XDG_CONFIG_HOME": dir}[name] }}}
	if _, _, err := a.where(); err == nil || !strings.Contains(err.Error(), "buntime login") {
		t.Errorf("nothing set: %v", err)
	}
	path, err := a.writeConfig(saved{"http://kept", "btk_kept"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 || path != filepath.Join(dir, "buntime", "config") {
		t.Errorf("%s: %v, %v", path, st.Mode(), err)
	}
	for _, c := range []struct{ flagURL, envURL, flagKey, envKey, url, key string }{
		{url: "http://kept", key: "btk_kept"},
		{envKey: "btk_env", url: "http://kept", key: "btk_env"},
		{envURL: "http://env", envKey: "btk_env", url: "http://env", key: "btk_env"},
		{envURL: "http://env", envKey: "btk_env", flagURL: "http://flag", flagKey: "btk_flag", url: "http://flag", key: "btk_flag"},
		{flagURL: "http://kept", url: "http://kept", key: "btk_kept"},
		{flagURL: "http://other"}, // the kept key is not that one's
	} {
		a.settings = settings{c.flagURL, c.flagKey}
		a.Getenv = func(name string) string {
			return map[string]string{"XDG_CONFIG_HOME": dir, envURL: c.envURL, envKey: c.envKey}[name]
		}
		url, key, err := a.where()
		if url != c.url || key != c.key || (err == nil) != (c.url != "") {
			t.Errorf("%+v: %s, %s, %v", c, url, key, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	a.settings = settings{}
	if _, _, err := a.where(); err != nil || !strings.Contains(a.Err.(*bytes.Buffer).String(), "chmod 600") {
		t.Errorf("a key for all to read: %v, %s", err, a.Err)
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"a b/ñ.ts":              "a b/ñ.ts",
		"\x1b[31mred\x1b]0;x\a": `\x1b[31mred\x1b]0;x\a`,
		"a\nb\tc\r":             `a\nb\tc\r`,
		"\u009b31m \u202etxt.":  `\u009b31m \u202etxt.`,
		"bad \xff":              `bad \ufffd`,
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %s, want %s", text, got, want)
		}
	}
	if got := escapeJSON("{\n\"\u009b\u202e\U000e0001\"}"); got != "{\n\"\\u009b\\u202e\\udb40\\udc01\"}" {
		t.Errorf("escapeJSON: %s", got)
	}
}
