// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"fmt"
	"strings"
	"testing"
)

func TestNewFile(t *testing.T) {
	key := New()
	good := Config{Hash: Hash(key), Account: "a", Plan: "free"}
	if _, err := NewFile([]Config{good}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(k *Config){
		"plain":     func(k *Config) { k.Hash, k.Key = "", key },
		"both":      func(k *Config) { k.Key = key },
		"as a hash": func(k *Config) { k.Hash = key },
		"none":      func(k *Config) { k.Hash = "" },
		"bare":      func(k *Config) { k.Hash = strings.TrimPrefix(k.Hash, "sha256:") },
		"short":     func(k *Config) { k.Hash = k.Hash[:len(k.Hash)-2] },
		"long":      func(k *Config) { k.Hash += "00" },
		"no digits": func(k *Config) { k.Hash = k.Hash[:len(k.Hash)-1] + "g" },
		"account":   func(k *Config) { k.Account = "a/b" },
		"nobody":    func(k *Config) { k.Account = "" },
		"plan":      func(k *Config) { k.Plan = "gold" },
		"twice":     func(*Config) {},
	} {
		bad := good
		change(&bad)
		_, err := NewFile([]Config{good, bad})
		if err == nil || strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "keys[1]") {
			t.Errorf("%s: %v", name, err)
		}
		if (name == "plain" || name == "both") && !strings.Contains(err.Error(), "new-key") {
			t.Errorf("%s: no advice in %v", name, err)
		}
	}
}

// TestNewKey: 26 letters and digits of 5 bits each, and never the same.
func TestNewKey(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		key := New()
		if rest, ok := strings.CutPrefix(key, "btk_"); !ok || len(rest) != 26 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") != "" || seen[key] {
			t.Fatalf("key %q", key)
		}
		seen[key] = true
	}
}

func FuzzParseHash(f *testing.F) {
	for _, seed := range []string{Hash("btk_x"), "sha256:", "btk_abcdefghijklmnopqrstuvwxyz", "SHA256:00", "sha256:zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := parseHash(text)
		if err == nil && !strings.EqualFold(text, fmt.Sprintf("sha256:%x", hash)) {
			t.Errorf("%q is taken for %x", text, hash)
		}
		if err != nil && strings.HasPrefix(text, "btk_") && len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats %q", text)
		}
	})
}
