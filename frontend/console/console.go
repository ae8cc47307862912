// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package console is a web page that shows an account's sessions and works with them,
// and to operators the whole system. It is a client of the API like any other.
//
// The page is built of src/ by ./build, and dist/, which comes of that, is committed:
// so `go build` needs no Node, a release has what was reviewed, and a test says when the
// two differ. That each file stays below 500 kB keeps what a change costs small.
//
// What sessions print, name and serve is hostile. It is on the page as text only; the
// policy below has the browser run nothing but the page's own files, whatever gets past
// that; and previews are on other origins, in frames that may not leave theirs.
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed dist
var dist embed.FS

const (
	pageName = "index.html"
	// placeholder is where the page has the nonce of its styles.
	placeholder = "{nonce}"
	// forever is for files whose names change with what is in them.
	forever = "public, max-age=31536000, immutable"
	// compressible is the size, in bytes, from which on a file is worth compressing.
	compressible = 1 << 10
)

// Console serves the page and its files.
type Console struct {
	previews string
	page     []byte
	files    map[string]*file
}

// file is one of the page's.
type file struct {
	kind string
	text []byte
	// packed is the same compressed, made when it is asked for first.
	packed func() []byte
}

// New makes a Console. Previews are frames' sources, in the form of a Content-Security-Policy:
// "https://*.example.com".
func New(previews string) (*Console, error) {
	c := &Console{previews: previews, files: map[string]*file{}}
	entries, err := fs.ReadDir(dist, "dist")
	if err != nil {
		return nil, fmt.Errorf("read the console's files: %w", err)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(dist, "dist/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("read the console's files: %w", err)
		}
		if e.Name() == pageName {
			c.page = text
			continue
		}
		kind := mime.TypeByExtension(path.Ext(e.Name()))
		if path.Ext(e.Name()) == ".js" {
			kind = "text/javascript; charset=utf-8" // whatever the machine's mime.types says
		}
		c.files[e.Name()] = &file{kind, text, sync.OnceValue(func() []byte { return pack(text) })}
	}
	return c, nil
}

// pack compresses as much as gzip can.
func pack(text []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil { // a buffer takes everything
		return text
	}
	return b.Bytes()
}

// policy is what the browser lets the page do. Style elements need the nonce: the editor
// and the terminal make some. Attributes of style are for the terminal's colours; they can
// load nothing.
func (c *Console) policy(nonce string) string {
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self'",
		"style-src 'self' 'nonce-" + nonce + "'",
		"style-src-attr 'unsafe-inline'",
		"img-src 'self'",
		"connect-src 'self'",
		"frame-src " + c.previews,
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
}

// ServePage answers with the page.
func (c *Console) ServePage(w http.ResponseWriter, _ *http.Request) {
	nonce := rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", c.policy(nonce))
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), serial=(), hid=(), payment=()")
	_, _ = w.Write(bytes.ReplaceAll(c.page, []byte(placeholder), []byte(nonce))) // a client that is gone does not read it
}

// ServeFile answers with one of the page's files, and says whether there is one of that
// name.
func (c *Console) ServeFile(w http.ResponseWriter, r *http.Request, name string) bool {
	f, ok := c.files[name]
	if !ok {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", forever)
	h.Set("Vary", "Accept-Encoding")
	text := f.text
	if len(text) >= compressible && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		text = f.packed()
		h.Set("Content-Encoding", "gzip")
	}
	_, _ = w.Write(text) // as above
	return true
}
