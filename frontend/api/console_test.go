// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

var ownFile = regexp.MustCompile(`(?:href|src)="(console/[^"]+)"`)

// TestConsolePage: the page's policy lets nothing run but its own files, nobody frames it,
// and what it starts with is small.
func TestConsolePage(t *testing.T) {
	w := newWorld(t)
	r := w.send("", http.MethodGet, "/console", "")
	r.ok(nil)
	policy := r.Header().Get("Content-Security-Policy")
	nonce := regexp.MustCompile(`'nonce-([A-Z0-9]{26,})'`).FindStringSubmatch(policy)
	if nonce == nil {
		t.Fatalf("policy %q", policy)
	}
	if want := "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-" + nonce[1] + "'; style-src-attr 'unsafe-inline'; img-src 'self'; connect-src 'self'; " +
		"frame-src https://*.preview.test:8443; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"; policy != want {
		t.Errorf("policy\n%s, want\n%s", policy, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := r.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	page := r.Body.String()
	if again := w.send("", http.MethodGet, "/console", ""); again.Body.String() == page || strings.Count(page, nonce[1]) != 1 {
		t.Error("the nonce is not new with each page, or not in it once")
	}
	if regexp.MustCompile(`<script(?: [^>]*)?>[^<]|<style|style=|\son\w+=`).MatchString(page) {
		t.Errorf("the page has something inline: %s", page)
	}
	first := 0
	for _, m := range ownFile.FindAllStringSubmatch(page, -1) {
		packed := w.send("", http.MethodGet, "/"+m[1], "", "Accept-Encoding", "gzip")
		packed.ok(nil)
		first += packed.Body.Len()
		if got := packed.Header().Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("%s: Cache-Control %q", m[1], got)
		}
		if packed.Header().Get("X-Content-Type-Options") != "nosniff" || packed.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: %v", m[1], packed.Header())
		}
		text := packed.Body.Bytes()
		if packed.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if text, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		plain := w.send("", http.MethodGet, "/"+m[1], "")
		if plain.Header().Get("Content-Encoding") != "" || !bytes.Equal(plain.Body.Bytes(), text) {
			t.Errorf("%s is another file when it is packed", m[1])
		}
	}
	t.Logf("%d bytes at first", first)
	const most = 40 << 10
	if first == 0 || first > most {
		t.Errorf("the console starts with %d bytes, want at most %d", first, most)
	}
	for _, path := range []string{"/console/none.js", "/console/index.html", "/console/../console", "/console/"} {
		w.send("", http.MethodGet, path, "").refused(http.StatusNotFound, "not_found")
	}
	w.send("", http.MethodPost, "/console", "").refused(http.StatusMethodNotAllowed, "method_not_allowed")
}

// TestAccount: a key learns what it is.
func TestAccount(t *testing.T) {
	w := newWorld(t)
	var got struct {
		Account, Plan string
		Operator      bool
		Limits        struct{ Memory, Sessions, FileSize int }
	}
	w.send(plain, http.MethodGet, "/account", "").ok(&got)
	if got.Account != "plain" || got.Plan != "free" || got.Operator || got.Limits.Memory != 1024 || got.Limits.Sessions != 10 || got.Limits.FileSize != 10<<20 {
		t.Errorf("%+v", got)
	}
	w.send(op, http.MethodGet, "/account", "").ok(&got)
	if !got.Operator {
		t.Errorf("%+v", got)
	}
	w.send("", http.MethodGet, "/account", "").refused(http.StatusUnauthorized, "unauthorized")
}
